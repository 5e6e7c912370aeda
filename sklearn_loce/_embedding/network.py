"""The network of an estimator: from an image to activations, and its identity.

The probe is a fixed image whose activations identify a network. It passes preprocess, network and
reshape. Closures, settings of other modules, hooks and autocast change its activations. Activations
that differ only by rounding count as equal, for example those of another processor or number of
threads.
"""

import random
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch

from .._network.adapters import only_size
from .._network.extract import ActivationExtractor, members_of
from .._network.grids import all_finite
from .._network.handle import as_module, digest_model, weight_versions
from .._network.identity import digest
from .._network.preprocess import View, make_transform, make_view, resolve_preprocess
from .._samples.table import read_sample_image, row_name
from .._store.keys import Key, agree, find_source
from .._warnings import warn_user
from ..exceptions import LayoutError

_SIZES = (96, 128), (224, 288)  # the second is for networks that reduce the first to one cell
# The effect of a transform depends on the shape of an image, so a landscape alone is not enough.
_VIEW_SIZES = (150, 100), (333, 500)
_CELL = 8  # pixels between the interpolated random values
_N_SUMS = 256
_MOST_PASSES = 5


@dataclass(frozen=True)
class Activations:
    """The activations of one image.

    Parameters
    ----------
    view : View
        The input of the network for the image.
    grids : dict of {str: Tensor of shape (n_channels, height, width)}
        Activations by layer.
    """

    view: View
    grids: dict


@contextmanager
def open_network(loce, layers, records, sizes):
    """Yield a function ``(samples, i) -> Activations`` that passes an image, for one thread.

    Parameters
    ----------
    loce : estimator
        Fitted.
    layers : list of str, or None
        The required layers; ``None`` means all.
    records : dict of {str: ndarray}, or None
        Records of the caller's network for the probe, which this network must match.
    sizes : dict
        See Task.

    Raises
    ------
    RuntimeError
        If the records differ.
    """
    extract = make_extractor(loce, layers, sizes)
    transform = make_transform(loce.preprocess, loce.model)
    with extract:
        if records is not None:
            _compare_records(loce, extract, transform, records)

        def pass_image(samples, i):
            image = read_sample_image(samples, i)
            view = make_view(image, transform, loce._seed)
            grids = _pass_view(extract, view)
            _check_grids(loce, grids, samples, i)
            view = view.within(extract.frame(view.image.shape[-2:]))
            return standardize(loce, Activations(view, {k: g[0] for k, g in grids.items()}))

        yield pass_image


def _pass_view(extract, view):
    """Return the activations of one view, as a batch of one image."""
    return extract(view.image[None], None if view.shown is None else view.shown[None])


def make_extractor(loce, layers=None, sizes=None):
    """Return an ActivationExtractor for some layers, which fills ``sizes``; see Task.

    ``layers=None`` means all layers.
    """
    how = {"reshape_transform": loce.reshape_transform, "device": loce.device}
    asked = [layer for layer in loce._layers if layers is None or str(layer) in layers]
    extract = ActivationExtractor(loce.model, asked, readings=loce._readings, **how)
    extract.runs_once = loce._runs_once
    if sizes is not None:
        extract.sizes = sizes
    return extract


def compare_network(loce, fingerprint, records):
    """Raise unless the network of a worker equals the caller's network in digest and probe."""
    if digest_model(loce.model) != fingerprint:
        raise RuntimeError(
            "A worker has another network than its caller: weights, classes or attributes differ. "
            "Let workers import the same code, or set n_jobs=None."
        )
    if records is None:
        return
    transform = make_transform(loce.preprocess, loce.model)
    with make_extractor(loce) as extract:
        _compare_records(loce, extract, transform, records)


def _compare_records(loce, extract, transform, expected):
    """Raise unless the probe's records are the expected ones."""
    found = probe(loce, extract, transform).records
    wrong = [layer for layer, record in found.items() if not agree(record, expected[layer])]
    if wrong:
        raise RuntimeError(
            f"A worker has another network than its caller: the activations of {wrong} differ for "
            "the same image. The result depends on something outside the module, such as a class "
            "or a setting that was changed after import, or a value that belongs to one thread. "
            "Change it where workers import it, or set n_jobs=None."
        )


def _check_grids(loce, grids, samples, i):
    n_channels = dict(zip(loce.layers_, loce.n_channels_, strict=True))
    for layer, grid in grids.items():
        if grid.shape[1] != n_channels[layer]:
            raise LayoutError(
                f"{row_name(samples, i)}: layer {layer!r} has {grid.shape[1]} channels here, but "
                f"had {n_channels[layer]} in fit. Its channels may not come first; a "
                "reshape_transform can move them."
            )
        if not all_finite(grid):
            raise ValueError(
                f"{row_name(samples, i)}: the activations of layer {layer!r} contain NaN or "
                "infinity. Check the weights, the preprocessing, and whether half precision "
                "overflows."
            )


def standardize(loce, activations):
    """Standardize channels with the means and variances of ``fit``."""
    if loce.mean_ is None:
        return activations
    known = {k: g for k, g in activations.grids.items() if k in loce.layers_}
    return replace(activations, grids={k: _scale(loce, k, g) for k, g in known.items()})


