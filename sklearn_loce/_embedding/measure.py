"""What a vector draws on an image, and how well that fits the mask."""

import numpy as np
import torch

from .._samples.masks import intersection_over_union
from .._solvers.project import compute_logits, project, redrawing_bias


def draw(activations, layer, vector, bias, mask_size):
    """Project a vector onto one image.

    Parameters
    ----------
    activations : Activations
    layer : str
    vector : ndarray of shape (n_channels,)
    bias : float or None
    mask_size : tuple of int

    Returns
    -------
    ndarray of shape (image_height, image_width), float32
        Probabilities.
    """
    grid = activations.grids[layer]
    weights = torch.from_numpy(vector[None]).to(grid)
    bias = None if bias is None else torch.tensor([bias]).to(grid)
    projection = project(grid[None], weights, tuple(mask_size), bias)
    return activations.view.to_original(projection)[0].cpu().numpy()


def choose_bias(loce, grid, solution, target):
    """Give the bias to draw with: none, the one among the features, or that which redraws best."""
    if not loce._objective.has_bias or np.isnan(solution.vectors).any():
        return None
    if loce.append_bias:
        return float(solution.intercept)
    logits = compute_logits(grid, solution.vectors, target.shape).numpy()
    return np.float32(redrawing_bias(logits, target))


def measure_sample(loce, sample, solutions):
    """Give a line per layer: IoU, loss, foreground cells, iterations and norm of the gradient."""
    (target,) = loce._objective.targets([sample.view_mask])
    return [
        _measure_layer(loce, sample, layer, solutions[k], target)
        for k, layer in enumerate(loce.layers_)
    ]


def _measure_layer(loce, sample, layer, solution, target):
    """Measure one vector; IoU and loss are NaN for an empty mask and for a vector of NaN."""
    grid, objective = sample.activations.grids[layer], loce._objective
    facts = [sample.view_mask.mean() * grid[0].numel()]
    facts += [solution.n_iter, solution.gradient_norm] if objective.has_bias else []
    if not sample.mask.any() or np.isnan(solution.vectors).any():
        return [np.nan, np.nan, *facts]
    bias = choose_bias(loce, grid, solution, target)
    drawn = draw(sample.activations, layer, solution.vectors, bias, target.shape) > 0.5
    intercept = solution.intercept
    intercept = None if intercept is None or np.isnan(intercept) else float(intercept)
    loss = objective.loss(grid, solution.vectors, target, intercept)
    return [intersection_over_union(drawn, sample.mask), loss, *facts]


def draw_sample(loce, sample, solutions, *, layer, threshold):
    """Give the projection of a layer's vector, bool, or float32 without a threshold."""
    k, objective = loce.layers_.index(layer), loce._objective
    bias = None
    if objective.has_bias:
        (target,) = objective.targets([sample.view_mask])
        bias = choose_bias(loce, sample.activations.grids[layer], solutions[k], target)
    drawn = draw(sample.activations, layer, solutions[k].vectors, bias, objective.mask_size)
    return drawn if threshold is None else drawn > threshold
