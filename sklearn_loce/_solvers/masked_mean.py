"""Averages of activations under a mask."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from .resize import resize_masks
from .solution import Solution

_PROJECTION_SIZE = (100, 100)


@lru_cache(maxsize=64)
def _coverage(size_in, size_out):
    """Return the share of each of ``size_out`` cells that each pixel covers along one axis."""
    edges = np.arange(size_out + 1) * (size_in / size_out)
    pixels = np.arange(size_in)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(overlap, 0) * (size_out / size_in)


def cover(mask, size):
    """Return the share of each cell of a grid that a mask covers, float64."""
    return _coverage(mask.shape[0], size[0]) @ mask @ _coverage(mask.shape[1], size[1]).T


def _average(cells, weights):
    """Average cells (n_channels, n_cells) with weights (height, width); NaN where all are 0."""
    # A matrix product could sum in another order with another batch.
    return (cells * (weights.ravel() / weights.sum())).sum(1)


@dataclass(frozen=True)
class MaskedMean:
    """The average of activations under a mask, with the interface of an objective.

    Parameters
    ----------
    subtracts : bool, default=False
        Whether the average over the rest of the image is subtracted.
    """

    subtracts: bool = False

    name: ClassVar[str] = "masked_mean"
    has_bias: ClassVar[bool] = False
    default_bias: ClassVar[str] = "best"
    mask_size: ClassVar[None] = None

    @property
    def advice(self):
        """Advice for the user if a vector is not finite."""
        if self.subtracts:
            return "its mask may cover the whole image, which leaves no background to subtract"
        return "bring the activations to a smaller scale"

    def targets(self, masks):
        """Return the masks unchanged."""
        return masks

    def control_target(self, mask, grid_size):
        """Return the share of each cell that a mask covers. The average depends only on these."""
        return cover(mask, grid_size)

    def projection_target(self, mask):
        """Return a target at the size at which projections are compared with it."""
        return resize_masks([mask], _PROJECTION_SIZE)[0]

    def solve(self, activations, masks, start=None, *, weights=None, **_):
        """Average the activations of each row under its mask, which must not be empty."""
        weights = [None] * len(masks) if weights is None else weights
        rows = zip(activations, masks, weights, strict=True)
        return Solution(np.stack([self._solve_row(*row) for row in rows]))

    def _solve_row(self, grid, mask, weights):
        mask = np.asarray(mask, dtype=np.float64)
        weights = np.ones_like(mask) if weights is None else weights
        cells = grid.detach().double().cpu().flatten(1).numpy()
        vector = _average(cells, cover(mask * weights, grid.shape[1:]))
        if self.subtracts:
            background = cover((1 - mask) * weights, grid.shape[1:])
            with np.errstate(invalid="ignore"):  # 0 / 0 without background
                vector -= _average(cells, background)
        return vector.astype(np.float32)

    def key(self):
        """Return the settings that the vectors depend on."""
        key = {"method": "masked mean"}
        return key | {"background": "subtract"} if self.subtracts else key
