"""The probe: a fixed image whose activations identify a network.

It passes preprocess, network and reshape. Closures, settings of other modules, hooks and autocast
change its activations. Activations that differ only by rounding count as equal, for example those
of another processor or number of threads.
"""

import random
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .families import only_size
from .preprocess import make_view

_SIZES = (96, 128), (224, 288)  # the second is for networks that reduce the first to one cell
# The effect of a transform depends on the shape of an image, so a landscape alone is not enough.
_VIEW_SIZES = (150, 100), (333, 500)
_CELL = 8  # pixels between the interpolated random values
_N_SUMS = 256


def probe_sizes(module):
    """Return the sizes (height, width) of probe images to try, in order."""
    own = only_size(module)
    return _SIZES if own is None else (own,)


@lru_cache(maxsize=8)
def make_probe_image(size):
    """Make a smooth image of fixed random integers, the same on every machine.

    Parameters
    ----------
    size : tuple of int
        (height, width)

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
    """
    n_rows, n_columns = (n // _CELL + 2 for n in size)
    image = np.random.default_rng(0).integers(0, 256, (n_rows, n_columns, 3))
    for axis, length in enumerate(size):
        first, share = np.divmod(np.arange(length), _CELL)
        share = share.reshape(-1, *[1] * (2 - axis))
        low, high = image.take(first, axis), image.take(first + 1, axis)
        image = ((_CELL - share) * low + share * high) // _CELL
    return image.astype(np.uint8)


def sketch(values):
    """Sum numbers with random signs, which keeps the norms of differences within about a tenth.

    Parameters
    ----------
    values : ndarray

    Returns
    -------
    ndarray of shape (256,), float64
    """
    # Replace NaN and infinity by finite numbers, because their sums would carry no information.
    finite = np.nan_to_num(values.ravel(), nan=1.0, posinf=2.0, neginf=3.0)
    signed = finite * _signs(values.size)
    return np.pad(signed, (0, -signed.size % _N_SUMS)).reshape(-1, _N_SUMS).sum(0)


@lru_cache(maxsize=32)
def _signs(size):
    return np.random.default_rng(0).integers(0, 2, size) * 2.0 - 1


class Probe(NamedTuple):
    """The records of a network for the probe image.

    Parameters
    ----------
    records : dict of {str: ndarray of shape (n_parts, 256), float64}
        Records by layer.
    n_channels : dict of {str: int}
    draws : bool
        Whether the pass drew random numbers. This detects torch's generator in the thread of the
        pass, and the global generators of NumPy and Python.
    """

    records: dict
    n_channels: dict
    draws: bool


def _random_states():
    name, words, *rest = np.random.get_state()  # noqa: NPY002, the user's network may draw there
    return random.getstate(), name, words.tobytes(), rest


def probe(extract, transform, size, seed):
    """Pass a probe image.

    Parameters
    ----------
    extract : ActivationExtractor
    transform : JointTransform
    size : tuple of int
        (height, width) of the probe before preprocessing.
    seed : int
        Seed of random transforms.

    Returns
    -------
    Probe
    """
    before = _random_states()
    view = make_view(make_probe_image(size), transform, seed)
    shown = None if view.shown is None else view.shown[None]
    activations = extract(view.image[None], shown)
    views = [] if transform.is_plain else [_sketch_view(transform, n, seed) for n in _VIEW_SIZES]
    records = {
        layer: np.stack([sketch(grid.double().cpu().numpy()), *views])
        for layer, grid in activations.items()
    }
    n_channels = {layer: grid.shape[1] for layer, grid in activations.items()}
    return Probe(records, n_channels, extract.draws or before != _random_states())


def _sketch_view(transform, size, seed):
    try:
        return sketch(make_view(make_probe_image(size), transform, seed).image.double().numpy())
    except ValueError:  # for example a larger crop: then no image of this size can be embedded
        return np.zeros(_N_SUMS)
