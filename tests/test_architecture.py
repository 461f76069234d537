"""The laws of the house: floors, magic budget, marked syncs, docstrings, `__all__`, sizes."""
from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'minifast'
sys.path.insert(0, str(ROOT / 'tools'))

import make_architecture  # noqa: E402

NAMESPACES = {'minifast.imports', 'minifast.torch_basics', 'minifast.basics', 'minifast.data.all',
              'minifast.callback.all', 'minifast.vision.all', 'minifast.vision.models',
              'minifast.vision.models.all'}


def name_of(file: Path) -> str:
    """`minifast/data/core.py` -> `minifast.data.core`; a package's `__init__` -> the package."""
    parts = file.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


FILES = sorted(PACKAGE.rglob('*.py'))
TREES = {name_of(file): ast.parse(file.read_text(encoding='utf-8')) for file in FILES}
LINES = {name_of(file): file.read_text(encoding='utf-8').splitlines() for file in FILES}
ROOMS = [name for name, tree in TREES.items() if name not in NAMESPACES | {'minifast'} and len(tree.body) > 1]
"""All modules but the namespaces and the files that only mark a folder as a package."""


def places(found) -> str:
    """One found place a line, for a failure message."""
    return '\n'.join(sorted(found))


# ---------------------------------------------------------------- floors

def contract_lines() -> list[str]:
    """The layers of the import-linter contract, as written."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg', encoding='utf-8')
    return [line for line in config['importlinter:contract:floors']['layers'].splitlines() if line.strip()]


def test_floors_every_import_goes_downwards():
    """A room imports only from floors below it (import-linter, configured in setup.cfg, sees lazy imports too)."""
    code = 'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_floors_every_module_stands_on_a_line():
    """No module escapes the contract by not being named in it."""
    named = {part.strip(' ()') for line in contract_lines() for part in re.split(r'[|:]', line)}
    homeless = [m for m in TREES if not any(m == n or m.startswith(n + '.') or n.startswith(m + '.') for n in named)]
    assert not homeless, f'give these a line in setup.cfg [importlinter:contract:floors]: {homeless}'


def test_floors_are_eight_and_no_imports_within_one_go_round():
    """A circle of rooms is one room that was cut where it has no joint."""
    assert len(contract_lines()) == len(make_architecture.FLOORS) == 8
    below: dict[str, set[str]] = {}
    for room, imported in make_architecture.imports():
        below.setdefault(room, set()).add(imported)
    TopologicalSorter(below).prepare()  # raises with the circle


def test_page_and_drawing_are_up_to_date():
    """docs/architecture.md and its drawing show the rooms, imports and the way of a batch as they are."""
    for file, text in make_architecture.written().items():
        assert file.read_text(encoding='utf-8') == text, 'run: make generated'


# ---------------------------------------------------------------- the way of one batch

OF_MANY_KINDS = {
    'losses.py': 'a training has one loss of many', 'optimizer/__init__.py': 'and one optimizer',
    'callback/core.py': 'what a callback is, most of it in words; on the way is the one that counts batches',
    'callback/recorder.py': 'works once an epoch, and adds one number a batch',
}
"""Rooms of which one batch needs less than a tenth, and why they are one room all the same."""


def test_way_of_one_batch_passes_few_rooms_and_each_for_a_reason():
    """Who follows a picture from its path to the weights opens 24 files, and reads a part of each that is worth it."""
    rooms = make_architecture.measured()['rooms']
    assert len(rooms) <= 24, places(rooms)
    assert {name for name, room in rooms.items() if room['ran'] < room['lines'] / 10} <= OF_MANY_KINDS.keys()


def test_way_of_one_batch_is_short():
    """What runs is read in an evening, and does not jump to and fro."""
    found = make_architecture.measured()
    assert found['lines that ran'] < 2115  # without docstrings, see below; signatures say what their arguments hold
    assert found['moves'] <= 390
    assert found['calls a batch'] <= 950


def test_house_is_not_larger_than_its_plan():
    """Of many small rooms nobody knows where to look."""
    # many processes came on top of the plan: `sharding`, tensors and models in shares, `shards`, the files of these,
    # `data.stream`, what two libraries share out and keep; `hub` publishes models; and runs that are compared:
    # `callback.runlog` writes them, `run.history` reads them, `comparing` are the commands and the page
    assert len(FILES) <= 112
    # without docstrings: they are the text of the reference, which says what each argument means, and a limit on them
    # would be one on explaining
    words = [make_architecture.docstring_lines('\n'.join(lines)) for lines in LINES.values()]
    assert sum(map(len, LINES.values())) - sum(map(len, words)) <= 28_200


# ---------------------------------------------------------------- magic budget

FORBIDDEN_NAMES = {'patch', 'patch_to', 'delegates', 'GetAttr', 'store_attr', 'exec', 'eval', 'plum'}
"""Readers must not need to know them; users may use all of them on our classes (minifast.imports hands them out)."""

def magic(tree: ast.Module) -> set[str]:
    """The kinds of magic in a room, by what is done and not by what it is called."""
    found = set()
    inside = {id(child) for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda))
              for child in ast.walk(node) if child is not node}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base) for base in node.bases}
            bodies = node, *(child for child in node.body if isinstance(child, ast.If))
            defined = {child.name for part in bodies for child in part.body if isinstance(child, ast.FunctionDef)}
            kinds = {'metaclass': 'type' in bases or any(k.arg == 'metaclass' for k in node.keywords),
                     'delegated attributes': {'__getattr__', '__getattribute__', '__setattr__'} & defined
                     and 'type' not in bases,
                     'descriptor': {'__get__', '__set__', '__set_name__'} & defined,
                     'subclass hook': {'__init_subclass__', '__class_getitem__'} & defined}
            found |= {kind for kind, there in kinds.items() if there}
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if dotted.endswith(('sys.meta_path', 'sys.path_hooks')):
                found.add('import hook')
            if dotted in ('threading.local', 'contextvars.ContextVar'):
                found.add('thread-local')
            if isinstance(node.ctx, ast.Store) and node.attr == '__class__':
                found.add('exchanged class')
            if isinstance(node.ctx, ast.Store) and node.attr == '__getattr__':
                found.add('delegated attributes of modules')
            at_import = isinstance(node.ctx, ast.Store) and id(node) not in inside
            if at_import and ast.unparse(node.value).split('.')[-1][:1].isupper():
                found.add('patched class')
        elif isinstance(node, ast.Call):
            called, arguments = ast.unparse(node.func), [ast.unparse(o) for o in node.args]
            if called == 'setattr' and id(node) not in inside or called == 'type.__setattr__' or (
                    called == 'setattr' and arguments[0] in ('cls', 'type(self)')):
                found.add('patched class')
            if "'__getattr__'" in arguments:
                found.add('delegated attributes of modules')
    return found


def names_used(tree: ast.AST):
    """(line, dotted name) of every name, attribute and import in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f'{node.module}.{alias.name}') for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def test_magic_no_forbidden_name_in_the_package():
    """The package uses none of the tools that hide where a name comes from."""
    found = {f'{module}:{line}: {name}' for module in ROOMS for line, name in names_used(TREES[module])
             if name.split('.')[-1] in FORBIDDEN_NAMES or name.split('.')[0] == 'plum'}
    assert not found, places(found)


