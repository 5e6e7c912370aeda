"""Compiling with numba, and a product that SciPy has in more passes."""

import numpy as np
from numba import njit


def jit(function):
    """Compile a function that lets other Python threads run meanwhile."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        # No folder that numba could write the compiled code to: compile in every process.
        return njit(**options)(function)


@jit
def write_transposed_product(indptr, indices, data, dense, out):
    """Write (matrix @ dense).T, for a sparse matrix (n, m) in CSR form and an array (m, k).

    SciPy's product makes copies of a mask as float64 and of the result, which take longer than the
    sums; and applied twice, a product that is transposed resamples both axes line by line.
    """
    line = np.empty(dense.shape[1])
    for i in range(len(indptr) - 1):
        line[:] = 0
        for k in range(indptr[i], indptr[i + 1]):
            source, weight = dense[indices[k]], data[k]
            for j in range(len(line)):
                line[j] += weight * source[j]
        for j in range(len(line)):
            out[j, i] = line[j]
