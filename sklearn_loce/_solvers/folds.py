"""Folds of an image's pixels, for a LoCE that is drawn where it was not fitted."""

import numpy as np

# The side of a block as a share of the image's shorter side, so that layers are asked the same.
# Neighboring pixels are alike: with smaller blocks, random weights find the other folds, too.
_SHARE = 1 / 6


def block_folds(target, grid_size, n_folds, size=None):
    """Give the fold of each pixel, int.

    Folds are made of square blocks of whole cells, one cell at least, whose numbers run along rows
    and columns: with two folds, a checkerboard. It is shifted by as many cells as let the folds
    hold equal parts of the concept, as nearly as cells can: else what is smaller than a block would
    lie in one fold.

    Parameters
    ----------
    target : ndarray of shape (H, W)
    grid_size : tuple of int
        (n_rows, n_columns) of the layer's cells.
    n_folds : int
    size : tuple of int, default=None
        (n_rows, n_columns) of the pixels; ``None`` means those of the target.
    """
    block = max(1, round(min(grid_size) * _SHARE))
    period = block * n_folds
    pattern = np.add.outer(np.arange(period) // block, np.arange(period) // block) % n_folds
    shift = _most_even_shift(target > 0, _cells(target.shape, grid_size), pattern, n_folds)
    cells = _cells(size or target.shape, grid_size)
    rows, columns = ((c + s) % period for c, s in zip(cells, shift, strict=True))
    return pattern[rows[:, None], columns]


def _cells(size, grid_size):
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
