"""Averages of activations under a mask."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from .solution import Solution


@lru_cache(maxsize=64)
def _coverage(size_in, size_out):
    """Give the share of each of ``size_out`` cells that each pixel covers, along one axis."""
    edges = np.arange(size_out + 1) * (size_in / size_out)
    pixels = np.arange(size_in)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(overlap, 0) * (size_out / size_in)


def cover(mask, size):
    """Give the share of each cell of a grid of some size that a mask covers, float64."""
    return _coverage(mask.shape[0], size[0]) @ mask @ _coverage(mask.shape[1], size[1]).T


def _average(grid, mask):
    """Average the activations of one image under a mask that is not empty."""
    weights = cover(np.asarray(mask, dtype=np.float64), grid.shape[1:])
    cells = grid.detach().double().cpu().flatten(1).numpy()
    # Not by a product of matrices, whose sums may run in another order with another batch.
    return ((cells * (weights.ravel() / weights.sum())).sum(1)).astype(np.float32)


@dataclass(frozen=True)
class MaskedMean:
    """An average of activations, with the protocol of an objective; there is nothing to set."""

    name: ClassVar[str] = "masked_mean"
    has_bias: ClassVar[bool] = False
    mask_size: ClassVar[None] = None
    advice: ClassVar[str] = "bring the activations to a smaller scale"

    def targets(self, masks):
        """Give the masks as they are."""
        return masks

    def solve(self, activations, masks, start=None, **_):
        """Average each row's activations under its mask, which is not empty."""
        pairs = zip(activations, masks, strict=True)
        return Solution(np.stack([_average(grid, mask) for grid, mask in pairs]))

    def key(self):
        """Give the settings that the vectors depend on."""
        return {"method": "masked mean"}
