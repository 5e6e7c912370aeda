"""Vectors from the stream of rows: what one process does, be it the caller's or a worker."""

import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np
import pandas as pd
import torch

from .._network.extract import ActivationExtractor
from .._network.handle import as_module, device_of
from .._network.preprocess import make_transform
from .._solvers.adamw import Recorder
from .._solvers.glued import n_facts, solve_rows
from .._solvers.masked_mean import MaskedMean
from .stream import Failure, Preview, Row, RowStream, one_thread


@dataclass(frozen=True)
class Recipe:
    """What determines the vectors, but for the rows and the model.

    Parameters
    ----------
    layers : list of str
    n_channels : list of int
    inits : list of ndarray of shape (n_channels,)
        Start of the optimisation for each layer.
    settings : Settings, RidgeSettings or MaskedMean
        Of the objective; what a solver says of a vector follows it, as far as vectors are inside.
    scales : list of tuple of ndarray, or None
        Means and scales of each layer's channels, by which activations are standardised.
    preprocess, reshape_transform, mask_size, mask_resize, on_empty, batch_size, device
        As in LoCETransformer.
    seed : int
        For random transforms.
    n_calls : dict of {str: int} or None
        How often each layer runs in one pass, where that is known.
    readings : dict of {str: tuple}
        How the outputs of layers are read, where that is known; the same for all images.
    """

    layers: list
    n_channels: list
    inits: list
    settings: object
    scales: list | None
    preprocess: object
    reshape_transform: Callable | None
    mask_size: tuple | None
    mask_resize: str | None
    on_empty: str
    batch_size: int | None
    device: object
    seed: int
    n_calls: dict | None
    readings: dict

    @property
    def widths(self):
        """How long each layer's part of a vector is."""
        return [n + n_facts(self.settings) for n in self.n_channels]

    @property
    def ends(self):
        """Where each layer's part of a vector ends."""
        return np.cumsum(self.widths)

    @property
    def why_empty(self):
        """How a mask that has foreground can lose it."""
        if self.mask_size is None:
            return "lies where preprocess cuts the image off"
        return f"loses its foreground at mask_size={self.mask_size}"

    def split(self, vectors):
        """Cut vectors (n_rows, n_features) into one array per layer."""
        return np.split(vectors, self.ends[:-1], axis=1)


@dataclass(frozen=True)
class Job:
    """Rows to work on.

    Parameters
    ----------
    samples : DataFrame
    groups : list of ndarray of int
        Positions of the rows of each image.
    vectors : ndarray of shape (n_rows, n_features), float32
        What is known already, with what the solver says of each.
    needed : ndarray of shape (n_rows, n_layers), bool
        What is to be optimised.
    finish : callable or None
        Called as ``finish(row, vectors)`` with one vector per layer, for what is to be known of
        every row besides its vectors; it then needs the activations of all layers.
    preview : Preview or None
    keys : ndarray of shape (n_rows,), object, or None
        Digests of the rows' images and masks, which must be the same when these are read.
    n_threads : int
        Of the solver. It makes no difference to the result.
    progress : bool
    """

    samples: pd.DataFrame
    groups: list
    vectors: np.ndarray
    needed: np.ndarray
    finish: Callable | None = None
    preview: Preview | None = None
    keys: np.ndarray | None = None
    n_threads: int = 1
    progress: bool = False

    @classmethod
    def of_passes(cls, samples, groups, n_layers, **how):
        """Make a job of which only the activations are asked, those of all layers."""
        nothing = np.empty((len(samples), 0), dtype=np.float32)
        return cls(samples, groups, nothing, np.ones((len(samples), n_layers), dtype=bool), **how)

    @property
    def layers(self):
        """Numbers of the layers whose activations are needed."""
        everything = self.finish is not None
        return [k for k, some in enumerate(self.needed.any(0)) if some or everything]


