"""Folds of an image's cells: a LoCE is fitted outside a fold and projected onto the fold."""

import numpy as np

from .resize import bilinear_taps

# Side of a block as a share of the grid's shorter side, so that all layers solve the same task.
# Neighboring cells are similar: with smaller blocks, even random weights predict the other folds.
_SHARE = 1 / 6
_LEAST = 2  # cells, because a pixel reads two along each side


def block_folds(target, grid_size, n_folds):
    """Return the fold of each cell of a grid, int.

    A fold consists of square blocks of cells. The fold numbers of the blocks alternate along rows
    and columns, so two folds form a checkerboard. The pattern is shifted until the folds contain
    parts of the concept that are as equal as possible. Otherwise, a concept smaller than a block
    would lie in a single fold.

    Parameters
    ----------
    target : ndarray of shape (H, W)
    grid_size : tuple of int
        (n_rows, n_columns)
    n_folds : int
    """
    block = max(_LEAST, round(min(grid_size) * _SHARE))
    places = np.arange(block * n_folds) // block
    pattern = np.add.outer(places, places) % n_folds
    cells = _centers(target.shape, grid_size)
    shift = _most_even_shift(target > 0, cells, pattern, n_folds)
    rows, columns = (
        (np.arange(n) + s) % len(pattern) for n, s in zip(grid_size, shift, strict=True)
    )
    return pattern[rows[:, None], columns]


def heldout_pixels(folds, size, fold):
    """Return which pixels (n_rows, n_columns) have their centers in cells of a fold."""
    rows, columns = _centers(size, folds.shape)
    return (folds == fold)[rows[:, None], columns]


def fitted_pixels(folds, size, fold):
    """Return which pixels (n_rows, n_columns) of an upsampled map read no cell of a fold."""
    others = folds != fold
    for axis, n in enumerate(size):
        upper, lower, share = bilinear_taps(folds.shape[axis], n)
        read = np.where(share > 0, lower, upper)
        others = others.take(upper, axis) & others.take(read, axis)
    return others


def _centers(size, grid_size):
    """Return the row and the column of the cell in which the center of each pixel lies."""
    pairs = zip(size, grid_size, strict=True)
    return [(2 * np.arange(n) + 1) * n_cells // (2 * n) for n, n_cells in pairs]


def _most_even_shift(mask, cells, pattern, n_folds):
    """Return the shift (rows, columns) that minimizes the largest part of a mask in a fold."""
    period = len(pattern)
    rows, columns = (np.arange(period)[:, None] == c % period for c in cells)
    counts = rows.astype(float) @ mask @ columns.T  # of pixels, by place in the pattern
    # A circular correlation computes all shifts at once. The results are integers, so round them.
    spectrum = np.conj(np.fft.fft2(counts))
    folds = np.fft.fft2(np.stack([pattern == f for f in range(n_folds)]))
    parts = np.rint(np.fft.ifft2(spectrum * folds).real)
    return np.unravel_index(parts.max(0).argmin(), pattern.shape)
