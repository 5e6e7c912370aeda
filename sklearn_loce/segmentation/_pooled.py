"""Optimize one vector per concept over all images by L-BFGS."""

import numpy as np
import torch

from .._network.grids import root_mean_squares
from .._solvers.lbfgs import PixelLoss, make_ridge, minimize, search_line
from .._solvers.project import Grid, resampling_matrices


class PooledRows:
    """The mean of the objective over the rows of each concept, as a problem for ``minimize``.

    A row of weights contains the vector and bias of a concept. As for single rows, its coordinates
    are scaled so that few steps suffice, here by the scale and mean of all images of the concept.
    Sums are in float64.

    Parameters
    ----------
    images : ImageStream
    codes : ndarray of shape (n_samples,), int
        The concept of each row of the table.
    n_concepts : int
    objective : LBFGSObjective
    """

    def __init__(self, images, codes, n_concepts, objective):
        self._images, self._objective = images, objective
        self._codes = torch.from_numpy(codes)
        self.n_rows = torch.zeros(n_concepts, dtype=torch.float64)
        squares, means = torch.zeros_like(self.n_rows), None
        for rows, image in self._walk():
            grid = image.activations
            square = root_mean_squares(grid[None])[0].cpu().double() ** 2
            mean = grid.mean((1, 2)).cpu().double()
            if means is None:
                means = mean.new_zeros(n_concepts, len(mean))
            self.n_rows.index_add_(0, rows, torch.ones(len(rows), dtype=torch.float64))
            squares.index_add_(0, rows, square.expand(len(rows)))
            means.index_add_(0, rows, mean.expand(len(rows), -1))
        self._root = (squares / self.n_rows).sqrt()[:, None]
        self._mean = None if means is None else means / self.n_rows[:, None] / self._root
        self.curve = []  # losses at the start of each step

    def solve(self, start):
        """Optimize the vectors from one start (n_channels,).

        Returns
        -------
        embeddings : ndarray of shape (n_concepts, n_channels + 1), float32
            With the bias.
        n_iter : ndarray of shape (n_concepts,), int
        gradient_norm : ndarray of shape (n_concepts,), float64
            Relative norms, which ``tol`` bounds.
        """
        vectors = torch.as_tensor(start).double() * self._root
        weights = torch.cat([vectors, (self._mean * vectors).sum(1, keepdim=True)], dim=1)
        self._ridge = make_ridge(weights, self._objective)
        weights, n_iter, norm = minimize(self, weights, self._objective)
        found = torch.cat(self._unscale(weights), dim=1)
        return found.numpy().astype(np.float32), n_iter.numpy().astype(int), norm.numpy()

    def begin(self, weights):
        """Move to these weights, and return the gradients."""
        self._losses, self._gradient = self._pass_images(weights)
        return self._gradient

    def step(self, weights, direction, gradient):
        """Search along a direction, and return the steps and the new gradients."""
        self.curve.append(self._losses.numpy())
        is_convex, tried = self._objective.is_convex, None

        def evaluate(t):
            nonlocal tried
            tried = t
            at = self.begin(weights + t[:, None] * direction)
            losses = torch.zeros_like(t) if is_convex else self._losses  # slopes suffice
            return (at * direction).sum(1), losses

        before = torch.zeros_like(self._losses) if is_convex else self._losses
        t = search_line(evaluate, (gradient * direction).sum(1), before)
        if ((t - tried)[:, None] * direction).any():  # if the trials end without a valid step
            evaluate(t)
        return t, self._gradient

    def _walk(self):
        """Yield the concepts of each image's rows, and the image."""
        for image in self._images(range(len(self._images))):
            if len(image.positions):
                yield self._codes[image.positions], image

    def _unscale(self, weights):
        """Return vectors, and biases (n_concepts, 1), in the coordinates of activations."""
        vectors = weights[:, :-1]
        return vectors / self._root, weights[:, -1:] - (self._mean * vectors).sum(1, keepdim=True)

    def _pass_images(self, weights):
        """Return the losses with the ridge, and their gradients, from one pass over the images."""
        vectors, biases = (part.float() for part in self._unscale(weights))
        losses, gradients = torch.zeros_like(self.n_rows), torch.zeros_like(weights)
        for rows, image in self._walk():
            values, slopes, biased = self._differentiate(image, vectors[rows], biases[rows])
            losses.index_add_(0, rows, values.cpu().double())
            both = torch.cat([slopes, biased], dim=1).cpu().double()
            gradients.index_add_(0, rows, both)
        losses, gradients = losses / self.n_rows, gradients / self.n_rows[:, None]
        by_bias = gradients[:, -1:]
        gradients = torch.cat([gradients[:, :-1] / self._root - self._mean * by_bias, by_bias], 1)
        pull = self._ridge * weights
        return losses + (pull * weights).sum(1) / 2, gradients + pull

    def _differentiate(self, image, vectors, biases):
        """Return the losses of an image's rows, and their gradients by vectors and by biases."""
        channels, size = image.activations[None], image.targets.shape[1:]
        like = {"dtype": channels.dtype, "device": channels.device}
        grid = Grid(channels, *resampling_matrices(channels, size))
        logits = grid.compute_logits(vectors[None].to(**like))[0].flatten(1) + biases.to(**like)
        pixels = PixelLoss(self._objective, image.targets, None, **like)
        slopes = pixels.slopes(logits)
        by_vector = grid.pull_back(slopes.view(1, -1, *size))[0]
        return pixels.losses(logits), by_vector, slopes.sum(1, keepdim=True)