def test_magic_no_star_import_outside_namespaces():
    """In a room, every name can be traced to an import by reading."""
    found = {f'{module}:{node.lineno}' for module in ROOMS for node in ast.walk(TREES[module])
             if isinstance(node, ast.ImportFrom) and any(alias.name == '*' for alias in node.names)}
    assert not found, places(found)


def givers() -> set[str]:
    """The rooms whose functions hang on a class of another module that did not put them there itself."""
    code = """if True:
        import ast, inspect, sys, textwrap, types
        import minifast.vision.all, minifast.vision.widgets, minifast.as_fastai
        classes = {c for m in list(sys.modules.values()) if isinstance(m, types.ModuleType)
                   for c in list(vars(m).values()) if isinstance(c, type)}
        for cls in classes:
            for name, value in list(vars(cls).items()):
                value = getattr(value, 'fget', None) or getattr(value, '__func__', value)
                home = getattr(value, '__module__', None) or ''
                if not inspect.isfunction(value) or not home.startswith('minifast') or home == cls.__module__:
                    continue
                own = cls.__module__.startswith('minifast') and any(
                    isinstance(node, ast.Name) and node.id == name
                    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls)))))
                if not own:
                    print(home)"""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_magic_is_what_the_page_lists_and_nothing_else():
    """Each piece has a line in docs/architecture.md with its place and its reason."""
    page = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    listed = set()
    for kind, homes, reason in re.findall(r'^\| ([\w -]+) \| (`.*`) \| (\S.*) \|$', page, re.MULTILINE):
        listed |= {(kind, f'minifast.{home}') for home in re.findall(r'`([\w.]+)`', homes)}
    found = {(kind, module) for module, tree in TREES.items() for kind in magic(tree)}
    assert listed == found | {('patched class', module) for module in givers()}


