"""L-BFGS for the objectives with a ridge as batched torch operations, for any device and dtype."""

import numpy as np
import torch

from .bilinear import bilinear_matrix
from .ridge import (
    DICE,
    JACCARD,
    LEAST_UNIT,
    LOGISTIC,
    LONG,
    MAX_TRIALS,
    MEMORY,
    N_FACTS,
    RISE,
    SHORT,
    balance,
)

_CHUNK = 64  # rows


def _dot(a, b):
    return (a * b).sum(1)


def _column(values):
    return values[:, None]


class Pixels:
    """What a loss needs of every mask pixel.

    Parameters
    ----------
    settings : RidgeSettings
    targets : ndarray of shape (n_rows, H, W)
    dtype, device
        Of the computation.
    """

    def __init__(self, settings, targets, dtype, device):
        self.kind = kind = settings.kind
        like = {"dtype": dtype, "device": device}
        self.targets = torch.as_tensor(targets, **like).flatten(1)
        if kind == LOGISTIC:
            shares = balance(targets, settings.class_weight)
            concept, background = (_column(torch.as_tensor(part, **like)) for part in shares)
            self.positive = concept * self.targets
            self.negative = background * (1 - self.targets)

    def losses(self, logits):
        """Give the losses (n_rows,) without the ridge, for logits (n_rows, n_pixels)."""
        if self.kind == LOGISTIC:
            softplus = torch.nn.functional.softplus
            positive = _dot(self.positive, softplus(-logits))
            return positive + _dot(self.negative, softplus(logits))
        return self._overlap_losses(logits.sigmoid())

    def slopes(self, logits):
        """Give the losses' slopes dL/dz, (n_rows, n_pixels)."""
        projections = logits.sigmoid()
        if self.kind == LOGISTIC:
            return (self.positive + self.negative) * projections - self.positive
        shared, whole = self._overlap(projections)
        # From (whole - shared) / whole, or from 1 - 2 shared / whole.
        inner = shared + whole if self.kind == JACCARD else 2 * whole
        outer = shared if self.kind == JACCARD else 2 * shared
        slopes = (_column(outer) - self.targets * _column(inner)) / _column(whole**2)
        return slopes * projections * (1 - projections)

    def _overlap(self, projections):
        """Give the soft intersection, and the soft union or the sum of both areas."""
        shared = _dot(self.targets, projections)
        whole = self.targets.sum(1) + projections.sum(1)
        return shared, whole - shared if self.kind == JACCARD else whole

    def _overlap_losses(self, projections):
        shared, whole = self._overlap(projections)
        return 1 - (2 if self.kind == DICE else 1) * shared / whole


def root_mean_squares(grids):
    """Give the root of the mean over cells of the squared norm of their activations; 1 for 0.

    Parameters
    ----------
    grids : Tensor of shape (n_rows, n_channels, height, width)

    Returns
    -------
    Tensor of shape (n_rows,)
    """
    # Squares of large or small numbers leave the range of their dtype.
    largest = grids.abs().amax((1, 2, 3))
    largest = torch.where(largest > 0, largest, 1)
    shares = grids / largest[:, None, None, None]
    roots = largest * shares.square().mean((2, 3)).sum(1).sqrt()
    return torch.where(roots > 0, roots, 1)


class Scaled:
    """A chunk of activations in the coordinates of the solver.

    Parameters
    ----------
    activations : Tensor of shape (n_rows, n_channels, height, width)
    mask_size : tuple of int
    """

    def __init__(self, activations, mask_size):
        self.height, self.width = activations.shape[2:]
        like = {"dtype": activations.dtype, "device": activations.device}
        self.rows = bilinear_matrix(self.height, mask_size[0], **like)
        self.columns = bilinear_matrix(self.width, mask_size[1], **like)
        cells = activations.flatten(2)
        self.root = _column(root_mean_squares(activations))
        self.mean = cells.mean(2) / self.root
        cells = cells / self.root[:, None] - self.mean[..., None]
        self.channels = torch.cat([cells, torch.ones_like(cells[:, :1])], dim=1)

    def logits(self, weights):
        """Give the map at mask size, (n_rows, n_pixels)."""
        grid = torch.bmm(weights.unsqueeze(1), self.channels)
        return (self.rows @ grid.view(-1, self.height, self.width) @ self.columns.T).flatten(1)

    def gradient(self, slopes):
        """Give the adjoint: slopes (n_rows, n_pixels) to gradients (n_rows, n_channels + 1)."""
        slopes = slopes.view(len(slopes), len(self.rows), len(self.columns))
        grid = (self.rows.T @ slopes @ self.columns).flatten(1)
        return torch.bmm(self.channels, grid.unsqueeze(2)).squeeze(2)

    def scale(self, vectors, bias):
        """Bring vectors and biases to the solver's coordinates."""
        vectors = vectors * self.root
        return torch.cat([vectors, _column(bias + _dot(self.mean, vectors))], dim=1)

    def unscale(self, weights):
        """Give vectors, and biases (n_rows,)."""
        vectors = weights[:, :-1]
        return vectors / self.root, weights[:, -1] - _dot(self.mean, vectors)


