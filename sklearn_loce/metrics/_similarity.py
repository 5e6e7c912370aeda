"""Similarity of the embeddings of layers or models."""

from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils._param_validation import validate_params

from .._validation import match_rows
from ._rows import align, check_layers


def linear_cka(X, Y):
    """Compute the linear centered kernel alignment of two embeddings of the same rows.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings, finite.
    Y : array-like of shape (n_samples, n_other_features)
        Other embeddings of the same rows.

    Returns
    -------
    float
        Similarity in [0, 1]. It is 1 if the embeddings are equal up to rotation, scale and offset.
        It is NaN if all rows of an embedding coincide up to rounding.

    Raises
    ------
    ValueError
        If the numbers of rows differ.

    See Also
    --------
    compare_similarity : Linear CKA of each pair of layers.

    Notes
    -----
    The definition is that of Kornblith, Norouzi, Lee and Hinton, *Similarity of Neural Network
    Representations Revisited*, ICML 2019, equation 3 with linear kernels.

    Examples
    --------
    >>> from sklearn_loce.metrics import linear_cka
    >>> X = [[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]]
    >>> round(linear_cka(X, [[-b, a] for a, b in X]), 6)
    1.0
    """
    X, Y = match_rows(X=X, Y=Y)
    X, Y = (check_array(A, dtype=np.float64, ensure_min_samples=2) for A in (X, Y))
    check_consistent_length(X, Y)
    X, Y = _center(X), _center(Y)
    if X is None or Y is None:
        return float("nan")
    if len(X) < min(X.shape[1], Y.shape[1]):
        X, Y = X @ X.T, Y @ Y.T
        cross, own = np.vdot(X, Y), np.linalg.norm(X) * np.linalg.norm(Y)
    else:
        cross = np.linalg.norm(X.T @ Y) ** 2
        own = np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y)
    return float(np.clip(cross / own, 0.0, 1.0))


def _center(X):
    """Center and scale to norm 1. Return None if all rows coincide up to rounding."""
    largest = np.abs(X).max()
    if largest == 0:
        return None
    X = X / largest
    X = X - X.mean(axis=0)
    if np.abs(X).max() <= 8 * np.finfo(np.float64).eps:
        return None
    return X / np.linalg.norm(X)


@validate_params({"layers": [dict]}, prefer_skip_nested_validation=True)
def compare_similarity(layers):
    """Compute the linear CKA of every pair of layers or models.

    Parameters
    ----------
    layers : dict of str to array-like of shape (n_samples, n_features)
        Embeddings by layer or model. Rows are matched by index if all are DataFrames, otherwise by
        position. Rows that are not finite in every layer are omitted.

    Returns
    -------
    DataFrame
        One row per pair: `layer_a`, `layer_b`, `linear_cka`, `n_rows`.

    Raises
    ------
    ValueError
        If lengths or indexes differ, there are fewer than two layers, or fewer than two rows are
        finite in all of them.

    See Also
    --------
    linear_cka : Linear CKA of two embeddings.
    compare_layers : Compare layers by their scores.

    Notes
    -----
    See :func:`linear_cka`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.metrics import compare_similarity
    >>> X, _ = load_iris(return_X_y=True)
    >>> compare_similarity({"sepals": X[:, :2], "petals": X[:, 2:]}).round(2)
      layer_a layer_b  linear_cka  n_rows
    0  sepals  petals        0.77     150
    """
    check_layers(layers)
    if len(layers) < 2:
        raise ValueError(f"layers has {list(layers)}; pass at least two to compare.")
    if all(isinstance(X, pd.DataFrame) for X in layers.values()):
        y = pd.Series("", index=next(iter(layers.values())).index)
    else:
        check_consistent_length(*layers.values())
        y = [""] * len(next(iter(layers.values())))
    rows = align(layers, y)
    finite = {name: X[rows.finite] for name, X in rows.layers.items()}
    if rows.finite.sum() < 2:
        raise ValueError(
            f"{rows.finite.sum()} rows are finite in every layer, but two are needed; omit the "
            "layer that fails."
        )
    return pd.DataFrame(
        [
            (a, b, linear_cka(finite[a], finite[b]), len(finite[a]))
            for a, b in combinations(finite, 2)
        ],
        columns=["layer_a", "layer_b", "linear_cka", "n_rows"],
    )
