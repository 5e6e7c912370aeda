"""The working stream of samples: rows with their activations, one image at a time."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from tqdm.auto import tqdm

from ._preprocessing import View, make_view
from ._samples import read_rows, row_name
from .exceptions import LayoutError

_AHEAD = 2  # images that are decoded while one passes the network


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
        One per layer of the extractor, shared by the rows of one image.
    """

    position: int
    name: str
    mask: np.ndarray
    view: View
    view_mask: np.ndarray
    activations: tuple

    def raise_failure(self):
        """Do nothing, for this row is sound."""


@dataclass(frozen=True)
class Failure:
    """A sample that could not be read, or whose image could not pass the network.

    Parameters
    ----------
    position : int
    name : str
        How messages call the row.
    error : Exception
    """

    position: int
    name: str
    error: Exception

    def __str__(self):
        text = str(self.error).rstrip(".") or type(self.error).__name__
        # What is said of an image names its first row.
        return text if "row " in text else f"{self.name}: {text}"

    def raise_failure(self):
        """Raise what went wrong."""
        raise ValueError(f"{self}.") from self.error


@dataclass(frozen=True)
class Preview:
    """An image that passed the network in ``fit`` already.

    Parameters
    ----------
    position : int
        A row of that image.
    activations : dict of {str: Tensor}
    """

    position: int
    activations: dict


@contextmanager
def one_thread():
    """Let torch use one thread: on how many it sums up, the last bits of activations depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_activations(activations, n_channels, name):
    for layer, grid in activations.items():
        expected = n_channels[layer]
        if grid.shape[1] != expected:
            raise LayoutError(
                f"{name}: layer {layer!r} has {grid.shape[1]} channels here, but had {expected} on "
                "the image seen in fit. Its channels may not come first; a reshape_transform can "
                "move them."
            )
        if not torch.isfinite(grid.sum()) and not torch.isfinite(grid).all():
            raise ValueError(
                f"{name}: the activations of layer {layer!r} hold NaN or infinity. Check the "
                "weights, the preprocessing, and whether half precision overflows."
            )


def pass_network(view, extract):
    """Pass one image through the network.

    Parameters
    ----------
    view : View
    extract : ActivationExtractor

    Returns
    -------
    dict of {str: Tensor of shape (1, n_channels, height, width)}
    """
    with one_thread():
        return extract(view.image[None], None if view.shown is None else view.shown[None])


def _read_ahead(samples, groups):
    """Yield (positions, future of image and masks); a thread decodes while the network works."""
    with ThreadPoolExecutor(1) as reader:
        pending = deque()
        try:
            for positions in groups:
                pending.append((positions, reader.submit(read_rows, samples, positions)))
                if len(pending) > _AHEAD:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            reader.shutdown(cancel_futures=True)


def stream_rows(
    samples, groups, extract, transform, *, n_channels, seed, preview=None, progress=False
):
    """Pass each image through the network once and yield its rows.

    Parameters
    ----------
    samples : DataFrame
    groups : list of ndarray of int
        Positions of the rows of each image.
    extract : ActivationExtractor
    transform : JointTransform
    n_channels : dict of {str: int}
        What each layer must give.
    seed : int
        For random transforms.
    preview : Preview, default=None
        An image that passed the network already.
    progress : bool, default=False
        Whether to show a bar over the images.

    Yields
    ------
    Row or Failure
        An image that fails gives a failure for each of its rows, and the stream goes on.
    """
    with extract, closing(_read_ahead(samples, groups)) as images:
        for positions, content in tqdm(
            images, desc="LoCE", unit="image", total=len(groups), disable=not progress
        ):
            name = row_name(samples, positions[0])
            known = preview if preview and preview.position in positions else None
            try:
                image, masks = content.result()
                with one_thread():
                    view = make_view(image, masks, transform, seed)
                activations = known.activations if known else pass_network(view, extract)
                activations = {layer: activations[layer] for layer in extract.layers}
                view = view.within(extract.frame(view.image.shape[-2:]))
                _check_activations(activations, n_channels, name)
            except Exception as error:
                yield from (Failure(int(i), row_name(samples, i), error) for i in positions)
                continue
            shared = tuple(grid[0] for grid in activations.values())
            for k, i in enumerate(positions):
                row = row_name(samples, i)
                yield Row(int(i), row, masks[k], view, view.masks[k], shared)


def batched(rows, size):
    """Cut a stream into lists of ``size``; itertools has this from Python 3.12 on."""
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch
