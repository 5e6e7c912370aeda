"""What the displays of concept pairs share: a heat map with its values written in."""

from itertools import permutations

import numpy as np
from sklearn.utils import check_array

from ._names import fit_names
from ._style import COLUMN_WIDTH, SMALL_FONT_SIZE, grey_level, merge_style, open_axes

# Inches; where values have no room in a column, the figure is as wide as the page.
_PAGE_WIDTH = 6.9
# Height by width, before the figure is cut to what is drawn.
_HEIGHT = 0.88
# Points between a value and the border of its cell, at the least.
_AIR = 0.5


class HeatMap:
    """A square matrix over concepts, whose diagonal tells nothing.

    What inherits names its matrix `_matrix`, has `concepts`, and gives `_labels` of the columns,
    the rows and the values, and `_limits` of the colors.
    """

    def plot(
        self,
        *,
        include_values=True,
        cmap="Blues",
        values_format=None,
        xticks_rotation=None,
        ax=None,
        colorbar=True,
        im_kw=None,
        text_kw=None,
    ):
        """Plot the heat map.

        Parameters
        ----------
        include_values : bool, default=True
            Whether to write the values into the cells, if they are large enough for it.
        cmap : str or matplotlib Colormap, default="Blues"
            Colors, from low to high. What is masked is gray.
        values_format : str, default=None
            Format of the values, as ".2f". None means three characters at most: .25, 1.0 and 0.
        xticks_rotation : {"vertical", "horizontal"} or float, default=None
            Rotation of the names below the columns. None slants them, or turns them upright where
            columns are narrow.
        ax : matplotlib Axes, default=None
            Axes to plot into. None opens a figure: as wide as a paper's column, or where
            values have no room there, as its page.
        colorbar : bool, default=True
            Whether to add the scale of the colors.
        im_kw : dict, default=None
            Keywords of :meth:`matplotlib.axes.Axes.imshow`.
        text_kw : dict, default=None
            Keywords of the values, as of :meth:`matplotlib.axes.Axes.text`; with a "fontsize" they
            are written whatever their room.

        Returns
        -------
        self : object
            The display, with `ax_`, `figure_`, `im_`, `text_` and `colorbar_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the matrix does not fit the concepts.
        """
        shown = self._masked()
        with open_axes(self, ax, height=_HEIGHT * COLUMN_WIDTH) as axes:
            self._draw_image(shown, cmap, im_kw)
            self.colorbar_ = self._draw_scale() if colorbar else None
            write = (shown, values_format, text_kw or {}) if include_values else None
            self._write(xticks_rotation, write)
            if ax is None:
                # Centered, a square next to a scale would move whenever it is drawn.
                axes.set_anchor("W")
                if include_values and self.text_ is None and len(shown) > 1:
                    self.figure_.set_size_inches(_PAGE_WIDTH, _HEIGHT * _PAGE_WIDTH)
                    self._write(xticks_rotation, write)
        return self

    def _masked(self):
        """Matrix with NaN and the diagonal masked: (n_concepts, n_concepts)."""
        matrix = check_array(self._matrix, dtype=np.float64, ensure_all_finite="allow-nan")
        if matrix.shape != (len(self.concepts),) * 2:
            raise ValueError(
                f"The matrix has shape {matrix.shape}, and there are {len(self.concepts)} "
                "concepts; pass one row and one column per concept."
            )
        return np.ma.masked_array(matrix, np.isnan(matrix) | np.eye(len(matrix), dtype=bool))

    def _draw_image(self, shown, cmap, im_kw):
        import matplotlib as mpl
        from matplotlib.image import AxesImage

        low, high = self._limits
        # Concepts that all lie at 0 are no reason for a scale without length.
        high = high or (1.0 if shown.mask.all() else float(shown.max())) or 1.0
        defaults = {"interpolation": "nearest", "cmap": cmap, "vmin": low, "vmax": high}
        style = merge_style(AxesImage, defaults, im_kw)
        style["cmap"] = mpl.colormaps[style["cmap"]] if isinstance(cmap, str) else style["cmap"]
        style["cmap"] = style["cmap"].with_extremes(bad="#e6e6e6")
        self.im_ = self.ax_.imshow(shown, **style)

    def _draw_scale(self):
        bar = self.figure_.colorbar(self.im_, ax=self.ax_, shrink=0.8, label=self._labels[2])
        bar.outline.set_linewidth(0.4)
        return bar

    def _write(self, rotation, values):
        """Write concepts at the axes, and values into the cells where they have room."""
        cell = self._name_axes(rotation)
        self.text_ = None
        if values is not None:
            self._write_values(*values, cell)

    def _name_axes(self, rotation):
        """Write the concepts at the axes, and give the size of a cell in points."""
        numbers, names = np.arange(len(self.concepts)), fit_names(self.ax_, self.concepts)
        self.ax_.set_xticks(numbers, names)
        self.ax_.set_yticks(numbers, names)
        self.ax_.set(xlabel=self._labels[0], ylabel=self._labels[1])
        self.ax_.tick_params(length=0)
        self._turn_names(45 if rotation is None else rotation)
        if rotation is None and self._cell_size() < 1.5 * SMALL_FONT_SIZE:
            self._turn_names("vertical")
        return self._cell_size()

    def _turn_names(self, rotation):
        upright = rotation in ("vertical", "horizontal")
        for name in self.ax_.get_xticklabels():
            name.set(rotation=rotation, ha="center" if upright else "right")
            name.set_rotation_mode("default" if upright else "anchor")

    def _cell_size(self):
        """Side of a cell, in points, once the figure has found its layout."""
        self.figure_.canvas.figure.draw_without_rendering()
        pixels = self.ax_.get_window_extent().height / len(self.concepts)
        return pixels * 72 / self.figure_.dpi

    def _write_values(self, shown, values_format, text_kw, cell):
        self.text_ = np.full(shown.shape, None)
        for i, j in permutations(range(len(shown)), 2):
            value = None if shown.mask[i, j] else shown[i, j]
            self.text_[i, j] = self._write_value(i, j, _format(value, values_format), text_kw)
        texts = [text for text in self.text_.flat if text is not None]
        sides = [max(text.get_window_extent().size) for text in texts]
        room = (cell - 2 * _AIR) * self.figure_.dpi / 72
        if not texts or (max(sides) > room and not {"fontsize", "size"} & text_kw.keys()):
            for text in texts:
                text.remove()
            self.text_ = None

    def _write_value(self, i, j, text, text_kw):
        from matplotlib.text import Text

        dark = grey_level(self.im_.to_rgba(self.im_.get_array()[i, j : j + 1])[0]) < 0.5
        defaults = {"fontsize": SMALL_FONT_SIZE, "color": "white" if dark else "black"}
        style = merge_style(Text, {"ha": "center", "va": "center", **defaults}, text_kw)
        return self.ax_.text(j, i, text, **style)


def _format(value, values_format):
    """Write a value, as short as it can be where no format is given."""
    if value is None:
        return "-"
    if values_format is not None:
        return format(value, values_format)
    if value == 0:
        return "0"
    text = f"{value:.2f}"
    # Three characters have room where four have none.
    return text[1:] if text.startswith("0.") else text.removesuffix("0")
