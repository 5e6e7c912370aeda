"""L-BFGS on the CPU: what its compiled steps read, and how they count."""

import numpy as np

from ..lbfgs import balance
from .lbfgs_steps import N_NUMBERS, N_RECORDS, minimise_walk, root_mean_square, scale_grid
from .ridge_steps import AREA, BACKGROUND, CONCEPT, KINDS, PADDING, Problem, Room
from .simd import LANES
from .walks import geometry_of, over_walks, padded, shrunk


def _problem(grid, mask_size, objective):
    """Lay out how the compiled steps count."""
    geometry = geometry_of(grid.shape[1:], mask_size)
    n_lines = padded(grid.shape[1], 4)  # lines are done four at a time
    return Problem(
        kind=KINDS.index(objective.name),
        tol=np.float32(objective.tol),
        max_iter=objective.max_iter,
        n_channels=padded(len(grid) + 1),
        n_pixels=padded(grid[0].size),
        stride=padded(n_lines * grid.shape[2] + LANES),
        n_lines=grid.shape[1],
        n_columns=grid.shape[2],
        n_mask_lines=mask_size[0],
        lines=geometry[0],
        widening=geometry[1],
        narrowing=geometry[2],
    )


def _sizes(problem, n_rows):
    """Give the room that a walk needs."""
    width = problem.widening.n_columns
    wide = (padded(problem.n_lines, 4) + 1) * width
    return {
        "channels": problem.n_channels * problem.n_pixels,
        "ridge": problem.n_channels,
        "targets": n_rows * problem.n_mask_lines * width,
        "wide": wide,
        "wide_slope": wide,
        "slopes": n_rows * problem.stride,
        "records": n_rows * N_RECORDS * (problem.n_channels + problem.stride),
        "numbers": n_rows * N_NUMBERS,
    }


def _lay_out(room, problem, targets, n_channels, objective):
    """Fill in the targets, the ridge, and the constants of the objective."""
    for array in room[1:]:
        array[:] = 0
    room.ridge[:n_channels] = objective.alpha
    n_rows, height, width = targets.shape
    padded = room.targets.reshape(n_rows, height, -1)
    padded[:, :, :width] = targets
    numbers = room.numbers.reshape(n_rows, N_NUMBERS)
    numbers[:, [CONCEPT, BACKGROUND]] = balance(targets, objective.class_weight).T
    numbers[:, AREA] = targets.sum((1, 2), dtype=np.float64)
    # Where lines are padded, logits are 0 and projections a half.
    numbers[:, PADDING] = height * (problem.widening.n_columns - width) / 2


def solve(activations, images, targets, start, objective, n_threads=None):
    """Optimize the rows; those that share activations together, in one thread.

    Parameters
    ----------
    activations : sequence of ndarray of shape (n_channels, height, width), float32
        One per row; their sizes may differ.
    images : list of ndarray of int
        The rows that share activations.
    targets : ndarray of shape (n_rows, H, W), float32
    start : ndarray of shape (n_channels,)
    objective : LBFGSObjective
    n_threads : int, default=None
        ``None`` means as many as torch has.

    Returns
    -------
    vectors : ndarray of shape (n_rows, n_channels), float32
    intercept, n_iter, gradient_norm : ndarray of shape (n_rows,), float32
    """
    vectors = np.empty((len(activations), len(start)), dtype=np.float32)
    facts = np.empty((3, len(activations)), dtype=np.float32)

    def solve_image(grid, rows, memory):
        grid = np.ascontiguousarray(grid)
        _solve_walk(grid, targets, rows, start, objective, memory, vectors, facts)

    over_walks(solve_image, activations, images, len(start), n_threads)
    return vectors, *facts


def _solve_walk(grid, targets, rows, start, objective, memory, vectors, facts):
    root = root_mean_square(grid)
    grid = np.ascontiguousarray(shrunk(grid, targets.shape[1:]))
    problem = _problem(grid, targets.shape[1:], objective)
    room = Room(*memory.take(_sizes(problem, len(rows))))
    _lay_out(room, problem, targets[rows], len(grid), objective)
    means = scale_grid(grid, root, problem.n_pixels, room.channels)
    scaled = np.append(start * root, means @ (start * root)).astype(np.float32)
    minimise_walk(problem, room, scaled, rows, vectors, facts)
    solved = vectors[rows].astype(np.float64)
    vectors[rows] = solved / root
    # Sums of products one after the other: those of a matrix could depend on the rows beside.
    facts[0, rows] -= (solved * means).sum(1).astype(np.float32)
