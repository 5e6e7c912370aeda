"""The exact AdamW solver on the CPU: what its compiled steps read, and how they count."""

import numpy as np

from ..adamw import BETAS, EPS, WEIGHT_DECAY
from .adamw_steps import KINDS, solve_walk
from .simd import LANES
from .walks import geometry_of, over_walks, padded, shrunk


def _schedules(objective):
    """One line per step, of the shape that ``_move`` unpacks."""
    k = np.arange(1, objective.max_iter + 1, dtype=np.float64)[:, None]
    (beta1, beta2), rate = BETAS, objective.learning_rate
    varying = [rate / (1 - beta1**k), 1 / np.sqrt(1 - beta2**k)]
    decay = 1 - rate * WEIGHT_DECAY
    fixed = [decay, 1 - beta1, beta2, 1 - beta2, EPS]
    return np.hstack([*varying, np.broadcast_to(fixed, (len(k), len(fixed)))]).astype(np.float32)


def _sizes(n_rows, shape, mask_size, width):
    """Give how the compiled steps count, and the room that they need."""
    n_lines = padded(shape[1], 4)  # lines are done four at a time
    n_channels, n_pixels = padded(shape[0]), padded(shape[1] * shape[2])
    stride = padded(n_lines * shape[2] + LANES)
    room = {
        "activations": n_channels * n_pixels,
        "held": n_rows * mask_size[0] * width,
        **dict.fromkeys(("weights", "mean", "square"), n_rows * n_channels),
        **dict.fromkeys(("wide", "wide_slope"), (n_lines + 1) * width),
        **dict.fromkeys(("slopes", "projections"), n_rows * stride),
    }
    return (n_rows, n_channels, n_pixels, stride), room


def solve(activations, images, targets, start, objective, n_threads=None):
    """Optimise the samples; those that share activations together, in one thread.

    Parameters
    ----------
    activations : sequence of ndarray of shape (n_channels, height, width), float32
        One per sample; their sizes may differ.
    images : list of ndarray of int
        The samples that share activations.
    targets : ndarray of shape (n_samples, n_rows, n_columns), float32
    start : ndarray of shape (n_channels,)
    objective : AdamWObjective
    n_threads : int, default=None
        ``None`` means as many as torch has.

    Returns
    -------
    ndarray of shape (n_samples, n_channels), float32
    """
    embeddings = np.empty((len(activations), len(start)), dtype=np.float32)
    mask_size, schedules = targets.shape[1:], _schedules(objective)
    kind, start = KINDS.index(objective.name), start.astype(np.float32)
    scale = np.float32((2 if objective.name == "mse" else 1) / targets[0].size)
    penalty = np.float32(objective.penalty / len(start))

    def solve_image(grid, rows, room):
        grid = np.ascontiguousarray(shrunk(grid, mask_size))
        geometry = geometry_of(grid.shape[1:], mask_size)
        sizes, needed = _sizes(len(rows), grid.shape, mask_size, geometry[1].n_columns)
        solve_walk(
            kind,
            grid,
            targets,
            rows,
            start,
            sizes,
            scale,
            penalty,
            geometry,
            schedules,
            room.take(needed),
            embeddings,
        )

    over_walks(solve_image, activations, images, len(start), n_threads)
    return embeddings
