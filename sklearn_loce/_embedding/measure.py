"""What a vector draws on an image, and how well that fits the mask."""

from dataclasses import dataclass

import numpy as np
import torch

from .._samples.masks import intersection_over_union
from .._solvers.glued import INTERCEPT, N_ITER, n_facts
from .._solvers.project import compute_logits, project, redrawing_bias
from .._solvers.resize import resize_masks


def project_row(row, grid, vector, mask_size):
    """Project a vector onto one row's activations, and bring that to the image.

    Parameters
    ----------
    row : Row
    grid : Tensor of shape (n_channels, height, width)
    vector : ndarray of shape (n_channels,) or (n_channels + 1,)
        With its bias, if it has one.
    mask_size : tuple of int

    Returns
    -------
    ndarray of shape (image_height, image_width), float32
        Probabilities.
    """
    return row.view.to_original(_project(grid, vector, mask_size))[0].cpu().numpy()


def _project(grid, vector, mask_size):
    n_channels = len(grid)
    weights = torch.from_numpy(vector[None]).to(grid)
    bias = weights[:, n_channels] if len(vector) > n_channels else None
    return project(grid[None], weights[:, :n_channels], tuple(mask_size), bias)


def _with_bias(grid, vector, target, how):
    """Give a vector with its intercept, or with the bias that redraws the mask best.

    Vectors of objectives without a bias, and those that stand for an empty mask, stay as they are.
    """
    weights = vector[: len(grid)]
    if not n_facts(how.settings) or np.isnan(weights).any():
        return weights
    if how.keeps_intercept:
        return vector[: len(grid) + 1]
    bias = redrawing_bias(compute_logits(grid, weights, target.shape[1:]).numpy(), target[0])
    return np.append(weights, np.float32(bias))


def measure_row(row, grid, vector, target, how):
    """Measure one vector on one row.

    Parameters
    ----------
    row : Row
    grid : Tensor of shape (n_channels, height, width)
    vector : ndarray of shape (n_channels + n_facts,)
    target : ndarray of shape (1, n_rows, n_columns), float32
        The mask at mask size.
    how : Measure

    Returns
    -------
    iou : float
        At the size of the image; NaN for an empty mask and for a vector of NaN.
    loss : float
        At mask size; NaN likewise.
    foreground_cells : float
        Area of the mask in cells of the layer.
    *facts : float
        What the solver says of the way to the vector.
    """
    cells, facts = row.view_mask.mean() * grid[0].numel(), vector[len(grid) :][N_ITER:]
    if not row.mask.any() or np.isnan(vector[: len(grid)]).any():
        return np.nan, np.nan, cells, *facts
    projection = _project(grid, _with_bias(grid, vector, target, how), target.shape[1:])
    intercept = vector[INTERCEPT] if n_facts(how.settings) else None
    intercept = None if intercept is None or np.isnan(intercept) else intercept
    loss = how.settings.loss(grid, vector[: len(grid)], target[0], intercept)
    seen = row.view.to_original(projection)[0].cpu().numpy() > 0.5
    return intersection_over_union(seen, row.mask), loss, cells, *facts


@dataclass(frozen=True)
class Measure:
    """Measures every layer's vector on a row; picklable, for workers.

    Parameters
    ----------
    settings : Settings or RidgeSettings
    mask_size : tuple of int
    mask_resize : str
    keeps_intercept : bool
        Whether vectors are drawn with the intercept that they hold, if the objective has one.
    """

    settings: object
    mask_size: tuple
    mask_resize: str
    keeps_intercept: bool

    def __call__(self, row, vectors):
        """Give IoU, loss, foreground cells and the solver's facts, a line per layer."""
        target = resize_masks([row.view_mask], self.mask_size, self.mask_resize)
        facts = [
            measure_row(row, grid, vector, target, self)
            for grid, vector in zip(row.activations, vectors, strict=True)
        ]
        return np.array(facts)


@dataclass(frozen=True)
class Draw:
    """Projects one layer's vector on a row; picklable, for workers.

    Parameters
    ----------
    layer : int
        Its number.
    mask_size : tuple of int
    threshold : float or None
        ``None`` gives probabilities.
    settings : Settings or RidgeSettings
    mask_resize : str
    keeps_intercept : bool
        As of Measure.
    """

    layer: int
    mask_size: tuple
    threshold: float | None
    settings: object
    mask_resize: str
    keeps_intercept: bool

    def __call__(self, row, vectors):
        """Give the projection at image size, bool or float32."""
        grid, vector = row.activations[self.layer], vectors[self.layer]
        if n_facts(self.settings):
            target = resize_masks([row.view_mask], self.mask_size, self.mask_resize)
            vector = _with_bias(grid, vector, target, self)
        drawn = project_row(row, grid, vector, self.mask_size)
        return drawn if self.threshold is None else drawn > self.threshold
