"""Rows that queries are ranked against, and queries of a table of their own."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ._inputs import check_inputs


@dataclass
class Rows:
    """Rows that are ranked, and queries of a table of their own behind them."""

    embeddings: np.ndarray
    samples: pd.DataFrame
    names: np.ndarray | None
    kept: np.ndarray
    groups: object

    def append(self, queries):
        """Give these rows and, behind them, those of a table of queries."""
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
        """Give the concept of each row, None where it is not known."""
        return np.full(len(self.samples), None) if self.names is None else self.names

    def compare(self, queries, matches):
        """Tell which matches show their query's concept; None where concepts aren't known."""
        if self.names is None or any(name is None for name in self.names[[0, -1]]):
            return None
        return self.names[matches] == self.names[queries][:, None]

    def name(self, rows):
        """Give the known concepts of rows by position, None if there are none."""
        if self.names is None:
            return None
        return {int(i): self.names[i] for i in np.unique(rows) if self.names[i] is not None}


def _stack(first, second):
    """Put arrays behind each other, without making texts of numbers."""
    first, second = np.asarray(first), np.asarray(second)
    if first.dtype.kind != second.dtype.kind:
        first, second = first.astype(object), second.astype(object)
    return np.concatenate([first, second])


def is_table(queries):
    """Tell whether queries are a table of their own, not positions."""
    return hasattr(queries, "columns")


def read_queries(queries, embeddings, groups, rows):
    """Check a table of queries, and what belongs to it."""
    if embeddings is None:
        raise ValueError(
            "queries is a table, whose embeddings are needed; pass query_embeddings, or use "
            "RetrievalDisplay.from_estimator, which embeds it."
        )
    if (groups is None) != (rows.groups is None):
        raise ValueError(
            "A table of queries needs groups and query_groups, or none of them: the groups of the "
            "rows that are ranked, and those of the queries."
        )
    found = Rows(*check_inputs(embeddings, queries, None, groups=groups))
    if found.embeddings.shape[1] != rows.embeddings.shape[1]:
        raise ValueError(
            f"query_embeddings has {found.embeddings.shape[1]} features, and embeddings has "
            f"{rows.embeddings.shape[1]}; pass vectors of the same layer."
        )
    return found
