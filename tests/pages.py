"""Pages of the documentation, whose code runs as printed."""

import re

# Blocks of Python, and cells that Sphinx executes. Cells may begin with options.
_BLOCK = re.compile(
    r"^```(?:python|\{code-cell\})\n(?::[^\n]*\n)*(.*?)^```", re.DOTALL | re.MULTILINE
)


def python_blocks(path):
    """Return the blocks and cells of Python of a Markdown page, in their order."""
    return _BLOCK.findall(path.read_text(encoding="utf-8"))


def run_blocks(path, names, containing=""):
    """Run the blocks of a page that contain a text, one after the other.

    Parameters
    ----------
    path : Path
    names : dict
        The globals of the blocks. The blocks may change them.
    containing : str, default=""
        The empty text is in all blocks.

    Returns
    -------
    dict
        ``names``.
    """
    blocks = [block for block in python_blocks(path) if containing in block]
    if not blocks:
        raise ValueError(f"{path} has no block of Python that contains {containing!r}.")
    for block in blocks:
        exec(compile(block, path.name, "exec"), names)
    return names
