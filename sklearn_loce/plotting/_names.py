"""Names of concepts, layers and channels, shortened to fit into figures."""

import os

from ._style import SMALL_FONT_SIZE

_EM = 0.56  # mean width of a letter over the font size
_SHARE = 0.5  # of the width of axes, for the names beside them
_FEWEST = 12  # letters of a shortened name


def literal(name):
    r"""Escape a name so that Matplotlib draws it unchanged.

    Parameters
    ----------
    name : object
        Name of a concept, a layer or a feature. Matplotlib would parse text between two dollar
        signs as mathematics.

    Returns
    -------
    str

    Examples
    --------
    >>> from sklearn_loce.plotting._names import literal
    >>> literal("$bus_$")
    '\\$bus_\\$'
    """
    return str(name).replace("$", r"\$")


def count_letters(ax, size):
    """Compute the number of letters that fit into the width of axes.

    Parameters
    ----------
    ax : matplotlib Axes
    size : float
        Font size in points.

    Returns
    -------
    float
    """
    return ax.get_window_extent().width * 72 / ax.figure.dpi / (_EM * size)


def fit_names(ax, names):
    """Shorten the names beside axes so that the axes stay large enough.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes of the names.
    names : iterable of object

    Returns
    -------
    list of str
        Escaped names, shortened as in :func:`shorten`.
    """
    most = max(_FEWEST, int(_SHARE * count_letters(ax, SMALL_FONT_SIZE)))
    return [literal(name) for name in shorten(names, most)]


def shorten(names, most):
    """Shorten long names in the middle or by their common start, and keep them distinct.

    Parameters
    ----------
    names : iterable of object
    most : int
        Largest number of letters.

    Returns
    -------
    list of str
        Short names, or the names unchanged if no short ones are distinct.

    Examples
    --------
    >>> from sklearn_loce.plotting._names import shorten
    >>> shorten(["backbone.features.13.block.3[7]", "car"], 20)
    ['backbo…13.block.3[7]', 'car']
    >>> shorten(["object--vehicle--car--wheel", "object--vehicle--bus--wheel"], 8)
    ['…c…wheel', '…b…wheel']
    """
    names = [str(name) for name in names]
    prefix = os.path.commonprefix(names)  # noqa: RUF071 - of letters, not of paths
    without = [f"…{name[len(prefix) :]}" for name in names] if len(set(names)) > 1 else names
    # Names differ more often at their end.
    for given, head in ((names, 1 / 3), (names, 2 / 3), (without, 1 / 3)):
        short = [_cut(name, most, head) for name in given]
        if len(set(short)) == len(set(names)):
            return short
    return names


def _cut(name, most, head):
    """Shorten a name in the middle, and keep a share of the letters before it."""
    if len(name) <= most:
        return name
    first = int(head * (most - 1))
    return f"{name[:first]}…{name[first + 1 - most :]}"
