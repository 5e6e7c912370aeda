"""Heat map with written values, the base of the displays of concept pairs."""

from itertools import permutations

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.utils import check_array

from ._names import fit_names
from ._style import (
    COLUMN_WIDTH,
    GRAY,
    LIGHT,
    PAGE_WIDTH,
    SMALL_FONT_SIZE,
    measure_luminance,
    merge_style,
    open_axes,
)
from ._tree import link_positions

# Height over width of a new figure, before it is fitted to its content.
_HEIGHT = 0.88
_LINE = 1.15  # distance between two names over their font size
# Parts of the axes: the scale in the empty triangle or at the right, and the tree above.
_INSIDE, _BESIDE, _TREE = (0.54, 0.93, 0.42, 0.035), (1.04, 0.1, 0.045, 0.8), (0, 1.01, 1, 0.18)
_UNKNOWN = "#e6e6e6"
# Smallest distance in points between a value and the border of its cell.
_AIR = 0.5


class HeatMap:
    """Heat map of a square matrix over concepts, without its diagonal.

    Subclasses define `_matrix`, `concepts`, the `_labels` of the columns, the rows and the values,
    the `_lowest` value of the colors (None for the lowest of the data), and `_symmetric`. Symmetric
    matrices are drawn below the diagonal, with the scale above it.
    """

    def plot(
        self,
        *,
        order="similarity",
        tree=False,
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
        order : "similarity", array-like of shape (n_concepts,) or None, default="similarity"
            Order of the concepts. "similarity" uses the leaves of a tree (average linkage), so that
            similar concepts are neighbors. A list gives the order, for example that of another
            display. None keeps the order of `concepts`.
        tree : bool, default=False
            Whether to draw that tree above the columns.
        include_values : bool, default=True
            Whether to write the values into the cells if they fit.
        cmap : str or matplotlib Colormap, default="Blues"
            Colors from the lowest to the highest value. Unknown values are gray.
        values_format : str, default=None
            Format of the values, such as ".2f". None uses at most three characters: .25, 1.0, 0.
        xticks_rotation : {"vertical", "horizontal"} or float, default=None
            Rotation of the names below the columns. None slants them, or makes them vertical if
            columns are narrow.
        ax : matplotlib Axes, default=None
            Axes to plot into. None opens a figure with the width of a paper column, or of a page if
            the values do not fit.
        colorbar : bool, default=True
            Whether to add a scale of the colors.
        im_kw : dict, default=None
            Keywords of :meth:`matplotlib.axes.Axes.imshow`, such as ``{"vmin": 0, "vmax": 1}``.
        text_kw : dict, default=None
            Keywords of :meth:`matplotlib.axes.Axes.text` for the values. With a "fontsize", they
            are always written.

        Returns
        -------
        object
            The display, with `ax_`, `figure_`, `im_`, `text_`, `colorbar_` and `order_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the matrix does not match the concepts, `order` is invalid, or `tree` is used with
            another order.

        See Also
        --------
        SeparationDisplay : Separation of every two concepts.
        OverlapDisplay : Overlap of every two concepts.
        CentroidDistanceDisplay : Distances of the centroids of concepts.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_loce.plotting import OverlapDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> display = OverlapDisplay.from_embeddings(X, y)
        >>> display = display.plot(order=[2, 1, 0], cmap="Greens", im_kw={"vmax": 1})
        >>> display.order_.tolist()
        [2, 1, 0]
        >>> plt.close("all")
        """
        matrix = self._check()
        links = self._choose_order(matrix, order, tree)
        shown = self._mask(matrix)
        with open_axes(self, ax, height=_HEIGHT * COLUMN_WIDTH) as axes:
            self._draw_image(shown, matrix, cmap, im_kw)
            if tree:
                self._draw_tree(links)
            self.colorbar_ = self._draw_scale() if colorbar else None
            write = (shown, values_format, text_kw or {}) if include_values else None
            self._write(xticks_rotation, write)
            if ax is None:
                # A centered square next to a scale would move with every drawing.
                axes.set_anchor("W")
                if include_values and self.text_ is None and len(shown) > 1:
                    self.figure_.set_size_inches(PAGE_WIDTH, PAGE_WIDTH * (1 + _TREE[3] * tree))
                    self._write(xticks_rotation, write)
        return self

    def _check(self):
        """Read the matrix of shape (n_concepts, n_concepts)."""
        matrix = check_array(self._matrix, dtype=np.float64, ensure_all_finite="allow-nan")
        if matrix.shape != (len(self.concepts),) * 2:
            raise ValueError(
                f"The matrix has shape {matrix.shape}, but there are {len(self.concepts)} "
                "concepts; pass one row and one column per concept."
            )
        return matrix

    def _choose_order(self, matrix, order, tree):
        """Set `order_`, and return the links of its tree if it has one."""
        by_similarity = isinstance(order, str) and order == "similarity"
        if tree and not (by_similarity and len(matrix) > 1):
            raise ValueError('tree=True needs at least two concepts and order="similarity".')
        if not by_similarity or len(matrix) < 2:
            self.order_ = self._read_order(order)
            return None
        distances = self._to_distances(matrix)
        distances = np.nan_to_num(distances, nan=np.nanmax(distances, initial=0.0))
        np.fill_diagonal(distances, 0)
        condensed = squareform((distances + distances.T) / 2, checks=False)
        links = linkage(condensed, "average", optimal_ordering=True)
        self.order_ = leaves_list(links)
        return links

    def _read_order(self, order):
        """Return the positions of the concepts in a given order."""
        known = np.asarray(self.concepts).tolist()
        order = known if order is None or len(known) < 2 else np.asarray(order).ravel().tolist()
        if sorted(map(str, order)) != sorted(map(str, known)):
            raise ValueError(f"order={order} must contain each of the concepts {known} once.")
        return np.array([known.index(name) for name in order])

    def _to_distances(self, matrix):
        return matrix

    def _mask(self, matrix):
        """Order the matrix; mask NaN, the diagonal and, if it is symmetric, the upper triangle."""
        matrix = matrix[np.ix_(self.order_, self.order_)]
        hidden = (
            np.triu(np.ones(matrix.shape, dtype=bool)) if self._symmetric else np.eye(*matrix.shape)
        )
        return np.ma.masked_array(matrix, np.isnan(matrix) | hidden.astype(bool))

    def _draw_image(self, shown, matrix, cmap, im_kw):
        import matplotlib as mpl
        from matplotlib.image import AxesImage
        from matplotlib.patches import Rectangle

        low, high = (0.0, 1.0) if shown.mask.all() else (float(shown.min()), float(shown.max()))
        low = low if self._lowest is None else self._lowest
        # Equal values would give a scale of length 0.
        low, high = (low, high) if low < high else (min(low, 0.0), high or 1.0)
        defaults = {"interpolation": "nearest", "cmap": cmap, "vmin": low, "vmax": high}
        style = merge_style(AxesImage, defaults, im_kw)
        style["cmap"] = mpl.colormaps[style["cmap"]] if isinstance(cmap, str) else style["cmap"]
        style["cmap"] = style["cmap"].with_extremes(bad="none")
        self.im_ = self.ax_.imshow(shown, **style)
        unknown = np.argwhere(np.isnan(matrix[np.ix_(self.order_, self.order_)]))
        for i, j in unknown[unknown[:, 0] != unknown[:, 1]]:
            if j < i or not self._symmetric:
                self.ax_.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=_UNKNOWN, linewidth=0))

    def _draw_tree(self, links):
        from matplotlib.collections import LineCollection

        ax = self.ax_.inset_axes(_TREE)
        ax.set_axis_off()
        look = {"colors": GRAY, "linewidths": 0.7, "capstyle": "projecting"}
        ax.add_collection(LineCollection(link_positions(links)[1], **look))
        ax.set(xlim=(-0.5, len(links) + 0.5), ylim=(0, 1.02 * (links[:, 2].max() or 1.0)))

    def _draw_scale(self):
        from matplotlib.ticker import MaxNLocator

        ax = self.ax_.inset_axes(_INSIDE if self._symmetric else _BESIDE)
        how = {"cax": ax, "orientation": "horizontal" if self._symmetric else "vertical"}
        n_ticks = 3 if self._symmetric else 5
        # Ticks that depend on the length of the scale would change whenever the layout does.
        how |= {"label": self._labels[2], "ticks": MaxNLocator(n_ticks, steps=[1, 2, 5, 10])}
        bar = self.figure_.colorbar(self.im_, **how)
        bar.outline.set_linewidth(0.4)
        return bar

    def _write(self, rotation, values):
        """Write concepts at the axes, and values into the cells."""
        cell = self._name_axes(rotation)
        self.text_ = None
        if values is not None:
            self._write_values(*values, cell)

    def _name_axes(self, rotation):
        """Write the concepts at the axes, and return the side of a cell in points."""
        names = fit_names(self.ax_, np.asarray(self.concepts)[self.order_])
        numbers = np.arange(len(names))
        self.ax_.set_xticks(numbers, names)
        self.ax_.set_yticks(numbers, names)
        self.ax_.set(xlabel=self._labels[0], ylabel=self._labels[1])
        self.ax_.tick_params(length=0)
        self.ax_.spines[["top", "right"]].set_visible(not self._symmetric)
        self._turn_names(45 if rotation is None else rotation)
        if rotation is None and self._cell_size() < 1.5 * SMALL_FONT_SIZE:
            self._turn_names("vertical")
        for _ in range(2):
            # Smaller names leave more room to the cells.
            size = min(self._name_size, self._cell_size() / _LINE)
            self.ax_.tick_params(labelsize=size)
        return self._cell_size()

    @property
    def _name_size(self):
        from matplotlib import rcParams
        from matplotlib.font_manager import FontProperties

        return FontProperties(size=rcParams["xtick.labelsize"]).get_size_in_points()

    def _turn_names(self, rotation):
        upright = rotation in ("vertical", "horizontal")
        for name in self.ax_.get_xticklabels():
            name.set(rotation=rotation, ha="center" if upright else "right")
            name.set_rotation_mode("default" if upright else "anchor")

    def _cell_size(self):
        """Measure the side of a cell in points, after applying the layout."""
        self.figure_.canvas.figure.draw_without_rendering()
        pixels = self.ax_.get_window_extent().height / len(self.concepts)
        return pixels * 72 / self.figure_.dpi

    def _write_values(self, shown, values_format, text_kw, cell):
        """Write the values, unless the widest of them is wider than a cell."""
        pairs = [
            (i, j) for i, j in permutations(range(len(shown)), 2) if i > j or not self._symmetric
        ]
        texts = [_format(None if shown.mask[p] else shown[p], values_format) for p in pairs]
        is_asked_for = bool({"fontsize", "size"} & text_kw.keys())
        if not (is_asked_for or (texts and self._has_room(max(texts, key=len), text_kw, cell))):
            return
        self.text_ = np.full(shown.shape, None)
        for (i, j), text in zip(pairs, texts, strict=True):
            place = self.order_[[i, j]]
            written = self._write_value(i, j, text, text_kw)
            for row, column in (place, place[::-1])[: 1 + self._symmetric]:
                self.text_[row, column] = written

    def _has_room(self, text, text_kw, cell):
        """Check whether a value fits into a cell of a size in points."""
        drawn = self._write_value(0, 0, text, text_kw)
        side = max(drawn.get_window_extent().size) * 72 / self.figure_.dpi
        drawn.remove()
        return side <= cell - 2 * _AIR

    def _write_value(self, i, j, text, text_kw):
        from matplotlib.text import Text

        cell = self.im_.to_rgba(self.im_.get_array()[i, j : j + 1])[0]
        defaults = {
            "fontsize": SMALL_FONT_SIZE,
            "color": "white" if measure_luminance(cell) < LIGHT else "black",
        }
        style = merge_style(Text, {"ha": "center", "va": "center", **defaults}, text_kw)
        return self.ax_.text(j, i, text, **style)


def _format(value, values_format):
    """Format a value, as short as possible without a given format."""
    if value is None:
        return "-"
    if values_format is not None:
        return format(value, values_format)
    if value == 0:
        return "0"
    text = f"{value:.2f}"
    # Three characters fit into smaller cells than four.
    return text[1:] if text.startswith("0.") else text.removesuffix("0")
