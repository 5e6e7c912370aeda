"""Agreement of clusters and concepts."""

import pandas as pd
from sklearn.base import clone
from sklearn.metrics.cluster import contingency_matrix
from sklearn.utils import check_consistent_length, get_tags
from sklearn.utils._param_validation import validate_params

from .._validation import encode_concepts, match_rows

# Label of a row without a cluster, in scikit-learn and in this package.
NOISE = -1

_PARAMETERS = {"y": ["array-like"], "labels": ["array-like"]}


@validate_params(_PARAMETERS, prefer_skip_nested_validation=True)
def purity_score(y, labels):
    """Compute the share of rows that show the majority concept of their cluster.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Concept of each row.
    labels : array-like of shape (n_samples,)
        Cluster of each row. Rows labeled -1 belong to no cluster. They still count as rows, so
        purity never rises if a clusterer drops difficult rows.

    Returns
    -------
    float
        Purity in [0, 1]. It is 1 if every row is its own cluster, so report it with the number of
        clusters, or see :func:`penalized_purity_score`.

    Raises
    ------
    ValueError
        If `y` and `labels` differ in length, are empty, or contain missing or mixed labels.

    See Also
    --------
    penalized_purity_score : Purity with a price per cluster.
    sklearn.metrics.homogeneity_score : The same question, measured by entropy.

    Notes
    -----
    The definition is that of Mikriukov, Schwalbe and Bade (IJCV 2025) and of Manning, Raghavan and
    Schütze, *Introduction to Information Retrieval* (2008), section 16.3.

    Examples
    --------
    >>> from sklearn_loce.metrics import purity_score
    >>> purity_score(["car", "car", "bus", "bus"], [0, 0, 0, 1])
    0.75
    """
    _, _, counts = count_concepts(y, labels)
    return float(counts.max(axis=1, initial=0).sum() / len(y))


@validate_params(_PARAMETERS, prefer_skip_nested_validation=True)
def penalized_purity_score(y, labels):
    """Compute the purity with a penalty of one row per cluster.

    The first row of a cluster always agrees with its majority, so only the other rows are evidence.
    The score is ``(sum of majority counts - n_clusters) / n_samples``.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Concept of each row.
    labels : array-like of shape (n_samples,)
        Cluster of each row; -1 means no cluster, see :func:`purity_score`.

    Returns
    -------
    float
        Score in [0, 1). It is 0 if every row is its own cluster, and ``1 - n_concepts /
        n_samples`` if every concept is one cluster.

    Raises
    ------
    ValueError
        If `y` and `labels` differ in length, are empty, or contain missing or mixed labels.

    See Also
    --------
    purity_score : Purity without a price per cluster.
    sklearn.metrics.v_measure_score : Another measure that does not reward many clusters.

    Notes
    -----
    The paper reports purity and the number of clusters. This score combines both in one number. It
    is a definition of this package.

    Examples
    --------
    >>> from sklearn_loce.metrics import penalized_purity_score
    >>> concepts = ["car", "car", "bus", "bus"]
    >>> penalized_purity_score(concepts, [0, 0, 1, 1])
    0.5
    >>> penalized_purity_score(concepts, [0, 1, 2, 3])
    0.0
    """
    _, _, counts = count_concepts(y, labels)
    return float((counts.max(axis=1, initial=0).sum() - len(counts)) / len(y))


@validate_params({**_PARAMETERS, "normalize": ["boolean"]}, prefer_skip_nested_validation=True)
def cluster_composition(y, labels, *, normalize=True):
    """Compute the share of every concept in every cluster.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Concept of each row.
    labels : array-like of shape (n_samples,)
        Cluster of each row. Rows labeled -1 belong to no cluster and are omitted.
    normalize : bool, default=True
        Whether to return shares, which sum to 1 in each cluster, instead of counts.

    Returns
    -------
    DataFrame of shape (n_clusters, n_concepts)
        Shares in float64, or integer counts. Index "cluster" and columns "concept" are sorted.

    Raises
    ------
    ValueError
        If `y` and `labels` differ in length, are empty, or contain missing or mixed labels.

    See Also
    --------
    confused_concepts : Concepts that share clusters.
    sub_concepts : Clusters inside one concept.

    Notes
    -----
    These are the "concept probabilities" of a cluster in Mikriukov, Schwalbe and Bade (IJCV 2025).

    Examples
    --------
    >>> from sklearn_loce.metrics import cluster_composition
    >>> cluster_composition(["car", "car", "bus", "bus"], [0, 0, 0, 1]).round(2)
    concept   bus   car
    cluster
    0        0.33  0.67
    1        1.00  0.00
    """
    concepts, clusters, counts = count_concepts(y, labels)
    if normalize:
        counts = counts / counts.sum(axis=1, keepdims=True)
    return pd.DataFrame(
        counts,
        index=pd.Index(clusters, name="cluster"),
        columns=pd.Index(concepts, name="concept"),
    )


def fit_clusters(clusterer, X, y):
    """Cluster rows with a clone that is fitted on the concepts only if it requires them.

    A mixture per concept would be pure by construction, even on noise.
    """
    clusterer = clone(clusterer)
    last = clusterer.steps[-1][1] if hasattr(clusterer, "steps") else clusterer
    if get_tags(last).target_tags.required:
        return clusterer.fit_predict(X, y)
    return clusterer.fit_predict(X)


def count_concepts(y, labels, name="labels"):
    """Return the concepts, the clusters, and the rows of each concept in each cluster.

    Noise is not a cluster. `name` is the name of the labels in error messages.
    """
    y, labels = match_rows(**{"y": y, name: labels})
    concepts, codes = encode_concepts(y)
    clusters, cluster_codes = encode_concepts(labels, name=name)
    check_consistent_length(codes, cluster_codes)
    if not len(codes):
        raise ValueError(f"y and {name} are empty; pass at least one row.")
    counts = contingency_matrix(cluster_codes, codes)
    kept = clusters != NOISE
    return concepts, clusters[kept], counts[kept]
