"""Checks of tables, embeddings and labels."""

from itertools import combinations
from numbers import Number

import numpy as np
import pandas as pd
from sklearn.utils import check_array, check_consistent_length, column_or_1d

# The sum of squares of larger numbers overflows.
_LARGEST = 1e150


def encode_concepts(y, name="y"):
    """Return the sorted distinct labels, and the position of each row's label among them.

    Labels are all strings or all numbers. `name` is their name in error messages.
    """
    concepts, codes = np.unique(uniform_labels(y, name), return_inverse=True)
    return concepts, codes.reshape(-1)


def uniform_labels(y, name="y"):
    """Return labels as an array of their common type."""
    # Without the object type, NumPy would convert ["car", 1] to strings without an error.
    y = y if hasattr(y, "dtype") else np.asarray(y, dtype=object)
    if len(shape := np.shape(y)) != 1 and shape[1:] != (1,):
        raise ValueError(f"{name} should be a 1d array, got an array of shape {shape} instead.")
    y = column_or_1d(y)
    if (missing := np.flatnonzero(pd.isna(y))).size:
        raise ValueError(
            f"{name} has no label in row {missing[0]} ({missing.size} in all); drop these rows."
        )
    return _uniform(y, name) if y.dtype == object else y


def _uniform(y, name):
    """Convert an object array to the common type of its values."""
    texts = np.fromiter((isinstance(value, str) for value in y), dtype=bool, count=len(y))
    numbers = np.fromiter((isinstance(value, Number) for value in y), dtype=bool, count=len(y))
    if texts.all() or numbers.all():
        return np.array(y.tolist())
    odd = next((label for label in y[~texts & ~numbers]), None)
    if odd is not None:
        raise ValueError(
            f"{name} contains {odd!r} of type {type(odd).__name__} (argument must be a string or a "
            f"number); convert it, as in [str(label) for label in {name}]."
        )
    raise ValueError(
        f"{name} mixes types of label: {y[texts][0]!r} and {y[numbers][0]!r} (argument must be a "
        f"string or a number, all of one kind); convert it, as in [str(label) for label in {name}]."
    )


def check_embeddings(X, y, *, min_concepts=1):
    """Return X in float64, the sorted concepts, and the number of each row's concept."""
    X, y = match_rows(X=X, y=y)
    X = check_array(X, dtype=np.float64, input_name="X")
    concepts, codes = encode_concepts(y)
    check_consistent_length(X, codes)
    check_n_concepts(concepts, min_concepts)
    return X, concepts, codes


def check_n_concepts(concepts, least):
    """Raise an error if there are too few concepts."""
    if len(concepts) < least:
        raise ValueError(
            f"At least {least} concepts are needed, but y has {len(concepts)} "
            f"({', '.join(map(repr, concepts.tolist()))}); pass rows of other concepts, too."
        )


def as_pandas(table):
    """Convert a table of polars to pandas, cell by cell. Return other tables unchanged."""
    kind = type(table)
    if kind.__module__.partition(".")[0] != "polars":
        return table
    if not hasattr(table, "get_columns"):
        raise TypeError(
            f"X is a {kind.__name__} of polars, but must be a DataFrame; pass X.collect() of a "
            "LazyFrame."
        )
    # Arrow has no type for images, and a conversion by Arrow would need pyarrow.
    columns = {
        column.name: column.to_list()
        if type(column.dtype).__name__ != "Array"
        else list(column.to_numpy())
        for column in table.get_columns()
    }
    cells = {name: pd.Series(values, dtype=object) for name, values in columns.items()}
    return pd.DataFrame({name: column.infer_objects() for name, column in cells.items()})


def match_rows(**tables):
    """Return the tables, by their names in messages, with rows in the order of the first index.

    If all indexes have the same labels, rows are matched by index. Otherwise they are matched by
    position, as in scikit-learn. Two indexes with the same labels in another order are then an
    error, because the order of the other tables is unknown.
    """
    given = {name: table for name, table in tables.items() if table is not None}
    indexes = {
        name: t.index for name, t in given.items() if isinstance(t, pd.Series | pd.DataFrame)
    }
    pairs = combinations(indexes, 2)
    pair = next(((a, b) for a, b in pairs if _is_reordered(indexes[a], indexes[b])), None)
    if pair is None:
        return list(tables.values())
    problem = f"The indexes of {pair[0]} and {pair[1]} have the same labels in another order"
    first = indexes[pair[0]]
    if not first.is_unique:
        raise ValueError(
            f"{problem}, but {first[first.duplicated()][0]!r} repeats, so rows can't be matched. "
            "Sort them, and call reset_index(drop=True)."
        )
    for name in given:
        if name not in indexes or not _has_labels(indexes[name], first):
            raise ValueError(
                f"{problem}, but {name} has no such labels, so its rows can't be matched. Sort "
                "all in one order, or give all the same labels."
            )
    order = next(iter(indexes.values()))
    return [t if t is None else t.iloc[t.index.get_indexer(order)] for t in tables.values()]


def _is_reordered(first, second):
    """Return whether two indexes have the same labels in another order."""
    return not first.equals(second) and _has_labels(first, second)


def _has_labels(first, second):
    """Return whether two indexes have the same labels, in any order."""
    if first.equals(second):
        return True
    return len(first) == len(second) and first.isin(second).all() and second.isin(first).all()


def check_range(X):
    """Raise an error for numbers whose squares overflow."""
    largest = max(X.max(), -X.min())
    if largest > _LARGEST:
        raise ValueError(
            f"X contains numbers as large as {largest:.3g}, whose squares overflow; divide X by a "
            f"constant, so that no number exceeds {_LARGEST:g}."
        )


def average_concepts(values, average):
    """Average the values of all concepts without NaN, unless `average` is None."""
    if average is None:
        return values
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


class ConceptLabelsMixin:
    """Mixin of estimators whose `fit` accepts concepts in y and sets `labels_`."""

    def fit_predict(self, X, y=None):
        """Fit, and return the labels of the training rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings, at least two.
        y : array-like of shape (n_samples,), default=None
            Concept of each row, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,), dtype int64
            `labels_`.

        Raises
        ------
        ValueError
            As in `fit`.

        See Also
        --------
        fit : Fit without a result.

        Examples
        --------
        >>> from sklearn_loce.outliers import ConceptOutlierDetector
        >>> X = [[1.0, 0.0], [1.0, 0.1], [0.9, 0.1], [0.0, 1.0]]
        >>> ConceptOutlierDetector().fit_predict(X)
        array([ 1,  1,  1, -1])
        """
        return self.fit(X, y).labels_

    def _encode(self, X, y, learned):
        """Encode the concepts of y, or 0 without y, and delete attributes of an earlier fit."""
        for name in ("concepts_", *learned):
            self.__dict__.pop(name, None)
        if y is None:
            return np.zeros(len(X), dtype=np.intp)
        self.concepts_, codes = encode_concepts(y)
        check_consistent_length(X, codes)
        return codes
