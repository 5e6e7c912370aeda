"""The result of a solver."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Solution:
    """The vectors of some rows, and the solver's facts about each row.

    Parameters
    ----------
    vectors : ndarray of shape (n_rows, n_channels), float32 or float64
    intercept : ndarray of shape (n_rows,), default=None
        The bias at the optimum. This and the next two are ``None`` for objectives without a bias.
    n_iter : ndarray of shape (n_rows,), default=None
        Number of iterations.
    gradient_norm : ndarray of shape (n_rows,), default=None
        The relative norm that ``tol`` of the objective bounds.
    """

    vectors: np.ndarray
    intercept: np.ndarray | None = None
    n_iter: np.ndarray | None = None
    gradient_norm: np.ndarray | None = None

    @classmethod
    def unknown(cls, n_rows, n_channels, *, has_facts):
        """Return a Solution of NaN that ``put`` fills row by row.

        Parameters
        ----------
        n_rows, n_channels : int
        has_facts : bool
            Whether the objective has an intercept, iterations and gradient norms.

        Returns
        -------
        Solution
        """
        facts = [np.full(n_rows, np.nan) for _ in range(3 * has_facts)]
        return cls(np.full((n_rows, n_channels), np.nan, dtype=np.float32), *facts)

    def put(self, i, solution):
        """Enter the Solution of one row."""
        for mine, its in zip(vars(self).values(), vars(solution).values(), strict=True):
            if mine is not None and its is not None:
                mine[i] = its

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, rows):
        """Return the Solution of some rows; for a single row, the fields have no axis of rows."""
        values = vars(self).values()
        return Solution(*(None if field is None else field[rows] for field in values))

    @staticmethod
    def concatenate(solutions):
        """Join Solutions of one objective."""
        columns = zip(*(vars(solution).values() for solution in solutions), strict=True)
        return Solution(*(None if some[0] is None else np.concatenate(some) for some in columns))
