"""Links to names of scikit-learn and others, without their inventories.

intersphinx downloads an inventory per project, and a build without a network would warn. The
addresses follow from the names.
"""

from docutils import nodes

ADDRESSES = {
    "sklearn": "https://scikit-learn.org/stable/modules/generated/{name}.html",
    "scipy": "https://docs.scipy.org/doc/scipy/reference/generated/{name}.html",
}


def resolve(app, env, node, contnode):
    """Return a link for a name that is not the project's own, or None."""
    name = node.get("reftarget", "")
    address = ADDRESSES.get(name.partition(".")[0])
    if node.get("refdomain") != "py" or address is None or "." not in name:
        return None
    link = nodes.reference("", "", internal=False, refuri=address.format(name=name))
    link += contnode
    return link


def setup(app):
    """Ask here where a name is not found."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