def test_magic_is_seen_whatever_it_is_called():
    """The census that the law above rests on finds each kind."""
    seen = {
        'class A:\n    def __getattr__(self, n): ...': 'delegated attributes',
        'class A(metaclass=M): ...': 'metaclass', 'class M(type): ...': 'metaclass',
        'class A:\n    def __get__(self, o, t): ...': 'descriptor',
        'class A:\n    def __init_subclass__(cls): ...': 'subclass hook',
        'import sys as _s\nsys.meta_path.append(1)': 'import hook', 'x = threading.local()': 'thread-local',
        'vars(m).setdefault("__getattr__", f)': 'delegated attributes of modules',
        'def f(m):\n    m.__getattr__ = g': 'delegated attributes of modules',
        'for n in t:\n    setattr(Image, n, t[n])': 'patched class', 'Image.Image.size_ = f': 'patched class',
        'def f(cls):\n    setattr(cls, "x", 1)': 'patched class', 'def f(x):\n    x.__class__ = B': 'exchanged class'}
    assert {code: magic(ast.parse(code)) for code in seen} == {code: {kind} for code, kind in seen.items()}
    assert not magic(ast.parse('def f(self):\n    self.x = 1\n    setattr(self, "y", 2)\nX = f'))


def test_errors_no_bare_or_blanket_swallowing_except():
    """No `except:` and no `except Exception: pass`: an error is handled, or it is seen."""
    found = set()
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            blanket = node.type is None or getattr(node.type, 'id', '') in ('Exception', 'BaseException')
            silent = all(isinstance(stmt, (ast.Pass, ast.Continue)) for stmt in node.body)
            if node.type is None or (blanket and silent):
                found.add(f'{module}:{node.lineno}')
    assert not found, places(found)


def test_safety_nothing_unpickles():
    """No `pickle.load(s)`, no `weights_only=False`, no unsafe YAML, on any path."""
    found = set()
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if re.fullmatch(r'(\w*pickle|dill|marshal|joblib|yaml)\.(loads?|unsafe_load|Unpickler)', called):
                found.add(f'{module}:{node.lineno}: {called}')
            for keyword in node.keywords:
                if keyword.arg == 'weights_only' and ast.unparse(keyword.value) != 'True':
                    found.add(f'{module}:{node.lineno}: weights_only={ast.unparse(keyword.value)}')
    assert not found, places(found)


DOORS = {'Image.open': 'minifast.vision.decode', 'Image.init': 'minifast.vision.decode',
         'tarfile.open': 'minifast.data.archives', 'zipfile.ZipFile': 'minifast.data.archives',
         'urllib.request.OpenerDirector': 'minifast.data.external'}
NOWHERE = {'Parser', 'imread', 'read_image', 'decode_image_file', 'extractall', 'extract', 'unpack_archive', 'urlopen',
           'urlretrieve', 'build_opener', 'install_opener', 'system', 'Popen', 'check_call', 'check_output'}
"""Last words of calls that the package does without."""
ZIP_GUARD = 'minifast.tensorguard'
"""Tensor files are zips too, which are read and never extracted."""


def test_safety_files_of_others_have_one_door():
    """Pictures, archives and addresses are opened in one place each, which knows what to refuse; nothing is started."""
    found = set()
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                home = DOORS.get(called)
                if home not in (None, module) and (called, module) != ('zipfile.ZipFile', ZIP_GUARD) or \
                        called.split('.')[-1] in NOWHERE or called.startswith('subprocess.'):
                    found.add(f'{module}:{node.lineno}: {called}')
            if isinstance(node, ast.ImportFrom) and module not in NAMESPACES:
                found |= {f'{module}:{node.lineno}: from {node.module} import {alias.name}' for alias in node.names
                          if (node.module, alias.name) in {('PIL.Image', 'open'), ('urllib.request', 'urlopen'),
                                                           ('tarfile', 'open'), ('os', 'system')}}
    assert not found, places(found)
    opening = [node for node in ast.walk(TREES['minifast.vision.decode']) if isinstance(node, ast.Call)
               and ast.unparse(node.func) == 'Image.open']
    assert len(opening) == 1 and 'formats' in {keyword.arg for keyword in opening[0].keywords}


# ---------------------------------------------------------------- syncs

