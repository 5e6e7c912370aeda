"""Grids of tiles: where they are put, and how tiles, outlines, frames and their texts are drawn."""

import re
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import wrap

import numpy as np

from ._style import (
    COLOURS,
    COLUMN_WIDTH,
    FONT_SIZE,
    SMALL_FONT_SIZE,
    merge_style,
    open_axes,
)
from ._tiles import trace_outline

PAGE_WIDTH = 6.9  # inches, of both columns of a paper

RIGHT = {"edgecolor": COLOURS[0], "linestyle": "-", "linewidth": 1.8}
WRONG = {"edgecolor": COLOURS[1], "linestyle": (0, (3, 1.4)), "linewidth": 1.8}
NEUTRAL = {"edgecolor": "#333333", "linestyle": "-", "linewidth": 1.8}
MARKS = {True: "✓", False: "✗", None: ""}

_COLUMN_TILES = 4  # beyond, a grid is as wide as a page
_WIDEST_TILE = 1.65  # inches
_GAP = 0.12  # tiles, between groups of columns
_EM = 0.56  # mean width of a letter over the font's size


@dataclass(frozen=True)
class Layout:
    """How many tiles there are and in which groups of columns.

    Parameters
    ----------
    n_lines : int
    groups : tuple of (str, int)
        Heading and number of columns of each group; a gap lies between groups.
    chart_height : float, default=0
        Inches of an axes for a chart above the tiles.
    colorbar_height : float, default=0
        Inches to leave for a colour bar below them.
    """

    n_lines: int
    groups: tuple
    chart_height: float = 0.0
    colorbar_height: float = 0.0

    @property
    def n_columns(self):
        return sum(n for _, n in self.groups)

    @property
    def width(self):
        """Inches of a figure: a column of a paper, or a page."""
        if self.n_columns > _COLUMN_TILES:
            return PAGE_WIDTH
        return COLUMN_WIDTH if self.chart_height else self._of_few_tiles()

    def _of_few_tiles(self):
        return min(COLUMN_WIDTH, _WIDEST_TILE * self.n_columns)

    @property
    def headings(self):
        return [heading for heading, _ in self.groups if heading]

    def positions(self):
        """Give each tile's column of the grid with gaps, and the widths of all of its columns."""
        columns, widths = [], []
        for _, n in self.groups:
            if widths:
                widths.append(_GAP)
            columns.append(list(range(len(widths), len(widths) + n)))
            widths += [1.0] * n
        return columns, widths


@contextmanager
def open_grid(display, ax, layout):
    """Give a display `ax_`, `axes_` and `figure_`.

    Parameters
    ----------
    display : object
        Gets the attributes.
    ax : Axes, array-like of Axes, or None
        None opens a figure, which ends as high as its tiles need; an Axes is divided; of an array,
        all Axes are taken: of the chart, where there is one, and of the tiles, line by line.
    layout : Layout

    Yields
    ------
    chart : Axes or None
    axes : ndarray of shape (n_lines, n_columns) of Axes

    Raises
    ------
    ValueError
        If the Axes was divided before, lies in no grid, or the number of Axes is wrong.
    """
    if ax is not None and np.ndim(ax) > 0:
        display.ax_ = None
        yield _take_axes(display, np.asarray(ax, dtype=object).ravel(), layout)
        return
    guess = layout.chart_height + layout.colorbar_height + layout.n_lines
    with open_axes(display, ax, width=layout.width, height=guess) as bounds:
        if ax is None:
            bounds.figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        chart, display.axes_ = _divide(bounds, layout)
        yield chart, display.axes_
        if ax is None:
            _fit_height(display.figure_, display.axes_)


def _take_axes(display, axes, layout):
    has_chart = bool(layout.chart_height)
    expected = has_chart + layout.n_lines * layout.n_columns
    if len(axes) != expected:
        chart = "one for the chart, and " if has_chart else ""
        raise ValueError(
            f"ax holds {len(axes)} Axes, and {expected} are needed: {chart}{layout.n_lines} lines "
            f"of {layout.n_columns}."
        )
    display.figure_ = axes[0].figure
    display.axes_ = axes[has_chart:].reshape(layout.n_lines, layout.n_columns)
    return (axes[0] if has_chart else None), display.axes_


