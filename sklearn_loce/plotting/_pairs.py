"""Displays of values of pairs of concepts."""

import numpy as np
from sklearn.metrics import pairwise_distances

from ..metrics import overlap_ratio, pairwise_separation
from ._heat_map import HeatMap
from ._rows import embed, finite_rows


class SeparationDisplay(HeatMap):
    """Heat map of the separation of every two concepts.

    It is recommended to use :meth:`from_estimator` or :meth:`from_embeddings`. All parameters are
    stored as attributes.

    Parameters
    ----------
    separation : array-like of shape (n_concepts, n_concepts)
        Matrix of :func:`~sklearn_loce.metrics.pairwise_separation`.
    concepts : array-like of shape (n_concepts,)
        Concept of each row and column.
    n_failed : int, default=0
        Number of rows left out because their LoCE failed.

    Attributes
    ----------
    im_ : matplotlib AxesImage
        Heat map below the diagonal.
    text_ : ndarray of shape (n_concepts, n_concepts), dtype=matplotlib Text, or None
        Values off the diagonal, each for both orders of its concepts. None if they do not fit or
        were not requested.
    colorbar_ : matplotlib Colorbar or None
        Scale of the colors.
    order_ : ndarray of shape (n_concepts,), dtype int
        Positions of the concepts from left to right and from top to bottom.
    ax_ : matplotlib Axes
        Axes with the heat map.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    OverlapDisplay : Overlap of concepts, in both directions.
    CentroidDistanceDisplay : Distances of the centroids of concepts.
    sklearn_loce.metrics.confused_concepts : Ranked pairs, as a table.

    Notes
    -----
    Mikriukov, Schwalbe and Bade (IJCV 2025) define this matrix.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.plotting import SeparationDisplay
    >>> iris = load_iris()
    >>> display = SeparationDisplay.from_embeddings(iris.data, iris.target_names[iris.target])
    >>> display.separation.round(2).tolist()[1]
    [0.34, 0.0, 0.05]
    >>> plt.close(display.figure_)
    """

    _labels, _lowest, _symmetric = ("", "", "separation"), None, True

    def __init__(self, separation, *, concepts, n_failed=0):
        self.separation = separation
        self.concepts = concepts
        self.n_failed = n_failed

    @property
    def _matrix(self):
        return self.separation

    @classmethod
    def from_estimator(cls, estimator, X, y, *, metric="euclidean", quantile=0.0, **kwargs):
        """Transform rows and plot the separation of their concepts.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~sklearn_loce.LoCETransformer`, other transformer, or Pipeline. The
            final clusterer of a Pipeline is skipped.
        X : DataFrame or array-like
            Rows as the estimator takes them.
        y : array-like of shape (n_samples,)
            Concept of each row. At least two concepts are needed.
        metric : str or callable, default="euclidean"
            Metric of the distances.
        quantile : float in [0, 1), default=0.0
            See :func:`~sklearn_loce.metrics.pairwise_separation`.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        SeparationDisplay

        Raises
        ------
        ValueError
            If fewer than two concepts have finite rows, or X and y do not match.
        TypeError
            If the estimator cannot transform rows.

        See Also
        --------
        SeparationDisplay.from_embeddings : Plot embeddings that are computed already.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.decomposition import PCA
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_loce.plotting import SeparationDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> display = SeparationDisplay.from_estimator(PCA(2).fit(X), X, y)
        >>> plt.close(display.figure_)
        """
        X, y = embed(estimator, X, y=y)
        return cls.from_embeddings(X, y, metric=metric, quantile=quantile, **kwargs)

    @classmethod
    def from_embeddings(cls, X, y, *, metric="euclidean", quantile=0.0, **kwargs):
        """Plot the separation of concepts from embeddings.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings. Rows that are not finite are left out, and counted in `n_failed`.
        y : array-like of shape (n_samples,)
            Concept of each row. At least two concepts are needed.
        metric : str or callable, default="euclidean"
            Metric of the distances.
        quantile : float in [0, 1), default=0.0
            See :func:`~sklearn_loce.metrics.pairwise_separation`.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        SeparationDisplay

        Raises
        ------
        ValueError
            If fewer than two concepts have finite rows, or X and y do not match.

        See Also
        --------
        SeparationDisplay.from_estimator : Compute the embeddings and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn_loce.plotting import SeparationDisplay
        >>> X = [[0.0], [1.0], [4.0], [5.0]]
        >>> display = SeparationDisplay.from_embeddings(X, ["car", "car", "bus", "bus"])
        >>> display.text_[0, 1].get_text()
        '.60'
        >>> plt.close(display.figure_)
        """
        X, y, _, n_failed = finite_rows(X, y)
        matrix = pairwise_separation(X, y, metric=metric, quantile=quantile)
        return cls(matrix, concepts=np.unique(y), n_failed=n_failed).plot(**kwargs)


