"""What every metric asks of its embeddings and labels."""

from numbers import Number

import numpy as np
import pandas as pd
from sklearn.utils import check_array, check_consistent_length, column_or_1d


def encode_concepts(y, name="y"):
    """Sort the distinct labels and number the rows by them.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels, all strings or all numbers.
    name : str, default="y"
        How error messages call them.

    Returns
    -------
    concepts : ndarray of shape (n_concepts,)
        Distinct labels, sorted.
    codes : ndarray of shape (n_samples,), dtype intp
        Position of each row's label in `concepts`.

    Raises
    ------
    ValueError
        If labels are missing or mix types.
    """
    concepts, codes = np.unique(uniform_labels(y, name), return_inverse=True)
    return concepts, codes.reshape(-1)


def uniform_labels(y, name="y"):
    """Give labels the one type that all of them share.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels, all strings or all numbers.
    name : str, default="y"
        How error messages call them.

    Returns
    -------
    ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If labels are missing or mix types.
    """
    # Without the object type, NumPy would turn ["car", 1] into strings before anyone can object.
    y = y if hasattr(y, "dtype") else np.asarray(y, dtype=object)
    y = column_or_1d(y)
    if (missing := np.flatnonzero(pd.isna(y))).size:
        raise ValueError(
            f"{name} has no label in row {missing[0]} ({missing.size} in all); drop these rows."
        )
    return _uniform(y, name) if y.dtype == object else y


def _uniform(y, name):
    """Give an object array the one type that all its values share."""
    texts = np.fromiter((isinstance(value, str) for value in y), dtype=bool, count=len(y))
    numbers = np.fromiter((isinstance(value, Number) for value in y), dtype=bool, count=len(y))
    if texts.all() or numbers.all():
        return np.array(y.tolist())
    odd = next((label for label in y[~texts & ~numbers]), None)
    if odd is not None:
        raise ValueError(
            f"{name} holds {odd!r} of type {type(odd).__name__} (argument must be a string or a "
            f"number); convert it, as in [str(label) for label in {name}]."
        )
    raise ValueError(
        f"{name} mixes types of label: {y[texts][0]!r} and {y[numbers][0]!r} (argument must be a "
        f"string or a number, all of one kind); convert it, as in [str(label) for label in {name}]."
    )


def check_embeddings(X, y, *, min_concepts=1):
    """Validate embeddings with their labels, in float64.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings, finite.
    y : array-like of shape (n_samples,)
        Concept of each row.
    min_concepts : int, default=1
        Fewest concepts that the caller can work with.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features), dtype float64
    concepts : ndarray of shape (n_concepts,)
    codes : ndarray of shape (n_samples,), dtype intp
    """
    X = check_array(X, dtype=np.float64, input_name="X")
    concepts, codes = encode_concepts(y)
    check_consistent_length(X, codes)
    if len(concepts) < min_concepts:
        raise ValueError(
            f"At least {min_concepts} concepts are needed, and y holds {len(concepts)} "
            f"({', '.join(map(repr, concepts.tolist()))}); pass rows of other concepts too."
        )
    return X, concepts, codes


# Sums of squares of larger numbers overflow.
_LARGEST = 1e150


def check_range(X):
    """Refuse numbers whose squares overflow.

    Parameters
    ----------
    X : ndarray of any shape, dtype float64

    Raises
    ------
    ValueError
        If a number is too large.
    """
    largest = max(X.max(), -X.min())
    if largest > _LARGEST:
        raise ValueError(
            f"X holds numbers as large as {largest:.3g}, whose squares overflow; divide X by a "
            f"constant, so that none is above {_LARGEST:g}."
        )


def average_concepts(values, average):
    """Average a value per concept; concepts whose value is NaN are left out.

    Parameters
    ----------
    values : ndarray of shape (n_concepts,)
    average : {"macro", None}

    Returns
    -------
    float or ndarray of shape (n_concepts,)
        NaN where no concept has a value.
    """
    if average is None:
        return values
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
