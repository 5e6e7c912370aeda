"""The structure of the package: allowed imports, and the light import."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sklearn_loce

from .pages import python_blocks

PACKAGE = Path(sklearn_loce.__file__).parent
ROOT = PACKAGE.parent
GROUND = ("_validation", "_warnings", "exceptions")  # of both floors
ARRAY_FLOOR = ("_distances", "metrics", "cluster", "mixture", "outliers")
# In the order in which a row is processed; each imports only itself and earlier ones.
ROOMS = ("_samples", "_network", "_solvers", "_store", "_embedding")
TORCH_FLOOR = (*ROOMS, "_base", "_transformer", "_mean_transformer", "segmentation")


def _modules_after(statement):
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import sklearn_loce",
        "import sklearn_loce.datasets",
        "import sklearn_loce.plotting",
        "from sklearn_loce.paper import NETWORKS",
        "import sklearn_loce.plotting._style",
        "from sklearn_loce.plotting import to_html",
        "from sklearn_loce import RowStore",
    ],
)
def test_import_is_light(statement):
    assert not {"torch", "umap", "matplotlib", "numba", "bokeh"} & _modules_after(statement)


def _imports_of(path):
    """Return the modules that a file imports, "a.b.c" also as "a" and "a.b"; relative ones too."""
    package, names = path.relative_to(ROOT).with_suffix("").parts, set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) if node.level else ""
            stem = ".".join(filter(None, [base, node.module]))
            names.update(f"{stem}.{alias.name}" for alias in node.names)
    return {
        ".".join(name.split(".")[: n + 1]) for name in names for n in range(name.count(".") + 1)
    }


def _files_of(*names):
    files = [path for name in names for path in (PACKAGE / name).rglob("*.py")]
    return files + [PACKAGE / f"{name}.py" for name in names if not (PACKAGE / name).is_dir()]


@pytest.mark.parametrize(
    ("files", "forbidden"),
    [
        (_files_of(*GROUND), {"torch", "torchvision", *TORCH_FLOOR, *ARRAY_FLOOR}),
        (_files_of(*ARRAY_FLOOR), {"torch", "torchvision", *TORCH_FLOOR}),
        (_files_of(*TORCH_FLOOR), set(ARRAY_FLOOR)),
        (
            [p for p in PACKAGE.rglob("*.py") if p.parent.name not in ("plotting", "paper")],
            {"matplotlib", "plotting"},
        ),
    ],
    ids=["ground-floors", "arrays-torch", "torch-arrays", "all-displays"],
)
def test_floors_do_not_import_each_other(files, forbidden):
    forbidden = forbidden | {f"sklearn_loce.{name}" for name in forbidden}
    for path in files:
        assert not _imports_of(path) & forbidden, path


@pytest.mark.parametrize("room", ROOMS)
def test_a_private_package_imports_only_those_before_it(room):
    allowed = {*ROOMS[: ROOMS.index(room) + 1], *GROUND}
    for path in _files_of(room):
        own = {name.split(".")[1] for name in _imports_of(path) if name.startswith("sklearn_loce.")}
        assert own <= allowed, path


def test_imports_have_no_cycles():
    paths = {_module_name(path): path for path in PACKAGE.rglob("*.py")}
    imported = {name: _imports_of(path) & paths.keys() for name, path in paths.items()}
    # A package is loaded before its modules and does not depend on them.
    graph = {
        name: {n for n in found if not f"{name}.".startswith(f"{n}.")}
        for name, found in imported.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises a CycleError that names the circle


def _module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_top_folder_has_few_private_modules():
    assert len(list(PACKAGE.glob("_[!_]*.py"))) <= 10


def test_displays_import_heavy_packages_when_they_draw():
    paths = {path.stem: path for path in (PACKAGE / "plotting").glob("*.py")}
    # The class of figures needs matplotlib; it is imported inside functions.
    for name in paths.keys() - {"_figure"}:
        lines = ast.parse(paths[name].read_text()).body
        names = {n.split(".")[0] for line in lines for n in _names_at_import(line)}
        assert not {"matplotlib", "torch", "_figure", "umap", "bokeh"} & names, name


def _names_at_import(statement):
    """Modules that one statement at a file's top level imports."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return [statement.module or alias.name for alias in statement.names]
    return []


