"""Functions that draw tiles, outlines, frames and texts."""

import re
from textwrap import wrap

import numpy as np

from ._names import count_letters, literal
from ._style import COLORS, FONT_SIZE, SMALL_FONT_SIZE, merge_style
from ._tiles import trace_outline

RIGHT = {"edgecolor": COLORS[0], "linestyle": "-", "linewidth": 1.8}
WRONG = {"edgecolor": COLORS[1], "linestyle": (0, (3, 1.4)), "linewidth": 1.8}
NEUTRAL = {"edgecolor": "#333333", "linestyle": "-", "linewidth": 1.8}
MARKS = {True: "✓", False: "✗"}

TINT = "#E69F00"  # color of projections: the orange of Okabe and Ito

_OUTLINE, _RIM = 0.65, 0.75  # points: width of a line, and additional width of its rim
_FULL_AT = 7  # points: masks of this thickness and more have outlines of full width
_THINNEST = 0.25  # smallest share of the full width, which is still printed
_TINT_SHARE = 0.4


def show_tile(ax, picture, **image_kw):
    """Show a picture without ticks. None leaves the axes empty.

    Parameters
    ----------
    ax : Axes
    picture : ndarray of shape (height, width[, 3]) or None
    **image_kw : dict
        Passed to ``Axes.imshow``.

    Returns
    -------
    AxesImage or None
    """
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return None if picture is None else ax.imshow(picture, **image_kw)


def tint(picture, colors, shares):
    """Blend colors into a picture.

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3)
    colors : list of color
    shares : list of ndarray of shape (height, width), float or bool
        Share of each color in each pixel; their sum is at most 1.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
    """
    from matplotlib.colors import to_rgba_array

    shares = np.stack(shares, axis=-1).astype(np.float64)
    kept = 1 - shares.sum(axis=-1, keepdims=True)
    tinted = kept * picture + shares @ (255 * to_rgba_array(colors)[:, :3])
    return tinted.round().clip(0, 255).astype(np.uint8)


def choose_show(show, tiles):
    """Check the parameter `show`, and choose its value if it is None.

    Parameters
    ----------
    show : {"mask", "projection", "both"} or None
    tiles : iterable of Tile

    Returns
    -------
    {"mask", "projection", "both"}

    Raises
    ------
    ValueError
        If the value is unknown, or needs projections and no tile has one.
    """
    projected = any(tile.projection is not None for tile in tiles)
    if show is None:
        return "both" if projected else "mask"
    if show not in ("mask", "projection", "both"):
        raise ValueError(f"show={show!r} is not 'mask', 'projection' or 'both'.")
    if show != "mask" and not projected:
        raise ValueError(
            f"show={show!r} needs projections, but no tile has one; create the display with a "
            "projector, as in projector=loce."
        )
    return show


def draw_tile(ax, tile, show="mask", contour_kw=None):
    """Draw a thumbnail with the outline of its mask and its tinted projection.

    Parameters
    ----------
    ax : Axes
    tile : Tile
    show : {"mask", "projection", "both"}, default="mask"
    contour_kw : dict, default=None
        Keywords of the mask's :class:`matplotlib.collections.LineCollection`.

    Returns
    -------
    list of LineCollection
    """
    drawn = None if show == "mask" else tile.projection
    picture = tile.image if drawn is None else tint(tile.image, [TINT], [_TINT_SHARE * drawn])
    show_tile(ax, picture)
    lines = [] if drawn is None else [draw_outline(ax, drawn, color=TINT)]
    return lines if show == "projection" else [*lines, draw_outline(ax, tile.mask, contour_kw)]


