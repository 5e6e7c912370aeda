"""Concepts that an embedding space confuses, and sub-concepts of a concept."""

from itertools import combinations
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import HasMethods, Interval, validate_params

from .._distances import sums_within_concept
from .._validation import check_embeddings, encode_concepts, match_rows, uniform_labels
from ._clusters import NOISE, count_concepts, fit_clusters
from ._separation import overlap_ratio, pairwise_separation, pairwise_silhouette

_LABELS = ["array-like", HasMethods("fit_predict")]


@validate_params(
    {
        "X": ["array-like"],
        "y": ["array-like"],
        "clusters": [*_LABELS, None],
        "components": [*_LABELS, None],
        "metric": [str, callable],
        "min_share": [Interval(Real, 0, 0.5, closed="right")],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def confused_concepts(
    X, y, *, clusters=None, components=None, metric="euclidean", min_share=0.1, verbose=0
):
    """Rank pairs of concepts by how much they are confused.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row; at least two concepts.
    clusters : array-like of shape (n_samples,) or clusterer, default=None
        Cluster of each row (-1 for none), or a clusterer. A clone of the clusterer is fitted on X,
        and on y only if its tags require y, as for the adaptive cut of ConceptAgglomerative.
    components : array-like of shape (n_samples,) or mixture, default=None
        Mixture component of each row (-1 for none), or a mixture. A clone of the mixture is fitted
        in the same way, because a mixture per concept would not mix concepts.
    metric : str or callable, default="euclidean"
        Metric of overlap, separation and silhouette.
    min_share : float in (0, 0.5], default=0.1
        A cluster or component mixes two concepts if each has at least this share of its rows.
    verbose : int, default=0
        With 1 or more, show a progress bar over the rows for each of overlap, separation and
        silhouette.

    Returns
    -------
    DataFrame
        One row per pair, the most confused first:

        - `concept_a`, `concept_b`: the pair.
        - `overlap_a`: share of rows of A that are closer to B than to other rows of A;
          `overlap_b`: the reverse; `overlap`: the mean of both (:func:`overlap_ratio`).
        - `separation`, `silhouette`: :func:`pairwise_separation`, :func:`pairwise_silhouette`.
        - `mixed_clusters`, `mixed_cluster_share`: number of clusters that mix the pair, and the
          share of the pair's rows in these clusters. `mixed_components` and
          `mixed_component_share` are the same for components. They are absent if `clusters` or
          `components` is None.

        Pairs are ranked by overlap, then by these shares, then by low silhouette.

    Raises
    ------
    ValueError
        If there are fewer than two concepts, or lengths differ.

    See Also
    --------
    overlap_ratio : The overlap alone, as a matrix.
    sub_concepts : Clusters inside one concept.
    sklearn_loce.outliers.label_issues : Rows that lie nearer to another concept.

    Notes
    -----
    This is the search for concept confusion of Mikriukov, Schwalbe and Bade (IJCV 2025). It
    combines the overlap with clusters or mixture components that mix several concepts.

    Examples
    --------
    >>> from sklearn_loce.metrics import confused_concepts
    >>> X = [[0.0], [1.0], [1.5], [2.5], [90.0], [91.0]]
    >>> y = ["bus", "bus", "car", "car", "tree", "tree"]
    >>> pairs = confused_concepts(X, y, clusters=[0, 0, 0, 0, 1, 1])
    >>> pairs[["concept_a", "concept_b", "overlap", "mixed_cluster_share"]].head(2)
      concept_a concept_b  overlap  mixed_cluster_share
    0       bus       car      0.5                  1.0
    1       car      tree      0.0                  0.0
    """
    X, y, clusters, components = _match(X, y, clusters=clusters, components=components)
    X, concepts, _ = check_embeddings(X, y, min_concepts=2)
    a, b = np.array(list(combinations(range(len(concepts)), 2))).T
    overlap = overlap_ratio(X, y, metric=metric, verbose=verbose)
    both = pd.DataFrame({"overlap_a": overlap[a, b], "overlap_b": overlap[b, a]})
    pairs = pd.DataFrame({"concept_a": concepts[a], "concept_b": concepts[b]})
    pairs["overlap"] = both.mean(axis=1)
    pairs[["overlap_a", "overlap_b"]] = both
    separation = pairwise_separation(X, y, metric=metric, verbose=verbose)
    silhouette = pairwise_silhouette(X, y, metric=metric, verbose=verbose)
    pairs["separation"], pairs["silhouette"] = separation[a, b], silhouette[a, b]
    for name, grouping in (("cluster", clusters), ("component", components)):
        if grouping is not None:
            counts = count_concepts(y, _labels(grouping, X, y, fit_clusters), f"{name}s")[2]
            _add_mixed(pairs, name, counts, (a, b), min_share)
    return _rank_pairs(pairs, y)


def _match(X, y, **groupings):
    """Bring concepts and given labels of clusters into the order of X."""
    given = {name: None if hasattr(g, "fit_predict") else g for name, g in groupings.items()}
    X, y, *labels = match_rows(X=X, y=y, **given)
    estimators = groupings.values()
    return X, y, *(g if own is None else own for g, own in zip(estimators, labels, strict=True))


def _labels(grouping, X, y, fit):
    """Return the given labels, or the labels of an estimator by `fit`."""
    if hasattr(grouping, "fit_predict"):
        return fit(grouping, X, y)
    check_consistent_length(X, grouping)
    return grouping


def _fit_with_concepts(grouping, X, y):
    """Fit a clone with the concepts, because sub-concepts lie inside concepts."""
    return clone(grouping).fit_predict(X, y)


def _add_mixed(pairs, name, counts, ab, min_share):
    """Add the columns of mixed clusters. `counts` has shape (n_clusters, n_concepts)."""
    a, b = ab
    present = counts >= min_share * counts.sum(axis=1, keepdims=True)
    mixed = present[:, a] & present[:, b]
    pairs[f"mixed_{name}s"] = mixed.sum(axis=0)
    pairs[f"mixed_{name}_share"] = (mixed * (counts[:, a] + counts[:, b])).sum(axis=0)


def _rank_pairs(pairs, y):
    """Divide mixed rows by the rows of each pair, and sort pairs by confusion."""
    sizes = pd.Series(uniform_labels(y)).value_counts()
    rows = pairs["concept_a"].map(sizes) + pairs["concept_b"].map(sizes)
    shares = [column for column in pairs if column.startswith("mixed") and "share" in column]
    pairs[shares] = pairs[shares].div(rows, axis=0)
    keys = ["overlap", *shares, "silhouette"]
    ascending = [False] * (len(keys) - 1) + [True]
    return pairs.sort_values(keys, ascending=ascending, kind="stable", ignore_index=True)


@validate_params(
    {
        "X": ["array-like"],
        "y": ["array-like"],
        "clusters": _LABELS,
        "concept": "no_validation",
        "metric": [str, callable],
        "n_rows": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def sub_concepts(X, y, clusters, *, concept=None, metric="cosine", n_rows=3):
    """Report the clusters inside each concept, with their most typical and atypical rows.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row.
    clusters : array-like of shape (n_samples,), or clusterer or mixture
        Cluster or component of each row (-1 for none), or an estimator with `fit_predict`. A clone
        of the estimator is fitted on X and y.
    concept : label, default=None
        Report this concept only.
    metric : str or callable, default="cosine"
        Distance that defines typical rows.
    n_rows : int, default=3
        Maximum number of typical rows, and of atypical rows.

    Returns
    -------
    DataFrame
        One row per concept and cluster, sorted by concept and size:

        - `concept`, `cluster`.
        - `size`: number of the concept's rows in the cluster; `share`: their share of all rows of
          the concept.
        - `purity`: share of the cluster's rows that show the concept.
        - `spread`: mean distance between two of these rows; NaN for a single row.
        - `typical`, `atypical`: tuples of positions in X, with the smallest or the largest mean
          distance to the concept's other rows in the cluster. They share rows if there are fewer
          than twice `n_rows`.

    Raises
    ------
    ValueError
        If `concept` does not occur in y, or lengths differ.

    See Also
    --------
    sklearn_loce.mixture.ConceptGaussianMixture : Find components inside each concept.
    sklearn_loce.plotting.ClusterGalleryDisplay : Draw the typical rows of each cluster.

    Notes
    -----
    As in Mikriukov, Schwalbe and Bade (IJCV 2025), sub-concepts are the components or clusters
    inside one concept.

    Examples
    --------
    >>> from sklearn_loce.metrics import sub_concepts
    >>> X = [[0.0], [0.1], [5.0], [5.1], [5.3]]
    >>> y = ["car"] * 5
    >>> report = sub_concepts(X, y, [1, 1, 0, 0, 0], metric="euclidean", n_rows=1)
    >>> report[["concept", "cluster", "size", "share", "typical", "atypical"]]
      concept  cluster  size  share typical atypical
    0     car        0     3    0.6    (3,)     (4,)
    1     car        1     2    0.4    (0,)     (1,)
    """
    X, y, clusters = _match(X, y, clusters=clusters)
    X, concepts, codes = check_embeddings(X, y)
    if concept is not None and concept not in concepts:
        raise ValueError(f"concept={concept!r} does not occur in y, which has {concepts}.")
    labels, label_codes = encode_concepts(
        _labels(clusters, X, y, _fit_with_concepts), name="clusters"
    )
    kept = labels[label_codes] != NOISE
    if concept is not None:
        kept &= concepts[codes] == concept
    table = pd.DataFrame({"concept": concepts[codes], "cluster": labels[label_codes]})
    found = table[kept].groupby(["concept", "cluster"], sort=True).indices
    positions = np.flatnonzero(kept)
    report = [
        {"concept": name, "cluster": label, **_describe(X, positions[rows], metric, n_rows)}
        for (name, label), rows in found.items()
    ]
    return _finish_report(pd.DataFrame(report, columns=_REPORT), table)


_REPORT = ["concept", "cluster", "size", "share", "purity", "spread", "typical", "atypical"]


def _describe(X, rows, metric, n_rows):
    """Describe the rows of one concept in one cluster."""
    alike = np.zeros(len(rows), dtype=np.intp)
    means = sums_within_concept(X[rows], alike, 1, metric) / max(len(rows) - 1, 1)
    nearest_first = rows[np.argsort(means, kind="stable")]
    return {
        "size": len(rows),
        "spread": float(means.mean()) if len(rows) > 1 else float("nan"),
        "typical": tuple(nearest_first[:n_rows].tolist()),
        "atypical": tuple(nearest_first[::-1][:n_rows].tolist()),
    }


def _finish_report(report, table):
    """Add the columns that depend on all rows, and sort."""
    report["share"] = report["size"] / report["concept"].map(table["concept"].value_counts())
    report["purity"] = report["size"] / report["cluster"].map(table["cluster"].value_counts())
    return report.sort_values(
        ["concept", "size"], ascending=[True, False], kind="stable", ignore_index=True
    )
