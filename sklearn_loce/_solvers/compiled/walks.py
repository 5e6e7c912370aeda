"""Walks over activations on the CPU: which rows go together, in which thread, in which memory.

Rows that share activations are solved in one walk, by one thread from start to end. Every row sees
the same operations in the same order whoever shares its walk, so that a vector can't depend on the
batch, the order or the number of threads.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba.core import config

from ..bilinear import bilinear_matrix, bilinear_taps, resample_axis
from .simd import LANES, aligned_zeros
from .threads import share_out

# Rows that share a walk: beyond, their maps crowd the activations out of the second-level cache.
_MOST_ROWS = 16


def padded(size, multiple=LANES):
    """Give the next multiple, of whole vectors if nothing else is said."""
    return -(-size // multiple) * multiple


class Resampling(NamedTuple):
    """A matrix that acts on lines, and which of its rows each vector of columns needs."""

    matrix: np.ndarray
    n_columns: int
    first: np.ndarray
    stop: np.ndarray


def _resampling(matrix):
    """Bring a matrix (size_in, size_out) to the form that the compiled steps read."""
    n_columns = padded(matrix.shape[1])
    flat = aligned_zeros(len(matrix) * n_columns)
    lines = flat.reshape(len(matrix), n_columns)
    lines[:, : matrix.shape[1]] = matrix
    used = lines.reshape(len(matrix), -1, LANES).any(2)
    return Resampling(flat, n_columns, used.argmax(0), len(matrix) - used[::-1].argmax(0))


@lru_cache(maxsize=64)
def geometry_of(size, mask_size):
    """Give what the compiled step needs to know of a grid and a mask's size."""
    columns = bilinear_matrix(size[1], mask_size[1], torch.float32, "cpu").numpy()
    upper, _, share = bilinear_taps(size[0], mask_size[0])
    lines = (np.searchsorted(upper, np.arange(size[0] + 1)), share.astype(np.float32))
    return lines, _resampling(columns.T), _resampling(columns)


class Room:
    """Memory that one thread uses for one walk after the other, since fresh memory is slow."""

    def __init__(self):
        self._arrays = {}

    def take(self, sizes):
        """Give flat arrays by {name: size}, with whatever they held before."""
        for name, size in sizes.items():
            if name not in self._arrays or len(self._arrays[name]) < size:
                self._arrays[name] = aligned_zeros(size)
        return tuple(self._arrays[name][:size] for name, size in sizes.items())


def shrunk(activations, mask_size):
    """Resample axes that are longer than the mask's: bilinear resampling is linear."""
    for axis, (size, target) in enumerate(zip(activations.shape[1:], mask_size, strict=True), 1):
        if size > target:
            activations = resample_axis(activations, axis, target)
    return activations


def _walks(images, n_samples, n_threads):
    """Cut the rows of images into walks enough for all threads."""
    most = min(_MOST_ROWS, -(-n_samples // n_threads))
    return [rows[i : i + most] for rows in images for i in range(0, len(rows), most)]


def over_walks(solve, activations, images, n_channels, n_threads):
    """Call ``solve(grid, rows, room)`` for every walk, on as many threads.

    Parameters
    ----------
    solve : callable
        Of the activations that rows share, their places, and the thread's Room.
    activations : sequence of ndarray of shape (n_channels, height, width), float32
    images : list of ndarray of int
        The samples that share activations.
    n_channels : int
        What every sample must have.
    n_threads : int or None
        ``None`` means as many as torch has.

    Raises
    ------
    RuntimeError
        If numba was told not to compile.
    ValueError
        If a sample has another number of channels.
    """
    if config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, and the solver for float32 on the CPU only runs compiled. "
            "Unset it, or pass activations of float64."
        )
    if any(len(sample) != n_channels for sample in activations):
        raise ValueError(f"Every sample must have the {n_channels} channels of the start.")
    n_threads = n_threads or torch.get_num_threads()

    def work(walks):
        room = Room()
        for rows in walks:
            solve(activations[rows[0]], rows, room)

    share_out(work, _walks(images, len(activations), n_threads), n_threads)
