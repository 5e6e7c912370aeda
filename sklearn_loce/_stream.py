"""From the table of samples to rows with activations, one image at a time."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from tqdm.auto import tqdm

from ._preprocessing import View, make_view
from ._samples import read_rows, row_name
from .exceptions import LayoutError


@dataclass(frozen=True)
class Row:
    """One sample while it is worked on.

    Parameters
    ----------
    position : int
        Its place in the table.
    name : str
        How messages call it.
    mask : ndarray of shape (height, width), bool
        The mask at the size of the original image.
    view : View
        The image as the network saw it, shared by the rows of one image.
    view_mask : ndarray, bool
        The mask over the network's field of view.
    activations : tuple of Tensor of shape (n_channels, height, width)
        One per layer, shared by the rows of one image.
    """

    position: int
    name: str
    mask: np.ndarray
    view: View
    view_mask: np.ndarray
    activations: tuple


def _check_activations(activations, n_channels, name):
    for (layer, grid), expected in zip(activations.items(), n_channels, strict=True):
        if grid.shape[1] != expected:
            raise LayoutError(
                f"{name}: layer {layer!r} has {grid.shape[1]} channels here, but had {expected} on "
                "the image seen in fit. Its channels may not come first; a reshape_transform can "
                "move them."
            )
        if not torch.isfinite(grid).all():
            raise ValueError(
                f"{name}: the activations of layer {layer!r} hold NaN or infinity. Check the "
                "weights, the preprocessing, and whether half precision overflows."
            )


def look(image, masks, extract, transform, seed=0):
    """Pass one image through the network.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), uint8
    masks : ndarray of shape (n_masks, height, width), bool
    extract : ActivationExtractor
    transform : JointTransform
    seed : int, default=0
        For random transforms.

    Returns
    -------
    view : View
        Image and masks over the field of view of the network's layers.
    activations : dict of {str: Tensor of shape (1, n_channels, height, width)}
    """
    view = make_view(image, masks, transform, seed)
    activations = extract(view.image[None], None if view.shown is None else view.shown[None])
    return view.within(extract.frame(view.image.shape[-2:])), activations


def stream_rows(samples, groups, extract, transform, *, n_channels, seed, verbose):
    """Pass each image through the network once and yield its rows.

    Parameters
    ----------
    samples : DataFrame
    groups : list of ndarray of int
        Positions of the rows of each image.
    extract : ActivationExtractor
    transform : JointTransform
    n_channels : list of int
        What each layer must give.
    seed : int
        For random transforms.
    verbose : int
        With 1 or more, a progress bar over the images.

    Yields
    ------
    Row
    """
    with extract:
        for positions in tqdm(groups, desc="LoCE", unit="image", disable=not verbose):
            image, masks = read_rows(samples, positions)
            view, activations = look(image, masks, extract, transform, seed)
            _check_activations(activations, n_channels, row_name(samples, positions[0]))
            shared = tuple(grid[0] for grid in activations.values())
            for k, i in enumerate(positions):
                name = row_name(samples, i)
                yield Row(int(i), name, masks[k], view, view.masks[k], shared)


def batched(rows, size):
    """Cut a stream into lists of ``size``; itertools has this from Python 3.12 on."""
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch
