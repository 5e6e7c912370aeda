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

# Names of SciPy's metrics, and scikit-learn's synonyms.
_METRICS = {
    **dict.fromkeys(("euclidean", "l2"), "euclidean"),
    **dict.fromkeys(("cityblock", "manhattan", "l1"), "cityblock"),
    **{name: name for name in ("cosine", "chebyshev", "canberra", "braycurtis", "sqeuclidean")},
}


class ConceptAgglomerative(ConceptLabelsMixin, ClusterMixin, BaseEstimator):
    """Agglomerative clustering that cuts its tree by concept purity, size or distance.

    The cut starts at the root. If a node meets the criterion, it becomes a cluster. Otherwise the
    cut continues at its two children. A single row is always a cluster. The adaptive cut never
    splits a pure node. So it separates the sub-concepts of a concept only if the tree first joins
    them with rows of other concepts. To find all sub-concepts, use another criterion or
    :class:`~sklearn_loce.mixture.ConceptGaussianMixture`.

    Parameters
    ----------
    linkage : {"ward", "complete", "average", "single"}, default="ward"
        How distances between nodes are computed from distances between rows.
    metric : str or callable, default="euclidean"
        Distance between rows: "euclidean" or "l2", "cityblock", "manhattan" or "l1", "cosine",
        "chebyshev", "canberra", "braycurtis", "sqeuclidean", or a callable of two rows. The linkage
        "ward" needs "euclidean". With "cosine", a row of zeros has distance 1 to every other row.
    criterion : {"adaptive", "size", "distance"}, default="adaptive"
        Criterion for a cluster:

        - "adaptive": at most `size` rows, or a majority concept with a share of at least `purity`;
        - "size": at most `size` rows;
        - "distance": a linkage distance of at most `distance_threshold`.
    purity : float in (0, 1], default=0.8
        Share of the majority concept that makes a node a cluster. The "relaxed" setting of the
        paper is 0.8 with ``size=0.05``, and the "strict" setting is 0.9 with ``size=0.025``.
    size : int or float, default=0.05
        Maximum number of rows of a cluster that is not pure. A float in (0, 1) is a share of all
        rows, rounded down, at least one row.
    distance_threshold : float, default=None
        Largest linkage distance inside a cluster, for ``criterion="distance"`` only.
    normalize : bool, default=True
        Whether centroids are means of L2-normalized rows, as in the paper. New rows are then
        normalized, too. Use False if directions have no meaning, as after UMAP.
    assign : {"centroid", "neighbors"}, default="centroid"
        How `predict` finds the cluster of a row: by the nearest centroid, or by a vote of the
        nearest training rows.
    n_neighbors : int, default=5
        Number of training rows that vote with ``assign="neighbors"``. The paper uses 3 to 11.
    verbose : int, default=0
        With 1 or more, `fit` first writes how much memory the tree needs.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), dtype int64
        Cluster of each training row, 0 for the largest.
    n_clusters_ : int
        Number of clusters.
    linkage_matrix_ : ndarray of shape (n_samples - 1, 4), dtype float64
        The tree, as :func:`scipy.cluster.hierarchy.linkage` returns it.
    cluster_centers_ : ndarray of shape (n_clusters, n_features), dtype float64
        Mean of the rows of each cluster. With `normalize`, the rows are L2-normalized first.
    concepts_ : ndarray of shape (n_concepts,)
        Sorted concepts, if y was passed to `fit`.
    cluster_concept_proba_ : ndarray of shape (n_clusters, n_concepts), dtype float64
        Share of each concept in each cluster, if y was passed to `fit`.
    purity_ : float
        Share of rows that show the majority concept of their cluster, if y was passed to `fit`.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had string names.

    See Also
    --------
    sklearn.cluster.AgglomerativeClustering : A fixed number of clusters, or one threshold.
    sklearn_loce.mixture.ConceptGaussianMixture : Components inside each concept.
    sklearn_loce.plotting.DendrogramDisplay : Draw the tree and its cut.

    Notes
    -----
    This is the clustering of Mikriukov, Schwalbe and Bade (IJCV 2025). `fit` keeps the distances of
    all pairs of rows in memory, and SciPy makes a copy. Together they need ``8 * n_samples *
    (n_samples - 1)`` bytes for any number of features: 0.8 GB for 10,000 rows and 7.2 GB for
    30,000. SciPy makes no copy for ``linkage="single"``, which needs 0.45 GB and 4.1 GB. You get a
    warning if the machine has less memory.

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
            Concept of each row, required by ``criterion="adaptive"``.

        Returns
        -------
        ConceptAgglomerative
            The fitted estimator itself.

        Raises
        ------
        ValueError
            If y is required but missing, or parameters contradict each other.

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

        The result for a training row may differ from `labels_`, because the tree does not assign
        rows to the nearest centroid.

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
            Rows sum to 1. With ``assign="centroid"``, the nearest cluster has probability 1.

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
        """Find concept probabilities of new rows, by the composition of their clusters.

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
            If no y was passed to `fit`.

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
            raise AttributeError("No concepts are known; call fit(X, y) with concepts first.")
        return self.predict_proba(X) @ self.cluster_concept_proba_

    @property
    def _metric(self):
        """The name of the metric in SciPy."""
        return self.metric if callable(self.metric) else _METRICS[self.metric]

    def _vote(self, X):
        """Return the share of each cluster among the nearest training rows."""
        voters = self._voters.kneighbors(X, return_distance=False)
        votes = np.zeros((len(X), self.n_clusters_))
        np.add.at(votes, (np.arange(len(X))[:, np.newaxis], self.labels_[voters]), 1.0)
        return votes / self.n_neighbors

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.criterion == "adaptive"
        return tags

    def _check_settings(self, X, y):
        """Raise an error if parameters contradict each other."""
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
                f"n_neighbors={self.n_neighbors} is larger than n_samples={len(X)}; choose at most "
                f"{len(X)}."
            )

    def _announce_memory(self, n_samples):
        """Write how much memory the tree needs, and warn if the machine has less."""
        distances = 4 * n_samples * (n_samples - 1)
        # SciPy stores a byte per distance that says whether it is finite. All linkages except
        # "single" copy the distances.
        needed = 1.125 * distances if self.linkage == "single" else 2 * distances
        rows = f"The tree of {n_samples:,} rows needs {needed / 1e9:.3g} GB of memory"
        if self.verbose:
            tqdm.write(f"{rows}.", file=sys.stderr)
        available = _find_memory()
        if available is not None and needed > available:
            warn_user(
                f"{rows}, but this machine has {available / 1e9:.3g} GB; fit fewer rows and call "
                "predict for the others, or reduce the rows to cluster centers first.",
                RuntimeWarning,
            )

    def _build_tree(self, X):
        if self._metric != "cosine":
            return scipy_linkage(pdist(X, self._metric), self.linkage)
        # Half the squared distance of unit rows avoids the rounding noise of 1 - cos.
        distances = pdist(unit_rows(X), "sqeuclidean")
        distances *= 0.5
        distances[distances < RESOLUTION**2] = 0.0
        zero = ~X.any(axis=1)
        if zero.any():
            # One row of the upper triangle at a time: index arrays would need twice the memory.
            ends = np.cumsum(np.arange(len(X) - 1, 0, -1))
            for i, row in enumerate(np.split(distances, ends[:-1])):
                row[zero[i] | zero[i + 1 :]] = 1.0
        return scipy_linkage(distances, self.linkage)

    def _find_clusters(self, codes):
        """Return whether each node meets the criterion, leaves first."""
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
    """Return the bytes of memory that this process may use, or None if they are unknown."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, v2 and v1
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
    """Find the clusters that are nearest to the root, and number them by size."""
    n_samples = len(tree) + 1
    # Parents have higher numbers than their children, so one descending pass replaces recursion.
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
    """Average the values in each cluster: (n_clusters, n_values)."""
    totals = np.zeros((labels.max() + 1, values.shape[1]))
    np.add.at(totals, labels, values)
    return totals / np.bincount(labels)[:, np.newaxis]
