"""Grids of tiles: figures and axes for them."""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from ._style import (
    COLUMN_WIDTH,
    FONT_SIZE,
    PAGE_WIDTH,
    new_figure,
    paper_style,
)

_COLUMN_TILES = 4  # with more columns, a grid is as wide as a page
_WIDEST_TILE = 1.65  # inches
_GAP = 0.12  # tiles, between groups of columns
_MOST_PASSES = 8  # of a layout
_PAD = 0.04  # inches; more than half of a frame and one pixel at 100 dots per inch
_TEXTS = 27  # points between two lines of tiles, for one text below and one above
_CAPTION = 8.5  # points of each further line below the tiles
_CHART_TEXTS = 54  # points between a chart and tiles, for ticks, label and headings
_NAME = 0.15  # inches of a line of a legend
_MOST_BETWEEN = 3  # largest space between lines, in heights of a line


@dataclass(frozen=True)
class Layout:
    """Number of tiles and their groups of columns.

    Parameters
    ----------
    n_lines : int
    groups : tuple of (str, int)
        Heading and number of columns of each group. Gaps separate groups.
    chart_height : float, default=0
        Height in inches of the chart above the tiles, 0 for none.
    n_captions : int, default=0
        Lines of text below each tile, in addition to the first.
    n_names : int, default=0
        Number of names in a legend below all tiles.
    """

    n_lines: int
    groups: tuple
    chart_height: float = 0.0
    n_captions: int = 0
    n_names: int = 0

    @property
    def n_columns(self):
        return sum(n for _, n in self.groups)

    @property
    def width(self):
        """Width of a figure in inches: a column of a paper, or a page."""
        if self.n_columns > _COLUMN_TILES:
            return PAGE_WIDTH
        return COLUMN_WIDTH if self.chart_height else self._of_few_tiles()

    def _of_few_tiles(self):
        return min(COLUMN_WIDTH, _WIDEST_TILE * self.n_columns)

    @property
    def first_height(self):
        """Height of a new figure in inches, before it is fitted to its tiles."""
        texts = (_TEXTS + _CAPTION * self.n_captions) / 72
        chart = self.chart_height + _CHART_TEXTS / 72 if self.chart_height else 0.0
        return chart + self.n_lines * (1 + texts) + _NAME * self.n_names

    @property
    def headings(self):
        return [heading for heading, _ in self.groups if heading]

    def positions(self):
        """Return the grid column of each tile, and the widths of all columns including gaps."""
        columns, widths = [], []
        for _, n in self.groups:
            if widths:
                widths.append(_GAP)
            columns.append(list(range(len(widths), len(widths) + n)))
            widths += [1.0] * n
        return columns, widths


@contextmanager
def open_grid(display, ax, layout):
    """Set `ax_`, `axes_` and `figure_` of a display, and open a figure if necessary.

    Parameters
    ----------
    display : object
        Display whose attributes are set.
    ax : Axes, array-like of Axes, or None
        None opens a figure with the height of its tiles. A single Axes is divided. An array has
        the Axes of the chart, if there is one, and those of the tiles, line by line.
    layout : Layout

    Yields
    ------
    chart : Axes or None
    axes : ndarray of shape (n_lines, n_columns) of Axes

    Raises
    ------
    ValueError
        If the Axes was divided before or is not part of a grid, or the number of Axes is wrong.
    """
    check_matplotlib_support(f"{type(display).__name__}.plot")
    if ax is not None and np.ndim(ax) > 0:
        display.ax_ = None
        yield _take_axes(display, np.asarray(ax, dtype=object).ravel(), layout)
        return
    if ax is not None:
        display.ax_, display.figure_ = ax, ax.figure
        chart, display.axes_ = _divide(ax, layout)
        yield chart, display.axes_
        return
    with _new_figure(display, layout) as figure:
        chart, display.axes_ = _divide(display.ax_, layout)
        yield chart, display.axes_
        _fit_height(figure, display.axes_, layout)


