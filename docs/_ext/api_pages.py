"""Write the pages of the API reference from the list in ``api_reference.py``, before each build."""

import inspect
from importlib import import_module
from pathlib import Path

from api_reference import API_REFERENCE

FOLDER = "api"


def _heading(text, underline):
    return [text, underline * len(text), ""]


def _autosummary(module, names):
    rows = [f"   {name}" for name in names]
    return [
        f".. currentmodule:: {module}",
        "",
        ".. autosummary::",
        "   :toctree: generated/",
        "   :nosignatures:",
        "",
        *rows,
        "",
    ]


def read_docstring(name):
    """Return the docstring of a module, which is reStructuredText."""
    return inspect.getdoc(import_module(name))


def module_page(name, module):
    """Return the page of one module, as reStructuredText."""
    lines = [f".. _{name}_ref:", "", *_heading(name, "=")]
    lines += [f".. module:: {name}", "", read_docstring(name), ""]
    for section in module.sections:
        if section.title:
            lines += [*_heading(section.title, "-"), section.text, ""]
        lines += _autosummary(name, section.names)
    return "\n".join(lines)


def index_page(reference):
    """Return the page that lists all modules."""
    lines = [
        *_heading("API reference", "="),
        "These are all public names. Other names are private and may change without notice.",
        "",
        ".. toctree::",
        "   :hidden:",
        "",
        *(f"   {name}" for name in reference),
        "",
        ".. list-table::",
        "   :widths: 40 60",
        "   :class: api-modules",
        "",
    ]
    for name in reference:
        summary = read_docstring(name).partition("\n")[0]
        lines += [f"   * - :ref:`{name} <{name}_ref>`", f"     - {summary}"]
    return "\n".join([*lines, ""])


def write_pages(app, config):
    """Write the pages that changed, so that Sphinx reads no other page again."""
    folder = Path(app.srcdir, FOLDER)
    folder.mkdir(exist_ok=True)
    pages = {f"{name}.rst": module_page(name, module) for name, module in API_REFERENCE.items()}
    pages["index.rst"] = index_page(API_REFERENCE)
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    remove_stale(folder, pages)


def remove_stale(folder, pages):
    """Remove the pages of modules and names that the list no longer has."""
    stubs = {
        f"{home}.{name}.rst" for home, module in API_REFERENCE.items() for name in module.names
    }
    for path in [*folder.glob("*.rst"), *folder.glob("generated/*.rst")]:
        if path.name not in stubs | pages.keys():
            path.unlink()


def setup(app):
    """Write the pages before Sphinx searches for pages."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
