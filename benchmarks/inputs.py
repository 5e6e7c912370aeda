"""Inputs of the benchmarks: options, shapes of layers, random activations and masks."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from skimage.transform import resize
from torch.nn import functional

from benchmarks.segmentation import SHARED, WEIGHTS
from sklearn_loce import optimize_loces

OBJECTIVE = "net2vec"  # the paper's, whose steps the plain formulation takes as well
optimize_paper_loces = partial(optimize_loces, objective=OBJECTIVE)
MASK_SIZE = (100, 100)
N_STEPS = 50

# Layers of the networks that the paper examines, on images of their usual sizes.
SHAPES = {
    "MobileNetV3-L features.9": (80, 30, 40),
    "MobileNetV3-L features.14": (160, 15, 20),
    "EfficientNet-B0 features.7.0": (320, 15, 20),
    "YOLOv5s 14.conv": (128, 30, 40),
    "DETR backbone layer3": (1024, 50, 67),
    "DETR encoder": (256, 25, 34),
    "ViT-B/16": (768, 14, 14),
    "Swin-T features.7": (768, 15, 20),
}
SIZES = {
    "rows": (64, 128, 256, 512, 1024),
    "concepts per image": (1, 2, 4, 8, 16),
    "layers": (1, 2, 4, 8),
    "channels": (64, 128, 256, 512, 1024),
    "height and width": (8, 16, 32, 64),
}


@dataclass(frozen=True)
class Options:
    """The size of the measurements.

    Parameters
    ----------
    repeats, samples, images : int
        Runs of which the median is taken, samples of one batch, and images from end to end.
    shapes : dict of {str: tuple}
        (n_channels, height, width) by layer.
    memory_shape : tuple of int
    sizes : dict of {str: tuple}
        Sizes for which growth is measured.
    plain_rows : int
        Rows that the plain formulation does from end to end.
    batch_sizes : tuple of int
        Of the network.
    layers : tuple of str
        Of the network from end to end.
    camvid, weights : Path
        Scenes, and the network trained on them.
    """

    repeats: int = 5
    samples: int = 64
    images: int = 99
    shapes: dict = field(default_factory=SHAPES.copy)
    memory_shape: tuple = (960, 23, 30)
    sizes: dict = field(default_factory=SIZES.copy)
    plain_rows: int = 6
    batch_sizes: tuple = (1, 4, 8, 16)
    layers: tuple = ("backbone.13", "backbone.16")
    camvid: Path = SHARED / "camvid"
    weights: Path = WEIGHTS


def draw(shape, n_samples, seed=0):
    """Draw rectified random activations and blob-shaped masks of 200 x 300 pixels."""
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(n_samples, *shape, generator=generator).relu_()
    coarse = torch.rand(n_samples, 1, 6, 8, generator=generator)
    masks = functional.interpolate(coarse, size=(200, 300), mode="bicubic")[:, 0] > 0.6
    return activations, masks.float()


def targets_of(masks):
    """Resize masks to the size at which they are compared, as the published code does."""
    small = [resize(np.asarray(mask, dtype=np.float64), MASK_SIZE) for mask in masks]
    return torch.from_numpy(np.stack(small).astype(np.float32))
