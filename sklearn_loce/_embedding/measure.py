"""Projections of vectors onto images, and their IoU with the masks."""

from dataclasses import dataclass

import numpy as np
import torch

from .._samples.masks import intersection_over_union
from .._solvers.folds import block_folds, fitted_pixels, heldout_pixels
from .._solvers.project import best_bias, compute_logits, project

# If more than this share of a mask stays in place when it is turned upside down, it is no control.
_MOST_SHARED = 0.5


@dataclass(frozen=True)
class Projection:
    """Projects the vectors of one layer onto their images.

    Parameters
    ----------
    layer : str
    threshold : float or None
        ``None`` keeps the probabilities.
    bias : {"best", "own", "none"}
    """

    layer: str
    threshold: float | None
    bias: str

    def __call__(self, loce, sample, solutions):
        """Return the projection at the size of the image, bool, or float32 without a threshold."""
        target = loce._objective.projection_target(sample.target)
        k = loce.layers_.index(self.layer)
        projection = _project_best(self.bias, loce, sample, self.layer, solutions[k], target)
        return projection if self.threshold is None else projection > self.threshold


@dataclass(frozen=True)
class Evaluation:
    """Measures how well the projections of each row match its mask.

    Parameters
    ----------
    bias : {"best", "own", "none"}
    n_folds : int, default=0
        Number of folds of the held-out IoU. With 0, it is not measured.
    flips : bool, default=False
        Whether to measure the gain over the mask turned upside down.
    """

    bias: str
    n_folds: int = 0
    flips: bool = False

    def controls(self, loce, sample, layer):
        """Return the additional problems, as pairs of a target and the weights of its pixels."""
        objective, problems = loce._objective, []
        size = sample.activations.grids[layer].shape[1:]
        if self.n_folds:
            target = objective.control_target(sample.target, size)
            folds = block_folds(objective.projection_target(sample.target), size, self.n_folds)
            weights = [fitted_pixels(folds, target.shape, f) for f in range(self.n_folds)]
            problems += [(target, pixels.astype(np.float32)) for pixels in weights]
        if self.flips:
            target = objective.control_target(_flip_target(loce, sample), size)
            problems.append((target, np.ones(target.shape, np.float32)))
        return problems

    def columns(self, objective):
        """Return the names of the measures."""
        names = ["iou"]
        names += ["heldout_iou"] if self.n_folds else []
        names += ["gain"] if self.flips else []
        names += ["loss"] if hasattr(objective, "loss") else []
        names.append("foreground_cells")
        return names + (["n_iter", "gradient_norm"] if objective.has_bias else [])

    def __call__(self, loce, sample, solutions):
        """Return a line of measures per layer; NaN if a measure is undefined."""
        target = loce._objective.projection_target(sample.target)
        return [
            self._measure_layer(loce, sample, k, solutions[k], target)
            for k in range(len(loce.layers_))
        ]

    def _measure_layer(self, loce, sample, k, solution, target):
        layer, objective = loce.layers_[k], loce._objective
        grid = sample.activations.grids[layer]
        columns = self.columns(objective)
        facts = dict.fromkeys(columns, np.nan)
        facts["foreground_cells"] = sample.view_mask.mean() * grid[0].numel()
        if objective.has_bias:
            facts |= {"n_iter": solution.n_iter, "gradient_norm": solution.gradient_norm}
        if sample.mask.any() and not np.isnan(solution.vectors).any():
            projection = _project_best(self.bias, loce, sample, layer, solution, target) > 0.5
            facts["iou"] = intersection_over_union(projection, sample.mask)
            if "loss" in facts:
                has_bias = solution.intercept is not None and not np.isnan(solution.intercept)
                intercept = float(solution.intercept) if has_bias else None
                facts["loss"] = objective.loss(grid, solution.vectors, target, intercept)
            controls = sample.controls.get(k, ())
            if self.n_folds:
                own = controls[: self.n_folds]
                facts["heldout_iou"] = self._measure_heldout(loce, sample, layer, own, target)
            if self.flips:
                flipped = self._measure_flipped(loce, sample, layer, controls[-1])
                facts["gain"] = facts["iou"] - flipped
        return [facts[name] for name in columns]

    def _measure_heldout(self, loce, sample, layer, solutions, target):
        """Return the IoU of the folds' projections, each with a vector fitted outside the fold."""
        grid, size = sample.activations.grids[layer], target.shape
        folds, mosaic = block_folds(target, grid.shape[1:], self.n_folds), torch.empty(size)
        for f, solution in enumerate(solutions):
            if not np.isfinite(solution.vectors).all():
                return np.nan
            pixels = fitted_pixels(folds, size, f)
            bias = choose_bias(self.bias, loce, grid, solution, target, pixels)
            there = torch.from_numpy(heldout_pixels(folds, size, f))
            mosaic[there] = project_vector(grid, solution.vectors, bias, size).cpu()[there]
        projection = sample.activations.view.to_original(mosaic[None])[0].numpy() > 0.5
        return intersection_over_union(projection, sample.mask)

    def _measure_flipped(self, loce, sample, layer, solution):
        """Return the IoU of a vector that was fitted to the mask turned upside down."""
        flipped = sample.mask[::-1]
        shared = np.count_nonzero(flipped & sample.mask) / np.count_nonzero(sample.mask)
        if shared > _MOST_SHARED or not np.isfinite(solution.vectors).all():
            return np.nan
        target = loce._objective.projection_target(_flip_target(loce, sample))
        projection = _project_best(self.bias, loce, sample, layer, solution, target) > 0.5
        return intersection_over_union(projection, flipped)


def _flip_target(loce, sample):
    """Return the target of the mask turned upside down."""
    return loce._objective.targets([sample.activations.view.see(sample.mask[::-1])])[0]


def project_onto_image(activations, layer, vector, bias, mask_size):
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
    projection = project_vector(activations.grids[layer], vector, bias, mask_size)
    return activations.view.to_original(projection[None])[0].cpu().numpy()


def _project_best(rule, loce, sample, layer, solution, target):
    bias = choose_bias(rule, loce, sample.activations.grids[layer], solution, target)
    return project_onto_image(sample.activations, layer, solution.vectors, bias, target.shape)


def project_vector(grid, vector, bias, mask_size):
    """Return probabilities (H, W), a tensor."""
    weights = torch.from_numpy(vector[None]).to(grid)
    bias = None if bias is None else torch.tensor([bias]).to(grid)
    return project(grid[None], weights, tuple(mask_size), bias)[0]


def choose_bias(rule, loce, grid, solution, target, pixels=None):
    """Return the bias of a projection.

    Parameters
    ----------
    rule : {"best", "own", "none"}
        The bias that matches the target best, the bias at the objective's optimum, or none.
    loce : estimator
        Fitted.
    grid : Tensor of shape (n_channels, height, width)
    solution : Solution
        Solution of one row.
    target : ndarray of shape (H, W)
    pixels : ndarray of shape (H, W), bool, default=None
        Pixels that choose the best bias; ``None`` means all.

    Returns
    -------
    float or None
    """
    if rule == "none" or np.isnan(solution.vectors).any():
        return None
    if rule == "own" and np.isfinite(solution.intercept):
        return float(solution.intercept)
    if rule == "own":
        return loce._objective.fit_intercept(grid, solution.vectors, target)
    logits = compute_logits(grid, solution.vectors, target.shape).numpy()
    if pixels is not None:
        logits, target = logits[pixels], target[pixels]
    return np.float32(best_bias(logits, target))