LOOP_ROOMS = [m for m in ROOMS if re.match(
    r'minifast\.(callback\.|learner|optimizer|losses|layers|metrics|data\.(load|sampler|core)|torch_core|distributed'
    r'|inference)', m)]


def test_sync_every_host_device_sync_of_the_loop_says_why():
    """`.item() .tolist() .cpu() .numpy()` make the host wait for the device; each carries `# sync: <reason>`."""
    found = set()
    for module in LOOP_ROOMS:
        for node in ast.walk(TREES[module]):
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args
                    and node.func.attr in ('item', 'tolist', 'cpu', 'numpy')):
                lines = LINES[module][node.lineno - 1:node.end_lineno]
                if not any(re.search(r'# sync: \S', line) for line in lines):
                    found.add(f'{module}:{node.lineno}: {ast.unparse(node)}')
    assert not found, places(found)


# ---------------------------------------------------------------- names and docstrings

FOR_READERS = {'minifast.data.load': {'BatchMaker', 'Pass', 'Plan'}}
"""What a room is about, and no name that scripts should get with it."""


@pytest.mark.parametrize('module', [m for m in ROOMS if m != 'minifast.__main__'])
def test_all_names_exist_and_every_public_definition_is_listed(module):
    """What `__all__` names is there; a class or function that is not in it serves another room, or is `_private`."""
    room = importlib.import_module(module)
    listed = getattr(room, '__all__', None)
    assert listed is not None, f'{module} has no __all__'
    assert len(set(listed)) == len(listed), 'a name is listed twice'
    assert not [name for name in listed if not hasattr(room, name)]
    defined = {node.name for node in TREES[module].body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    unlisted = {name for name in defined if not name.startswith('_')} - set(listed) - imported_from(module)
    unlisted -= FOR_READERS.get(module, set())
    assert not unlisted, f'add to __all__ of {module}, or prefix with an underscore: {sorted(unlisted)}'


def imported_from(module: str) -> set[str]:
    """The names that other rooms take from `module`: public in the house, whether or not a notebook gets them."""
    found = set()
    for tree in TREES.values():
        ways_in = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                   for alias in node.names if f'{node.module}.{alias.name}' == module}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == module:
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute) and getattr(node.value, 'id', None) in ways_in:
                found.add(node.attr)
    return found


def documented(owner, name: str) -> bool:
    """Whether `owner.name` has a docstring of its own or from the base class it overrides."""
    return any((inspect.getdoc(vars(cls)[name]) or '').strip() for cls in owner.__mro__ if name in vars(cls))


