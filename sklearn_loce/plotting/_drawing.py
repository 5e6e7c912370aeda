"""How tiles, outlines, frames and their texts are drawn."""

import re
from textwrap import wrap

import numpy as np

from ._names import count_letters, literal
from ._style import COLOURS, FONT_SIZE, SMALL_FONT_SIZE, merge_style
from ._tiles import trace_outline

RIGHT = {"edgecolor": COLOURS[0], "linestyle": "-", "linewidth": 1.8}
WRONG = {"edgecolor": COLOURS[1], "linestyle": (0, (3, 1.4)), "linewidth": 1.8}
NEUTRAL = {"edgecolor": "#333333", "linestyle": "-", "linewidth": 1.8}
MARKS = {True: "✓", False: "✗", None: ""}

_OUTLINE, _RIM = 0.65, 0.75  # points


def show_tile(ax, picture, **image_kw):
    """Show a picture without ticks, or an empty place for None.

    Parameters
    ----------
    ax : Axes
    picture : ndarray of shape (height, width[, 3]) or None
    **image_kw : dict
        For ``Axes.imshow``.

    Returns
    -------
    AxesImage or None
    """
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return None if picture is None else ax.imshow(picture, **image_kw)


def draw_outline(ax, mask, contour_kw=None):
    """Draw the outline of a mask, light with a dark rim: it shows on any picture.

    Parameters
    ----------
    ax : Axes
    mask : ndarray of shape (height, width), float32
    contour_kw : dict, default=None
        For :class:`matplotlib.collections.LineCollection`.

    Returns
    -------
    LineCollection
    """
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    style = merge_style(LineCollection, {"colors": "white", "linewidths": _OUTLINE}, contour_kw)
    width = np.max(style["linewidth"])
    style.setdefault("path_effects", [withStroke(linewidth=width + _RIM, foreground="black")])
    lines = LineCollection(trace_outline(mask), **style)
    lines.set_in_layout(False)  # it lies in the image, and measuring it takes long
    ax.add_collection(lines, autolim=False)
    return lines


def draw_frame(ax, style, frame_kw=None):
    """Draw a frame around a tile.

    Parameters
    ----------
    ax : Axes
    style : dict
        `RIGHT`, `WRONG` or `NEUTRAL`.
    frame_kw : dict, default=None
        For :class:`matplotlib.patches.Rectangle`.

    Returns
    -------
    Rectangle
    """
    from matplotlib.patches import Rectangle

    style = merge_style(Rectangle, {"fill": False, "clip_on": False, **style}, frame_kw)
    frame = Rectangle((0, 0), 1, 1, transform=ax.transAxes, **style)
    frame.set_in_layout(False)
    return ax.add_patch(frame)


def fit_text(ax, text, *, size=SMALL_FONT_SIZE, n_lines=2, n_tiles=1):
    """Break a text, and cut it off, so that it is no wider than a tile.

    Parameters
    ----------
    ax : Axes
        The tile.
    text : object
        What to write.
    size : float, default=7
        Of the font, in points.
    n_lines : int, default=2
        Most lines.
    n_tiles : float, default=1
        Tiles that the text may be wide.

    Returns
    -------
    str
    """
    n_letters = max(4, int(n_tiles * count_letters(ax, size)))
    # Long names seldom have spaces; behind these signs they may be broken.
    breakable = re.sub(r"([_/])", "\\1\v", str(text))
    lines = wrap(breakable, n_letters, replace_whitespace=False)
    if len(lines) > n_lines:
        lines = [*lines[: n_lines - 1], lines[n_lines - 1][: n_letters - 1].rstrip() + "…"]
    return literal("\n".join(lines).replace("\v", ""))


def write_heading(ax, heading):
    """Write a line above a tile, from its left edge on, that may be wider than the tile.

    Parameters
    ----------
    ax : Axes
    heading : str

    Returns
    -------
    Annotation
    """
    # Layouts would widen the tile for a long title; an empty one holds the place for it.
    ax.set_title(" ", fontsize=FONT_SIZE, pad=2)
    where = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
    text = ax.annotate(heading, xytext=(0, 3), fontsize=FONT_SIZE, **where)
    text.set_in_layout(False)
    return text


def font_with_marks():
    """Give the font families of now, and one behind them that has the marks.

    Returns
    -------
    list of str
    """
    import matplotlib as mpl

    return [*mpl.rcParams["font.family"], "DejaVu Sans"]


def format_number(value):
    """Write three digits, with the minus sign that matplotlib writes.

    Parameters
    ----------
    value : float

    Returns
    -------
    str
    """
    return f"{value:#.3g}".rstrip(".").replace("-", "\N{MINUS SIGN}")
