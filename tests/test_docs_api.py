"""The list of the API reference has every public name and no other."""

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

import sklearn_loce

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def api_pages():
    folders = [str(DOCS), str(DOCS / "_ext")]
    sys.path[:0] = folders
    try:
        return importlib.import_module("api_pages")
    finally:
        del sys.path[: len(folders)]


@pytest.fixture(scope="module")
def reference(api_pages):
    return api_pages.API_REFERENCE


def _public_modules():
    """Return the names of the package and of all its modules without an underscore."""
    found = pkgutil.walk_packages(sklearn_loce.__path__, "sklearn_loce.")
    names = ["sklearn_loce", *(module.name for module in found)]
    return [name for name in names if not any(part[0] == "_" for part in name.split("."))]


def _public_names(name):
    """Return the public names of a module, without submodules."""
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


@pytest.mark.parametrize("name", _public_modules())
def test_page_prints_docstring_of_module(api_pages, reference, name):
    page = api_pages.module_page(name, reference[name])
    assert inspect.getdoc(importlib.import_module(name)) in page


def test_recipe_is_on_the_page_of_outliers(api_pages, reference):
    page = api_pages.module_page("sklearn_loce.outliers", reference["sklearn_loce.outliers"])
    assert ">>> from sklearn.ensemble import IsolationForest" in page


def test_index_has_one_sentence_per_module(api_pages, reference):
    lines = api_pages.index_page(reference).splitlines()
    sentences = [line.strip() for line in lines if line.startswith("     - ")]
    assert len(sentences) == len(reference)
    assert all(sentence.endswith(".") for sentence in sentences)