@pytest.mark.parametrize('module', [m for m in ROOMS if m != 'minifast.__main__'])
def test_docstrings_on_everything_public(module):
    """Every room, public class, function and method says what it does (an override may inherit its base's words)."""
    room, missing = importlib.import_module(module), set()
    assert (room.__doc__ or '').strip(), f'{module} has no docstring'
    for name in getattr(room, '__all__', ()):
        thing = getattr(room, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or thing.__module__ != module:
            continue
        if not (thing.__doc__ or '').strip():
            missing.add(f'{module}.{name}')
        if inspect.isclass(thing):
            missing |= {f'{module}.{name}.{method}' for method, value in vars(thing).items()
                        if not method.startswith('_') and inspect.isroutine(value) and not documented(thing, method)}
    assert not missing, places(missing)


def test_docstrings_have_each_section_once():
    """Two lists of arguments, one of which will be forgotten at the next change."""
    found = {f'{module}:{node.lineno}: {section}' for module, tree in TREES.items() for node in ast.walk(tree)
             if isinstance(node, (ast.ClassDef, ast.FunctionDef)) for section in ('Args:', 'Raises:', 'Attributes:')
             if len(re.findall(f'^{section}$', ast.get_docstring(node) or '', re.MULTILINE)) > 1}
    assert not found, places(found)


UNEXPLAINED: dict[str, str] = {}
"""'room: callable(argument)' whose meaning nobody needs in words, and why."""

TOP_LEVEL = [node for tree in TREES.values() for node in tree.body]
CLASSES = {node.name: node for node in TOP_LEVEL if isinstance(node, ast.ClassDef)}


def called(decorators: list[ast.expr]) -> set[str]:
    """The last words of the names of decorators, `@dataclass(frozen=True)` and `@dls.setter` too."""
    return {ast.unparse(getattr(node, 'func', node)).split('.')[-1] for node in decorators}


def arguments(function: ast.FunctionDef, bound: bool) -> list[str]:
    """The names of the arguments, `*args` and `**kwargs` too; not `_private` ones, nor what a method is `bound` to."""
    a = function.args
    found = [*a.posonlyargs, *a.args][bound:] + [*a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
    return [argument.arg for argument in found if not argument.arg.startswith('_')]


def method(owner: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """`owner.name` where the class itself defines it."""
    return next((node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def words_on(owner: ast.ClassDef, name: str) -> str:
    """The docstrings of the method `name` and of those that it overrides."""
    own = method(owner, name)
    bases = [CLASSES[node.id] for node in owner.bases if getattr(node, 'id', None) in CLASSES]
    return '\n'.join([(ast.get_docstring(own) or '') if own else '', *(words_on(base, name) for base in bases)])


def constructor(owner: ast.ClassDef) -> list[str]:
    """The arguments of the class's own constructor, `__init__` or `__new__`, or the fields of a dataclass or tuple."""
    own = method(owner, '__init__') or method(owner, '__new__')
    if own:
        return arguments(own, bound=True)
    if 'dataclass' not in called(owner.decorator_list) and 'NamedTuple' not in map(ast.unparse, owner.bases):
        return []
    return [node.target.id for node in owner.body if isinstance(node, ast.AnnAssign)
            and not node.target.id.startswith('_') and not ast.unparse(node.annotation).startswith('ClassVar')
            and not (node.value and 'init=False' in ast.unparse(node.value))]


def public_callables(module: str):
    """(name, arguments, the words in which they are to be found) of what `__all__` lists, and of its methods."""
    listed = next((ast.literal_eval(node.value) for node in TREES[module].body if isinstance(node, ast.Assign)
                   and ast.unparse(node.targets[0]) == '__all__'), ())
    for node in TREES[module].body:
        if getattr(node, 'name', None) not in listed:
            continue
        words = ast.get_docstring(node) or ''
        if isinstance(node, ast.FunctionDef):
            if 'typedispatch' in called(node.decorator_list):  # one function for its callers, which the first explains
                words = '\n'.join(ast.get_docstring(other) or '' for other in TOP_LEVEL
                                  if isinstance(other, ast.FunctionDef) and other.name == node.name)
            yield node.name, arguments(node, bound=False), words
        elif isinstance(node, ast.ClassDef):
            yield node.name, constructor(node), words
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith('_') \
                        and 'setter' not in called(inner.decorator_list):
                    bound = 'staticmethod' not in called(inner.decorator_list)
                    yield f'{node.name}.{inner.name}', arguments(inner, bound), words_on(node, inner.name)


def explained(name: str, words: str) -> bool:
    """Whether `words` have an entry `name: ...`, also of several names, or say `name` in backticks."""
    return bool(re.search(rf'^ +[^:\n]*\b{name}\b[^:\n]*:', words, re.MULTILINE)
                or re.search(rf'`[^`\n]*\b{name}\b[^`\n]*`', words))


@pytest.mark.parametrize('module', ROOMS)
def test_docstrings_explain_each_argument(module):
    """`help` says what each argument of each public callable means, in the class for its constructor."""
    missing = {f'{module}: {name}({argument})' for name, given, words in public_callables(module) for argument in given
               if not explained(argument, words)}
    assert missing == {entry for entry in UNEXPLAINED if entry.split(':')[0] == module}, places(missing)


def test_signatures_of_public_functions_carry_types():
    """Types live in the signature: every parameter of a public function of a room is annotated."""
    found = set()
    for module in ROOMS:
        for node in TREES[module].body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                found |= {f'{module}.{node.name}({a.arg})' for a in arguments if a.annotation is None}
    assert not found, places(found)


# ---------------------------------------------------------------- size and lint

def test_size_files_and_functions_stay_readable():
    """A room is one idea, however long; beyond 750 lines it is hardly one. No function wants more than ~40.

    Of a room docstrings do not count, as above.
    """
    sizes = {m: len(LINES[m]) - len(make_architecture.docstring_lines('\n'.join(LINES[m]))) for m in ROOMS}
    long_files = {f'{m}: {size} lines' for m, size in sizes.items() if size > 750}
    long_functions = {f'{m}.{node.name}: {node.end_lineno - node.lineno + 1} lines' for m in ROOMS
                      for node in ast.walk(TREES[m]) if isinstance(node, ast.FunctionDef)
                      and node.end_lineno - node.lineno + 1 > 70}
    assert not long_files | long_functions, places(long_files | long_functions)


def test_lint_ruff_finds_nothing():
    """`ruff check` is clean over the package, the tests, the tools and the notebooks."""
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format', 'concise', '.'],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
