"""Checks of the embeddings, tables and concepts of displays of images."""

import numpy as np
from sklearn.utils.validation import check_array

from .._samples.table import as_samples
from .._validation import match_rows, uniform_labels


def check_inputs(embeddings, samples, y, **columns):
    """Check embeddings, table and concepts, and match their rows.

    Parameters
    ----------
    embeddings : array-like of shape (n_samples, n_features)
        Embeddings. Rows that failed are not finite.
    samples : DataFrame or list of (image, mask) pairs
    y : array-like of shape (n_samples,) or None
        Concepts. None uses the column ``concept`` of the table.
    **columns : array-like of n_samples rows, or None
        Further values of each row, by name.

    Returns
    -------
    embeddings : ndarray of shape (n_samples, n_features), dtype float64
        Embeddings, whose order all results have.
    samples : DataFrame
    names : ndarray of shape (n_samples,), or None
        Concepts.
    kept : ndarray of shape (n_finite,), dtype intp
        Positions of the rows that did not fail.
    *columns : array-like of n_samples rows, or None

    Raises
    ------
    ValueError, TypeError
        If lengths differ, rows cannot be matched, every row failed, or the table or the concepts
        are invalid.
    """
    samples = as_samples(samples)
    given = {"embeddings": embeddings, "samples": samples, "y": y, **columns}
    embeddings, samples, y, *found = match_rows(**given)
    X = check_array(embeddings, dtype=np.float64, ensure_all_finite=False, input_name="embeddings")
    check_lengths(len(samples), embeddings=X, **columns)
    kept = np.flatnonzero(np.isfinite(X).all(axis=1))
    if not kept.size:
        raise ValueError(
            f"None of the {len(X)} rows of the embeddings is finite: all of them failed; call "
            "evaluate(X) of the transformer to see the causes."
        )
    return X, samples, concept_names(y, samples), kept, *found


def concept_names(y, samples):
    """Return the concept of each row, or None if there are no concepts.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or None
        Concepts. None uses the column ``concept`` of the table.
    samples : DataFrame

    Returns
    -------
    ndarray of shape (n_samples,), or None

    Raises
    ------
    ValueError
        If the lengths differ, or concepts are missing or of mixed types.
    """
    if y is None:
        if "concept" not in samples:
            return None
        y = samples["concept"]
    check_lengths(len(samples), y=y)
    return uniform_labels(y)


def check_lengths(n_samples, **columns):
    """Raise unless columns have one value per sample.

    Parameters
    ----------
    n_samples : int
    **columns : sized
        Values by name. None is skipped.

    Raises
    ------
    ValueError
        If a length differs.
    """
    for name, column in columns.items():
        if column is not None and len(column) != n_samples:
            raise ValueError(
                f"{name} has {len(column)} row(s), but the table of samples has {n_samples}; pass "
                "the same rows of both."
            )


def choose(values, known, name):
    """Check the values of a parameter that chooses among known values. None chooses all.

    Parameters
    ----------
    values : array-like or None
    known : list
    name : str
        Name of the parameter, such as "clusters".

    Returns
    -------
    list

    Raises
    ------
    ValueError
        If a value is unknown, or there are no values.
    """
    if values is None:
        return known
    values = np.asarray(values).ravel().tolist()
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        which = f"contains {unknown[0]!r}" if unknown else "is empty"
        raise ValueError(f"{name} {which}, and those with rows to show are {known}.")
    return values
