"""Names of concepts, layers and channels, as figures have room for them."""

import os

from ._style import SMALL_FONT_SIZE

_EM = 0.56  # mean width of a letter over the font's size
_SHARE = 0.5  # of the axes' width, that the names beside them may take
_FEWEST = 12  # letters, however narrow the axes are


def literal(name):
    r"""Write a name so that matplotlib draws it as it is.

    Parameters
    ----------
    name : object
        Of a concept, a layer or a feature. Matplotlib would read what lies between two dollar
        signs as mathematics, and fail where it is none.

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
    """Tell how many letters axes are wide.

    Parameters
    ----------
    ax : matplotlib Axes
    size : float
        Of the font, in points.

    Returns
    -------
    float
    """
    return ax.get_window_extent().width * 72 / ax.figure.dpi / (_EM * size)


def fit_names(ax, names):
    """Write names so that what they name keeps its room.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes that they stand beside.
    names : iterable of object

    Returns
    -------
    list of str
        As matplotlib is to draw them; see :func:`shorten` for what is left out.
    """
    most = max(_FEWEST, int(_SHARE * count_letters(ax, SMALL_FONT_SIZE)))
    return [literal(name) for name in shorten(names, most)]


def shorten(names, most):
    """Leave out the middle of long names, or what all begin with, but tell them apart.

    Parameters
    ----------
    names : iterable of object
    most : int
        Letters that a name may have.

    Returns
    -------
    list of str
        The names as they are, where no short ones differ from each other.

    Examples
    --------
    >>> from sklearn_loce.plotting._names import shorten
    >>> shorten(["backbone.features.13.block.3[7]", "car"], 20)
    ['backbo…13.block.3[7]', 'car']
    >>> shorten(["object--vehicle--car--wheel", "object--vehicle--bus--wheel"], 8)
    ['…c…wheel', '…b…wheel']
    """
    names = [str(name) for name in names]
    prefix = os.path.commonprefix(names)  # noqa: RUF071 - of letters, as is meant here
    without = [f"…{name[len(prefix) :]}" for name in names] if len(set(names)) > 1 else names
    # What tells names apart is more often at their end.
    for given, head in ((names, 1 / 3), (names, 2 / 3), (without, 1 / 3)):
        short = [_cut(name, most, head) for name in given]
        if len(set(short)) == len(set(names)):
            return short
    return names


def _cut(name, most, head):
    """Leave out the middle of a name, and keep a share of the letters before it."""
    if len(name) <= most:
        return name
    first = int(head * (most - 1))
    return f"{name[:first]}…{name[first + 1 - most :]}"
