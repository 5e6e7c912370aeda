"""Cluster embeddings by a tree that is cut where clusters are pure.

This recipe finds clusters that mix concepts:

>>> from sklearn.datasets import load_iris
>>> from sklearn_loce.cluster import ConceptAgglomerative
>>> from sklearn_loce.metrics import cluster_composition
>>> iris = load_iris()
>>> X, y = iris.data, iris.target_names[iris.target]
>>> labels = ConceptAgglomerative(normalize=False).fit_predict(X, y)
>>> composition = cluster_composition(y, labels)
>>> composition[composition.max(axis=1) < 0.8].round(2)
concept  setosa  versicolor  virginica
cluster
4           0.0        0.29       0.71
6           0.0        0.67       0.33
"""

import os
import sys
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.spatial.distance import pdist
from sklearn.base import BaseEstimator, ClusterMixin, _fit_context
from sklearn.metrics import pairwise_distances_argmin
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm.auto import tqdm

from ._distances import RESOLUTION, unit_rows
from ._validation import ConceptLabelsMixin, check_range, match_rows
from ._warnings import warn_user

__all__ = ["ConceptAgglomerative"]

# SciPy's names, which scikit-learn accepts too.
_METRICS = {
    **dict.fromkeys(("euclidean", "l2"), "euclidean"),
    **dict.fromkeys(("cityblock", "manhattan", "l1"), "cityblock"),
    **{name: name for name in ("cosine", "chebyshev", "canberra", "braycurtis", "sqeuclidean")},
}


