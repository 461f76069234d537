"""`import minifast.as_fastai` makes `import fastai` mean minifast."""
from __future__ import annotations

import subprocess
import sys
import textwrap


def run(code):
    """What a new process prints; it must end well."""
    done = subprocess.run([sys.executable, '-W', 'error', '-c', textwrap.dedent(code)], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_alias_modules_are_the_same_objects():
    """`fastai.learner` is `minifast.learner`: patching one patches the other, and specs, reloads, star imports and the
    version are as packages expect."""
    print(run('''
        import minifast.as_fastai, minifast.learner
        import fastai, fastai.learner, importlib, importlib.metadata
        from fastai.vision.all import *
        import fastai.callback.core as core
        assert fastai.learner is minifast.learner and fastai.learner.Learner is Learner
        assert minifast.learner.__spec__.name == 'minifast.learner' and core.__name__ == 'minifast.callback.core'
        assert fastai.__version__ == '2.8.12' == importlib.metadata.version('fastai')
        import fastai.vision.models.unet
        assert fastai.vision.models.unet.DynamicUnet.__module__.startswith('minifast.')
        assert fastai.callback.core.Callback is Callback
        from fastai.layers import params, F
        import fastcore.basics
        assert params(torch.nn.Linear(1, 1)) and fastcore.basics.defaults is defaults and defaults.cpus >= 1
        assert not hasattr(fastai.layers, 'no_such_name_anywhere')
        from packaging.version import parse
        assert parse('2.7.14') <= parse(fastai.__version__)

        def fit(self, *args, **kwargs):
            return 'patched'
        fastai.learner.Learner.fit = fit
        assert Learner.fit is fit
        assert importlib.import_module('fastai.learner') is minifast.learner
    '''))


def test_alias_packages_are_packages():
    """Whoever asks how to find a module learns whether there are modules in it, before it is imported and behind it."""
    run('''
        import minifast.as_fastai
        from importlib.util import find_spec
        for name, is_package in {'fastai.vision': True, 'fastai.callback': True, 'fastai.learner': False}.items():
            assert (find_spec(name).submodule_search_locations is not None) == is_package, name
        import fastai.vision.models
        assert find_spec('fastai.vision.models').submodule_search_locations is not None
    ''')


def test_alias_missing_module_and_name_raise_import_errors():
    """What minifast does not have is an ImportError that names fastai's module, as `try: import` needs."""
    run('''
        import minifast.as_fastai
        try:
            import fastai.tabular.all
        except ModuleNotFoundError as error:
            assert error.name.startswith('fastai.tabular') and 'minifast' in str(error)
        else:
            raise AssertionError
        try:
            from fastai.learner import nothing_of_the_kind
        except ImportError as error:
            assert 'nothing_of_the_kind' in str(error)
        else:
            raise AssertionError
        import importlib.util
        assert importlib.util.find_spec('fastai') is not None
    ''')


def test_alias_imported_twice_or_with_pickles_of_classes():
    """A second import changes nothing; classes pickled through the alias come back."""
    run('''
        import importlib, pickle, sys
        import minifast.as_fastai
        n = len(sys.meta_path)
        importlib.reload(minifast.as_fastai)
        assert len(sys.meta_path) == n
        import fastai.vision.augment
        assert pickle.loads(pickle.dumps(fastai.vision.augment.Resize)) is fastai.vision.augment.Resize
    ''')


def test_alias_refuses_after_fastai():
    """With fastai already imported the alias would leave two worlds: it says so."""
    run('''
        import sys, types
        sys.modules['fastai'] = types.ModuleType('fastai')
        try:
            import minifast.as_fastai
        except ImportError as error:
            assert 'first' in str(error)
        else:
            raise AssertionError
    ''')
