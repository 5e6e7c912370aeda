"""From the file of an image to its activations."""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from .._network.extract import ActivationExtractor
from .._network.handle import digest_model
from .._network.preprocess import View, make_transform, make_view
from .._network.probe import probe
from .._samples.table import read_sample_image, row_name
from .._solvers.optimize import all_finite
from .._store.keys import agree
from ..exceptions import LayoutError


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
def open_network(loce, layers=None, records=None):
    """Yield a function ``(samples, i) -> Activations`` that passes an image, for one thread.

    Parameters
    ----------
    loce : estimator
        Fitted.
    layers : list of str, default=None
        The required layers; ``None`` means all.
    records : dict of {str: ndarray}, default=None
        Records of the caller's network for the probe, which this network must match.

    Raises
    ------
    RuntimeError
        If the records differ.
    """
    extract = make_extractor(loce, layers)
    transform = make_transform(loce.preprocess, loce.model)
    with extract:
        if records is not None:
            _compare_records(probe(extract, transform, loce._probe_size, loce._seed)[0], records)

        def pass_image(samples, i):
            image = read_sample_image(samples, i)
            view = make_view(image, transform, loce._seed)
            shown = None if view.shown is None else view.shown[None]
            grids = extract(view.image[None], shown)
            _check_grids(loce, grids, row_name(samples, i))
            view = view.within(extract.frame(view.image.shape[-2:]))
            return standardize(loce, Activations(view, {k: g[0] for k, g in grids.items()}))

        yield pass_image


def make_extractor(loce, layers=None):
    """Return an ActivationExtractor for some layers; ``None`` means all layers."""
    how = {"reshape_transform": loce.reshape_transform, "device": loce.device}
    asked = [layer for layer in loce._layers if layers is None or str(layer) in layers]
    extract = ActivationExtractor(loce.model, asked, readings=loce._readings, **how)
    extract.runs_once = loce._runs_once
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
        _compare_records(probe(extract, transform, loce._probe_size, loce._seed)[0], records)


def _compare_records(found, expected):
    wrong = [layer for layer, record in found.items() if not agree(record, expected[layer])]
    if wrong:
        raise RuntimeError(
            f"A worker has another network than its caller: the activations of {wrong} differ for "
            "the same image. The result depends on something outside the module, such as a class "
            "or a setting that was changed after import, or a value that belongs to one thread. "
            "Change it where workers import it, or set n_jobs=None."
        )


def _check_grids(loce, grids, name):
    n_channels = dict(zip(loce.layers_, loce.n_channels_, strict=True))
    for layer, grid in grids.items():
        if grid.shape[1] != n_channels[layer]:
            raise LayoutError(
                f"{name}: layer {layer!r} has {grid.shape[1]} channels here, but had "
                f"{n_channels[layer]} in fit. Its channels may not come first; a "
                "reshape_transform can move them."
            )
        if not all_finite(grid):
            raise ValueError(
                f"{name}: the activations of layer {layer!r} contain NaN or infinity. Check the "
                "weights, the preprocessing, and whether half precision overflows."
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
