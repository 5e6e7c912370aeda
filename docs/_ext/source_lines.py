"""Lines of names in the source of a module, for the links from the API.

Sphinx's own parser stops at decorators that unpack a dictionary, as those that check parameters do,
and leaves the links to such modules out.
"""

import ast
from importlib.util import find_spec
from pathlib import Path

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def tags_of(body, prefix=""):
    """Return {dotted name: (kind, first line, last line)} of the definitions of a body."""
    tags = {}
    for node in body:
        if isinstance(node, DEFINITIONS):
            name = prefix + node.name
            first = min(part.lineno for part in (node, *node.decorator_list))
            is_class = isinstance(node, ast.ClassDef)
            tags[name] = ("class" if is_class else "def", first, node.end_lineno)
            if is_class:
                tags |= tags_of(node.body, f"{name}.")
    return tags


def find_source(app, modname):
    """Return source and tags of a module."""
    spec = find_spec(modname)
    if spec is None or not (spec.origin or "").endswith(".py"):
        return None
    code = Path(spec.origin).read_text(encoding="utf-8")
    return code, tags_of(ast.parse(code).body)


def setup(app):
    """Answer before Sphinx's parser is asked."""
    app.connect("viewcode-find-source", find_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
