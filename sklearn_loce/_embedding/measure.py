"""What a vector draws on an image, and how well that fits the mask."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar

from .._samples.masks import intersection_over_union, resize_masks
from .._solvers.adamw import project
from .._solvers.bilinear import bilinear_matrix
from .._solvers.lbfgs import Pixels
from .._solvers.objectives import losses
from .._solvers.ridge import INTERCEPT, LOGISTIC, N_ITER, redrawing_bias

_BEYOND, _FAR = 10.0, 40.0  # logits


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
    if not how.settings.n_facts or np.isnan(weights).any():
        return weights
    if how.keeps_intercept:
        return vector[: len(grid) + 1]
    bias = redrawing_bias(_logits(grid, weights, target).numpy(), target[0])
    return np.append(weights, np.float32(bias))


def best_intercept(pixels, logits):
    """Find the intercept with which a vector's loss is least.

    Parameters
    ----------
    pixels : Pixels
        Of one row, float64 on the CPU.
    logits : Tensor of shape (1, n_pixels), float64
        The vector's map, without an intercept.

    Returns
    -------
    float
        0 for an empty mask, whose loss does not depend on it or sinks for ever.
    """
    if not pixels.targets.any():
        return 0.0
    if pixels.kind == LOGISTIC:
        return _zero_of_slope(pixels, logits)
    return _best_of_minima(pixels, logits)


def _zero_of_slope(pixels, logits):
    """Find where a convex loss is least."""

    def slope(intercept):
        return pixels.slopes(logits + intercept).sum().item()

    ends = -logits.max().item() - _FAR, _FAR - logits.min().item()
    return brentq(slope, *ends, xtol=1e-6)


def _best_of_minima(pixels, logits):
    """Look where a threshold lies between the pixels' values, and a little beyond."""

    def loss(intercept):
        return pixels.losses(logits + intercept).item()

    quantiles = np.quantile(logits.numpy(), np.linspace(0, 1, 33))
    ends = [quantiles[0] - _BEYOND, quantiles[-1] + _BEYOND]
    tried = -np.unique([*quantiles, *ends])[::-1]
    best = int(np.argmin([loss(intercept) for intercept in tried]))
    bounds = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
    return minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x


def _logits(grid, vector, target):
    """Give the map at mask size without the bias, in float64 on the CPU."""
    grid = grid.double().cpu()
    weights = torch.from_numpy(vector[: len(grid)].astype(np.float64))
    drawn = torch.tensordot(weights, grid, dims=1)
    rows, columns = (
        bilinear_matrix(drawn.shape[i], target.shape[i + 1], torch.float64, "cpu") for i in (0, 1)
    )
    return rows @ drawn @ columns.T


def ridge_loss(grid, vector, target, settings):
    """Give an objective's value with its ridge, for a vector and what is known of it."""
    weights, intercept = vector[: len(grid)], vector[INTERCEPT]
    pixels = Pixels(settings, target, torch.float64, "cpu")
    logits = _logits(grid, weights, target).reshape(1, -1)
    if np.isnan(intercept):
        intercept = best_intercept(pixels, logits)
    loss = pixels.losses(logits + float(intercept)).item()
    scale = (grid.double() ** 2).sum().item() / grid[0].numel()
    return loss + settings.alpha / 2 * scale * float((weights.astype(float) ** 2).sum())


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
    if how.settings.n_facts:
        loss = ridge_loss(grid, vector, target, how.settings)
    else:
        embedding = torch.from_numpy(vector[None])
        loss = losses(projection.cpu(), target, embedding, how.settings.objective).item()
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
        if self.settings.n_facts:
            target = resize_masks([row.view_mask], self.mask_size, self.mask_resize)
            vector = _with_bias(grid, vector, target, self)
        drawn = project_row(row, grid, vector, self.mask_size)
        return drawn if self.threshold is None else drawn > self.threshold
