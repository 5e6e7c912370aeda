"""The house: what imports what, and what the light import stays free of."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sklearn_loce

PACKAGE = Path(sklearn_loce.__file__).parent
ARRAY_FLOOR = ("metrics", "cluster", "mixture", "outliers")
TORCH_FLOOR = (
    "_activations",
    "_adamw_cpu",
    "_adamw_torch",
    "_adapters",
    "_families",
    "_layouts",
    "_bilinear",
    "_masks",
    "_measure",
    "_model",
    "_net2vec",
    "_optimization",
    "_preprocessing",
    "_processors",
    "_samples",
    "_segmenter",
    "_stream",
    "_trace",
    "_transformer",
    "segmentation",
)


def _modules_after(statement):
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import sklearn_loce", "import sklearn_loce.datasets"])
def test_import_is_light(statement):
    assert not {"torch", "umap", "matplotlib", "numba"} & _modules_after(statement)


def _imports_of(path):
    """Names of the modules that a file imports, relative ones from the package's root."""
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) if node.level else ""
            stem = ".".join(filter(None, [base, node.module]))
            yield stem
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def _files_of(floor):
    for name in floor:
        yield from [PACKAGE / f"{name}.py"] * (PACKAGE / f"{name}.py").is_file()
        yield from (PACKAGE / name).rglob("*.py")


def test_array_floor_never_imports_torch():
    forbidden = {"torch", "torchvision", *(f"sklearn_loce.{name}" for name in TORCH_FLOOR)}
    for path in _files_of(ARRAY_FLOOR):
        imported = {".".join(name.split(".")[:2]) for name in _imports_of(path)}
        imported |= {name.split(".")[0] for name in _imports_of(path)}
        assert not imported & forbidden, path


def test_torch_floor_never_imports_the_array_floor():
    forbidden = {f"sklearn_loce.{name}" for name in ARRAY_FLOOR}
    files = list(_files_of(TORCH_FLOOR))
    assert len(files) == len(TORCH_FLOOR)
    for path in files:
        imported = {".".join(name.split(".")[:2]) for name in _imports_of(path)}
        assert not imported & forbidden, path


def test_public_names_are_there():
    for name in sklearn_loce.__all__:
        assert getattr(sklearn_loce, name) is not None
        assert name in dir(sklearn_loce)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LoceTransformer'"):
        _ = sklearn_loce.LoceTransformer