class OverlapDisplay(HeatMap):
    """Heat map of the share of rows of each concept that are closer to another concept.

    It is recommended to use :meth:`from_estimator` or :meth:`from_embeddings`. All parameters are
    stored as attributes.

    Parameters
    ----------
    overlap : array-like of shape (n_concepts, n_concepts)
        Matrix of :func:`~sklearn_loce.metrics.overlap_ratio`: row A, column B contains the share of
        A's rows whose nearest row of B is closer than their nearest other row of A.
    concepts : array-like of shape (n_concepts,)
        Concept of each row and column.
    n_failed : int, default=0
        Number of rows left out because their LoCE failed.

    Attributes
    ----------
    im_ : matplotlib AxesImage
        Heat map without the diagonal. Concepts with a single row have NaN, which is gray. Colors
        range from 0 to the largest value; pass ``im_kw={"vmax": 1}`` to compare layers.
    text_ : ndarray of shape (n_concepts, n_concepts), dtype=matplotlib Text, or None
        Values off the diagonal, a dash for NaN. None if they do not fit or were not requested.
    colorbar_ : matplotlib Colorbar or None
        Scale of the colors.
    order_ : ndarray of shape (n_concepts,), dtype int
        Positions of the concepts from left to right and from top to bottom.
    ax_ : matplotlib Axes
        Axes with the heat map.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    SeparationDisplay : Separation of concepts.
    sklearn_loce.metrics.confused_concepts : Ranked pairs, as a table.

    Notes
    -----
    Mikriukov, Schwalbe and Bade (IJCV 2025) define this ratio ("A poisoned by B").

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.plotting import OverlapDisplay
    >>> iris = load_iris()
    >>> display = OverlapDisplay.from_embeddings(iris.data, iris.target_names[iris.target])
    >>> display.overlap.round(2).tolist()[1]
    [0.0, 0.0, 0.06]
    >>> plt.close(display.figure_)
    """

    _labels = ("by concept", "rows of concept", "share that is overlapped")
    _lowest, _symmetric = 0.0, False

    def __init__(self, overlap, *, concepts, n_failed=0):
        self.overlap = overlap
        self.concepts = concepts
        self.n_failed = n_failed

    @property
    def _matrix(self):
        return self.overlap

    def _to_distances(self, matrix):
        return 1 - (matrix + matrix.T) / 2

    @classmethod
    def from_estimator(cls, estimator, X, y, *, metric="euclidean", **kwargs):
        """Transform rows and plot the overlap of their concepts.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~sklearn_loce.LoCETransformer`, other transformer, or Pipeline. The
            final clusterer of a Pipeline is skipped.
        X : DataFrame or array-like
            Rows as the estimator takes them.
        y : array-like of shape (n_samples,)
            Concept of each row. At least two concepts are needed.
        metric : str or callable, default="euclidean"
            Metric of the distances.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        OverlapDisplay

        Raises
        ------
        ValueError
            If fewer than two concepts have finite rows, or X and y do not match.
        TypeError
            If the estimator cannot transform rows.

        See Also
        --------
        OverlapDisplay.from_embeddings : Plot embeddings that are computed already.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.decomposition import PCA
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_loce.plotting import OverlapDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> display = OverlapDisplay.from_estimator(PCA(2).fit(X), X, y)
        >>> plt.close(display.figure_)
        """
        X, y = embed(estimator, X, y=y)
        return cls.from_embeddings(X, y, metric=metric, **kwargs)

    @classmethod
    def from_embeddings(cls, X, y, *, metric="euclidean", **kwargs):
        """Plot the overlap of concepts from embeddings.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings. Rows that are not finite are left out, and counted in `n_failed`.
        y : array-like of shape (n_samples,)
            Concept of each row. At least two concepts are needed.
        metric : str or callable, default="euclidean"
            Metric of the distances.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        OverlapDisplay

        Raises
        ------
        ValueError
            If fewer than two concepts have finite rows, or X and y do not match.

        See Also
        --------
        OverlapDisplay.from_estimator : Compute the embeddings and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn_loce.plotting import OverlapDisplay
        >>> X = [[0.0], [1.0], [4.0], [1.5], [9.0]]
        >>> display = OverlapDisplay.from_embeddings(X, ["car", "car", "car", "truck", "truck"])
        >>> display.overlap.round(3).tolist()
        [[0.0, 0.667], [1.0, 0.0]]
        >>> plt.close(display.figure_)
        """
        X, y, _, n_failed = finite_rows(X, y)
        matrix = overlap_ratio(X, y, metric=metric)
        return cls(matrix, concepts=np.unique(y), n_failed=n_failed).plot(**kwargs)