def _divide(bounds, layout):
    """Divide an Axes into one for the chart, headings and tiles."""
    if not bounds.axison:
        raise ValueError(
            "The ax was used by another display already; pass ax=display.axes_ of that one, or "
            "another ax."
        )
    if bounds.get_subplotspec() is None:
        raise ValueError("The ax lies in no grid; make it with figure.add_subplot or plt.subplots.")
    bounds.set_axis_off()
    figure, spec, chart = bounds.figure, bounds.get_subplotspec(), None
    if layout.chart_height:
        upper, spec = spec.subgridspec(2, 1, height_ratios=[layout.chart_height, layout.n_lines])
        chart = figure.add_subplot(upper)
    return chart, _add_tiles(figure, spec, layout)


def _add_tiles(figure, spec, layout):
    columns, widths = layout.positions()
    n_above = int(bool(layout.headings))
    heights = [0.01] * n_above + [1.0] * layout.n_lines
    shape = len(heights), len(widths)
    # Without a layout engine nothing else keeps texts off the tiles above.
    space = None if figure.get_layout_engine() else 0.5
    grid = spec.subgridspec(*shape, width_ratios=widths, height_ratios=heights, hspace=space)
    if n_above:
        for (heading, _), group in zip(layout.groups, columns, strict=True):
            _add_heading(figure.add_subplot(grid[0, group[0] : group[-1] + 1]), heading)
    axes = [
        [figure.add_subplot(grid[line, column]) for group in columns for column in group]
        for line in range(n_above, len(heights))
    ]
    return np.array(axes, dtype=object).reshape(layout.n_lines, -1)


def _add_heading(ax, heading):
    ax.set_axis_off()
    ax.set_title(heading, fontsize=FONT_SIZE, pad=2)


def _fit_height(figure, axes):
    """Make a figure as high as its tiles are, which keep the shape of their images."""
    for _ in range(2):
        figure.draw_without_rendering()
        width, height = figure.get_size_inches()
        missing = []
        for ax in axes.ravel():
            given, image = ax.get_position(original=True), ax.get_images()
            if image:
                n_rows, n_columns = image[0].get_array().shape[:2]
                missing.append(given.width * width * n_rows / n_columns - given.height * height)
        figure.set_size_inches(width, max(0.5, height + len(axes) * max(missing, default=0.0)))


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

    style = merge_style(LineCollection, {"colors": "white", "linewidths": 0.9}, contour_kw)
    width = np.max(style.get("linewidth", 0.9))
    style.setdefault("path_effects", [withStroke(linewidth=width + 1.1, foreground="black")])
    lines = LineCollection(trace_outline(mask), **style)
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
    return ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, **style))


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
    points = ax.get_window_extent().width / ax.figure.dpi * 72
    n_letters = max(4, int(n_tiles * points / (_EM * size)))
    # Long names seldom have spaces; behind these signs they may be broken.
    breakable = re.sub(r"([_/])", "\\1\v", str(text))
    lines = wrap(breakable, n_letters, replace_whitespace=False)
    if len(lines) > n_lines:
        lines = [*lines[: n_lines - 1], lines[n_lines - 1][: n_letters - 1].rstrip() + "…"]
    return "\n".join(lines).replace("\v", "")


def font_with_marks():
    """Give the font families of now, and one behind them that has the marks.

    Returns
    -------
    list of str
    """
    import matplotlib as mpl

    return [*mpl.rcParams["font.family"], "DejaVu Sans"]


def concept_names(y, samples):
    """Give the concept of each row, or None where none is known.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or None
        None takes the column ``concept`` of the table.
    samples : DataFrame

    Returns
    -------
    ndarray of shape (n_samples,), object, or None

    Raises
    ------
    ValueError
        If the lengths differ.
    """
    if y is None:
        if "concept" not in samples:
            return None
        y = samples["concept"]
    names = np.asarray(y, dtype=object)
    check_lengths(len(samples), y=names)
    return names


def check_lengths(n_samples, **columns):
    """Raise unless columns have one value per sample.

    Parameters
    ----------
    n_samples : int
    **columns : sized
        By name; None is passed over.

    Raises
    ------
    ValueError
        If a length differs.
    """
    for name, column in columns.items():
        if column is not None and len(column) != n_samples:
            raise ValueError(
                f"{name} has {len(column)} row(s), and the table of samples has {n_samples}; pass "
                "the same rows of both."
            )
