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

_COLUMN_TILES = 4  # beyond, a grid is as wide as a page
_WIDEST_TILE = 1.65  # inches
_GAP = 0.12  # tiles, between groups of columns
_MOST_PASSES = 4  # that a layout takes to settle
_PAD = 0.04  # inches, more than half of a frame and a pixel of 100 dots per inch
_TEXTS = 27  # points between two lines of tiles, for a text below and one above
_CAPTION = 8.5  # points, of a line more below the tiles
_CHART_TEXTS = 54  # points between a chart and tiles, for its numbers and label and for headings
_NAME = 0.15  # inches, of a line of a legend
_MOST_BETWEEN = 3  # lines of tiles, where there is hardly any room


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
    n_captions : int, default=0
        Lines of text below the tiles, beyond one.
    n_names : int, default=0
        Names in a legend below all tiles.
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
        """Inches of a figure: a column of a paper, or a page."""
        if self.n_columns > _COLUMN_TILES:
            return PAGE_WIDTH
        return COLUMN_WIDTH if self.chart_height else self._of_few_tiles()

    def _of_few_tiles(self):
        return min(COLUMN_WIDTH, _WIDEST_TILE * self.n_columns)

    @property
    def first_height(self):
        """Inches of a figure with room for all, before it is cut to the height of its tiles."""
        texts = (_TEXTS + _CAPTION * self.n_captions) / 72
        chart = self.chart_height + _CHART_TEXTS / 72 if self.chart_height else 0.0
        return chart + self.n_lines * (1 + texts) + _NAME * self.n_names

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
    """Open a figure with one Axes; close it again where drawing fails."""
    import matplotlib.pyplot as plt

    with paper_style():
        figure = new_figure(layout.width, layout.first_height)
        try:
            figure.get_layout_engine().set(w_pad=_PAD, h_pad=_PAD, wspace=0, hspace=0)
            display.ax_, display.figure_ = figure.add_subplot(), figure
            # The layout overrides it, but texts are broken by the width of tiles before.
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
    """Give what keeps texts off the tiles above, where no layout engine does."""
    return 0 if figure.get_layout_engine() else without_layout


def _between(figure, spec, n_lines, texts):
    """Give the room for the texts between two lines, as a share of a line's mean height."""
    points = spec.get_position(figure).height * figure.bbox.height * 72 / figure.dpi
    return min(texts * n_lines / max(points - texts * (n_lines - 1), texts), _MOST_BETWEEN)


def _add_heading(ax, heading):
    ax.set_axis_off()
    ax.set_title(heading, fontsize=FONT_SIZE, pad=2)


def _fit_height(figure, axes, layout):
    """Make a figure as high as its tiles are, which keep the shape of their images."""
    lines_and_chart = layout.n_lines + layout.chart_height  # which share what height is added
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