class _Memory:
    """The pairs of L-BFGS; those of rows that did not move have no effect."""

    def __init__(self):
        self.pairs = []

    def add(self, step, change):
        product = _dot(step, change)
        moved = product > 0
        inverse = torch.where(moved, 1 / torch.where(moved, product, 1), 0)
        self.pairs = [*self.pairs[1 - MEMORY :], (step, change, inverse)]
        size = _dot(change, change)
        scale = torch.where(moved, product / torch.where(moved, size, 1), 0)
        previous = getattr(self, "scale", scale)
        self.scale = torch.where(moved, scale, previous)

    def direction(self, gradient):
        """Go down the gradient by the inverse Hessian's estimate (Nocedal's two loops)."""
        if not self.pairs:
            return -gradient
        rest, shares = gradient.clone(), []
        for step, change, inverse in reversed(self.pairs):
            shares.append(inverse * _dot(step, rest))
            rest -= _column(shares[-1]) * change
        rest *= _column(torch.where(self.scale > 0, self.scale, 1))
        for (step, change, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            rest += _column(share - inverse * _dot(change, rest)) * step
        return -rest


class _Line:
    """The loss of each row along its direction."""

    def __init__(self, pixels, ridge, point, direction, logits, towards):
        self.pixels, self.logits, self.towards = pixels, logits, towards
        self.linear = _dot(ridge * point, direction)
        self.square = _dot(ridge * direction, direction)

    def look(self, t):
        """Give the slopes along the line, and by how much the loss has changed."""
        logits = self.logits + _column(t) * self.towards
        slope = _dot(self.pixels.slopes(logits), self.towards) + self.linear + t * self.square
        if self.pixels.kind == LOGISTIC:  # convex, so that slopes say it all
            return slope, torch.zeros_like(slope)
        return slope, self.pixels.losses(logits) + t * (self.linear + t * self.square / 2)

    def search(self, slope):
        """Give for each row a step that is neither too short nor too long."""
        low, high = torch.zeros_like(slope), torch.full_like(slope, torch.inf)
        low_slope, t = slope, torch.ones_like(slope)
        _, before = self.look(low)
        open_ = slope < 0
        for _ in range(MAX_TRIALS):
            now, value = self.look(t)
            too_long = open_ & ((now > -LONG * slope) | (value > before + RISE))
            too_short = open_ & ~too_long & (now < SHORT * slope)
            open_ = too_long | too_short
            if not open_.any():
                break
            high = torch.where(too_long, t, high)
            # Where the slope has turned round, its zero lies between, about where a line says.
            secant = low_slope / (low_slope - now)
            share = torch.where(now > 0, secant.clamp(0.1, 0.9), 0.5)
            inside = low + share * (high - low)
            low = torch.where(too_short, t, low)
            low_slope = torch.where(too_short, now, low_slope)
            beyond = torch.where(high.isinf(), 4 * t, (low + high) / 2)
            t = torch.where(too_long, inside, torch.where(too_short, beyond, t))
        return torch.where(slope < 0, t, 0)


def _minimise(scaled, pixels, weights, settings):
    """Give the weights of each row, its number of iterations, and its relative gradient norm."""
    ridge = torch.full_like(weights, settings.alpha)
    ridge[:, -1] = 0
    logits, memory = scaled.logits(weights), _Memory()
    unit = scaled.gradient(pixels.slopes(torch.zeros_like(logits))).norm(dim=1)
    if settings.kind == LOGISTIC:
        unit = unit.clamp(min=LEAST_UNIT)
    unit = torch.where(unit > 0, unit, 1)
    gradient = scaled.gradient(pixels.slopes(logits)) + ridge * weights
    n_iter = torch.zeros_like(unit)
    for _ in range(settings.max_iter):
        norm = gradient.norm(dim=1)
        # Where losses are not convex, gradients at zero are as small as the mask, and may grow.
        unit = unit if settings.kind == LOGISTIC else torch.maximum(unit, norm)
        active = norm > settings.tol * unit
        if not active.any():
            break
        n_iter += active
        direction = memory.direction(gradient) * _column(active)
        towards = scaled.logits(direction)
        line = _Line(pixels, ridge, weights, direction, logits, towards)
        t = line.search(_dot(direction, gradient))
        weights, before = weights + _column(t) * direction, gradient
        logits = logits + _column(t) * towards
        gradient = scaled.gradient(pixels.slopes(logits)) + ridge * weights
        memory.add(_column(t) * direction, gradient - before)
    return weights, n_iter, gradient.norm(dim=1) / unit


def _solve_chunk(activations, targets, start, settings):
    like = {"dtype": activations.dtype, "device": activations.device}
    scaled = Scaled(activations, targets.shape[1:])
    pixels = Pixels(settings, targets, **like)
    start = torch.as_tensor(start, **like).expand(len(activations), -1)
    weights = scaled.scale(start, torch.zeros(len(start), **like))
    weights, n_iter, norm = _minimise(scaled, pixels, weights, settings)
    vectors, intercept = scaled.unscale(weights)
    return torch.cat([vectors, torch.stack([intercept, n_iter, norm], dim=1)], dim=1)


@torch.no_grad()
def solve_ridge_with_torch(activations, targets, start, settings):
    """Optimise the samples, those of one size together.

    Parameters
    ----------
    activations : sequence of Tensor of shape (n_channels, height, width)
    targets : ndarray of shape (n_rows, H, W), float32
    start : ndarray of shape (n_channels,)
    settings : RidgeSettings

    Returns
    -------
    Tensor of shape (n_rows, n_channels + N_FACTS)
        Vectors, and what is known of them in the order of FACTS; on the CPU.
    """
    solved = torch.empty(len(activations), len(start) + N_FACTS, dtype=activations[0].dtype)
    shapes = np.array([tuple(sample.shape) for sample in activations])
    # On the CPU one row at a time: see ``_chunks`` of the other solver.
    most = _CHUNK if activations[0].device.type == "cuda" else 1
    for shape in np.unique(shapes, axis=0):
        rows = np.flatnonzero((shapes == shape).all(1))
        for chunk in np.split(rows, range(most, len(rows), most)):
            stack = torch.stack([activations[i] for i in chunk])
            solved[chunk] = _solve_chunk(stack, targets[chunk], start, settings).cpu()
    return solved
