"""Folds of an image's cells, for a LoCE that is drawn where it was not fitted."""

import numpy as np

from .bilinear import bilinear_taps

# The side of a block as a share of the grid's shorter side, so that layers are asked the same.
# Neighboring cells are alike: with smaller blocks, random weights find the other folds, too.
_SHARE = 1 / 6
_LEAST = 2  # cells, since a pixel reads two along each side


def block_folds(target, grid_size, n_folds):
    """Give the fold of each cell of a grid, int.

    Folds are made of square blocks of cells, whose numbers run along rows and columns: with two
    folds, a checkerboard. It is shifted by as many cells as let the folds hold equal parts of the
    concept, as nearly as cells can: else what is smaller than a block would lie in one fold.

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


def drawn_pixels(folds, size, fold):
    """Say which pixels (n_rows, n_columns) have their centers in cells of a fold."""
    rows, columns = _centers(size, folds.shape)
    return (folds == fold)[rows[:, None], columns]


def fitted_pixels(folds, size, fold):
    """Say which pixels (n_rows, n_columns) read no cell of a fold, where a map is upsampled."""
    others = folds != fold
    for axis, n in enumerate(size):
        upper, lower, share = bilinear_taps(folds.shape[axis], n)
        read = np.where(share > 0, lower, upper)
        others = others.take(upper, axis) & others.take(read, axis)
    return others


def _centers(size, grid_size):
    """Give the row and the column of the cell in which the center of each pixel lies."""
    pairs = zip(size, grid_size, strict=True)
    return [(2 * np.arange(n) + 1) * n_cells // (2 * n) for n, n_cells in pairs]


def _most_even_shift(mask, cells, pattern, n_folds):
    """Give the shift (rows, columns) with which the largest part of a mask in a fold is least."""
    period = len(pattern)
    rows, columns = (np.arange(period)[:, None] == c % period for c in cells)
    counts = rows.astype(float) @ mask @ columns.T  # of pixels, by place in the pattern
    # All shifts at once, as a circular correlation; rounded, since these are whole numbers.
    spectrum = np.conj(np.fft.fft2(counts))
    folds = np.fft.fft2(np.stack([pattern == f for f in range(n_folds)]))
    parts = np.rint(np.fft.ifft2(spectrum * folds).real)
    return np.unravel_index(parts.max(0).argmin(), pattern.shape)
