"""The working stream of samples: rows with their activations, one image at a time."""

import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from .._network.preprocess import View, make_view
from .._samples.table import read_rows, row_name
from .._solvers.optimize import all_finite
from .._store.keys import sample_digests
from ..exceptions import LayoutError

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

    def __post_init__(self):
        # Their frames hold images and activations, as long as the run lasts.
        error = self.error
        while error is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__

    def __str__(self):
        text = str(self.error).rstrip(".") or type(self.error).__name__
        # What is said of an image names its first row.
        return text if re.search(r"\brow \d", text) else f"{self.name}: {text}"

    def raise_failure(self):
        """Raise what went wrong."""
        raise ValueError(f"{self}.") from self.error


@dataclass(frozen=True)
class Preview:
    """An image that passed the network in ``fit`` already.

    Parameters
    ----------
    rows : frozenset of int
        The rows of that image.
    activations : dict of {str: Tensor}
    """

    rows: frozenset
    activations: dict


@contextmanager
def one_thread():
    """Let torch use one thread: on how many it sums up, the last bits of activations depend."""
    before = torch.get_num_threads()
    if before == 1:  # to set it takes as long as a small layer does
        yield
        return
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
        if not all_finite(grid):
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


def _read(samples, rows, keys):
    """Read the image and the masks of rows, and check that they are what was hashed before."""
    content = read_rows(samples, rows)
    if keys is not None and sample_digests(samples, rows) != [keys[i] for i in rows]:
        raise ValueError(
            f"{row_name(samples, rows[0])}: the image or a mask changed while the table was worked "
            "on; run it again"
        )
    return content


def _read_ahead(job):
    """Yield (positions, future of image and masks); a thread decodes while the network works."""
    with ThreadPoolExecutor(1) as reader:
        pending = deque()
        try:
            for rows in job.groups:
                pending.append((rows, reader.submit(_read, job.samples, rows, job.keys)))
                if len(pending) > _AHEAD:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            reader.shutdown(cancel_futures=True)


class RowStream:
    """Passes each image through the network once, and gives its rows.

    Parameters
    ----------
    extract : ActivationExtractor
    transform : JointTransform
    n_channels : dict of {str: int}
        What each layer must give.
    scales : dict of {str: tuple of ndarray}, or None
        Means and scales of each layer's channels, to standardise by.
    seed : int
        For random transforms.
    relieve : callable, default=None
        Called where a device has run out of memory, to free some before the image is tried again.
    """

    def __init__(self, extract, transform, *, n_channels, scales, seed, relieve=None):
        self.extract = extract
        self.transform = transform
        self.n_channels = n_channels
        self.scales = scales
        self.seed = seed
        self.relieve = relieve

    def over(self, job):
        """Yield a list for each image, of a Row or Failure per row; a failure does not end it."""
        how = {"desc": "LoCE", "unit": "image", "total": len(job.groups)}
        with self.extract, closing(_read_ahead(job)) as images:
            for rows, content in tqdm(images, disable=not job.progress, **how):
                yield self._rows_of(job, rows, content)

    def _rows_of(self, job, rows, content):
        names = [row_name(job.samples, i) for i in rows]
        preview = job.preview if job.preview and not job.preview.rows.isdisjoint(rows) else None
        try:
            image, masks = content.result()
            view, activations = self._look(image, masks, preview)
            _check_activations(activations, self.n_channels, names[0])
        except Exception as error:
            return [Failure(int(i), name, error) for i, name in zip(rows, names, strict=True)]
        shared = tuple(self._scaled(layer, grid[0]) for layer, grid in activations.items())
        return [
            Row(int(i), name, masks[k], view, view.masks[k], shared)
            for k, (i, name) in enumerate(zip(rows, names, strict=True))
        ]

    def _scaled(self, layer, grid):
        if self.scales is None:
            return grid
        mean, scale = (torch.as_tensor(facts)[:, None, None] for facts in self.scales[layer])
        dtype = torch.promote_types(grid.dtype, torch.float32)
        scaled = (grid.double() - mean.to(grid.device)) / scale.to(grid.device)
        return scaled.to(dtype)

    def _look(self, image, masks, preview):
        with one_thread():
            view = make_view(image, masks, self.transform, self.seed)
        activations = preview.activations if preview else self._pass(view)
        activations = {layer: activations[layer] for layer in self.extract.layers}
        return view.within(self.extract.frame(view.image.shape[-2:])), activations

    def _pass(self, view):
        try:
            return pass_network(view, self.extract)
        except torch.OutOfMemoryError:
            if self.relieve is None:
                raise
            self.relieve()
            return pass_network(view, self.extract)
