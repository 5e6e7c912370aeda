"""The exact AdamW solver as batched torch operations, for any device and dtype."""

import numpy as np
import torch

from ._bilinear import bilinear_matrix

# Bounds the maps at mask size that are held at once; beyond it, a larger batch is no faster.
_CHUNK = 256


class _Grid:
    """A chunk of activations, and the linear maps between vectors and maps at mask size."""

    def __init__(self, activations, mask_size):
        self.channels = activations.flatten(2)
        self.height, self.width = activations.shape[2:]
        like = {"dtype": activations.dtype, "device": activations.device}
        self.rows = bilinear_matrix(self.height, mask_size[0], **like)
        self.columns = bilinear_matrix(self.width, mask_size[1], **like)

    def upsampled(self, weights):
        """Give sum_c v_c A_c, computed at the layer's resolution, at mask size."""
        grid = torch.bmm(weights.unsqueeze(1), self.channels)
        return self.rows @ grid.view(-1, self.height, self.width) @ self.columns.T

    def gradient(self, slope):
        """Give the adjoint: slopes (n, H, W) to gradients (n, n_channels)."""
        grid = (self.rows.T @ slope @ self.columns).flatten(1)
        return torch.bmm(self.channels, grid.unsqueeze(2)).squeeze(2)


def project(activations, weights, mask_size, bias=None):
    """Give the projections sigmoid(upsample(sum_c v_c A_c) + b), (n, H, W)."""
    logits = _Grid(activations, mask_size).upsampled(weights)
    if bias is not None:
        logits += bias[:, None, None]
    return logits.sigmoid_()


def _pixel_slopes(objective, projections, held):
    if objective.slope == "constant":
        return held
    difference = projections - held
    if objective.slope == "sign":
        difference = difference.sign()
    return difference * (objective.slope_scale / held[0].numel())


def _penalty_slope(objective, weights):
    norms = weights.norm(dim=1, keepdim=True)
    # The norm's subgradient at the origin is 0, as in torch.
    direction = weights / torch.where(norms > 0, norms, 1)
    return (weights.sign() + direction) * (objective.penalty / weights.shape[1])


def _gradient(grid, weights, projections, held, objective):
    slopes = _pixel_slopes(objective, projections, held)
    gradient = grid.gradient(slopes * (projections - projections**2))
    if objective.penalty:
        gradient += _penalty_slope(objective, weights)
    return gradient


def project_and_differentiate(activations, weights, held, objective):
    """Give the projections (n, H, W), and each row's gradient of its own loss (n, n_channels).

    Parameters
    ----------
    activations : Tensor of shape (n_rows, n_channels, height, width)
    weights : Tensor of shape (n_rows, n_channels)
    held : Tensor of shape (n_rows, H, W)
        What the objective's slope needs to know of every mask pixel.
    objective : Objective
    """
    grid = _Grid(activations, held.shape[1:])
    projections = grid.upsampled(weights).sigmoid_()
    return projections, _gradient(grid, weights, projections, held, objective)


def _solve_chunk(activations, held, start, settings):
    grid = _Grid(activations, held.shape[1:])
    weights = start.expand(len(activations), -1).clone()
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    beta1, beta2 = settings.betas
    for k in range(1, settings.max_iter + 1):
        projections = grid.upsampled(weights).sigmoid_()
        gradient = _gradient(grid, weights, projections, held, settings.objective)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (square.sqrt() / (1 - beta2**k) ** 0.5).add_(settings.eps)
        weights.mul_(1 - settings.learning_rate * settings.weight_decay)
        weights.addcdiv_(mean, scale, value=-settings.learning_rate / (1 - beta1**k))
    return weights


@torch.no_grad()
def solve_with_torch(activations, targets, start, settings):
    """Optimise the samples, those of one size together; see ``solve_rows``."""
    like = {"dtype": activations[0].dtype, "device": activations[0].device}
    start = torch.as_tensor(start, **like)
    embeddings = torch.empty(len(activations), len(start), dtype=like["dtype"])
    shapes = np.array([tuple(sample.shape) for sample in activations])
    for shape in np.unique(shapes, axis=0):
        rows = np.flatnonzero((shapes == shape).all(1))
        for chunk in np.split(rows, range(_CHUNK, len(rows), _CHUNK)):
            stack = torch.stack([activations[i] for i in chunk])
            held = settings.objective.hold(targets[chunk].astype(np.float64))
            held = torch.as_tensor(held, **like)
            embeddings[chunk] = _solve_chunk(stack, held, start, settings).cpu()
    return embeddings