def _scale(loce, layer, grid):
    k = loce.layers_.index(layer)
    mean, scale = (torch.as_tensor(facts[k])[:, None, None] for facts in (loce.mean_, loce.scale_))
    dtype = torch.promote_types(grid.dtype, torch.float32)
    return ((grid.double() - mean.to(grid.device)) / scale.to(grid.device)).to(dtype)


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


def probe(loce, extract, transform):
    """Pass the probe image, and return its Probe.

    Parameters
    ----------
    loce : estimator
        With ``_probe_size``, the (height, width) of the probe before preprocessing, and ``_seed``.
    extract : ActivationExtractor
    transform : JointTransform
    """
    before, seed = _random_states(), loce._seed
    view = make_view(make_probe_image(loce._probe_size), transform, seed)
    activations = _pass_view(extract, view)
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


def look_up_layers(loce, image_size):
    """Set names, channels and readings of the layers by a probe; return its records.

    Parameters
    ----------
    loce : estimator
    image_size : tuple of int
        (height, width) of an image of the table, for networks that take no other probe.

    Returns
    -------
    dict of {str: ndarray} or None
        Records by layer; ``None`` if two passes differ.
    """
    transform = make_transform(loce.preprocess, loce.model)
    for size in [*probe_sizes(as_module(loce.model)), image_size]:
        how = {"reshape_transform": loce.reshape_transform, "device": loce.device}
        extract = ActivationExtractor(loce.model, loce.layer, **how)
        loce._layers, loce._probe_size = extract.layers, size
        try:
            with extract:
                first = probe(loce, extract, transform)
                again = _probe_again(loce, extract, transform)
        except Exception:
            if size == image_size:
                raise
            continue  # the network does not accept this size
        break
    loce.layers_ = [str(layer) for layer in loce._layers]
    loce.n_channels_, loce._readings = [*first.n_channels.values()], extract.readings
    loce._is_lent, loce._runs_once = extract.is_lent, extract.runs_once
    return first.records if _are_steady(first, again) else None


def _probe_again(loce, extract, transform):
    """Pass the probe again until no random generator moves; other threads may move it, too."""
    for _ in range(_MOST_PASSES):
        again = probe(loce, extract, transform)
        if not again.draws:
            break
    return again


def _are_steady(first, second):
    """Return whether two passes agree; warn of a network that draws random numbers."""
    # Random numbers may leave both passes equal, for example if a block is skipped only sometimes.
    draws = first.draws and second.draws
    if not draws and all(agree(first.records[x], second.records[x]) for x in first.records):
        return True
    what = "draws random numbers in evaluation mode"
    if not draws:
        what = f"or preprocess {what}, or counts its passes: two passes of one image differ"
    warn_user(f"The network {what}. The vectors are not stored: another run would give others.")
    return False


def probe_network(loce, sizes):
    """Return the present records of a fitted estimator's network for the probe, by layer.

    The records of ``fit`` replace a second pass. The result is ``None`` if the two passes differ.
    The pass fills ``sizes``; see Task.
    """
    transform = make_transform(loce.preprocess, loce.model)
    with make_extractor(loce, sizes=sizes) as extract:
        first, known = probe(loce, extract, transform), loce._records
        is_known = known is not None and not first.draws
        if is_known and all(agree(first.records[x], known[x]) for x in known):
            return first.records
        again = _probe_again(loce, extract, transform)
    return first.records if _are_steady(first, again) else None


def check_weights(loce, fingerprint, versions):
    """Raise if the weights changed since these versions; return the present versions."""
    module = as_module(loce.model)
    now = weight_versions(module)
    # A network may write equal values, and a lent network has other modes during the run.
    if now == versions or loce._is_lent or digest_model(loce.model) == fingerprint:
        return now
    raise RuntimeError(
        f"The weights of {type(module).__name__} changed while the table was processed, for "
        "example in a training step of another thread. The vectors of this run are not stored. "
        "Train and transform one after the other, or transform with a copy.deepcopy of the network."
    )


def find_keys(loce, session, fingerprint, records):
    """Return the Key of each layer.

    Parameters
    ----------
    loce : estimator
        Fitted.
    session : Session or MemoryStore
    fingerprint : bytes
        Digest of the network.
    records : dict of {str: ndarray}
        Records of the network for the probe.

    Returns
    -------
    list of Key
    """
    seed = keyed_seed(loce)
    preprocess = digest(resolve_preprocess(loce.preprocess, loce.model))
    network = digest(fingerprint, preprocess, loce.reshape_transform, seed, loce._probe_size)
    keys = []
    for k, layer in enumerate(loce.layers_):
        members = members_of(loce._layers[k])
        source = find_source(session, network, members, records[layer], loce.n_channels_[k])
        settings = loce._objective.key() | {"seed": seed}
        if loce._starts[k] is not None:
            settings["init"] = digest(loce._starts[k]).hex()
        if loce.mean_ is not None:
            settings["standardize"] = digest(loce.mean_[k], loce.scale_[k]).hex()
        keys.append(Key(source, settings, layer, fingerprint.hex(), preprocess.hex()))
    return keys


def keyed_seed(loce):
    """Return the seed of the vectors, which is part of their keys.

    Without a fixed seed, vectors that depend on random numbers are not stored.
    """
    is_fixed = isinstance(loce.random_state, Integral)
    may_draw = not make_transform(loce.preprocess, loce.model).full_frame
    return loce._seed if is_fixed and may_draw else None
