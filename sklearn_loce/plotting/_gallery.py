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
from ._style import FONT_SIZE, SMALL_FONT_SIZE
from ._tiles import TILE_SIZE, read_tiles

_LEAST_SHARE = 0.05  # of a cluster, for a concept to be named
_ALL = 0.995  # what is written as 100 %


class ClusterGalleryDisplay:
    """One line of tiles per cluster: its most central rows, with the outlines of their masks.

    Use :meth:`from_embeddings` or :meth:`from_estimator` to make one; parameters are stored as
    attributes.

    Parameters
    ----------
    clusters : list
        Labels of the clusters shown.
    sizes : array-like of shape (n_clusters,)
        Number of rows of each.
    rows : list of ndarray of shape (n_shown,), intp
        Positions of each cluster's rows that are shown, the most central first.
    distances : list of ndarray of shape (n_shown,), float64
        Mean distance of each of those to the other rows of its cluster.
    tiles : dict of {int: Tile}
        Thumbnails by position, with the attributes ``image``, ``mask`` and ``projection``.
    composition : DataFrame of shape (n_clusters, n_concepts), default=None
        Share of each concept in each cluster, as of
        :func:`sklearn_loce.metrics.cluster_composition`.
    names : dict of {int: object}, default=None
        Concepts of the rows shown, by position.
    table : DataFrame of n_tiles rows, default=None
        The rows behind the tiles, in the order in which these are drawn, with the index of the
        table of samples: ``position``, ``cluster``, ``distance``, and the columns of the samples
        but ``mask``, and ``image`` where it is no path.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        The Axes that was divided; None where an array of Axes was given.
    axes_ : ndarray of shape (n_clusters, n_tiles) of Axes
    figure_ : matplotlib Figure
    outlines_ : list of LineCollection
        Of masks and projections, tile by tile.

    See Also
    --------
    sklearn_loce.cluster.ConceptAgglomerative : Clusters that are cut where concepts are pure.

    Notes
    -----
    A row is the more central, the less its distances to the other rows of its cluster are on
    average; the first one is the medoid. The clusters of Mikriukov, Schwalbe and Bade (IJCV 2025)
    are shown like this.

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
        """Show the clusters that an estimator predicts.

        Parameters
        ----------
        estimator : clusterer or mixture
            Fitted, with ``predict``. For the clusters of its training rows pass ``labels_`` to
            :meth:`from_embeddings`: they need not be the same, and some clusterers have no other.
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        samples : DataFrame or list of (image, mask) pairs
            The table of samples that they belong to.
        y : array-like of shape (n_samples,), default=None
            Concepts. None takes the column ``concept``, if there is one.
        **kwargs : dict
            For :meth:`from_embeddings`.

        Returns
        -------
        ClusterGalleryDisplay

        Raises
        ------
        TypeError
            If the estimator has no ``predict``.
        ValueError, FileNotFoundError
            As :meth:`from_embeddings`.
        """
        if not hasattr(estimator, "predict"):
            raise TypeError(
                f"{type(estimator).__name__} can't predict clusters; pass those of its training "
                "rows, as in ClusterGalleryDisplay.from_embeddings(X, samples, estimator.labels_)."
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
        """Find the most central rows of each cluster, and plot them.

        Parameters
        ----------
        embeddings : array-like of shape (n_samples, n_features)
            Rows with NaN, which failed, are left out.
        samples : DataFrame or list of (image, mask) pairs
            The table of samples. Only images of the rows shown are read.
        labels : array-like of shape (n_samples,)
            Cluster of each row. Rows labeled -1 belong to none.
        y : array-like of shape (n_samples,), default=None
            Concepts. None takes the column ``concept``, if there is one.
        clusters : array-like, default=None
            Labels of the clusters to show, in this order. None shows all, sorted.
        n_tiles : int, default=6
            Most rows to show of a cluster.
        metric : str or callable, default="cosine"
            As of :class:`sklearn_loce.outliers.ConceptOutlierDetector`.
        projector : LoCETransformer, ConceptSegmenter or Net2VecSegmenter, default=None
            Fitted. It draws the projections that tiles show: a transformer projects `embeddings`
            and has one layer, a segmenter has vectors of its own. None draws none.
        crop : bool, default=False
            Whether only the surroundings of the mask are shown.
        tile_size : int, default=256
            Longest side of the stored thumbnails in pixels.
        **plot_kw : dict
            For :meth:`plot`.

        Returns
        -------
        ClusterGalleryDisplay

        Raises
        ------
        ValueError, FileNotFoundError
            If lengths differ, a cluster is unknown or none is left, or an image can't be read.
        """
        found = check_inputs(embeddings, samples, y, labels=labels)
        embeddings, samples, names, kept, labels = found
        labels = uniform_labels(labels, "labels")
        kept = kept[labels[kept] != -1]
        if not kept.size:
            raise ValueError("No row that did not fail is in a cluster: all are labelled -1.")
        clusters = choose(clusters, np.unique(labels[kept]).tolist(), "clusters")
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

    def plot(self, *, show=None, captions=None, ax=None, contour_kw=None):
        """Draw a line of tiles per cluster.

        Parameters
        ----------
        show : {"mask", "projection", "both"}, default=None
            What tiles show beside the image: the white outline of the mask, the projection in
            orange, or both. None means both where there are projections, and the mask elsewhere.
        captions : str or list of str, default=None
            Columns of `table` whose values stand below each tile, one line each, such as
            ``["annotation_id", "score"]``. None writes none.
        ax : Axes or array-like of Axes, default=None
            An Axes is divided, best in a figure with ``layout="constrained"``;
            an array needs ``len(clusters)`` lines of as many Axes as the
            longest line has tiles. None opens a figure.
        contour_kw : dict, default=None
            For the :class:`matplotlib.collections.LineCollection` of masks' outlines.

        Returns
        -------
        self : ClusterGalleryDisplay

        Raises
        ------
        ValueError
            If the number of Axes is wrong, `ax` was divided before, `table` lacks a column, or
            `show` needs projections that there are not.
        """
        show = choose_show(show, self.tiles.values())
        n_columns = max(map(len, self.rows))
        named = choose_captions(captions, self.table)
        texts = read_captions(named, self.table)
        layout = Layout(len(self.rows), (("", n_columns),), n_captions=len(named))
        self.outlines_ = []
        with open_grid(self, ax, layout) as (_, axes):
            for line, rows in enumerate(self.rows):
                for spare in axes[line, len(rows) :]:
                    spare.set_axis_off()
                for tile_ax, row in zip(axes[line], rows, strict=False):
                    self.outlines_ += draw_tile(tile_ax, self.tiles[row], show, contour_kw)
                    name = [self.names[row]] if self._is_mixed(line) and self.names else []
                    style = {"fontsize": SMALL_FONT_SIZE, "labelpad": 1}
                    write_below(tile_ax, [], [*name, *next(texts)], **style)
                title = fit_text(
                    axes[line, 0], self._title(line), size=FONT_SIZE, n_lines=1, n_tiles=n_columns
                )
                write_heading(axes[line, 0], title)
        return self

    def _is_mixed(self, line):
        return self.composition is not None and (self.composition.iloc[line] > 0).sum() > 1

    def _title(self, line):
        size = self.sizes[line]
        title = f"Cluster {self.clusters[line]}: {size} {'row' if size == 1 else 'rows'}"
        if self.composition is None:
            return title
        shares = self.composition.iloc[line].sort_values(ascending=False, kind="stable")
        named = shares[shares >= _LEAST_SHARE]
        parts = [f"{share:.0%} {name}" for name, share in named.items()]
        if named.sum() < _ALL:
            parts.append(f"{1 - named.sum():.0%} other")
        return f"{title}, {', '.join(parts)}"


def _mean_distances(X, metric):
    """Give each row's mean distance to the others; 0 for a row alone."""
    if len(X) == 1:
        return np.zeros(1)
    detector = ConceptOutlierDetector(metric=metric)
    return -detector.fit(X).training_scores_


def _compose(names, labels, kept, clusters):
    if names is None:
        return None
    return cluster_composition(names[kept], labels[kept]).loc[clusters]