class CentroidDistanceDisplay(HeatMap):
    """Heat map of the distances between the centroids of concepts.

    With ``tree=True``, it is a clustermap, with the tree of these distances above it.

    It is recommended to use :meth:`from_estimator` or :meth:`from_embeddings`. All parameters are
    stored as attributes.

    Parameters
    ----------
    distances : array-like of shape (n_concepts, n_concepts)
        Distance between every two centroids.
    concepts : array-like of shape (n_concepts,)
        Concept of each row and column.
    n_failed : int, default=0
        Number of rows left out because their LoCE failed.

    Attributes
    ----------
    im_ : matplotlib AxesImage
        Heat map below the diagonal.
    text_ : ndarray of shape (n_concepts, n_concepts), dtype=matplotlib Text, or None
        Values off the diagonal, each for both orders of its concepts. None if they do not fit or
        were not requested.
    colorbar_ : matplotlib Colorbar or None
        Scale of the colors.
    order_ : ndarray of shape (n_concepts,), dtype int
        Positions of the concepts from left to right and from top to bottom.
    ax_ : matplotlib Axes
        Axes with the heat map.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    SeparationDisplay : Separation of concepts, which takes the spread of rows into account.
    DendrogramDisplay : Tree of all rows.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.plotting import CentroidDistanceDisplay
    >>> iris = load_iris()
    >>> names = iris.target_names[iris.target]
    >>> display = CentroidDistanceDisplay.from_embeddings(
    ...     iris.data, names, metric="euclidean", tree=True
    ... )
    >>> display.distances.round(2).tolist()[1]
    [3.21, 0.0, 1.62]
    >>> plt.close(display.figure_)
    """

    _labels, _lowest, _symmetric = ("", "", "distance of centroids"), None, True

    def __init__(self, distances, *, concepts, n_failed=0):
        self.distances = distances
        self.concepts = concepts
        self.n_failed = n_failed

    @property
    def _matrix(self):
        return self.distances

    @classmethod
    def from_estimator(cls, estimator, X, y, *, metric="cosine", **kwargs):
        """Transform rows and plot the distances of the centroids of their concepts.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~sklearn_loce.LoCETransformer`, other transformer, or Pipeline. The
            final clusterer of a Pipeline is skipped.
        X : DataFrame or array-like
            Rows as the estimator takes them.
        y : array-like of shape (n_samples,)
            Concept of each row.
        metric : str or callable, default="cosine"
            Metric, as in :func:`sklearn.metrics.pairwise_distances`.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        CentroidDistanceDisplay

        Raises
        ------
        ValueError
            If no row is finite, or X and y do not match.
        TypeError
            If the estimator cannot transform rows.

        See Also
        --------
        CentroidDistanceDisplay.from_embeddings : Plot embeddings that are computed already.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.decomposition import PCA
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_loce.plotting import CentroidDistanceDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> display = CentroidDistanceDisplay.from_estimator(PCA(2).fit(X), X, y)
        >>> plt.close(display.figure_)
        """
        X, y = embed(estimator, X, y=y)
        return cls.from_embeddings(X, y, metric=metric, **kwargs)

    @classmethod
    def from_embeddings(cls, X, y, *, metric="cosine", **kwargs):
        """Plot the distances of the centroids of concepts from embeddings.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings. Rows that are not finite are left out, and counted in `n_failed`.
        y : array-like of shape (n_samples,)
            Concept of each row.
        metric : str or callable, default="cosine"
            Metric, as in :func:`sklearn.metrics.pairwise_distances`.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        CentroidDistanceDisplay

        Raises
        ------
        ValueError
            If no row is finite, or X and y do not match.

        See Also
        --------
        CentroidDistanceDisplay.from_estimator : Compute the embeddings and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn_loce.plotting import CentroidDistanceDisplay
        >>> X, y = [[0.0], [1.0], [4.0], [5.0]], ["car", "car", "bus", "bus"]
        >>> display = CentroidDistanceDisplay.from_embeddings(X, y, metric="euclidean")
        >>> display.distances.tolist()
        [[0.0, 4.0], [4.0, 0.0]]
        >>> plt.close(display.figure_)
        """
        X, y, _, n_failed = finite_rows(X, y)
        concepts = np.unique(y)
        centroids = np.stack([X[y == concept].mean(axis=0) for concept in concepts])
        matrix = pairwise_distances(centroids, metric=metric)
        return cls(matrix, concepts=concepts, n_failed=n_failed).plot(**kwargs)