def draw_outline(ax, mask, contour_kw=None, *, level=None, color="white"):
    """Draw the outline of a mask, light with a dark rim, so that it is visible on any picture.

    Small and narrow masks get thinner outlines, which do not cover them.

    Parameters
    ----------
    ax : Axes
    mask : ndarray of shape (height, width), float32
    contour_kw : dict, default=None
        Keywords of :class:`matplotlib.collections.LineCollection`.
    level : float, default=None
        As in :func:`trace_outline`.
    color : color, default="white"

    Returns
    -------
    LineCollection
    """
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    lines = trace_outline(mask, level)
    points = ax.get_window_extent().width * 72 / ax.figure.dpi / mask.shape[1]
    thin = np.clip(points * _measure_thickness(lines) / _FULL_AT, _THINNEST, 1)
    style = {"colors": color, "linewidths": thin * _OUTLINE}
    style = merge_style(LineCollection, style, contour_kw)
    width = np.max(style["linewidth"]) + thin * _RIM
    style.setdefault("path_effects", [withStroke(linewidth=width, foreground="black")])
    lines = LineCollection(lines, **style)
    lines.set_in_layout(False)  # it lies inside the image, and measuring it is slow
    ax.add_collection(lines, autolim=False)
    return lines


def _measure_thickness(lines):
    """Measure the thickness in pixels of an enclosed region: twice its area over its perimeter."""
    rim = sum(np.hypot(*np.diff(line, axis=0).T).sum() for line in lines)
    x_y = [(line - line[0]).T for line in lines]  # holes have the opposite direction
    area = sum(0.5 * np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) for x, y in x_y)
    return 2 * abs(area) / rim if rim else 0.0


def draw_frame(ax, style, frame_kw=None):
    """Draw a frame around a tile.

    Parameters
    ----------
    ax : Axes
    style : dict
        `RIGHT`, `WRONG` or `NEUTRAL`.
    frame_kw : dict, default=None
        Keywords of :class:`matplotlib.patches.Rectangle`.

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
    """Break a text into lines and cut it off so that it is no wider than a tile.

    Parameters
    ----------
    ax : Axes
        Axes of the tile.
    text : object
        Text to write.
    size : float, default=7
        Font size in points.
    n_lines : int, default=2
        Largest number of lines.
    n_tiles : float, default=1
        Largest width of the text, in tiles.

    Returns
    -------
    str
    """
    n_letters = max(4, int(n_tiles * count_letters(ax, size)))
    # Long names seldom have spaces, so they may also break after these signs.
    breakable = re.sub(r"([_/])", "\\1\v", str(text))
    lines = wrap(breakable, n_letters, replace_whitespace=False)
    if len(lines) > n_lines:
        lines = [*lines[: n_lines - 1], lines[n_lines - 1][: n_letters - 1].rstrip() + "…"]
    return literal("\n".join(lines).replace("\v", ""))


def mark_name(is_right, name):
    """Prepend a mark to a name, without a line break between them.

    Parameters
    ----------
    is_right : bool or None
        None omits the mark.
    name : object

    Returns
    -------
    str
    """
    return str(name) if is_right is None else f"{MARKS[is_right]}\N{NO-BREAK SPACE}{name}"


def write_heading(ax, heading, raised=0):
    """Write a line above a tile. It starts at the left edge and may be wider than the tile.

    Parameters
    ----------
    ax : Axes
    heading : str
    raised : float, default=0
        Additional distance from the tile in points.

    Returns
    -------
    Annotation
    """
    # A layout would widen the tile for a long title, so an empty title reserves its place.
    ax.set_title(" ", fontsize=FONT_SIZE, pad=2 + raised)
    where = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
    text = ax.annotate(heading, xytext=(0, 3 + raised), fontsize=FONT_SIZE, **where)
    text.set_in_layout(False)
    return text


def font_with_marks():
    """Return the current font families, followed by one that contains the marks.

    Returns
    -------
    list of str
    """
    import matplotlib as mpl

    return [*mpl.rcParams["font.family"], "DejaVu Sans"]


def format_number(value):
    """Format a number with three digits and the minus sign of Matplotlib.

    Parameters
    ----------
    value : float

    Returns
    -------
    str
    """
    return f"{value:#.3g}".rstrip(".").replace("-", "\N{MINUS SIGN}")
