"""The documentation site: `make docs` builds it into build/docs, and any warning is an error."""
from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / 'tools')]

import make_docs  # noqa: E402

import minifast  # noqa: E402

project, release = 'minifast', minifast.__version__
version = release
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.autosummary', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']

# before Sphinx looks for pages
make_docs.copy_pages()
make_docs.write_pages()
nb_execution_mode = 'off'
nb_merge_streams = True

myst_enable_extensions = ['colon_fence', 'deflist', 'attrs_inline']
myst_heading_anchors = 3

autodoc_default_options = {'members': True, 'member-order': 'bysource', 'show-inheritance': True}
autodoc_typehints = 'signature'
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [('Source', 'notes_style')]

# Every reference to a name of minifast leads somewhere. Types of other packages are named, and not looked up: that
# would need the network.
nitpicky = True
nitpick_ignore_regex = [('py:.*', r'(?!minifast\.).*'), *make_docs.internal()]
autosummary_generate = False

html_theme = 'furo'
html_title = f'minifast {release}'
html_static_path = ['static']
html_css_files = ['site.css']
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = html_show_copyright = False
# parts that pages include
exclude_patterns = ['generated']


def setup(app):
    """Sphinx calls it before it reads the pages."""
    # before napoleon, which takes the sections apart
    app.connect('autodoc-process-docstring', make_docs.as_restructured_text, priority=400)
    app.connect('autodoc-process-signature', make_docs.readable_signature)
    app.connect('source-read', make_docs.lead_to_copies)
    app.connect('build-finished', make_docs.write_llms)
