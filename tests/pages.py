"""Pages of the documentation, whose code runs as printed."""

import re


def python_blocks(path):
    """Return the fenced blocks of Python of a Markdown page, in their order."""
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def run_blocks(path, names, containing=""):
    """Run the blocks of a page that contain a text, one after the other.

    Parameters
    ----------
    path : Path
    names : dict
        What the blocks find and what they leave, as the globals of a module.
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