def test_public_names_exist():
    for name in sklearn_loce.__all__:
        assert getattr(sklearn_loce, name) is not None
        assert name in dir(sklearn_loce)


def test_an_unknown_name_raises_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LoceTransformer'"):
        _ = sklearn_loce.LoceTransformer


# Functions that run code from a file or a string.
RUNS_CODE = {
    *("eval", "exec", "compile", "__import__", "execfile"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("tempfile.mktemp", "np.fromregex", "runpy.run_path"),
    *("pd.read_pickle", "pandas.read_pickle", "joblib.load", "yaml.load", "yaml.unsafe_load"),
}
RUN_CODE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
# Calls that are safe with one argument only: {name: (argument, value)}.
SAFE_WITH = {
    "torch.load": ("weights_only", True),
    # torch asks the user before it runs the code of a repository.
    "torch.hub.load": ("trust_repo", "check"),
    "hub.load": ("trust_repo", "check"),
    "load_state_dict_from_url": ("weights_only", True),
    "extractall": ("filter", "data"),
    "unpack_archive": ("filter", "data"),
}
UNSAFE_WITH = {("shell", True), ("allow_pickle", True), ("trust_remote_code", True)}
# The checks pickle estimators and read what they have just written. Callers send estimators to
# their workers by pickle, as joblib does.
PICKLES_ITS_OWN = {PACKAGE / "utils" / "_checks.py", PACKAGE / "_embedding" / "parallel.py"}


def _unsafe(tree):
    """Yield the lines of code that would run the content of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            if {name.split(".")[0] for name in names} & RUN_CODE_MODULES:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and _is_unsafe_call(node):
            yield ast.unparse(node)


def _is_unsafe_call(node):
    name = ast.unparse(node.func)
    given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
    if UNSAFE_WITH & given.items():
        return True
    for safe, (argument, value) in SAFE_WITH.items():
        if safe in (name, name.rpartition(".")[2]):
            return given.get(argument) != value
    return name in RUNS_CODE


def _codes():
    """Return {where: source} of the package, the examples, the benchmarks and the documentation."""
    folders = (PACKAGE, ROOT / "examples", ROOT / "benchmarks", ROOT / "docs")
    codes = {path: path.read_text() for folder in folders for path in folder.rglob("*.py")}
    own = ROOT / "docs" / "saving.md"  # loads a file that it has just written
    for path in {ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - {own}:
        codes |= {f"{path}, block {i}": block for i, block in enumerate(python_blocks(path))}
    return codes


def test_no_code_runs_the_content_of_files():
    codes = _codes()
    assert len(codes) > 60
    found = {
        str(where): unsafe
        for where, code in codes.items()
        if where not in PICKLES_ITS_OWN and (unsafe := list(_unsafe(ast.parse(code))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import shelve as s",
        "joblib.load(path)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, map_location='cpu')",
        "torch.hub.load(repository, name)",
        "hub.load(repository, name, trust_repo=True)",
        "eval(text)",
        "exec(text)",
        "yaml.load(file)",
        "subprocess.run(command, shell=True)",
        "Popen(command, shell=True)",
        "archive.extractall(target)",
        "tarfile.open(path).extractall(target, filter='fully_trusted')",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_code_that_runs_files_is_found(code):
    assert list(_unsafe(ast.parse(code))) == [code]


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path, weights_only=True)",
        "hub.load(repository, name, trust_repo='check')",
        "safetensors.torch.load(data)",
        "load_file(path)",
        "network.eval()",
        "yaml.safe_load(file)",
        "archive.extractall(target, filter='data')",
        "np.load(path, mmap_mode='r')",
        "re.compile(pattern)",
        "subprocess.run([sys.executable, '-c', code])",
    ],
)
def test_safe_code_is_not_reported(code):
    assert list(_unsafe(ast.parse(code))) == []
