"""The exact AdamW solver on the CPU: which rows go together, in which thread, in which memory.

Rows that share activations are solved in one walk, by one thread from start to end. Every row sees
the same operations in the same order whoever shares its walk, so that a vector can't depend on the
batch, the order or the number of threads.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba.core import config

from ._adamw_steps import SLOPE_KINDS, solve_walk
from ._bilinear import bilinear_matrix, bilinear_taps
from ._simd import LANES, aligned_zeros
from ._threads import share_out

# Rows that share a walk: beyond, their maps crowd the activations out of the second-level cache.
_MOST_ROWS = 16


def _padded(size, multiple=LANES):
    return -(-size // multiple) * multiple


class _Resampling(NamedTuple):
    """A matrix that acts on lines, and which of its rows each vector of columns needs."""

    matrix: np.ndarray
    n_columns: int
    first: np.ndarray
    stop: np.ndarray


def _resampling(matrix):
    """Bring a matrix (size_in, size_out) to the form that ``_resample_lines`` reads."""
    n_columns = _padded(matrix.shape[1])
    padded = np.zeros((len(matrix), n_columns), dtype=np.float32)
    padded[:, : matrix.shape[1]] = matrix
    used = padded.reshape(len(matrix), -1, LANES).any(2)
    flat = aligned_zeros(padded.size)
    flat[:] = padded.ravel()
    return _Resampling(flat, n_columns, used.argmax(0), len(matrix) - used[::-1].argmax(0))


@lru_cache(maxsize=64)
def _geometry(size, mask_size):
    """Give what the compiled step needs to know of a grid and a mask's size."""
    columns = bilinear_matrix(size[1], mask_size[1], torch.float32, "cpu").numpy()
    upper, _, share = bilinear_taps(size[0], mask_size[0])
    lines = (np.searchsorted(upper, np.arange(size[0] + 1)), share.astype(np.float32))
    return lines, _resampling(columns.T), _resampling(columns)


class _Room:
    """Memory that one thread uses for one walk after the other, since fresh memory is slow."""

    def __init__(self):
        self._arrays = {}

    def take(self, sizes):
        """Give flat arrays by {name: size}, with whatever they held before."""
        for name, size in sizes.items():
            if name not in self._arrays or len(self._arrays[name]) < size:
                self._arrays[name] = aligned_zeros(size)
        return tuple(self._arrays[name][:size] for name, size in sizes.items())


def _shrunk(activations, mask_size):
    """Resample axes that are longer than the mask's: bilinear resampling is linear."""
    for axis, (size, target) in enumerate(zip(activations.shape[1:], mask_size, strict=True), 1):
        if size > target:
            first, second, share = bilinear_taps(size, target)
            share = share.astype(np.float32).reshape((-1, 1) if axis == 1 else -1)
            first, second = (activations.take(taps, axis) for taps in (first, second))
            activations = first + share * (second - first)
    return activations


def _schedules(settings):
    """One line per step, of the shape that ``_move`` unpacks."""
    k = np.arange(1, settings.max_iter + 1, dtype=np.float64)[:, None]
    beta1, beta2 = settings.betas
    varying = [settings.learning_rate / (1 - beta1**k), 1 / np.sqrt(1 - beta2**k)]
    decay = 1 - settings.learning_rate * settings.weight_decay
    fixed = [decay, 1 - beta1, beta2, 1 - beta2, settings.eps]
    return np.hstack([*varying, np.broadcast_to(fixed, (len(k), len(fixed)))]).astype(np.float32)


def _walks(images, n_samples, n_threads):
    """Cut the rows of images into walks enough for all threads."""
    most = min(_MOST_ROWS, -(-n_samples // n_threads))
    return [rows[i : i + most] for rows in images for i in range(0, len(rows), most)]


def _sizes(n_rows, shape, mask_size, width):
    """Give how the compiled steps count, and the room that they need."""
    n_lines = _padded(shape[1], 4)  # lines are done four at a time
    n_channels, n_pixels = _padded(shape[0]), _padded(shape[1] * shape[2])
    stride = _padded(n_lines * shape[2] + LANES)
    room = {
        "activations": n_channels * n_pixels,
        "held": n_rows * mask_size[0] * width,
        **dict.fromkeys(("weights", "mean", "square"), n_rows * n_channels),
        **dict.fromkeys(("wide", "wide_slope"), (n_lines + 1) * width),
        **dict.fromkeys(("slopes", "projections"), n_rows * stride),
    }
    return (n_rows, n_channels, n_pixels, stride), room


def solve_on_cpu(activations, images, targets, start, settings, n_threads=None):
    """Optimise the samples; those that share activations together, in one thread.

    Parameters
    ----------
    activations : sequence of ndarray of shape (n_channels, height, width), float32
        One per sample; their sizes may differ.
    images : list of ndarray of int
        The samples that share activations.
    targets : ndarray of shape (n_samples, n_rows, n_columns), float32
    start : ndarray of shape (n_channels,)
    settings : Settings
    n_threads : int, default=None
        ``None`` means as many as torch has.

    Returns
    -------
    ndarray of shape (n_samples, n_channels), float32
    """
    if config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, and the solver for float32 on the CPU only runs compiled. "
            "Unset it, or pass activations of float64."
        )
    if any(sample.shape[0] != len(start) for sample in activations):
        raise ValueError(f"Every sample must have the {len(start)} channels of the start.")
    n_threads = n_threads or torch.get_num_threads()
    walks = _walks(images, len(activations), n_threads)
    embeddings = np.empty((len(activations), len(start)), dtype=np.float32)
    mask_size, objective, schedules = targets.shape[1:], settings.objective, _schedules(settings)
    kind, start = SLOPE_KINDS[objective.slope], start.astype(np.float32)
    scale = np.float32(objective.slope_scale / targets[0].size)
    penalty = np.float32(objective.penalty / len(start))

    def solve(walks):
        room = _Room()
        for rows in walks:
            grid = np.ascontiguousarray(_shrunk(activations[rows[0]], mask_size))
            geometry = _geometry(grid.shape[1:], mask_size)
            sizes, needed = _sizes(len(rows), grid.shape, mask_size, geometry[1].n_columns)
            solve_walk(
                kind,
                grid,
                targets,
                rows,
                start,
                sizes,
                scale,
                penalty,
                geometry,
                schedules,
                room.take(needed),
                embeddings,
            )

    share_out(solve, walks, n_threads)
    return embeddings