@dataclass(frozen=True)
class Outcome:
    """What came of a row.

    Parameters
    ----------
    position : int
    vectors : dict of {int: ndarray of shape (n_channels,)}
        The newly optimised vectors by number of the layer; NaN for an empty mask.
    value : object
        What ``finish`` gave.
    failure : Failure or None
    random : bool
        Whether the preprocessing drew random numbers.
    """

    position: int
    vectors: dict = field(default_factory=dict)
    value: object = None
    failure: Failure | None = None
    random: bool = False


class BatchSize:
    """How many rows are optimised at once; less, once a device has run out of memory.

    Parameters
    ----------
    size : int or None
        ``None`` means all rows of as many images as first have 16 rows together, 64 on a GPU, for
        rows of one image are optimised together at less cost.
    on_cpu : bool, default=True

    Attributes
    ----------
    most : int or None
        Rows that may be optimised at once.
    enough : int
        Rows with which a batch is complete.
    """

    _LONGEST = 64  # rows of one image, so that its number of rows does not set the memory

    def __init__(self, size, on_cpu=True):
        self.most = size
        self.enough = size or (16 if on_cpu else 64)
        self._recorder = Recorder()

    def parts(self, rows):
        """Cut the rows of an image where a batch may end."""
        size = self._LONGEST if self.most is None else 1
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def solve(self, activations, targets, start, settings, n_threads):
        """Optimise the rows in as few batches as memory allows."""
        parts, i = [], 0
        while i < len(activations):
            batch = slice(i, i + (self.most or len(activations)))
            try:
                how = {"n_threads": n_threads, "recorder": self._recorder}
                solved = solve_rows(activations[batch], targets[batch], start, settings, **how)
            except torch.OutOfMemoryError:
                self.halve(len(activations[batch]))
                continue
            parts.append(solved)
            i = batch.stop
        return torch.cat(parts).numpy()

    def halve(self, n_rows):
        """Take half of so many rows from now on."""
        if n_rows == 1:
            raise MemoryError("not even one row fits into the device's memory; use device='cpu'.")
        self.most = self.enough = n_rows // 2
        self._recorder = Recorder()  # frees what the recordings hold
        warnings.warn(
            f"The device ran out of memory with {n_rows} rows at once; going on with {self.most}. "
            "Set batch_size to that to spare the attempt.",
            stacklevel=2,
        )


