"""Docstrings of public functions, classes and methods are complete: validated by numpydoc."""

import importlib
import inspect

import pytest

from .test_docs_api import _public_modules, _public_names

validate = pytest.importorskip("numpydoc.validate", reason="needs the extra 'docs'").validate

# numpydoc's checks for missing content. Checks of style are ruff's.
CHECKS = {
    "EX01",  # no Examples section
    "GL07",  # sections in the wrong order
    "GL08",  # no docstring
    "PR01",  # undocumented parameters
    "PR02",  # documented parameters that do not exist
    "PR03",  # parameters in the wrong order
    "PR04",  # a parameter without a type
    "PR05",  # a type that ends with a period
    "PR06",  # a type in words
    "PR07",  # a parameter without a description
    "PR08",  # a description in lower case
    "PR09",  # a description without a period
    "PR10",  # no space before the colon of a parameter
    "RT01",  # no Returns section
    "RT02",  # a name for a single returned value
    "RT03",  # a returned value without a description
    "RT04",  # a description in lower case
    "RT05",  # a description without a period
    "SA01",  # no See Also section
    "SA02",  # a reference without a period
    "SA03",  # a reference in lower case
    "SA04",  # a reference without a description
    "SS01",  # no summary
    "SS02",  # a summary in lower case
    "SS03",  # a summary without a period
    "SS06",  # a summary of several lines
    "YD01",  # no Yields section
}
# Checks that do not hold for a name, with the reason.
EXPECTED = {
    # Its parameters are those of umap.UMAP, and documented there.
    "sklearn_loce.utils.UnsupervisedUMAP": {"PR01"},
}
NAMES = [f"{module}.{name}" for module in _public_modules() for name in _public_names(module)]


def _object(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _members(path):
    """Yield the public methods and properties of a class that this package defines."""
    cls = _object(path)
    if not inspect.isclass(cls):
        return
    own = [base for base in cls.__mro__ if base.__module__.startswith("sklearn_loce")]
    for name in sorted({name for base in own for name in vars(base) if not name.startswith("_")}):
        member = inspect.getattr_static(cls, name)
        function = member.fget if isinstance(member, property) else getattr(cls, name)
        if callable(function) and function.__module__.startswith("sklearn_loce"):
            yield f"{path}.{name}", isinstance(member, property)


MEMBERS = [member for name in NAMES for member in _members(name)]
METHODS = [path for path, is_property in MEMBERS if not is_property]
PROPERTIES = [path for path, is_property in MEMBERS if is_property]


def _find(path, checks=CHECKS):
    return {code: text for code, text in validate(path)["errors"] if code in checks}


@pytest.mark.parametrize("path", sorted([*NAMES, *METHODS]))
def test_docstring_is_complete(path):
    assert set(found := _find(path)) == EXPECTED.get(path, set()), found


@pytest.mark.parametrize("path", sorted(PROPERTIES))
def test_docstring_of_property_is_complete(path):
    # A property is an attribute: it needs a sentence, but no sections.
    assert _find(path, {"GL08", "SS01", "SS02", "SS03", "SS06"}) == {}


def test_a_missing_parameter_is_found():
    def add(a, b):
        """Add.

        Parameters
        ----------
        a : int
        """

    globals()["add"] = add
    try:
        assert set(_find(f"{__name__}.add")) >= {"EX01", "PR01", "PR07", "SA01"}
    finally:
        del globals()["add"]
