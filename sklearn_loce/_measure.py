"""What a vector draws on an image, and how well that fits the mask."""

from dataclasses import dataclass

import numpy as np
import torch

from ._adamw_torch import project
from ._masks import intersection_over_union, resize_masks
from ._optimization import Objective, losses


def project_row(row, grid, vector, mask_size):
    """Project a vector onto one row's activations, and bring that to the image.

    Parameters
    ----------
    row : Row
    grid : Tensor of shape (n_channels, height, width)
    vector : ndarray of shape (n_channels,)
    mask_size : tuple of int

    Returns
    -------
    ndarray of shape (image_height, image_width), float32
        Probabilities.
    """
    return row.view.to_original(_project(grid, vector, mask_size))[0].cpu().numpy()


def _project(grid, vector, mask_size):
    return project(grid[None], torch.from_numpy(vector[None]).to(grid), tuple(mask_size))


def measure_row(row, grid, vector, target, objective):
    """Measure one vector on one row.

    Parameters
    ----------
    row : Row
    grid : Tensor of shape (n_channels, height, width)
    vector : ndarray of shape (n_channels,)
    target : ndarray of shape (1, n_rows, n_columns), float32
        The mask at mask size.
    objective : Objective

    Returns
    -------
    iou : float
        At the size of the image; NaN for an empty mask and for a vector of NaN.
    loss : float
        At mask size; NaN likewise.
    foreground_cells : float
        Area of the mask in cells of the layer.
    """
    cells = row.view_mask.mean() * grid[0].numel()
    if not row.mask.any() or np.isnan(vector).any():
        return np.nan, np.nan, cells
    projection = _project(grid, vector, target.shape[1:])
    loss = losses(projection.cpu(), target, torch.from_numpy(vector[None]), objective).item()
    seen = row.view.to_original(projection)[0].cpu().numpy() > 0.5
    return intersection_over_union(seen, row.mask), loss, cells


@dataclass(frozen=True)
class Measure:
    """Measures every layer's vector on a row; picklable, for workers.

    Parameters
    ----------
    objective : Objective
    mask_size : tuple of int
    mask_resize : str
    """

    objective: Objective
    mask_size: tuple
    mask_resize: str

    def __call__(self, row, vectors):
        """Give IoU, loss and foreground cells, (n_layers, 3)."""
        target = resize_masks([row.view_mask], self.mask_size, self.mask_resize)
        facts = [
            measure_row(row, grid, vector, target, self.objective)
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
    """

    layer: int
    mask_size: tuple
    threshold: float | None

    def __call__(self, row, vectors):
        """Give the projection at image size, bool or float32."""
        grid, vector = row.activations[self.layer], vectors[self.layer]
        drawn = project_row(row, grid, vector, self.mask_size)
        return drawn if self.threshold is None else drawn > self.threshold
