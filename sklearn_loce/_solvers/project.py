"""What a vector draws on activations, and the bias with which that comes closest to a mask."""

import numpy as np
import torch

from .bilinear import bilinear_matrix


def resampling_matrices(activations, mask_size):
    """Give the matrices that resample the two axes of a grid (..., height, width) to a mask's."""
    like = {"dtype": activations.dtype, "device": activations.device}
    sizes = zip(activations.shape[-2:], mask_size, strict=True)
    return [bilinear_matrix(*pair, **like) for pair in sizes]


class Grid:
    """The linear maps between vectors and maps at mask size; sums are taken at the layer's own."""

    def __init__(self, activations, rows, columns):
        self.channels, self.size = activations.flatten(2), activations.shape[2:]
        self.rows, self.columns = rows, columns

    def draw(self, weights):
        """Give upsample(sum_c v_c A_c): weights (n_images, n_rows, C) to maps (..., H, W)."""
        maps = torch.bmm(weights, self.channels).unflatten(2, self.size)
        return self.rows @ maps @ self.columns.T

    def pull_back(self, slopes):
        """Give the adjoint: slopes by logits to gradients by weights."""
        maps = (self.rows.T @ slopes @ self.columns).flatten(2)
        return torch.bmm(maps, self.channels.mT)


def project(activations, vectors, mask_size, bias=None):
    """Give sigmoid(upsample(sum_c v_c A_c) + b) of each row.

    Activations (n_rows, C, h, w), vectors (n_rows, C) and bias (n_rows,) are tensors; the result is
    one of shape (n_rows, H, W).
    """
    grid = Grid(activations, *resampling_matrices(activations, mask_size))
    logits = grid.draw(vectors.unsqueeze(1)).squeeze(1)
    if bias is not None:
        logits += bias[:, None, None]
    return logits.sigmoid_()


def compute_logits(grid, vector, mask_size):
    """Give upsample(sum_c v_c A_c) of one row as a tensor (H, W), float64 on the CPU.

    The grid is a tensor (C, h, w), the vector an array (C,).
    """
    grid = grid.detach().double().cpu()
    rows, columns = resampling_matrices(grid, mask_size)
    weights = torch.from_numpy(np.asarray(vector, dtype=np.float64))
    return rows @ torch.tensordot(weights, grid, dims=1) @ columns.T


def redrawing_bias(logits, target):
    """Give the bias with which a map's positive part comes closest to a mask.

    Of all thresholds, it is that of the largest Jaccard index of the pixels above it with the mask,
    a soft mask's counted in part; halfway to the next pixel. A logistic regression's own boundary
    is where errors on both sides weigh the same, which spills over the edge of what is small. With
    the bias of an empty mask, nothing is positive. Both arguments are arrays (H, W).
    """
    order = np.argsort(logits, axis=None)[::-1]
    falling, shared = logits.ravel()[order], np.cumsum(target.ravel()[order], dtype=np.float64)
    if not shared[-1] > 0:
        return -float(falling[0]) - 1
    union = shared[-1] + np.arange(1, len(order) + 1) - shared
    below = np.append(falling[1:], falling[-1] - 1)
    # Pixels of equal value are above a threshold together.
    best = np.argmax(np.where(below < falling, shared / union, -1))
    return -(float(falling[best]) + float(below[best])) / 2
