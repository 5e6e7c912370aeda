"""Rows that are ranked for queries, and queries from another table."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ._inputs import check_inputs


@dataclass
class Rows:
    """Rows that are ranked, optionally followed by queries from another table."""

    embeddings: np.ndarray
    samples: pd.DataFrame
    names: np.ndarray | None
    kept: np.ndarray
    groups: object

    def append(self, queries):
        """Return these rows, followed by those of a table of queries."""
        tables = [part.samples.astype(object) for part in (self, queries)]
        names = None
        if self.names is not None or queries.names is not None:
            names = _stack(*(part.known_names() for part in (self, queries)))
        return Rows(
            np.concatenate([self.embeddings, queries.embeddings]),
            pd.concat(tables).infer_objects(),
            names,
            np.concatenate([self.kept, len(self.samples) + queries.kept]),
            None if self.groups is None else _stack(self.groups, queries.groups),
        )

    def known_names(self):
        """Return the concept of each row, or None if it is unknown."""
        return np.full(len(self.samples), None) if self.names is None else self.names

    def compare(self, queries, matches):
        """Return which matches have the concept of their query, or None if concepts are unknown."""
        if self.names is None or any(name is None for name in self.names[[0, -1]]):
            return None
        return self.names[matches] == self.names[queries][:, None]

    def name(self, rows):
        """Return the known concepts of rows by position, or None if there are none."""
        if self.names is None:
            return None
        return {int(i): self.names[i] for i in np.unique(rows) if self.names[i] is not None}


def _stack(first, second):
    """Concatenate arrays without converting numbers to strings."""
    first, second = np.asarray(first), np.asarray(second)
    if first.dtype.kind != second.dtype.kind:
        first, second = first.astype(object), second.astype(object)
    return np.concatenate([first, second])


def is_table(queries):
    """Return whether queries are a table and not positions."""
    return hasattr(queries, "columns")


def read_queries(queries, embeddings, groups, rows):
    """Check a table of queries with its embeddings and groups."""
    if embeddings is None:
        raise ValueError(
            "A table of queries needs embeddings; pass query_embeddings, or use "
            "RetrievalDisplay.from_estimator, which computes them."
        )
    if (groups is None) != (rows.groups is None):
        raise ValueError(
            "A table of queries needs groups and query_groups, or none of them: the groups of the "
            "ranked rows and those of the queries."
        )
    found = Rows(*check_inputs(embeddings, queries, None, groups=groups))
    if found.embeddings.shape[1] != rows.embeddings.shape[1]:
        raise ValueError(
            f"query_embeddings has {found.embeddings.shape[1]} features, but embeddings has "
            f"{rows.embeddings.shape[1]}; pass vectors of the same layer."
        )
    return found
