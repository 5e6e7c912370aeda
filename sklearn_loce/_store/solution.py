# until merged: from .._solvers.solution
"""The class of the solvers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Solution:
    """The vector of one row, and what the solver reports of it (None without a bias)."""

    vectors: np.ndarray
    intercept: float | None = None
    n_iter: float | None = None
    gradient_norm: float | None = None

    def __array__(self, dtype=None, copy=None):  # until _embedding is rebuilt
        return np.asarray(self.vectors, dtype=dtype)
