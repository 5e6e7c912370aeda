"""Display of a tree of LoCEs, cut into clusters."""

import numpy as np
from scipy.cluster.hierarchy import is_valid_linkage
from sklearn.base import clone
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.validation import check_is_fitted

from .._validation import match_rows
from ..cluster import ConceptAgglomerative
from ..metrics import cluster_composition
from ._names import fit_names, literal
from ._rows import finite_rows, last_step
from ._style import (
    COLUMN_WIDTH,
    GRAY,
    PAGE_HEIGHT,
    PAGE_WIDTH,
    SMALL_FONT_SIZE,
    concept_styles,
    lighten,
    merge_style,
    open_axes,
)
from ._tree import find_runs, link_clusters, link_positions

# Inches from top to bottom: the tree, a line of numbers, the purity, a gap and one concept.
_TREE, _NUMBERS, _PURITY, _GAP, _CONCEPT = 1.5, 0.12, 0.24, 0.05, 0.125
# Above this number of clusters, their numbers have two lines.
_MOST_IN_LINE = 10
# Inches of margin at the top and at the bottom.
_MARGIN = 0.35
_COLUMN_ROWS = 24  # with more rows, the figure is as wide as a page
_MOST_VECTORS = 3000
_LINE = 1.15  # distance between two names over their font size