class Worker:
    """Works on jobs.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
    recipe : Recipe
    """

    def __init__(self, model, recipe):
        self.model = model
        self.recipe = recipe

    def stream(self, job, relieve=None):
        """Yield the Rows and Failures of each image, with activations of the layers needed."""
        recipe = self.recipe
        layers = [recipe.layers[k] for k in job.layers]
        extract = ActivationExtractor(
            self.model,
            layers,
            reshape_transform=recipe.reshape_transform,
            device=recipe.device,
            n_calls=recipe.n_calls and {layer: recipe.n_calls[layer] for layer in layers},
            readings=recipe.readings,
        )
        stream = RowStream(
            extract,
            make_transform(recipe.preprocess, self.model),
            n_channels=dict(zip(recipe.layers, recipe.n_channels, strict=True)),
            scales=recipe.scales and dict(zip(recipe.layers, recipe.scales, strict=True)),
            seed=recipe.seed,
            relieve=relieve,
        )
        return stream.over(job)

    def rows(self, samples, groups, *, progress=False):
        """Yield the Rows of these images, with activations of all layers; a failure raises."""
        job = Job.of_passes(samples, groups, len(self.recipe.layers), progress=progress)
        with closing(self.stream(job)) as stream:
            for item in chain.from_iterable(stream):
                item.raise_failure()
                yield item

    def run(self, job, save=None):
        """Work on a job, one batch of rows while the next passes the network.

        Parameters
        ----------
        job : Job
        save : callable, default=None
            Called with the Outcomes of a batch as soon as they are there.

        Yields
        ------
        list of Outcome
            For each batch.
        """
        settle = partial(torch.set_num_threads, 1)
        # What a thread sets for itself is the default of threads to come, too.
        with one_thread(), ThreadPoolExecutor(1, initializer=settle) as solver:
            yield from self._run_beside(solver, job, save)

    def _batch_size(self):
        device = self.recipe.device or device_of(as_module(self.model))
        return BatchSize(self.recipe.batch_size, torch.device(device).type == "cpu")

    def _run_beside(self, solver, job, save):
        size, batch, futures = self._batch_size(), [], deque()

        def submit():
            futures.append(solver.submit(self._work, batch.copy(), job, size, save))
            batch.clear()

        def relieve():
            n_rows = max(len(batch), 2)
            submit()
            wait(futures)
            size.halve(min(n_rows, size.most or n_rows))

        # Closed also where an error leaves it half way, for the stream holds hooks on the network.
        with closing(self.stream(job, relieve)) as stream:
            for part in chain.from_iterable(map(size.parts, stream)):
                batch += part
                if len(batch) >= size.enough:
                    submit()
                while len(futures) > 1:
                    yield futures.popleft().result()
        submit()
        while futures:
            yield futures.popleft().result()

    def _work(self, batch, job, size, save):
        rows = [item for item in batch if isinstance(item, Row)]
        failed = [item for item in batch if isinstance(item, Failure)]
        outcomes = [Outcome(item.position, failure=item) for item in failed]
        if rows:
            outcomes += self._finish(rows, job, size)
        if save is not None:
            save(outcomes)
        return outcomes

    def _finish(self, rows, job, size):
        empty, solved = self._solve(rows, job, size)
        outcomes = []
        for row, is_empty, vectors in zip(rows, empty, solved, strict=True):
            failure = self._failure(row, vectors, is_empty)
            if failure is not None:
                outcomes.append(Outcome(row.position, failure=failure))
                continue
            value = job.finish and job.finish(row, self._all_vectors(row, vectors, job))
            outcomes.append(Outcome(row.position, vectors, value, random=row.view.random))
        return outcomes

    def _all_vectors(self, row, solved, job):
        known = self.recipe.split(job.vectors[[row.position]])
        return [solved.get(k, vectors[0]) for k, vectors in enumerate(known)]

    def _solve(self, rows, job, size):
        """Say which rows are empty, and give {number of the layer: vector} for each row."""
        if isinstance(self.recipe.settings, MaskedMean):
            masks = [row.view_mask for row in rows]
            empty = np.array([not mask.any() for mask in masks])

            def embed(grids, asked, layer):
                return self.recipe.settings.solve(grids, [masks[i] for i in asked]).vectors
        else:
            targets = self.targets(rows)
            empty = ~(targets > 0).any((1, 2))

            def embed(grids, asked, layer):
                start, settings = self.recipe.inits[layer], self.recipe.settings
                return size.solve(grids, targets[asked], start, settings, job.n_threads)

        return empty, self._embed(rows, empty, job, embed)

    def _embed(self, rows, empty, job, embed):
        """Let ``embed`` do the rows that are not empty, layer by layer."""
        solved = [{} for _ in rows]
        for k, layer in enumerate(job.layers):
            asked = np.flatnonzero(job.needed[[row.position for row in rows], layer])
            for i in asked[empty[asked]]:
                solved[i][layer] = np.full(self.recipe.widths[layer], np.nan, dtype=np.float32)
            asked = asked[~empty[asked]]
            if len(asked):
                grids = [rows[i].activations[k] for i in asked]
                for i, vector in zip(asked, embed(grids, asked, layer), strict=True):
                    solved[i][layer] = vector
        return solved

    def _failure(self, row, vectors, is_empty):
        if is_empty:
            if self.recipe.on_empty == "nan" or not vectors:
                return None
            why = f"the mask of {row.name} {self.recipe.why_empty}"
        elif all(np.isfinite(vector).all() for vector in vectors.values()):
            return None
        else:
            why = f"the LoCE of {row.name} did not stay finite; {self.recipe.settings.advice}"
        return Failure(row.position, row.name, ValueError(why))

    def targets(self, rows):
        """Give the masks of rows at mask size, (n_rows, H, W)."""
        masks = [row.view_mask for row in rows]
        return self.recipe.settings.targets(masks)
