"""Net2Vec: one vector per concept for a set of images that need not fit into memory."""

from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch.optim import AdamW

from .._embedding.embed import read_images
from .._samples.table import check_rows, group_by_image, raise_empty, read_sample_mask
from .._solvers.adamw import BETAS, EPS, WEIGHT_DECAY, project_and_differentiate

_MEGABYTE = 2**20


@dataclass(frozen=True)
class ImageRows:
    """Activations and masks of one image.

    Parameters
    ----------
    positions : ndarray of shape (n_rows,), int
        Positions of its rows in the table.
    activations : Tensor of shape (n_channels, height, width)
    targets : ndarray of shape (n_rows, H, W), float32
        Masks of its rows at the mask size.
    """

    positions: np.ndarray
    activations: torch.Tensor
    targets: np.ndarray

    @property
    def n_bytes(self):
        """Size of activations and masks."""
        return self.activations.numel() * self.activations.element_size() + self.targets.nbytes


class ImageStream:
    """Images of a table with their activations, for repeated passes in any order.

    The cache keeps the first images that fit. The other images pass the network each time.

    Parameters
    ----------
    loce : LoCETransformer
        Fitted transformer with one layer.
    samples : DataFrame
        The table of samples.
    cache_size : float
        Size of the cache in megabytes.

    Raises
    ------
    FileNotFoundError, ValueError
        If an image or mask is invalid. The message names the rows.
    """

    def __init__(self, loce, samples, cache_size):
        self._loce, self._samples = loce, samples
        self._groups = group_by_image(samples)
        has_foreground = check_rows(samples, self._groups)
        if loce.on_empty == "raise":
            raise_empty(samples, np.flatnonzero(~has_foreground))
        self._kept, self._free = {}, cache_size * _MEGABYTE

    def __len__(self):
        return len(self._groups)

    def __call__(self, order):
        """Yield the images of these numbers, each once.

        Parameters
        ----------
        order : sequence of int

        Yields
        ------
        ImageRows
        """
        missing = [self._groups[i] for i in order if i not in self._kept]
        # Close it if the caller stops early, because threads already process the next images.
        with closing(read_images(self._loce, self._samples, missing)) as images:
            for i in order:
                yield self._kept[i] if i in self._kept else self._read(i, *next(images))

    def _read(self, i, rows, activations):
        view, objective = activations.view, self._loce._objective
        masks = [read_sample_mask(self._samples, k, view.original_size) for k in rows]
        targets = objective.targets([view.see(mask) for mask in masks])
        kept = (targets > 0).any((1, 2))
        if self._loce.on_empty == "raise":
            raise_empty(self._samples, rows[~kept])
        (grid,) = activations.grids.values()
        image = ImageRows(rows[kept], grid, targets[kept])
        if image.n_bytes <= self._free:
            self._free -= image.n_bytes
            self._kept[i] = image
        return image


class ConceptVectors:
    """One vector per concept, with its own AdamW state and minibatch.

    Parameters
    ----------
    n_concepts : int
    start : Tensor of shape (n_channels,)
        Start of all vectors, with their dtype and device.
    objective : AdamWObjective
    batch_size : int
        Number of images with a concept per step of its vector.
    """

    def __init__(self, n_concepts, start, objective, batch_size):
        self._objective = objective
        self._vectors = [start.clone() for _ in range(n_concepts)]
        self._optimizer = AdamW(
            self._vectors,
            lr=objective.learning_rate,
            betas=BETAS,
            eps=EPS,
            weight_decay=WEIGHT_DECAY,
        )
        self._batch_size = batch_size
        self._sums = torch.stack(self._vectors).zero_()
        self._n_rows = np.zeros(n_concepts)
        self._n_images = np.zeros(n_concepts, dtype=int)

    def add(self, image, codes):
        """Add the gradients of an image, and update vectors with a full minibatch.

        Parameters
        ----------
        image : ImageRows
        codes : ndarray of shape (n_rows,), int
            The concept of each of its rows.

        Returns
        -------
        ndarray of shape (n_rows,), float64
            The losses before the step.
        """
        weights = torch.stack([self._vectors[code] for code in codes])
        activations = image.activations.expand(len(codes), -1, -1, -1)
        terms = self._objective.slope_terms(image.targets.astype(np.float64))
        terms = [torch.from_numpy(term).to(weights) for term in terms]
        projections, gradients = project_and_differentiate(
            activations, weights, terms, self._objective
        )
        for code, gradient in zip(codes, gradients, strict=True):
            self._sums[code] += gradient
            self._n_rows[code] += 1
        self._n_images[np.unique(codes)] += 1
        self._step(np.flatnonzero(self._n_images >= self._batch_size))
        return self._objective.losses(projections.cpu(), image.targets, weights.cpu()).numpy()

    def flush(self):
        """Update all vectors with an incomplete minibatch."""
        self._step(np.flatnonzero(self._n_images))

    def numpy(self):
        """Return the vectors, (n_concepts, n_channels)."""
        return torch.stack(self._vectors).cpu().numpy()

    def _step(self, due):
        """Update vectors by the mean gradient of the rows since their last step."""
        for code in due:
            self._vectors[code].grad = self._sums[code] / self._n_rows[code]
        # AdamW does not change vectors without a gradient, nor their state.
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._sums[due], self._n_rows[due], self._n_images[due] = 0, 0, 0


@torch.no_grad()
def optimize_net2vec(images, codes, vectors, orders):
    """Pass the images once per order, and update the vectors.

    Parameters
    ----------
    images : ImageStream
    codes : ndarray of shape (n_samples,), int
        The concept of each row of the table.
    vectors : ConceptVectors
    orders : iterable of sequences of int
        The order of the images in each epoch.

    Returns
    -------
    ndarray of shape (n_epochs, n_concepts), float64
        Mean loss of each concept's rows during the epoch; NaN for a concept without rows.
    """
    curve = []
    for order in orders:
        epoch = np.full(len(codes), np.nan)
        for image in images(order):
            if len(image.positions):
                epoch[image.positions] = vectors.add(image, codes[image.positions])
        vectors.flush()
        seen = np.isfinite(epoch)
        totals = np.bincount(codes[seen], epoch[seen], minlength=codes.max() + 1)
        with np.errstate(invalid="ignore"):
            curve.append(totals / np.bincount(codes[seen], minlength=len(totals)))
    return np.array(curve)
