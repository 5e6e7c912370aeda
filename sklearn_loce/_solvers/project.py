"""What a vector draws on activations, and the bias with which that comes closest to a mask."""

import numpy as np
import torch

from .bilinear import bilinear_matrix


def resampling_matrices(activations, mask_size):
    """Give the matrices that resample the two axes of a grid (..., height, width) to a mask's."""
    like = {"dtype": activations.dtype, "device": activations.device}
    sizes = zip(activations.shape[-2:], mask_size, strict=True)
    return [bilinear_matrix(*pair, **like) for pair in sizes]


def project(activations, vectors, mask_size, bias=None):
    """Give sigmoid(upsample(sum_c v_c A_c) + b) of each row.

    Parameters
    ----------
    activations : Tensor of shape (n_rows, n_channels, height, width)
    vectors : Tensor of shape (n_rows, n_channels)
    mask_size : tuple of int
    bias : Tensor of shape (n_rows,), default=None

    Returns
    -------
    Tensor of shape (n_rows, H, W)
    """
    rows, columns = resampling_matrices(activations, mask_size)
    maps = torch.bmm(vectors.unsqueeze(1), activations.flatten(2))
    logits = rows @ maps.view(-1, *activations.shape[2:]) @ columns.T
    if bias is not None:
        logits += bias[:, None, None]
    return logits.sigmoid_()


def compute_logits(grid, vector, mask_size):
    """Give upsample(sum_c v_c A_c) of one row.

    Parameters
    ----------
    grid : Tensor of shape (n_channels, height, width)
    vector : ndarray of shape (n_channels,)
    mask_size : tuple of int

    Returns
    -------
    Tensor of shape (H, W), float64 on the CPU
    """
    grid = grid.detach().double().cpu()
    rows, columns = resampling_matrices(grid, mask_size)
    weights = torch.from_numpy(np.asarray(vector, dtype=np.float64))
    return rows @ torch.tensordot(weights, grid, dims=1) @ columns.T


def redrawing_bias(logits, target):
    """Give the bias with which a map's positive part comes closest to a mask.

    Of all thresholds, it is that of the largest Jaccard index of the pixels above it with the mask,
    a soft mask's counted in part; halfway to the next pixel. A logistic regression's own boundary
    is where errors on both sides weigh the same, which spills over the edge of what is small.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_columns)
    target : ndarray of shape (n_rows, n_columns)

    Returns
    -------
    float
        For an empty mask, one with which nothing is positive.
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
