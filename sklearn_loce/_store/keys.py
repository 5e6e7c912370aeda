"""Keys: what a vector depends on, compared by content."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from .._samples.images import PATH, read_image
from .._samples.masks import compress_rle

# Counts up when vectors of older versions must not be found: other tables of the store, or other
# results of the method for the same settings.
FORMAT_VERSION = 2


# Two threads, channels_last and float64 move activations by at most 8e-7 of their norm, an input
# that is scaled by 1.001 moves them by 7e-4 and more, and autocast by 5e-3 (LR-ASPP, ResNet, ViT).
TOLERANCE = 2e-5


def hash_facts(*facts):
    """Hash numbers, strings, lists and dicts of them; 32 bytes."""
    return hashlib.sha256(_as_json(facts).encode()).digest()


def _as_json(facts):
    return json.dumps(facts, sort_keys=True, default=_as_plain)


def _as_plain(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Settings must be numbers, strings, lists or None, got {value!r}.")


@dataclass(frozen=True)
class Key:
    """What the vectors of a layer depend on, besides image and mask.

    Parameters
    ----------
    source : bytes
        Digest of all that the activations depend on.
    settings : dict of {str: number, str, list or None}
        What the optimization depends on.
    layer : str
        Name of the layer.
    model, preprocess : str
        Digests in hexadecimal, by which a store can be searched.

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
        """Hash of source, settings and the version of the format; 32 bytes."""
        return hash_facts("key", FORMAT_VERSION, self.source.hex(), self.settings)

    def describe(self):
        """Write in JSON what a store can be searched by."""
        facts = {"model": self.model, "preprocess": self.preprocess, "settings": self.settings}
        return _as_json({"layer": self.layer} | facts)


def sample_digests(samples, rows):
    """Hash image and mask of rows that share an image; a list of 32 bytes each."""
    image = image_digest(samples["image"].iloc[rows[0]])
    masks = samples["mask"].iloc[rows]
    return [hashlib.sha256(image + b":" + mask_digest(mask)).digest() for mask in masks]


def image_digest(image):
    """Hash an image cell: a file by its bytes, anything else by its pixels."""
    if isinstance(image, PATH):
        return _file_digest("image", image)
    # Mode, palette, transparency and orientation of a PIL image all show in what is read.
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
    # xxh3 runs at the speed of memory, ten times as fast as sha256. 128 bits rule out accidents;
    # nobody gains from a forged vector in a store of one's own.
    state = xxhash.xxh3_128(header.encode())
    state.update(content)
    return state.digest()


def _file_digest(what, path):
    return _bulk_digest(f"{what} file:", Path(path).read_bytes())


def _pixel_digest(what, array):
    if array.dtype.hasobject:
        raise ValueError(f"the {what} holds Python objects, not numbers")
    pixels = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return _bulk_digest(f"{what}:{array.dtype.str}:{array.shape}:", pixels)


def agree(first, second):
    """Return whether two records are of one network; see ``TOLERANCE``."""
    if first.shape != second.shape:
        return False
    difference = np.linalg.norm(first - second, axis=-1)
    size = np.maximum(np.linalg.norm(first, axis=-1), np.linalg.norm(second, axis=-1))
    # Not finite where activations are not, whose rows fail in any case.
    return bool((difference <= TOLERANCE * size).all()) or np.array_equal(first, second, True)


def find_source(session, network, members, record, n_channels):
    """Return the digest of all that the activations of a layer depend on.

    Networks whose digests are equal are told apart by what they give for the probe image, within a
    tolerance; the store holds the probes that it has seen.

    Parameters
    ----------
    session : Session or MemoryStore
    network : bytes
        Digest of network, preprocessing and reshape_transform.
    members : tuple of str
        Name of the layer, or of those that it joins.
    record : ndarray
        What the layer gives for the probe.
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
