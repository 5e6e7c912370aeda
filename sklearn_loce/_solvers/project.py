"""Projection of vectors onto activations, and the bias whose projection matches a mask best."""

import numpy as np
import torch

from .resize import bilinear_matrix


def resampling_matrices(activations, mask_size):
    """Return the matrices that resample the axes of a grid (..., height, width) to a mask size."""
    like = {"dtype": activations.dtype, "device": activations.device}
    sizes = zip(activations.shape[-2:], mask_size, strict=True)
    return [bilinear_matrix(*pair, **like) for pair in sizes]


class Grid:
    """The linear maps between vectors and maps at mask size; channels are summed at grid size."""

    def __init__(self, activations, rows, columns):
        self.channels, self.size = activations.flatten(2), activations.shape[2:]
        self.rows, self.columns = rows, columns

    def compute_logits(self, weights):
        """Compute upsample(sum_c v_c A_c): weights (n_images, n_rows, C) to maps (..., H, W)."""
        maps = torch.bmm(weights, self.channels).unflatten(2, self.size)
        return self.rows @ maps @ self.columns.T

    def pull_back(self, slopes):
        """Apply the adjoint: slopes by logits to gradients by weights."""
        maps = (self.rows.T @ slopes @ self.columns).flatten(2)
        return torch.bmm(maps, self.channels.mT)


def project(activations, vectors, mask_size, bias=None):
    """Return sigmoid(upsample(sum_c v_c A_c) + b) of each row.

    Activations (n_rows, C, h, w), vectors (n_rows, C) and bias (n_rows,) are tensors. The result is
    a tensor (n_rows, H, W).
    """
    grid = Grid(activations, *resampling_matrices(activations, mask_size))
    logits = grid.compute_logits(vectors.unsqueeze(1)).squeeze(1)
    if bias is not None:
        logits += bias[:, None, None]
    return logits.sigmoid_()


def compute_logits(grid, vector, mask_size):
    """Return upsample(sum_c v_c A_c) of one row as a tensor (H, W), float64 on the CPU.

    The grid is a tensor (C, h, w), the vector an array (C,).
    """
    grid = grid.detach().double().cpu()
    rows, columns = resampling_matrices(grid, mask_size)
    weights = torch.from_numpy(np.asarray(vector, dtype=np.float64))
    return rows @ torch.tensordot(weights, grid, dims=1) @ columns.T


def best_bias(logits, target):
    """Return the bias for which the positive part of a map matches a mask best.

    The bias corresponds to the threshold with the largest Jaccard index between the mask and the
    pixels above the threshold. Pixels of a soft mask count in part. The threshold is halfway
    between two values of the map. Logistic regression itself places its boundary where errors on
    both sides cost the same, which is too generous for small objects. For an empty mask, no pixel
    is positive. Both arguments are arrays (H, W).
    """
    order = np.argsort(logits, axis=None)[::-1]
    falling, shared = logits.ravel()[order], np.cumsum(target.ravel()[order], dtype=np.float64)
    if not shared[-1] > 0:
        return -float(falling[0]) - 1
    union = shared[-1] + np.arange(1, len(order) + 1) - shared
    below = np.append(falling[1:], falling[-1] - 1)
    # Pixels with equal values are above a threshold together.
    best = np.argmax(np.where(below < falling, shared / union, -1))
    return -(float(falling[best]) + float(below[best])) / 2
