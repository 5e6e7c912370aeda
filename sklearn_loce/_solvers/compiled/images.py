"""Distribution of rows to threads.

One thread solves all rows that share activations, from start to end. The operations of a row and
their order do not depend on the rows beside it. So a vector cannot depend on the batch, the order
or the number of threads.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba.core import config

# Maximum number of rows solved together. With more rows, their maps would displace the activations
# from the second-level cache.
_MOST_ROWS = 16


def solve_images(solve, activations, images, n_channels, n_threads):
    """Call ``solve`` in threads, for each grid of activations and the rows that share it.

    ``images`` lists the rows that share activations. ``n_threads=None`` uses as many threads as
    torch.
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
        # An overflow needs no warning: the caller refuses vectors that are not finite.
        with np.errstate(invalid="ignore"):
            solve(activations[rows[0]], rows)

    if min(n_threads, len(parts)) == 1:
        for rows in parts:
            solve_part(rows)
        return
    # Compiled code releases the GIL.
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(solve_part, parts))
