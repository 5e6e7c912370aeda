"""Exclusion of rows from rankings, by the group of the query or by time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real

import numpy as np
import pandas as pd
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import Interval

from .._validation import encode_concepts

PARAMETERS = {
    "groups": ["array-like", None],
    "exclude": [Interval(Real, 0, None, closed="both"), callable, None],
}
# Number of pairs that are compared at once. Temporary arrays stay smaller than a chunk.
_MAX_PAIRS = 2**17


@dataclass
class Exclusion:
    """Pairs of a query and a row that is excluded from its ranking.

    `alike` compares `values` of shape (n_rows,) or (n_rows, n_columns). Its arguments are the
    values of queries and candidates, in shapes that broadcast. The query itself is always excluded.
    """

    values: np.ndarray
    alike: Callable
    labels: np.ndarray  # the groups as passed, for messages

    def __len__(self):
        return len(self.values)

    def take(self, rows):
        """Return the exclusion of some of the rows."""
        return Exclusion(self.values[rows], self.alike, self.labels[rows])

    def number_groups(self):
        """Return the number of each row's group. Rows with equal values form a group."""
        table = pd.DataFrame(self.values)
        return table.groupby(list(table)).ngroup().to_numpy()

    def masks(self, queries):
        """Yield slices of queries, and masks (n_slice, n_rows) of the excluded rows."""
        step = max(1, _MAX_PAIRS // len(self))
        for start in range(0, len(queries), step):
            rows = queries[start : start + step]
            mask = self.alike(self.values[rows][:, np.newaxis], self.values[np.newaxis])
            mask = _check_mask(mask, (len(rows), len(self)))
            mask[np.arange(len(rows)), rows] = True
            yield slice(start, start + len(rows)), mask

    def count(self, codes):
        """Count the candidates of every row, and the candidates of its own concept."""
        if self.alike is np.equal and self.values.ndim == 1:
            n_out = pd.Series(codes).groupby(self.values).transform("size").to_numpy()
            own_out = pd.Series(codes).groupby([codes, self.values]).transform("size").to_numpy()
        else:
            n_out, own_out = np.empty((2, len(self)), dtype=np.intp)
            for part, mask in self.masks(np.arange(len(self))):
                n_out[part] = np.count_nonzero(mask, axis=1)
                mask &= codes[part, np.newaxis] == codes
                own_out[part] = np.count_nonzero(mask, axis=1)
        return len(self) - n_out, np.bincount(codes)[codes] - own_out

    def check_candidates(self, n_left, needed):
        """Raise an error if a query has fewer candidates than needed."""
        if needed >= len(self):
            raise ValueError(
                f"k={needed} neighbors of a query need at least {needed + 1} rows, but X has "
                f"{len(self)}; choose a smaller k or pass more rows."
            )
        if (fewest := n_left.min()) < needed:
            way_out = "choose a smaller k" if fewest else "pass rows of more groups"
            group = self.labels[[n_left.argmin()]].tolist()[0]
            raise ValueError(
                f"A query of the group {group!r} has {fewest} rows in other groups, but needs "
                f"{needed}; {way_out}."
            )


def read_exclusion(n_rows, groups=None, exclude=None):
    """Build the exclusion of `n_rows` rows from `groups` and `exclude`."""
    if groups is None:
        if exclude is not None:
            raise ValueError(
                f"exclude={exclude!r} compares the groups of rows, but groups is None; pass them, "
                "such as frame numbers."
            )
        return Exclusion(np.arange(n_rows), np.equal, np.arange(n_rows))
    if exclude is None:
        shape = getattr(groups, "shape", ())
        if len(shape) == 2 and shape[1] > 1:
            raise ValueError(
                f"groups has shape {shape}, but only exclude compares several columns; pass one "
                "column, or exclude."
            )
        names, values = encode_concepts(groups, "groups")
        exclusion = Exclusion(values, np.equal, names[values])
    elif callable(exclude):
        values = _check_labels(np.asarray(groups))
        exclusion = Exclusion(values, exclude, values)
    else:
        exclusion = Exclusion(_read_frames(groups), partial(_within, exclude), np.asarray(groups))
    check_consistent_length(np.empty(n_rows), exclusion.values)
    return exclusion


def _check_labels(values):
    if (missing := np.flatnonzero(pd.isna(values).reshape(len(values), -1).any(axis=1))).size:
        raise ValueError(
            f"groups has no label in row {missing[0]} ({missing.size} in all); drop these rows."
        )
    return values


def _read_frames(groups):
    """Return the number of each row's sequence, or 0 without sequences, and its frame number."""
    columns = _check_labels(np.asarray(groups))
    columns = columns.reshape(len(columns), -1)
    if columns.dtype.kind in "mM":  # numbers of dates have an unknown unit
        columns = columns.astype(str)
    try:
        frames = columns[:, -1].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"A window needs frame numbers, but groups has {columns[0].tolist()[-1]!r}; pass "
            "numbers, or a callable as exclude."
        ) from error
    if columns.shape[1] > 2:
        raise ValueError(
            f"groups has shape {columns.shape}; with a window, pass frame numbers of shape "
            "(n_samples,), or sequences and frame numbers of shape (n_samples, 2)."
        )
    sequences = [encode_concepts(column, "groups")[1] for column in columns[:, :-1].T]
    # Columns are contiguous in memory, because rows are compared by columns.
    return np.asfortranarray(np.column_stack([*(sequences or [np.zeros(len(frames))]), frames]))


def _within(window, a, b):
    """Return whether frames belong to one sequence and lie within a window."""
    gap = a[..., 1] - b[..., 1]
    return (np.abs(gap, out=gap) <= window) & (a[..., 0] == b[..., 0])


def _check_mask(mask, shape):
    """Check the result of a callable, and return a writable array."""
    mask = np.asarray(mask)
    if mask.shape != shape or mask.dtype != bool:
        raise ValueError(
            f"exclude returned an array of shape {mask.shape} and type {mask.dtype} for {shape[0]} "
            f"queries and {shape[1]} candidates; it must return booleans of shape {shape}, as "
            "lambda a, b: abs(a - b) <= 30 does."
        )
    return mask if mask.flags.owndata and mask.flags.writeable else mask.copy()