class ConceptAgglomerative(ConceptLabelsMixin, ClusterMixin, BaseEstimator):
    """Agglomerative clustering that cuts its tree by concept purity, size or distance.

    The cut starts at the root. A node becomes a cluster where it meets the criterion; otherwise
    the cut goes on at its two children. A single row always is a cluster. So the adaptive
    cut never splits a pure node: the sub-concepts of one concept come apart only where the tree
    joins each of them with rows of other concepts first. For sub-concepts side by side, choose
    another criterion or :class:`~sklearn_loce.mixture.ConceptGaussianMixture`.

    Parameters
    ----------
    linkage : {"ward", "complete", "average", "single"}, default="ward"
        How distances between nodes follow from distances between rows.
    metric : str or callable, default="euclidean"
        Distance between rows: "euclidean" or "l2", "cityblock", "manhattan" or "l1", "cosine",
        "chebyshev", "canberra", "braycurtis", "sqeuclidean", or a callable of two rows; "ward"
        needs "euclidean". With "cosine", a row of zeros is at distance 1 from every other.
    criterion : {"adaptive", "size", "distance"}, default="adaptive"
        - "adaptive": at most `size` rows, or a majority concept with a share of at least `purity`;
        - "size": at most `size` rows;
        - "distance": merged at no more than `distance_threshold`.
    purity : float in (0, 1], default=0.8
        Share of the majority concept that makes a node a cluster. The paper's "relaxed" setting
        is 0.8 with ``size=0.05``, its "strict" one 0.9 with ``size=0.025``.
    size : int or float, default=0.05
        Most rows of a node that becomes a cluster whatever it holds: a number, or with a float in
        (0, 1) a share of the rows, rounded down, at least 1.
    distance_threshold : float, default=None
        Largest linkage distance inside a cluster; needed for ``criterion="distance"`` only.
    normalize : bool, default=True
        Whether centroids are means of L2-normalized rows, as in the paper, and new rows are
        normalized before they are compared with them. Set it to False where directions mean
        nothing, as after UMAP.
    assign : {"centroid", "neighbors"}, default="centroid"
        How `predict` finds the cluster of a row: the nearest centroid, or a vote of the nearest
        training rows.
    n_neighbors : int, default=5
        Training rows that vote with ``assign="neighbors"``; the paper uses 3 to 11.
    verbose : int, default=0
        With 1 or more, `fit` writes the memory that the tree needs before it builds it.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), dtype int64
        Cluster of each training row, 0 for the largest.
    n_clusters_ : int
        Number of clusters.
    linkage_matrix_ : ndarray of shape (n_samples - 1, 4), dtype float64
        The tree, as :func:`scipy.cluster.hierarchy.linkage` returns it.
    cluster_centers_ : ndarray of shape (n_clusters, n_features), dtype float64
        Mean of each cluster's rows, L2-normalized before where `normalize` is true.
    concepts_ : ndarray of shape (n_concepts,)
        Sorted concepts; only where `fit` got y.
    cluster_concept_proba_ : ndarray of shape (n_clusters, n_concepts), dtype float64
        Share of each concept in each cluster; only where `fit` got y.
    purity_ : float
        Share of rows that show the majority concept of their cluster; only where `fit` got y.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where X had string names.

    See Also
    --------
    sklearn.cluster.AgglomerativeClustering : A fixed number of clusters, or one threshold.

    Notes
    -----
    The clustering of Mikriukov, Schwalbe and Bade (IJCV 2025). `fit` holds the distances of all
    pairs of rows, and SciPy works on a copy of them: ``8 * n_samples * (n_samples - 1)`` bytes,
    whatever the number of features. That is 0.8 GB for 10,000 rows and 7.2 GB for 30,000. SciPy
    needs no copy for ``linkage="single"``, which takes 0.45 GB and 4.1 GB. `fit` warns where the
    machine has less memory.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from sklearn_loce.cluster import ConceptAgglomerative
    >>> X, parts = make_blobs([20] * 4, n_features=8, random_state=0)
    >>> concepts = ["car", "car", "tree", "sky"]
    >>> y = [concepts[part] for part in parts]
    >>> model = ConceptAgglomerative(purity=1.0).fit(X, y)
    >>> model.n_clusters_, model.purity_
    (4, 1.0)
    >>> model.predict_concept_proba(X[:1]).shape
    (1, 3)
    """

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own form
        "linkage": [StrOptions({"ward", "complete", "average", "single"})],
        "metric": [StrOptions(set(_METRICS)), callable],
        "criterion": [StrOptions({"adaptive", "size", "distance"})],
        "purity": [Interval(Real, 0, 1, closed="right")],
        "size": [
            Interval(Integral, 1, None, closed="left"),
            Interval(Real, 0, 1, closed="neither"),
        ],
        "distance_threshold": [Interval(Real, 0, None, closed="left"), None],
        "normalize": ["boolean"],
        "assign": [StrOptions({"centroid", "neighbors"})],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        linkage="ward",
        metric="euclidean",
        criterion="adaptive",
        purity=0.8,
        size=0.05,
        distance_threshold=None,
        normalize=True,
        assign="centroid",
        n_neighbors=5,
        verbose=0,
    ):
        self.linkage = linkage
        self.metric = metric
        self.criterion = criterion
        self.purity = purity
        self.size = size
        self.distance_threshold = distance_threshold
        self.normalize = normalize
        self.assign = assign
        self.n_neighbors = n_neighbors
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Build the tree and cut it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings, at least two.
        y : array-like of shape (n_samples,), default=None
            Concept of each row; needed for ``criterion="adaptive"``.

        Returns
        -------
        ConceptAgglomerative
            The fitted estimator itself.

        Raises
        ------
        ValueError
            If y is missing where it is needed, or parameters contradict each other.

        Warns
        -----
        RuntimeWarning
            If the tree needs more memory than the machine has.

        See Also
        --------
        predict : Find the clusters of other rows.
        sklearn_loce.plotting.DendrogramDisplay : Draw the tree and its cut.

        Examples
        --------
        >>> from sklearn_loce.cluster import ConceptAgglomerative
        >>> X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
        >>> y = ["car", "car", "tree", "tree"]
        >>> ConceptAgglomerative().fit(X, y).labels_
        array([0, 0, 1, 1])
        """
        X, y = match_rows(X=X, y=y)
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        check_range(X)
        self._check_settings(X, y)
        codes = self._encode(X, y, learned=("cluster_concept_proba_", "purity_"))
        self._announce_memory(len(X))
        self.linkage_matrix_ = self._build_tree(X)
        is_cluster = self._find_clusters(codes)
        self.labels_ = _label_leaves(self.linkage_matrix_, is_cluster)
        self.n_clusters_ = int(self.labels_.max()) + 1
        self.cluster_centers_ = _shares(self.labels_, self._scaled(X))
        if y is not None:
            one_hot = np.eye(len(self.concepts_))[codes]
            self.cluster_concept_proba_ = _shares(self.labels_, one_hot)
            majorities = self.cluster_concept_proba_.max(axis=1)
            self.purity_ = float(np.average(majorities, weights=np.bincount(self.labels_)))
        if self.assign == "neighbors":
            self._voters = NearestNeighbors(n_neighbors=self.n_neighbors, metric=self._metric)
            self._voters.fit(X)
        return self

    def predict(self, X):
        """Find the cluster of new rows, by the nearest centroid or by a vote of neighbors.

        A training row may come back with another cluster than `labels_` gives it: the tree need
        not put a row with the nearest centroid.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.

        Returns
        -------
        ndarray of shape (n_samples,), dtype int64
            Clusters.

        See Also
        --------
        predict_proba : Share of each cluster among the nearest training rows.

        Examples
        --------
        >>> from sklearn_loce.cluster import ConceptAgglomerative
        >>> X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
        >>> y = ["car", "car", "tree", "tree"]
        >>> ConceptAgglomerative().fit(X, y).predict([[0.9, 0.2]])
        array([0])
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        if self.assign == "neighbors":
            return self._vote(X).argmax(axis=1)
        return pairwise_distances_argmin(
            self._scaled(X), self.cluster_centers_, metric=self._metric
        )

    def predict_proba(self, X):
        """Find the share of each cluster in the vote on new rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.

        Returns
        -------
        ndarray of shape (n_samples, n_clusters), dtype float64
            Rows sum to 1. With ``assign="centroid"`` the nearest has it all.

        See Also
        --------
        predict : The most probable cluster.
        predict_concept_proba : Probabilities of concepts.

        Examples
        --------
        >>> from sklearn_loce.cluster import ConceptAgglomerative
        >>> X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
        >>> y = ["car", "car", "tree", "tree"]
        >>> model = ConceptAgglomerative(assign="neighbors", n_neighbors=3).fit(X, y)
        >>> model.predict_proba([[0.9, 0.2]]).round(2)
        array([[0.67, 0.33]])
        """
        check_is_fitted(self)
        if self.assign == "centroid":
            return np.eye(self.n_clusters_)[self.predict(X)]
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self._vote(X)

    def predict_concept_proba(self, X):
        """Find concept probabilities of new rows, through the clusters they fall into.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.

        Returns
        -------
        ndarray of shape (n_samples, n_concepts), dtype float64
            Rows sum to 1; columns are `concepts_`.

        Raises
        ------
        AttributeError
            If `fit` got no y.

        See Also
        --------
        predict_proba : Probabilities of clusters.
        sklearn_loce.metrics.cluster_composition : Share of each concept in each cluster.

        Examples
        --------
        >>> from sklearn_loce.cluster import ConceptAgglomerative
        >>> X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
        >>> y = ["car", "car", "tree", "tree"]
        >>> model = ConceptAgglomerative().fit(X, y)
        >>> model.concepts_.tolist(), model.predict_concept_proba([[0.9, 0.2]]).tolist()
        (['car', 'tree'], [[1.0, 0.0]])
        """
        check_is_fitted(self)
        if not hasattr(self, "cluster_concept_proba_"):
            raise AttributeError("No concepts are known: fit(X, y) with the concepts in y first.")
        return self.predict_proba(X) @ self.cluster_concept_proba_

    @property
    def _metric(self):
        """The metric by its name in SciPy."""
        return self.metric if callable(self.metric) else _METRICS[self.metric]

    def _vote(self, X):
        """Share of each cluster among the nearest training rows."""
        voters = self._voters.kneighbors(X, return_distance=False)
        votes = np.zeros((len(X), self.n_clusters_))
        np.add.at(votes, (np.arange(len(X))[:, np.newaxis], self.labels_[voters]), 1.0)
        return votes / self.n_neighbors

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.criterion == "adaptive"
        return tags

    def _check_settings(self, X, y):
        """Refuse parameters that contradict each other."""
        if y is None and self.criterion == "adaptive":
            raise ValueError(
                'ConceptAgglomerative with criterion="adaptive" requires y to be passed, but the '
                'target y is None; pass concepts, or choose criterion="size" or "distance".'
            )
        if self.linkage == "ward" and self._metric != "euclidean":
            raise ValueError(
                f'linkage="ward" needs metric="euclidean", got metric={self.metric!r}; choose '
                'linkage="average" or "complete".'
            )
        if self.criterion == "distance" and self.distance_threshold is None:
            raise ValueError('criterion="distance" needs a distance_threshold, got None.')
        if self.assign == "neighbors" and self.n_neighbors > len(X):
            raise ValueError(
                f"n_neighbors={self.n_neighbors} is more than the n_samples={len(X)} rows of X."
            )

    def _announce_memory(self, n_samples):
        """Write the memory that the tree needs, and warn where the machine has less."""
        distances = 4 * n_samples * (n_samples - 1)
        # SciPy marks each distance as finite in a byte; all linkages but one work on a copy.
        needed = 1.125 * distances if self.linkage == "single" else 2 * distances
        rows = f"The tree of {n_samples:,} rows needs {needed / 1e9:.3g} GB of memory"
        if self.verbose:
            tqdm.write(f"{rows}.", file=sys.stderr)
        available = _find_memory()
        if available is not None and needed > available:
            warn_user(
                f"{rows}, and this machine has {available / 1e9:.3g} GB; fit fewer rows and call "
                "predict for the others, or reduce the rows to cluster centers first.",
                RuntimeWarning,
            )

    def _build_tree(self, X):
        if self._metric != "cosine":
            return scipy_linkage(pdist(X, self._metric), self.linkage)
        # Half the squared distance of unit rows is free of the noise of 1 - cos.
        distances = pdist(unit_rows(X), "sqeuclidean")
        distances *= 0.5
        distances[distances < RESOLUTION**2] = 0.0
        zero = ~X.any(axis=1)
        if zero.any():
            # Row i of the upper triangle at a time, for its indices would take twice the memory.
            ends = np.cumsum(np.arange(len(X) - 1, 0, -1))
            for i, row in enumerate(np.split(distances, ends[:-1])):
                row[zero[i] | zero[i + 1 :]] = 1.0
        return scipy_linkage(distances, self.linkage)

    def _find_clusters(self, codes):
        """Find for every node, leaves first, whether it meets the criterion."""
        n_samples = len(codes)
        if self.criterion == "distance":
            heights = np.concatenate([np.zeros(n_samples), self.linkage_matrix_[:, 2]])
            return heights <= self.distance_threshold
        counts = _count_leaves(self.linkage_matrix_, codes)
        sizes = counts.sum(axis=1)
        if isinstance(self.size, Integral):
            small = sizes <= self.size
        else:
            small = (sizes / n_samples <= self.size) | (sizes == 1)
        if self.criterion == "size":
            return small
        return small | (counts.max(axis=1) / sizes >= self.purity)

    def _scaled(self, X):
        return normalize(X) if self.normalize else X


