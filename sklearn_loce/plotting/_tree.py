"""Positions and clusters of the links of a tree."""

import numpy as np
from scipy.cluster.hierarchy import leaves_list


def link_positions(linkage_matrix):
    """Compute the position of every link of a tree, whose leaves lie at 0, 1, 2, ...

    Parameters
    ----------
    linkage_matrix : ndarray of shape (n_leaves - 1, 4)
        Tree as returned by :func:`scipy.cluster.hierarchy.linkage`.

    Returns
    -------
    leaves : ndarray of shape (n_leaves,), dtype int
        Leaves from left to right, as in :func:`scipy.cluster.hierarchy.dendrogram`.
    links : ndarray of shape (n_leaves - 1, 4, 2), dtype float64
        Corners of each link: up from its left child, across, and down to its right child.

    Notes
    -----
    The function `dendrogram` of SciPy is recursive. It fails on deep trees, such as those of single
    linkage on a thousand rows.

    Examples
    --------
    >>> from scipy.cluster.hierarchy import linkage
    >>> from sklearn_loce.plotting._tree import link_positions
    >>> leaves, links = link_positions(linkage([[0.0], [5.0], [1.0]]))
    >>> leaves.tolist(), links[0].tolist()
    ([1, 0, 2], [[1.0, 0.0], [1.0, 1.0], [2.0, 1.0], [2.0, 0.0]])
    """
    n_leaves = len(linkage_matrix) + 1
    leaves = leaves_list(linkage_matrix)
    x, height = np.zeros((2, 2 * n_leaves - 1))
    x[leaves] = np.arange(n_leaves)
    height[n_leaves:] = linkage_matrix[:, 2]
    children = linkage_matrix[:, :2].astype(np.intp)
    for node, pair in enumerate(children, start=n_leaves):
        x[node] = x[pair].mean()
    feet, tops = height[children], np.repeat(linkage_matrix[:, 2:3], 2, axis=1)
    corners_x = np.repeat(x[children], 2, axis=1)
    corners_y = np.column_stack([feet[:, 0], tops, feet[:, 1]])
    return leaves, np.stack([corners_x, corners_y], axis=2)


def link_clusters(linkage_matrix, labels):
    """Find the cluster of all leaves below each link.

    Parameters
    ----------
    linkage_matrix : ndarray of shape (n_leaves - 1, 4)
        Tree as returned by :func:`scipy.cluster.hierarchy.linkage`.
    labels : ndarray of shape (n_leaves,), dtype int
        Position of the cluster of each leaf, at least 0.

    Returns
    -------
    ndarray of shape (n_leaves - 1,), dtype int
        Cluster of each link, -1 for links above several clusters.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.cluster.hierarchy import linkage
    >>> from sklearn_loce.plotting._tree import link_clusters
    >>> link_clusters(linkage([[0.0], [5.0], [1.0]]), np.array([0, 1, 0])).tolist()
    [0, -1]
    """
    clusters = np.concatenate([labels, np.full(len(linkage_matrix), -1)])
    for node, (left, right) in enumerate(linkage_matrix[:, :2].astype(np.intp), start=len(labels)):
        if clusters[left] == clusters[right]:
            clusters[node] = clusters[left]
    return clusters[len(labels) :]


def find_runs(values):
    """Find the runs of equal values.

    Parameters
    ----------
    values : ndarray of shape (n_values,)

    Returns
    -------
    starts, stops : ndarray of shape (n_runs,), dtype int
        First position of each run, and the position after its last.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.plotting._tree import find_runs
    >>> [bounds.tolist() for bounds in find_runs(np.array(["a", "a", "b"]))]
    [[0, 2], [2, 3]]
    """
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.concatenate([[0], changes]), np.concatenate([changes, [len(values)]])