@contextmanager
def _new_figure(display, layout):
    """Open a figure with one Axes, and close it if drawing fails."""
    import matplotlib.pyplot as plt

    with paper_style():
        figure = new_figure(layout.width, layout.first_height)
        try:
            figure.get_layout_engine().set(w_pad=_PAD, h_pad=_PAD, wspace=0, hspace=0)
            display.ax_, display.figure_ = figure.add_subplot(), figure
            # The layout overrides these margins later, but texts are fitted to tiles before.
            display.ax_.get_subplotspec().get_gridspec().update(left=0, right=1)
            yield figure
        except BaseException:
            plt.close(figure)
            raise


def _take_axes(display, axes, layout):
    has_chart = bool(layout.chart_height)
    expected = has_chart + layout.n_lines * layout.n_columns
    if len(axes) != expected:
        chart = "one for the chart, and " if has_chart else ""
        raise ValueError(
            f"ax contains {len(axes)} Axes, but {expected} are needed: {chart}{layout.n_lines} by "
            f"{layout.n_columns} for the tiles."
        )
    display.figure_ = axes[0].figure
    display.axes_ = axes[has_chart:].reshape(layout.n_lines, layout.n_columns)
    return (axes[0] if has_chart else None), display.axes_


def _divide(bounds, layout):
    """Divide an Axes into Axes of the chart, the headings and the tiles."""
    if not bounds.axison:
        raise ValueError(
            "Another display already uses this ax; pass the axes_ of that display, or another ax."
        )
    if bounds.get_subplotspec() is None:
        raise ValueError(
            "ax is not part of a grid; create it with plt.subplots or figure.add_subplot."
        )
    bounds.set_axis_off()
    figure, spec, chart = bounds.figure, bounds.get_subplotspec(), None
    if layout.chart_height:
        space = _space_of(figure, _between(figure, spec, 2, _CHART_TEXTS))
        heights = [layout.chart_height, layout.n_lines]
        upper, spec = spec.subgridspec(2, 1, height_ratios=heights, hspace=space)
        chart = figure.add_subplot(upper)
    return chart, _add_tiles(figure, spec, layout)


def _add_tiles(figure, spec, layout):
    columns, widths = layout.positions()
    n_above = int(bool(layout.headings))
    heights = [0.001] * n_above + [1.0] * layout.n_lines
    shape = len(heights), len(widths)
    texts = _TEXTS + _CAPTION * layout.n_captions
    space = {
        "wspace": _space_of(figure, 0.1),
        "hspace": _space_of(figure, _between(figure, spec, len(heights), texts)),
    }
    grid = spec.subgridspec(*shape, width_ratios=widths, height_ratios=heights, **space)
    if n_above:
        for (heading, _), group in zip(layout.groups, columns, strict=True):
            _add_heading(figure.add_subplot(grid[0, group[0] : group[-1] + 1]), heading)
    axes = [
        [
            figure.add_subplot(grid[line, column], anchor="N")
            for group in columns
            for column in group
        ]
        for line in range(n_above, len(heights))
    ]
    return np.array(axes, dtype=object).reshape(layout.n_lines, -1)


def _space_of(figure, without_layout):
    """Return the space between tiles; a layout engine finds it alone and gets 0."""
    return 0 if figure.get_layout_engine() else without_layout


def _between(figure, spec, n_lines, texts):
    """Compute the space for texts between two lines, in mean heights of a line."""
    points = spec.get_position(figure).height * figure.bbox.height * 72 / figure.dpi
    return min(texts * n_lines / max(points - texts * (n_lines - 1), texts), _MOST_BETWEEN)


def _add_heading(ax, heading):
    ax.set_axis_off()
    ax.set_title(heading, fontsize=FONT_SIZE, pad=2)


def _fit_height(figure, axes, layout):
    """Set the height of a figure so that tiles keep the shape of their images."""
    lines_and_chart = layout.n_lines + layout.chart_height  # added height is distributed over these
    for _ in range(_MOST_PASSES):
        figure.get_layout_engine().execute(figure)
        width, height = figure.get_size_inches()
        missing = []
        for ax in axes.ravel():
            given, images = ax.get_position(original=True), ax.get_images()
            if images:
                n_rows, n_columns = images[0].get_array().shape[:2]
                missing.append(given.width * width * n_rows / n_columns - given.height * height)
        missing = lines_and_chart * max(missing, default=0.0)
        if abs(missing) < _PAD:
            break
        figure.set_size_inches(width, max(0.5, height + missing))
