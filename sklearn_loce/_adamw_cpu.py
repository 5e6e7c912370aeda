"""The exact AdamW solver on the CPU: which rows go together, in which thread, in which memory.

Rows that share activations are solved in one walk, by one thread from start to end. Every row sees
the same operations in the same order whoever shares its walk, so that a vector can't depend on the
batch, the order or the number of threads.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from ._adamw_steps import SLOPE_KINDS, solve_walk
from ._bilinear import bilinear_matrix, bilinear_taps
from ._simd import LANES, aligned_zeros

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
    """Memory that one thread uses for one walk after the other."""

    def __init__(self):
        self._arrays = {}

    def zeros(self, name, size):
        """Give a flat array of zeros; it is used up when the name is asked for again."""
        if name not in self._arrays or len(self._arrays[name]) < size:
            self._arrays[name] = aligned_zeros(size)
            return self._arrays[name]
        array = self._arrays[name][:size]
        array.fill(0)
        return array

    def laid_out(self, name, arrays, shape):
        """Lay arrays into one flat array, each padded by zeros to ``shape``."""
        flat = self.zeros(name, len(arrays) * int(np.prod(shape)))
        padded = flat.reshape(len(arrays), *shape)
        padded[:, *(slice(n) for n in arrays.shape[1:])] = arrays
        return flat


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


def _walks(activations, n_threads):
    """Group the rows that share activations, into walks enough for all threads."""
    sharing = {}
    for i, sample in enumerate(activations):
        place = sample.__array_interface__["data"][0], sample.shape, sample.strides
        sharing.setdefault(place, []).append(i)
    most = min(_MOST_ROWS, -(-len(activations) // n_threads))
    return [rows[i : i + most] for rows in sharing.values() for i in range(0, len(rows), most)]


def _solve_walk(activations, targets, start, settings, schedules, room):
    """Optimise rows that share activations; see ``solve_on_cpu``."""
    n_rows, mask_size, objective = len(targets), targets.shape[1:], settings.objective
    activations = _shrunk(activations, mask_size)
    size, n_channels = activations.shape[1:], _padded(len(start))
    n_pixels = _padded(size[0] * size[1])
    n_lines = _padded(size[0], 4)  # lines are done four at a time
    stride = _padded(n_lines * size[1] + LANES)
    lines, widening, narrowing = _geometry(size, mask_size)
    wide_size = (n_lines + 1) * widening.n_columns
    weights = room.laid_out("weights", np.tile(start, (n_rows, 1)), (n_channels,))
    channels = activations.reshape(1, len(start), -1)
    held = objective.hold(targets.astype(np.float64))
    solve_walk(
        SLOPE_KINDS[objective.slope],
        room.laid_out("activations", channels, (n_channels, n_pixels)),
        (n_rows, n_channels, n_pixels, stride),
        room.laid_out("held", held, (mask_size[0], widening.n_columns)),
        np.float32(objective.slope_scale / held[0].size),
        np.float32(objective.penalty / len(start)),
        (size[1], size[0], lines, widening, narrowing),
        tuple(room.zeros(name, wide_size) for name in ("wide", "wide_slope")),
        tuple(room.zeros(name, n_rows * stride) for name in ("slopes", "projections")),
        schedules,
        (weights, *(room.zeros(name, len(weights)) for name in ("mean", "square"))),
    )
    return weights.reshape(n_rows, n_channels)[:, : len(start)]


def solve_on_cpu(activations, targets, start, settings, n_threads=None):
    """Optimise the samples; those that share activations together, in one thread.

    Parameters
    ----------
    activations : sequence of ndarray of shape (n_channels, height, width), float32
        One array per sample; samples of one image may share theirs. Sizes may differ.
    targets : ndarray of shape (n_samples, n_rows, n_columns), float32
    start : ndarray of shape (n_channels,)
    settings : Settings
    n_threads : int, default=None
        ``None`` means as many as torch has.

    Returns
    -------
    ndarray of shape (n_samples, n_channels), float32
    """
    if any(sample.shape[0] != len(start) for sample in activations):
        raise ValueError(f"Every sample must have the {len(start)} channels of the start.")
    n_threads = n_threads or torch.get_num_threads()
    walks, schedules = _walks(activations, n_threads), _schedules(settings)
    embeddings = np.empty((len(activations), len(start)), dtype=np.float32)

    def solve(walks):
        room = _Room()
        for rows in walks:
            sample = activations[rows[0]]
            embeddings[rows] = _solve_walk(sample, targets[rows], start, settings, schedules, room)

    n_threads = min(n_threads, len(walks))
    with ThreadPoolExecutor(n_threads) as pool:
        # Every thread draws its next walk from the same iterator.
        list(pool.map(solve, [iter(walks)] * n_threads))
    return embeddings
