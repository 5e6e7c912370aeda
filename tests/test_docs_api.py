"""The API reference is written from one list; it has every public name, and no other."""

import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

import sklearn_loce

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("api_reference").API_REFERENCE
    finally:
        sys.path.remove(str(DOCS))


def _public_modules():
    """Give the names of the package and of all modules in it without an underscore."""
    found = pkgutil.walk_packages(sklearn_loce.__path__, "sklearn_loce.")
    names = ["sklearn_loce", *(module.name for module in found)]
    return [name for name in names if not any(part[0] == "_" for part in name.split("."))]


def _public_names(name):
    """Give what a module says is public, less its submodules."""
    module = importlib.import_module(name)
    return {
        public for public in module.__all__ if not isinstance(getattr(module, public), ModuleType)
    }


def test_every_public_module_is_listed(reference):
    assert set(reference) == set(_public_modules())


@pytest.mark.parametrize("name", _public_modules())
def test_every_public_name_is_listed_once(reference, name):
    assert sorted(reference[name].names) == sorted(_public_names(name))


def test_submodules_of_the_package_are_public(reference):
    tops = {name.split(".")[1] for name in reference if "." in name}
    assert tops == set(sklearn_loce.__all__) - _public_names("sklearn_loce")
