"""Net2Vec: one vector per concept for a whole set of images, few of which are in memory."""

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
    """What the optimization needs of one image.

    Parameters
    ----------
    positions : ndarray of shape (n_rows,), int
        Places of its rows in the table.
    activations : Tensor of shape (n_channels, height, width)
    targets : ndarray of shape (n_rows, H, W), float32
        Their masks at mask size.
    """

    positions: np.ndarray
    activations: torch.Tensor
    targets: np.ndarray

    @property
    def n_bytes(self):
        """Size of activations and masks."""
        return self.activations.numel() * self.activations.element_size() + self.targets.nbytes


class ImageStream:
    """Images of a table with their activations, again and again in any order.

    The first images that fit into the cache are kept there, the others pass the network each time.

    Parameters
    ----------
    loce : LoCETransformer
        Fitted, with one layer.
    samples : DataFrame
    cache_size : float
        In megabytes.

    Raises
    ------
    FileNotFoundError, ValueError
        If images or masks are at fault; the message names the rows.
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
        # Closed at once where the caller stops early: threads pass the next images already.
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
    """One vector per concept, each with its own AdamW state and its own minibatch.

    Parameters
    ----------
    n_concepts : int
    start : Tensor of shape (n_channels,)
        Its dtype and device are those of the vectors.
    objective : AdamWObjective
    batch_size : int
        Number of images with a concept after which its vector takes a step.
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
        """Add an image's gradients; vectors whose minibatch is full take a step.

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
        """Let every vector take a step with what its unfinished minibatch holds."""
        self._step(np.flatnonzero(self._n_images))

    def numpy(self):
        """Return the vectors, (n_concepts, n_channels)."""
        return torch.stack(self._vectors).cpu().numpy()

    def _step(self, due):
        """Step with the mean gradient of the rows since the last step."""
        for code in due:
            self._vectors[code].grad = self._sums[code] / self._n_rows[code]
        # AdamW leaves vectors without a gradient, and their state, alone.
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._sums[due], self._n_rows[due], self._n_images[due] = 0, 0, 0


@torch.no_grad()
def optimize_net2vec(images, codes, vectors, orders):
    """Pass the images once per order, and let the vectors step.

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
        Mean loss of each concept's rows while the epoch went on; NaN for one without rows.
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
