"""Docstrings of public names say what they promise: validated by numpydoc."""

import importlib
import inspect

import pytest

from .test_docs_api import _public_modules, _public_names

validate = pytest.importorskip("numpydoc.validate", reason="needs the extra 'docs'").validate

# Of numpydoc's checks those that find what a reader misses, not matters of taste.
CHECKS = {
    "GL07",  # sections in the wrong order
    "GL08",  # no docstring
    "PR01",  # parameters that are not documented
    "PR02",  # documented parameters that are not there
    "PR03",  # parameters in the wrong order
    "PR04",  # a parameter without a type
    "PR10",  # no space before the colon of a parameter
    "RT01",  # no Returns section
    "SS01",  # no summary
    "SS06",  # a summary of several lines
    "YD01",  # no Yields section
}
EXAMPLES = {"EX01"}
# Sentences that explain why a check does not hold for a name.
EXPECTED = {
    # Errors are raised by the package, and shown where that happens.
    "sklearn_loce.exceptions.FailedRowsError": {"EX01"},
    "sklearn_loce.exceptions.LayoutError": {"EX01"},
    "sklearn_loce.exceptions.StoreError": {"EX01"},
    # Its parameters are those of umap.UMAP, and documented there.
    "sklearn_loce.utils.UnsupervisedUMAP": {"PR01"},
    # Takes what load_coco and load_voc take, "As in" these, several names on a line.
    "sklearn_loce.datasets.fetch_coco_val2017": {"PR03", "PR04"},
    "sklearn_loce.datasets.fetch_voc2012": {"PR04"},
}
NAMES = [f"{module}.{name}" for module in _public_modules() for name in _public_names(module)]


def _object(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _methods(path):
    """Give the paths of a class's public methods and properties that the package defines."""
    cls = _object(path)
    if not inspect.isclass(cls):
        return []
    own = [base for base in cls.__mro__ if base.__module__.startswith("sklearn_loce")]
    names = {name for base in own for name in vars(base) if not name.startswith("_")}
    return [
        f"{path}.{name}"
        for name in sorted(names)
        if callable(getattr(cls, name)) and getattr(cls, name).__module__.startswith("sklearn_loce")
    ]


def _found(path, checks):
    return {code: text for code, text in validate(path)["errors"] if code in checks}


@pytest.mark.parametrize("path", sorted(NAMES))
def test_docstring_is_complete(path):
    assert set(found := _found(path, CHECKS | EXAMPLES)) == EXPECTED.get(path, set()), found


@pytest.mark.parametrize("path", sorted(m for name in NAMES for m in _methods(name)))
def test_docstring_of_method_is_complete(path):
    assert _found(path, CHECKS) == {}


def test_a_missing_parameter_is_found():
    def add(a, b):
        """Add.

        Parameters
        ----------
        a : int
        """

    globals()["add"] = add
    try:
        assert set(_found(f"{__name__}.add", CHECKS)) >= {"PR01"}
    finally:
        del globals()["add"]
