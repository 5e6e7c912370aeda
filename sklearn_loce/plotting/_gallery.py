"""The most central images of each cluster."""

from numbers import Integral

import numpy as np
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.validation import check_is_fitted

from .._validation import uniform_labels
from ..metrics import cluster_composition
from ..outliers import ConceptOutlierDetector
from ._captions import choose_captions, describe_tiles, read_captions, write_below
from ._drawing import choose_show, draw_tile, fit_text, write_heading
from ._grid import Layout, open_grid
from ._inputs import check_inputs, choose
from ._legend import add_figure_legend
from ._names import literal
from ._style import FONT_SIZE, GRAY, SMALL_FONT_SIZE, concept_styles, lighten
from ._tiles import TILE_SIZE, read_tiles

_MOST_CLUSTERS = 6  # lines of tiles that fit on a page with the legend
_LEAST_SHARE = 0.05  # concepts with this share of a cluster have a color
_MOST_COLORS = 24  # of the legend
_BAR, _ABOVE = 4, 2  # points: height of a bar, and its distance from the tiles


class ClusterGalleryDisplay:
    """One line of tiles per cluster: its most central rows, with the outlines of their masks.

    If there are concepts, a bar above the tiles shows the share of each concept in the cluster.
    Concepts with less than 5 % of every cluster shown are gray.

    It is recommended to use :meth:`from_embeddings` or :meth:`from_estimator`. All parameters are
    stored as attributes.

    Parameters
    ----------
    clusters : list
        Labels of the clusters shown.
    sizes : array-like of shape (n_clusters,)
        Number of rows of each cluster.
    rows : list of ndarray of shape (n_shown,), intp
        Positions of the rows shown of each cluster, the most central first.
    distances : list of ndarray of shape (n_shown,), float64
        Mean distance of each row shown to the other rows of its cluster.
    tiles : dict of {int: Tile}
        Thumbnails by position, with the attributes ``image``, ``mask`` and ``projection``.
    composition : DataFrame of shape (n_clusters, n_concepts), default=None
        Share of each concept in each cluster, as in
        :func:`sklearn_loce.metrics.cluster_composition`.
    names : dict of {int: object}, default=None
        Concepts of the rows shown, by position.
    table : DataFrame of n_tiles rows, default=None
        Rows that the tiles show, in drawing order, with the index of the table of samples. The
        columns are ``position``, ``cluster``, ``distance``, and those of the samples without
        ``mask``, and without ``image`` unless it contains paths.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        Axes that was divided. None if an array of Axes was given.
    axes_ : ndarray of shape (n_clusters, n_tiles) of Axes
    figure_ : matplotlib Figure
    outlines_ : list of LineCollection
        Outlines of masks and projections, tile by tile.
    bars_ : list of list of Rectangle
        Shares of the concepts of each cluster, from left to right. Empty without concepts.
    legend_ : Legend or None
        Legend of the concepts in the bars.

    See Also
    --------
    sklearn_loce.cluster.ConceptAgglomerative : Clusters of one concept each.

    Notes
    -----
    Rows are sorted by their mean distance to the other rows of their cluster. The first row is the
    medoid. Mikriukov, Schwalbe and Bade (IJCV 2025) show clusters in this way.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from sklearn_loce.datasets import make_scenes
    >>> from sklearn_loce.plotting import ClusterGalleryDisplay
    >>> X = make_scenes(4, random_state=0).data
    >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
    >>> labels = embeddings.argmax(axis=1)
    >>> display = ClusterGalleryDisplay.from_embeddings(embeddings, X, labels, n_tiles=3)
    >>> display.clusters
    [0, 1, 2]
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        *,
        clusters,
        sizes,
        rows,
        distances,
        tiles,
        composition=None,
        names=None,
        table=None,
    ):
        self.clusters = clusters
        self.sizes = sizes
        self.rows = rows
        self.distances = distances
        self.tiles = tiles
        self.composition = composition
        self.names = names
        self.table = table

    @classmethod
    def from_estimator(cls, estimator, X, samples, y=None, **kwargs):
        """Plot the clusters that an estimator predicts.

        Parameters
        ----------
        estimator : clusterer or mixture
            Fitted estimator with ``predict``. To plot the clusters of the training rows, pass
            ``labels_`` to :meth:`from_embeddings`. They may differ from the predicted clusters.
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        samples : DataFrame or list of (image, mask) pairs
            Table of samples of the embeddings.
        y : array-like of shape (n_samples,), default=None
            Concept of each row. None uses the column ``concept`` if the table has one.
        **kwargs : dict
            Passed to :meth:`from_embeddings`.

        Returns
        -------
        ClusterGalleryDisplay

        Raises
        ------
        TypeError
            If the estimator has no ``predict``.
        ValueError, FileNotFoundError
            As in :meth:`from_embeddings`.

        See Also
        --------
        ClusterGalleryDisplay.from_embeddings : Plot embeddings that are computed already.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn.cluster import KMeans
        >>> from sklearn_loce.datasets import make_scenes
        >>> from sklearn_loce.plotting import ClusterGalleryDisplay
        >>> X = make_scenes(5, random_state=0).data
        >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
        >>> model = KMeans(2, random_state=0).fit(embeddings)
        >>> display = ClusterGalleryDisplay.from_estimator(model, embeddings, X, n_tiles=3)
        >>> display.axes_.shape
        (2, 3)
        >>> plt.close("all")
        """
        if not hasattr(estimator, "predict"):
            raise TypeError(
                f"{type(estimator).__name__} cannot predict clusters; plot those of its training "
                "rows: ClusterGalleryDisplay.from_embeddings(X, samples, estimator.labels_)."
            )
        check_is_fitted(estimator)
        embeddings, samples, names, kept = check_inputs(X, samples, y)
        labels = np.full(len(embeddings), -1)
        labels[kept] = estimator.predict(embeddings[kept])
        return cls.from_embeddings(embeddings, samples, labels, names, **kwargs)

    @classmethod
    @validate_params(
        {
            "embeddings": ["array-like"],
            "samples": "no_validation",
            "labels": ["array-like"],
            "y": ["array-like", None],
            "clusters": ["array-like", None],
            "n_tiles": [Interval(Integral, 1, None, closed="left")],
            "metric": [str, callable],
            "projector": "no_validation",
            "crop": ["boolean"],
            "tile_size": "no_validation",
        },
        prefer_skip_nested_validation=True,
    )
    def from_embeddings(
        cls,
        embeddings,
        samples,
        labels,
        y=None,
        *,
        clusters=None,
        n_tiles=6,
        metric="cosine",
        projector=None,
        crop=False,
        tile_size=TILE_SIZE,
        **plot_kw,
    ):
        """Find the most central rows of each cluster and plot them.

        Parameters
        ----------
        embeddings : array-like of shape (n_samples, n_features)
            Embeddings. Rows that failed, which contain NaN, are left out.
        samples : DataFrame or list of (image, mask) pairs
            Table of samples. Only the images of the rows shown are read.
        labels : array-like of shape (n_samples,)
            Cluster of each row, -1 for rows without a cluster.
        y : array-like of shape (n_samples,), default=None
            Concept of each row. None uses the column ``concept`` if the table has one.
        clusters : array-like, default=None
            Labels of the clusters to show, in this order. None shows all clusters, sorted, or the
            six largest if there are more, because these fit on a page.
        n_tiles : int, default=6
            Largest number of rows to show of each cluster.
        metric : str or callable, default="cosine"
            Metric of the distances, as in
            :class:`~sklearn_loce.outliers.ConceptOutlierDetector`.
        projector : LoCETransformer, ConceptSegmenter or Net2VecSegmenter, default=None
            Fitted estimator that computes the projections of the tiles. A transformer of one layer
            projects `embeddings`; a segmenter uses its own vectors. None shows no projections.
        crop : bool, default=False
            Whether to show only the surroundings of the mask.
        tile_size : int, default=256
            Length of the longer side of stored thumbnails, in pixels.
        **plot_kw : dict
            Passed to :meth:`plot`.

        Returns
        -------
        ClusterGalleryDisplay

        Raises
        ------
        ValueError, FileNotFoundError
            If lengths differ, a cluster is unknown, no row has a cluster, or an image cannot be
            read.

        See Also
        --------
        ClusterGalleryDisplay.from_estimator : Plot what a fitted estimator finds.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn_loce.datasets import make_scenes
        >>> from sklearn_loce.plotting import ClusterGalleryDisplay
        >>> X = make_scenes(5, random_state=0).data
        >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
        >>> labels = embeddings.argmax(axis=1)
        >>> display = ClusterGalleryDisplay.from_embeddings(
        ...     embeddings, X, labels, clusters=[2, 0], n_tiles=2, crop=True
        ... )
        >>> display.axes_.shape
        (2, 2)
        >>> plt.close("all")
        """
        found = check_inputs(embeddings, samples, y, labels=labels)
        embeddings, samples, names, kept, labels = found
        labels = uniform_labels(labels, "labels")
        kept = kept[labels[kept] != -1]
        if not kept.size:
            raise ValueError("No row is in a cluster: all finite rows have the label -1.")
        known, counts = np.unique(labels[kept], return_counts=True)
        if clusters is None:
            clusters = known[np.sort(np.argsort(-counts, kind="stable")[:_MOST_CLUSTERS])]
        clusters = choose(clusters, known.tolist(), "clusters")
        rows, distances, sizes = [], [], []
        for cluster in clusters:
            members = kept[labels[kept] == cluster]
            far = _mean_distances(embeddings[members], metric)
            first = np.argsort(far, kind="stable")[:n_tiles]
            rows.append(members[first])
            distances.append(far[first])
            sizes.append(len(members))
        shown, how = np.concatenate(rows), {"size": tile_size, "crop": crop}
        display = cls(
            clusters=clusters,
            sizes=np.array(sizes),
            rows=rows,
            distances=distances,
            tiles=read_tiles(samples, shown, projector=projector, vectors=embeddings, **how),
            composition=_compose(names, labels, kept, clusters),
            names=None if names is None else {int(i): names[i] for i in shown},
            table=describe_tiles(
                samples,
                shown,
                names,
                cluster=np.repeat(clusters, list(map(len, rows))),
                distance=np.concatenate(distances),
            ),
        )
        return display.plot(**plot_kw)

    def plot(
        self, *, show=None, captions=None, ax=None, palette=None, contour_kw=None, legend=True
    ):
        """Plot a line of tiles for each cluster.

        Parameters
        ----------
        show : {"mask", "projection", "both"}, default=None
            Parts of each tile beside the image: the white outline of the mask, the projection in
            orange, or both. None shows both if there are projections, and the mask otherwise.
        captions : str or list of str, default=None
            Columns of `table` to write below each tile, one line each, such as
            ``["annotation_id", "score"]``.
        ax : Axes or array-like of Axes, default=None
            A single Axes is divided, best in a figure with ``layout="constrained"``. An array
            needs ``len(clusters)`` lines with as many Axes as the longest line has tiles. None
            opens a figure.
        palette : dict or sequence, default=None
            Colors of concepts. A dict maps a concept, or a tuple of concepts, to a color. Other
            concepts get unused colors. A sequence lists all concepts of a study: each concept then
            has the same color in every figure.
        contour_kw : dict, default=None
            Keywords of the masks' :class:`matplotlib.collections.LineCollection`.
        legend : bool, default=True
            Whether to add a legend of the bars. An array of Axes gets none.

        Returns
        -------
        ClusterGalleryDisplay
            The display, with all its attributes.

        Raises
        ------
        ValueError
            If the number of Axes is wrong, `ax` was divided before, `table` lacks a column,
            `show` needs projections and no tile has one, or the palette has none of the concepts.

        See Also
        --------
        ClusterGalleryDisplay.from_estimator : Compute and plot.
        ClusterGalleryDisplay.from_embeddings : Plot given embeddings.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn_loce.datasets import make_scenes
        >>> from sklearn_loce.plotting import ClusterGalleryDisplay
        >>> X = make_scenes(5, random_state=0).data
        >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
        >>> labels = embeddings.argmax(axis=1)
        >>> display = ClusterGalleryDisplay.from_embeddings(embeddings, X, labels, n_tiles=3)
        >>> display = display.plot(captions="annotation_id", palette={"sky": "skyblue"})
        >>> len(display.bars_)
        3
        >>> plt.close("all")
        """
        show = choose_show(show, self.tiles.values())
        n_columns = max(map(len, self.rows))
        named = choose_captions(captions, self.table)
        texts = read_captions(named, self.table)
        colors = self._choose_colors(palette)
        named_colors = colors if legend and np.ndim(ax) == 0 else {}
        how = {"n_captions": len(named), "n_names": len(named_colors)}
        layout = Layout(len(self.rows), (("", n_columns),), **how)
        self.outlines_, self.bars_, self.legend_ = [], [], None
        with open_grid(self, ax, layout) as (_, axes):
            colors, named_colors = self._lighten(colors), self._lighten(named_colors)
            for line, rows in enumerate(self.rows):
                for spare in axes[line, len(rows) :]:
                    spare.set_axis_off()
                for tile_ax, row in zip(axes[line], rows, strict=False):
                    self.outlines_ += draw_tile(tile_ax, self.tiles[row], show, contour_kw)
                    name = [self.names[row]] if self._is_mixed(line) and self.names else []
                    style = {"fontsize": SMALL_FONT_SIZE, "labelpad": 1}
                    write_below(tile_ax, [], [*name, *next(texts)], **style)
                how = {"size": FONT_SIZE, "n_lines": 1, "n_tiles": n_columns}
                title = fit_text(axes[line, 0], self._title(line), **how)
                raised = 0 if self.composition is None else _BAR + _ABOVE
                write_heading(axes[line, 0], title, raised)
                if self.composition is not None:
                    self.bars_.append(self._draw_bar(axes[line], line, colors))
            if named_colors:
                self._add_legend(named_colors)
        return self

    def _choose_colors(self, palette):
        """Choose the colors of the concepts that have a sizable share of a cluster."""
        if self.composition is None:
            return {}
        largest = self.composition.max().sort_values(ascending=False, kind="stable")
        shown = set(largest[largest >= _LEAST_SHARE].index[:_MOST_COLORS])
        styles = concept_styles(list(self.composition), palette)
        return {name: color for name, (color, _) in styles.items() if name in shown}

    def _lighten(self, colors):
        return {name: lighten(self.axes_[0, 0], color) for name, color in colors.items()}

    def _draw_bar(self, axes, line, colors):
        """Draw the shares of concepts above a line of tiles, as long as the tiles are together."""
        from matplotlib.patches import Rectangle
        from matplotlib.transforms import Affine2D, ScaledTranslation, blended_transform_factory

        figure, first = self.figure_, axes[0]
        points = Affine2D().scale(1 / 72) + figure.dpi_scale_trans
        above = points + ScaledTranslation(0, 1, first.transAxes)
        where = {"transform": blended_transform_factory(first.transAxes, above), "clip_on": False}
        shares = self.composition.iloc[line].sort_values(ascending=False, kind="stable")
        named = shares[[name for name in shares.index if name in colors]]
        widths = len(axes) * np.append(named, 1 - named.sum())
        bars = []
        for start, width, color in zip(
            np.cumsum(widths) - widths, widths, [*map(colors.get, named.index), GRAY], strict=True
        ):
            bar = Rectangle((start, _ABOVE), width, _BAR, facecolor=color, linewidth=0, **where)
            bar.set_in_layout(False)
            bars.append(first.add_patch(bar))
        return bars

    def _add_legend(self, colors):
        from matplotlib.patches import Patch

        patches = [Patch(color=color, label=literal(name)) for name, color in colors.items()]
        if len(colors) < self.composition.shape[1]:
            patches.append(Patch(color=GRAY, label="other"))
        self.legend_ = add_figure_legend(self.figure_, patches, handlelength=1.0)

    def _is_mixed(self, line):
        return self.composition is not None and (self.composition.iloc[line] > 0).sum() > 1

    def _title(self, line):
        size = self.sizes[line]
        title = f"Cluster {self.clusters[line]}: {size} {'row' if size == 1 else 'rows'}"
        if self.composition is None:
            return title
        shares = self.composition.iloc[line]
        return f"{title}, {shares.max():.0%} {shares.idxmax()}"


def _mean_distances(X, metric):
    """Return the mean distance of each row to the others, 0 for a single row."""
    if len(X) == 1:
        return np.zeros(1)
    detector = ConceptOutlierDetector(metric=metric)
    return -detector.fit(X).training_scores_


def _compose(names, labels, kept, clusters):
    if names is None:
        return None
    return cluster_composition(names[kept], labels[kept]).loc[clusters]
