"""A network that counts images, and tables for tests of stores and workers."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from sklearn_loce import LoCETransformer, TorchModel

LAYERS = ["body.0", "body.2", "body.4", "body.6"]


PROBE_SIZE = (96, 128)  # of the image by which networks are told apart, which does not count


class Counter:
    """A number that a network shares with its copies in this process; not part of its state."""

    __slots__ = ("n",)

    def __init__(self):
        self.n = 0

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return Counter, ()


class Counting(nn.Module):
    """Four convolutions of different widths; counts the images that it and its copies pass."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(4, 6, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(6, 8, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(8, 5, 3, stride=2, padding=1),
            )
        self.counter = Counter()

    @property
    def n_images(self):
        return self.counter.n

    def forward(self, x):
        if x.shape[-2:] != PROBE_SIZE:
            self.counter.n += len(x)
        return self.body(x)


def build_counting():
    return Counting().eval()


def draw_table(n_images, n_concepts=2, size=(24, 32), seed=0):
    """Draw noise with a rectangle per concept, and return one row per rectangle."""
    rng, rows = np.random.default_rng(seed), []
    for image_id in range(n_images):
        image = rng.integers(0, 200, (*size, 3), dtype=np.uint8)
        for concept in range(n_concepts):
            mask = np.zeros(size, dtype=bool)
            top, left = rng.integers(0, [n // 2 for n in size])
            mask[top : top + 10, left : left + 12] = True
            image[mask, concept % 3] += np.uint8(50)
            rows.append((image, mask, f"concept {concept}", image_id))
    return pd.DataFrame(rows, columns=["image", "mask", "concept", "image_id"])


def write_images(table, folder):
    """Write the images of a table to PNG files, and return the table of their paths."""
    paths = {}
    for image_id, image in zip(table["image_id"], table["image"], strict=True):
        paths[image_id] = str(Path(folder, f"{image_id}.png"))
        Image.fromarray(image).save(paths[image_id])
    return table.assign(image=[paths[i] for i in table["image_id"]])


def make_loce(**how):
    return LoCETransformer(**{"model": TorchModel(build_counting), "layer": "body.2"} | how)
