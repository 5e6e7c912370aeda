"""Values of every kind that fingerprints take, made anew by each call and in each process."""

import functools
import threading
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm
from torch.nn.utils.prune import l1_unstructured
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from sklearn_loce import TorchModel
from sklearn_loce._store.fingerprint import digest, model_digest

MEAN = [0.4, 0.5, 0.6]
LOCK = threading.Lock()
Point = namedtuple("Point", ["x", "y"])


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Box:
    low: int
    high: tuple


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a, b):
        self.a, self.b = a, b


class Scaled(nn.Module):
    def __init__(self, scale=2):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        self.register_buffer("offset", torch.zeros(4, 1, 1), persistent=False)
        self.scale = scale

    def forward(self, images):
        return self.convolution(images) * self.scale + self.offset


class Ring:
    def __init__(self, value):
        self.value, self.next = value, self


def even(n):
    with LOCK:
        return n == 0 or odd(n - 1)


def odd(n):
    return n != 0 and even(n - 1)


def subtract_mean(image, factor=2):
    return image - np.reshape(MEAN, (3, 1, 1)) * factor


def adder(n):
    return lambda x: x + n


def make_scaled(scale=2):
    torch.manual_seed(0)
    return Scaled(scale)


def make_hooked():
    """Make a network with the hooks of weight_norm, spectral_norm, pruning and a user."""
    network = make_scaled()
    network.double = spectral_norm(nn.Conv2d(4, 4, 1))
    network.pruned = l1_unstructured(nn.Conv2d(4, 4, 1), "weight", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network.normed = weight_norm(nn.Conv2d(4, 4, 1))
    network.register_forward_hook(lambda module, args, output: output * MEAN[0])
    return network


def make_values():
    """Give a dict of values by what they are; no two have the same content."""
    strings = {f"name{i}" for i in range(20)}
    return {
        "none": None,
        "bools": [True, False],
        "numbers": (1, 1.0, 1j, float("nan"), -0.0),
        "text": ["1", b"1", "ä", "\ud800"],
        "path": Path("a/b"),
        "enum": Colour.RED,
        "weights": ResNet18_Weights.DEFAULT,
        "set": strings,
        "frozenset": frozenset(strings),
        "dict": {"a": {1, "b", 2.0}, "b": ()},
        "ordered": OrderedDict(a=1),
        "dataclass": Box(1, (2, 3)),
        "namedtuple": Point(1, 2),
        "slots": Slotted(1, "x"),
        "array": np.arange(6.0).reshape(2, 3),
        "structured": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        "objects": np.array(["a", None], dtype=object),
        "masked": np.ma.array([1, 2], mask=[False, True]),
        "scalars": [np.float32(1), np.int8(1), np.bool_(True), np.datetime64("2024-01-01")],
        "tensors": [torch.arange(3), torch.ones(2, dtype=torch.bfloat16), torch.tensor(1j)],
        "torch": [torch.float32, torch.device("cpu"), torch.Size([1, 2]), torch.channels_last],
        "partial": functools.partial(subtract_mean, factor=3),
        "function": subtract_mean,
        "recursive": even,
        "closure": adder(1),
        "method": Box(1, ()).__repr__,
        "builtins": [len, torch.relu, np.add, [1].append],
        "lru_cache": functools.lru_cache(adder),
        "class": Scaled,
        "ring": Ring(1),
        "transform": v2.Compose([v2.Resize(8), v2.Normalize(MEAN, [1.0, 1.0, 1.0])]),
        "preset": ResNet18_Weights.DEFAULT.transforms(),
        "preset class": ResNet18_Weights.DEFAULT.transforms,
        "module": make_scaled(),
        "hooked": make_hooked(),
        "handle": TorchModel(make_scaled, forward=subtract_mean),
    }


def hex_digests():
    digests = {name: digest(value).hex() for name, value in make_values().items()}
    return digests | {"model": model_digest(make_scaled()).hex()}