def _find_memory():
    """Find the bytes of memory that this process may use; None where the system does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, v2 and v1
        limit = Path("/sys/fs/cgroup", name)
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            found.append(int(text))
    return min(found)


def _count_leaves(tree, codes):
    """Count the concepts below every node: (2 * n_samples - 1, n_concepts)."""
    n_samples = len(codes)
    counts = np.zeros((2 * n_samples - 1, codes.max() + 1), dtype=np.int64)
    counts[np.arange(n_samples), codes] = 1
    for node, (left, right) in enumerate(tree[:, :2].astype(np.intp), start=n_samples):
        counts[node] = counts[left] + counts[right]
    return counts


def _label_leaves(tree, is_cluster):
    """Find the first clusters on the way from the root, and number them by size."""
    n_samples = len(tree) + 1
    # Parents have higher numbers than their children, so one pass downwards replaces recursion.
    cluster_of = np.full(len(is_cluster), -1)
    for node in range(len(is_cluster) - 1, -1, -1):
        if cluster_of[node] < 0 and is_cluster[node]:
            cluster_of[node] = node
        if node >= n_samples:
            cluster_of[tree[node - n_samples, :2].astype(np.intp)] = cluster_of[node]
    _, first, labels, sizes = np.unique(
        cluster_of[:n_samples], return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[labels]


def _shares(labels, values):
    """Mean of the values in each cluster: (n_clusters, n_values)."""
    totals = np.zeros((labels.max() + 1, values.shape[1]))
    np.add.at(totals, labels, values)
    return totals / np.bincount(labels)[:, np.newaxis]
