"""Keys: everything that a vector depends on, compared by content."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import xxhash

from .._samples.images import PATH, check_is_file, read_image
from .._samples.masks import compress_rle

# Increase it to hide vectors of older versions: after a change of the store's tables, or of the
# method's results for the same settings.
FORMAT_VERSION = 2


# Measured changes of activations, as shares of their norm (LR-ASPP, ResNet, ViT): at most 8e-7 by
# two threads, channels_last and float64; at least 7e-4 by an input scaled by 1.001, and 5e-3 by
# autocast.
TOLERANCE = 2e-5


def _as_plain(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Settings must be numbers, strings, lists or None, got {value!r}.")


_as_json = partial(json.dumps, sort_keys=True, default=_as_plain)


def hash_facts(*facts):
    """Hash numbers, strings, lists and dicts of them; 32 bytes."""
    return hashlib.sha256(_as_json(facts).encode()).digest()


@dataclass(frozen=True)
class Key:
    """Everything that the vectors of a layer depend on, except image and mask.

    Parameters
    ----------
    source : bytes
        Digest of everything that the activations depend on.
    settings : dict of {str: number, str, list or None}
        The settings of the optimization.
    layer : str
        Name of the layer.
    model, preprocess : str
        Digests in hexadecimal, for searches in a store.

    Examples
    --------
    >>> from sklearn_loce._store.keys import Key
    >>> first = Key(bytes(32), {"max_iter": 50}, "features.2", "ab", "cd")
    >>> second = Key(bytes(32), {"max_iter": 51}, "features.2", "ab", "cd")
    >>> first.digest == second.digest
    False
    """

    source: bytes
    settings: dict
    layer: str
    model: str
    preprocess: str

    @property
    def digest(self):
        """The hash of source, settings and format version; 32 bytes."""
        return hash_facts("key", FORMAT_VERSION, self.source.hex(), self.settings)

    def describe(self):
        """Return the searchable facts as JSON."""
        facts = {"model": self.model, "preprocess": self.preprocess, "settings": self.settings}
        return _as_json({"layer": self.layer} | facts)


def sample_digests(samples, rows):
    """Hash image and mask of rows that share an image; return a list of 32 bytes each."""
    image = image_digest(samples["image"].iloc[rows[0]])
    masks = samples["mask"].iloc[rows]
    return [hashlib.sha256(image + b":" + mask_digest(mask)).digest() for mask in masks]


def image_digest(image):
    """Hash an image cell: a file by its bytes, anything else by its pixels."""
    if isinstance(image, PATH):
        return _file_digest("image", image)
    # The pixels include mode, palette, transparency and orientation of a PIL image.
    return _pixel_digest("image", image if isinstance(image, np.ndarray) else read_image(image))


def mask_digest(mask):
    """Hash a mask cell: run lengths in any form, a file by its bytes, anything else as an array."""
    if isinstance(mask, dict):
        rle = compress_rle(mask)
        return _bulk_digest("mask runs:{}:{}:".format(*rle["size"]), rle["counts"])
    if isinstance(mask, PATH):
        return _file_digest("mask", mask)
    return _pixel_digest("mask", np.asarray(mask))


def _bulk_digest(header, content):
    # xxh3 is as fast as memory, ten times as fast as sha256. 128 bits exclude accidental
    # collisions, and a forged vector in one's own store helps nobody.
    state = xxhash.xxh3_128(header.encode())
    state.update(content)
    return state.digest()


def _file_digest(what, path):
    check_is_file(path)
    return _bulk_digest(f"{what} file:", Path(path).read_bytes())


def _pixel_digest(what, array):
    if array.dtype.hasobject:
        raise ValueError(f"the {what} contains Python objects, not numbers")
    pixels = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return _bulk_digest(f"{what}:{array.dtype.str}:{array.shape}:", pixels)


def agree(first, second):
    """Return whether two records come from the same network; see ``TOLERANCE``."""
    if first.shape != second.shape:
        return False
    difference = np.linalg.norm(first - second, axis=-1)
    size = np.maximum(np.linalg.norm(first, axis=-1), np.linalg.norm(second, axis=-1))
    # Records are not finite if activations are not; such rows fail in any case.
    return bool((difference <= TOLERANCE * size).all()) or np.array_equal(first, second, True)


def find_source(session, network, members, record, n_channels):
    """Return the digest of everything that the activations of a layer depend on.

    Networks with equal digests are distinguished by their activations on the probe image, within a
    tolerance. The store contains the records of earlier probes.

    Parameters
    ----------
    session : Session or MemoryStore
    network : bytes
        Digest of network, preprocessing and reshape_transform.
    members : tuple of str
        Name of the layer, or names of the layers that it joins.
    record : ndarray
        Record of the layer's activations on the probe.
    n_channels : int

    Returns
    -------
    bytes of length 32
    """
    exact = hash_facts("source", FORMAT_VERSION, network.hex(), members)
    for probe, known, _ in session.probes(exact):
        if agree(known.reshape(-1, record.shape[-1]), record):
            return probe
    probe = hashlib.sha256(exact + record.tobytes()).digest()
    session.save_probe(exact, probe, record.ravel(), n_channels)
    return probe