class DendrogramDisplay:
    """Tree of LoCEs with numbered and colored clusters, their purity and their concepts.

    Below the tree, every cluster has its number and a bar whose height is its purity. The color of
    a cluster is that of its most frequent concept. Below the bars, every concept has a row with a
    mark under each of its leaves. Links above the cut are gray.

    It is recommended to use :meth:`from_estimator` or :meth:`from_embeddings`. All parameters are
    stored as attributes.

    Parameters
    ----------
    linkage_matrix : array-like of shape (n_leaves - 1, 4)
        Tree as returned by :func:`scipy.cluster.hierarchy.linkage`.
    labels : array-like of shape (n_leaves,)
        Cluster of each leaf, -1 for leaves without a cluster.
    y : array-like of shape (n_leaves,), default=None
        Concept of each leaf. Without concepts, each cluster has its own color and no purity.
    n_failed : int, default=0
        Number of rows left out because their LoCE failed.

    Attributes
    ----------
    leaves_ : ndarray of shape (n_leaves,), dtype int
        Leaves from left to right.
    purity_ : Series of shape (n_clusters,) or None
        Share of the majority concept of each cluster, by its number. None without `y`.
    links_ : matplotlib LineCollection
        Links of the tree, in the order of `linkage_matrix`.
    bars_ : list of matplotlib Rectangle
        Purity of each cluster, from left to right.
    text_ : dict of int to matplotlib Text
        Number of each cluster. Small clusters have none if the numbers would touch.
    strip_ : dict of str to matplotlib PolyCollection
        Leaves of each concept, from top to bottom. Empty without `y`.
    ax_ : matplotlib Axes
        Axes of the whole display. Distances are positive on the vertical axis.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    sklearn_loce.cluster.ConceptAgglomerative : The tree and its cut.
    sklearn_loce.metrics.cluster_composition : The concepts of each cluster, as a table.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.plotting import DendrogramDisplay
    >>> iris = load_iris()
    >>> names = iris.target_names[iris.target]
    >>> display = DendrogramDisplay.from_embeddings(iris.data, names)
    >>> display.purity_.round(2).head(3).tolist()
    [1.0, 0.97, 0.96]
    >>> plt.close(display.figure_)
    """

    def __init__(self, linkage_matrix, labels, *, y=None, n_failed=0):
        self.linkage_matrix = linkage_matrix
        self.labels = labels
        self.y = y
        self.n_failed = n_failed

    def plot(self, *, ax=None, palette=None, links_kw=None, strip_kw=None, text_kw=None):
        """Plot the tree, the purity of its clusters and its concepts.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot into. None opens a figure.
        palette : dict or sequence, default=None
            Colors of concepts. A dict maps a concept, or a tuple of concepts, to a color. Other
            concepts get unused colors. A sequence lists all concepts of a study: each concept then
            has the same color in every figure, even if some concepts have no rows.
        links_kw : dict, default=None
            Keywords of the tree's :class:`matplotlib.collections.LineCollection`.
        strip_kw : dict, default=None
            Keywords of the concepts' rows, as of :meth:`matplotlib.axes.Axes.broken_barh`.
        text_kw : dict, default=None
            Keywords of the clusters' numbers, as of :meth:`matplotlib.axes.Axes.text`.

        Returns
        -------
        DendrogramDisplay
            The display, with all its attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the tree is invalid, the number of labels or concepts differs from the number of
            leaves, or the palette has none of the concepts.

        See Also
        --------
        DendrogramDisplay.from_estimator : Compute and plot.
        DendrogramDisplay.from_embeddings : Plot given embeddings.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_loce.plotting import DendrogramDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> display = DendrogramDisplay.from_embeddings(X, y)
        >>> display = display.plot(palette={0: "red"}, links_kw={"linewidths": 1.2})
        >>> plt.close("all")
        """
        tree, labels, y = self._check()
        self.leaves_, links = link_positions(tree)
        self._measure(tree, labels, y, palette)
        width = COLUMN_WIDTH if self._n_rows <= _COLUMN_ROWS else PAGE_WIDTH
        height = _MARGIN + _TREE - self._floor / self._inch
        with open_axes(self, ax, width=width, height=height) as ax:
            ax.set(xlim=(-0.5, len(labels) - 0.5), ylim=(self._floor, 1.02 * _TREE * self._inch))
            self._draw_links(tree, links, labels, links_kw or {})
            self._draw_bars(labels, y)
            self.strip_ = self._draw_strip(y, strip_kw or {})
            self._name_rows()
            self._fit_names()
            self.text_ = self._number_clusters(labels, text_kw or {})
        return self

    def _check(self):
        """Read the tree, and number its clusters and concepts: 0 or above, -1 for no cluster."""
        tree = check_array(self.linkage_matrix, dtype=np.float64, input_name="linkage_matrix")
        is_valid_linkage(tree, throw=True, name="linkage_matrix")
        labels, y = match_rows(labels=self.labels, y=self.y)
        labels = column_or_1d(labels)
        y = None if y is None else column_or_1d(y)
        for name, values in (("labels", labels), ("y", labels if y is None else y)):
            if len(values) != len(tree) + 1:
                raise ValueError(
                    f"The tree has {len(tree) + 1} leaves, but {name} has {len(values)} values; "
                    "pass one value per row that was clustered."
                )
        return tree, labels, y

    def _measure(self, tree, labels, y, palette):
        """Compute purity and colors, and the heights of an inch and of the part below the tree."""
        self._inch = (float(tree[:, 2].max()) or 1.0) / _TREE
        self._n_rows = 0 if y is None else len(np.unique(y))
        clusters = [cluster for cluster in np.unique(labels).tolist() if cluster != -1]
        self._n_lines = 1 if len(clusters) <= _MOST_IN_LINE else 2
        self._purity_floor = -self._inch * (0.03 + self._n_lines * _NUMBERS + _PURITY)
        left = PAGE_HEIGHT - _MARGIN - _TREE + self._purity_floor / self._inch - _GAP
        self._concept = min(_CONCEPT, left / max(self._n_rows, 1))
        self._floor = self._purity_floor - self._inch * (_GAP + self._n_rows * self._concept)
        self._colors = {-1: GRAY}
        if y is None:
            self.purity_ = None
            order = dict.fromkeys(labels[self.leaves_].tolist())
            turns = [cluster for cluster in order if cluster != -1]
            self._colors |= {c: style[0] for c, style in concept_styles(turns, palette).items()}
            return
        shares = cluster_composition(y, labels)
        self.purity_ = shares.max(axis=1)
        styles = concept_styles(np.unique(y).tolist(), palette)
        self._strip_colors = {name: color for name, (color, _) in styles.items()}
        self._colors |= {c: self._strip_colors[shares.loc[c].idxmax()] for c in clusters}

    def _draw_links(self, tree, links, labels, links_kw):
        from matplotlib.collections import LineCollection

        clusters, codes = np.unique(labels, return_inverse=True)
        above = [*(lighten(self.ax_, self._colors[c]) for c in clusters.tolist()), GRAY]
        colors = [above[code] for code in link_clusters(tree, codes.reshape(-1))]
        look = {"colors": colors, "linewidths": 0.7, "capstyle": "projecting"}
        dense = {"rasterized": len(links) > _MOST_VECTORS}
        self.links_ = LineCollection(links, **(look | dense | links_kw))
        self.ax_.add_collection(self.links_)

    def _draw_bars(self, labels, y):
        """Draw the purity of each run of leaves of one cluster."""
        from matplotlib.patches import Rectangle

        ordered = labels[self.leaves_]
        floor, height = self._purity_floor, _PURITY * self._inch
        self.bars_ = []
        for start, stop in zip(*find_runs(ordered), strict=True):
            if (cluster := ordered[start]) == -1:
                continue
            place, width = (start - 0.5, floor), stop - start
            edge = {"edgecolor": "white", "linewidth": 0.4}
            full = Rectangle(place, width, height, facecolor="#e0e0e0", **edge)
            share = 1.0 if y is None else self.purity_[cluster]
            color = self._colors[cluster]
            bar = Rectangle(place, width, share * height, facecolor=color, **edge)
            self.ax_.add_patch(full)
            self.bars_.append(self.ax_.add_patch(bar))

    def _draw_strip(self, y, strip_kw):
        """Draw one row per concept, ordered by their places in the tree."""
        if y is None:
            return {}
        ordered = y[self.leaves_]
        places = {name: np.median(np.flatnonzero(ordered == name)) for name in np.unique(y)}
        strip, top = {}, self._purity_floor - self._inch * _GAP
        starts, stops = find_runs(ordered)
        for i, name in enumerate(sorted(places, key=places.get)):
            bottom = top - (i + 1) * self._concept * self._inch
            height = 0.84 * self._concept * self._inch
            self.ax_.axhspan(
                bottom,
                bottom + height,
                color=self.ax_.xaxis.label.get_color(),
                alpha=0.06,
                linewidth=0,
                zorder=0,
            )
            own = ordered[starts] == name
            spans = np.column_stack([starts - 0.5, stops - starts])[own]
            # With an edge, a single leaf stays visible among thousands.
            color = self._strip_colors[name]
            style = {"facecolor": color, "edgecolor": color, "linewidth": 0.25}
            style |= {"rasterized": len(y) > _MOST_VECTORS} | strip_kw
            strip[name] = self.ax_.broken_barh(spans, (bottom, height), **style)
        return strip

    def _name_rows(self):
        """Write distances beside the tree and names beside the rows below it."""
        from matplotlib.ticker import MaxNLocator

        top = _TREE * self._inch
        heights = [v for v in MaxNLocator(4).tick_values(0, top) if 0 <= v <= top]
        floor, kind = self._purity_floor, "cluster" if self.y is None else "purity\n(0 to 1)"
        rows = {floor + _PURITY / 2 * self._inch: kind}
        rows |= {
            floor - self._inch * (_GAP + (i + 0.58) * self._concept): name
            for i, name in enumerate(fit_names(self.ax_, self.strip_))
        }
        names = [f"{height:g}" for height in heights]
        self.ax_.set_yticks([*heights, *rows], [*names, *rows.values()])
        for tick in self.ax_.yaxis.get_major_ticks()[len(heights) :]:
            tick.tick1line.set_visible(False)
        self.ax_.set_xticks([])
        self._name_distances(top, max(map(len, names)))
        self.ax_.spines[["top", "right", "bottom"]].set_visible(False)
        self.ax_.spines["left"].set_bounds(0, top)

    def _fit_names(self):
        """Reduce the font of the names to the height of their rows."""
        self.figure_.canvas.figure.draw_without_rendering()
        low, high = self.ax_.transData.transform([(0, 0), (0, self._concept * self._inch)])[:, 1]
        points = (high - low) * 72 / self.figure_.dpi
        ticks = self.ax_.yaxis.get_major_ticks()
        for tick in ticks[len(ticks) - self._n_rows :]:
            tick.label1.set_fontsize(min(tick.label1.get_fontsize(), points / _LINE))

    def _name_distances(self, top, n_characters):
        """Place the axis label next to the numbers, not next to the longest concept name."""
        from matplotlib.transforms import ScaledTranslation

        # The user's axes may have other ticks and fonts than paper_style.
        tick = self.ax_.yaxis.get_major_ticks()[0]
        size = tick.label1.get_fontsize()
        points = tick.get_tick_padding() + (0.64 * n_characters + 0.5) * size
        shift = ScaledTranslation(-points / 72, 0, self.figure_.dpi_scale_trans)
        share = -self._floor / (1.02 * top - self._floor)
        self.ax_.set_ylabel("linkage distance")
        self.ax_.yaxis.set_label_coords(0, (1 + share) / 2, self.ax_.transAxes + shift)

    def _number_clusters(self, labels, text_kw):
        """Write the number of each cluster at its longest run, large clusters first."""
        ordered = labels[self.leaves_]
        starts, stops = find_runs(ordered)
        self.figure_.canvas.figure.draw_without_rendering()
        points = self.ax_.get_window_extent().width * 72 / self.figure_.dpi / len(labels)
        lines, texts = [[] for _ in range(self._n_lines)], {}
        for run in np.argsort(starts - stops, kind="stable"):
            cluster = ordered[starts[run]]
            if cluster == -1 or cluster in texts:
                continue
            middle = (starts[run] + stops[run] - 1) / 2
            half = 0.36 * SMALL_FONT_SIZE * (len(str(cluster)) + 0.4) / points
            for line, taken in enumerate(lines):
                if all(abs(middle - other) >= half + width for other, width in taken):
                    taken.append((middle, half))
                    texts[cluster] = self._write_number(cluster, middle, line, text_kw)
                    break
        return texts

    def _write_number(self, cluster, middle, line, text_kw):
        from matplotlib.text import Text

        look = {"ha": "center", "va": "center", "fontsize": SMALL_FONT_SIZE}
        style = merge_style(Text, look, text_kw)
        height = -self._inch * (0.03 + (line + 0.5) * _NUMBERS)
        return self.ax_.text(middle, height, literal(cluster), **style)

    @classmethod
    def from_estimator(cls, estimator, X, y=None, **kwargs):
        """Plot the tree of a fitted clusterer.

        Parameters
        ----------
        estimator : ConceptAgglomerative or Pipeline
            Fitted estimator. Any clusterer with `linkage_matrix_` and `labels_` works.
        X : array-like or DataFrame of n_samples rows
            Rows on which the estimator was fitted. Only their number is used.
        y : array-like of shape (n_samples,), default=None
            Concept of each row.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        DendrogramDisplay

        Raises
        ------
        TypeError
            If the estimator has no tree.
        ValueError
            If the length of X or y differs from the number of leaves.
        NotFittedError
            If the estimator is not fitted.

        See Also
        --------
        DendrogramDisplay.from_embeddings : Plot embeddings that are computed already.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn_loce.cluster import ConceptAgglomerative
        >>> from sklearn_loce.plotting import DendrogramDisplay
        >>> X, y = make_blobs([20] * 4, n_features=8, random_state=0)
        >>> model = ConceptAgglomerative(criterion="size", size=20).fit(X)
        >>> display = DendrogramDisplay.from_estimator(model, X)
        >>> len(display.leaves_), sorted(display.text_) == list(range(model.n_clusters_))
        (80, True)
        >>> plt.close(display.figure_)
        """
        check_is_fitted(estimator)
        model = last_step(estimator)
        if not hasattr(model, "linkage_matrix_"):
            raise TypeError(
                f"{type(model).__name__} has no linkage_matrix_, so there is no tree to plot; "
                "pass a fitted ConceptAgglomerative."
            )
        check_consistent_length(X, model.labels_, y)
        X, y = match_rows(X=X, y=y)
        return cls(model.linkage_matrix_, model.labels_, y=y).plot(**kwargs)

    @classmethod
    def from_embeddings(cls, X, y=None, *, clusterer=None, **kwargs):
        """Cluster embeddings and plot the tree.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings. Rows that are not finite are left out, and counted in `n_failed`.
        y : array-like of shape (n_samples,), default=None
            Concept of each row. The default clusterer requires it.
        clusterer : ConceptAgglomerative, default=None
            Clusterer, of which a clone is fitted. None uses ``ConceptAgglomerative()``, the relaxed
            setting of the paper.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        DendrogramDisplay

        Raises
        ------
        TypeError
            If the clusterer builds no tree.
        ValueError
            If fewer than two rows are finite, X and y do not match, or the clusterer requires y
            and it is missing.

        See Also
        --------
        DendrogramDisplay.from_estimator : Compute the embeddings and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn_loce.plotting import DendrogramDisplay
        >>> X, y = make_blobs([20] * 3, n_features=8, random_state=0)
        >>> display = DendrogramDisplay.from_embeddings(X, y)
        >>> display.purity_.tolist()
        [1.0, 1.0, 1.0]
        >>> plt.close(display.figure_)
        """
        X, y, _, n_failed = finite_rows(X, y)
        clusterer = ConceptAgglomerative() if clusterer is None else clone(clusterer)
        display = cls.from_estimator(clusterer.fit(X, y), X, y, **kwargs)
        display.n_failed = n_failed
        return display
