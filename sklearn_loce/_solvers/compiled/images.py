"""Which rows are solved together, and in which thread.

Rows that share activations are solved by one thread from start to end. Every row sees the same
operations in the same order whoever shares its activations, so that a vector can't depend on the
batch, the order or the number of threads.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba.core import config

# Rows that are solved together: beyond, their maps crowd the activations out of the second-level
# cache.
_MOST_ROWS = 16


def solve_images(solve, activations, images, n_channels, n_threads):
    """Call ``solve`` with the activations that rows share, and these rows, on some threads.

    ``images`` lists the rows that share activations; ``n_threads=None`` means as many as torch has.
    """
    if config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, and the solver for float32 on the CPU only runs compiled. "
            "Unset it, or pass activations of float64."
        )
    if any(len(grid) != n_channels for grid in activations):
        raise ValueError(f"Every sample must have the {n_channels} channels of the start.")
    n_threads = n_threads or torch.get_num_threads()
    most = min(_MOST_ROWS, -(-len(activations) // n_threads))
    parts = [rows[i : i + most] for rows in images for i in range(0, len(rows), most)]

    def solve_part(rows):
        # Sums that overflow need no warning: the caller refuses vectors that are not finite.
        with np.errstate(invalid="ignore"):
            solve(activations[rows[0]], rows)

    if min(n_threads, len(parts)) == 1:
        for rows in parts:
            solve_part(rows)
        return
    # Compiled code lets other threads run.
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(solve_part, parts))
