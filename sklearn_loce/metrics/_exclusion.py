"""Which rows are left out of which rankings: those of the query's group, or near it in time."""

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
# Pairs of rows that are compared at once: temporary arrays stay small beside a chunk of distances.
_MAX_PAIRS = 2**17


@dataclass
class Exclusion:
    """Pairs of rows, of which the one is no candidate where the other is the query.

    `values` of shape (n_rows,) or (n_rows, n_columns) are compared by `alike`, which gets those of
    queries and candidates with shapes that broadcast. A row is never a candidate of its own.
    """

    values: np.ndarray
    alike: Callable
    labels: np.ndarray  # groups as they were given, for messages

    def __len__(self):
        return len(self.values)

    def take(self, rows):
        """Return the same for some of the rows."""
        return Exclusion(self.values[rows], self.alike, self.labels[rows])

    def number_groups(self):
        """Return every row the number of its group, which is that of all rows of equal values."""
        table = pd.DataFrame(self.values)
        return table.groupby(list(table)).ngroup().to_numpy()

    def masks(self, queries):
        """Yield slices of queries, and which rows each of them leaves out: (n_slice, n_rows)."""
        step = max(1, _MAX_PAIRS // len(self))
        for start in range(0, len(queries), step):
            rows = queries[start : start + step]
            mask = self.alike(self.values[rows][:, np.newaxis], self.values[np.newaxis])
            mask = _check_mask(mask, (len(rows), len(self)))
            mask[np.arange(len(rows)), rows] = True
            yield slice(start, start + len(rows)), mask

    def count(self, codes):
        """Count the candidates of every row, and those of its own concept."""
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
        """Refuse queries that have fewer candidates than are needed."""
        if needed >= len(self):
            raise ValueError(
                f"k={needed} neighbors of a query need at least {needed + 1} rows, and X has "
                f"{len(self)}; choose a smaller k or pass more rows."
            )
        if (fewest := n_left.min()) < needed:
            way_out = "choose a smaller k" if fewest else "pass rows of more groups"
            group = self.labels[[n_left.argmin()]].tolist()[0]
            raise ValueError(
                f"A query of the group {group!r} has {fewest} rows in other groups, and needs "
                f"{needed}; {way_out}."
            )


def read_exclusion(n_rows, groups=None, exclude=None):
    """Read `groups` and `exclude` of `n_rows` rows, in their order."""
    if groups is None:
        if exclude is not None:
            raise ValueError(
                f"exclude={exclude!r} compares the groups of rows, and groups is None; pass them, "
                "such as frame numbers."
            )
        return Exclusion(np.arange(n_rows), np.equal, np.arange(n_rows))
    if exclude is None:
        shape = getattr(groups, "shape", ())
        if len(shape) == 2 and shape[1] > 1:
            raise ValueError(
                f"groups has shape {shape}, and only exclude compares several columns; pass the "
                "column of groups, or exclude."
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
    """Return the number of each row's sequence, 0 where there is one, and its frame number."""
    columns = _check_labels(np.asarray(groups))
    columns = columns.reshape(len(columns), -1)
    if columns.dtype.kind in "mM":  # whose numbers are in a unit that nobody named
        columns = columns.astype(str)
    try:
        frames = columns[:, -1].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"A window needs frame numbers, and groups holds {columns[0].tolist()[-1]!r}; pass "
            "numbers, or a callable as exclude."
        ) from error
    if columns.shape[1] > 2:
        raise ValueError(
            f"groups has shape {columns.shape}; with a window, pass frame numbers of shape "
            "(n_samples,), or sequences and frame numbers of shape (n_samples, 2)."
        )
    sequences = [encode_concepts(column, "groups")[1] for column in columns[:, :-1].T]
    # Column by column in memory, as it is by columns that rows are compared.
    return np.asfortranarray(np.column_stack([*(sequences or [np.zeros(len(frames))]), frames]))


def _within(window, a, b):
    """Return whether frames are of one sequence, and no farther apart than a window."""
    gap = a[..., 1] - b[..., 1]
    return (np.abs(gap, out=gap) <= window) & (a[..., 0] == b[..., 0])


def _check_mask(mask, shape):
    """Check what a callable says about pairs, and give an array of our own."""
    mask = np.asarray(mask)
    if mask.shape != shape or mask.dtype != bool:
        raise ValueError(
            f"exclude gave an array of shape {mask.shape} and type {mask.dtype} for {shape[0]} "
            f"queries and {shape[1]} candidates; it must give booleans of shape {shape}, as "
            "lambda a, b: abs(a - b) <= 30 does."
        )
    return mask if mask.flags.owndata and mask.flags.writeable else mask.copy()
