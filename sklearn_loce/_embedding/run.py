"""One call over a table: look up what is known, work on the rest, keep what comes back."""

import os
import warnings
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch

from .._network.handle import TorchModel, as_module
from .._samples.images import READ_ERRORS
from .._samples.table import (
    enumerate_messages,
    examine_rows,
    group_by_image,
    raise_empty,
    raise_problems,
    row_name,
)
from .._store.fingerprint import digest, model_digest
from .._store.memory import Context, MemoryStore, RowStore, source_digest
from ..exceptions import FailedRowsError
from .parallel import run_apart, runs_here
from .stream import Failure, sample_digests
from .worker import Job

_LOOKUP = 1000  # rows that are looked up at once, which bounds the memory that it takes


@dataclass(frozen=True)
class Identity:
    """What tells the vectors of an estimator from those of others, and where they are kept.

    Parameters
    ----------
    store : RowStore or MemoryStore
    model, preprocess, reshape_transform : bytes
        Their digests.
    """

    store: object
    model: bytes
    preprocess: bytes
    reshape_transform: bytes

    def source(self, layer):
        """Hash what the activations of a layer depend on."""
        return source_digest(self.model, self.preprocess, self.reshape_transform, layer)

    def context(self, layer, settings):
        """Give what the vectors of a layer depend on."""
        return Context(self.source(layer), settings, layer, self.model.hex(), self.preprocess.hex())


def _store_of(memory, model):
    """Give the store that the parameter ``memory`` stands for, or ``None``."""
    if isinstance(memory, str | os.PathLike):
        return RowStore(memory)
    if memory is not None:
        return None if memory is False else memory
    return _shared_store(model) if isinstance(model, TorchModel) else None


def _shared_store(handle):
    """Give the store in memory that the clones of a handle share."""
    if handle._cell.rows is None:
        handle._cell.rows = MemoryStore()
    return handle._cell.rows


# Of modules that change by a forward pass, such as one that counts its calls: digests after a pass
# of ours, by which a user's change is told from that, to the digest before, by which vectors are
# kept.
_PASSED, _MAX_PASSED = WeakKeyDictionary(), 16


def _current_digest(model):
    """Hash a model as its user left it."""
    current = model_digest(model)
    return _PASSED.get(as_module(model), {}).get(current, current)


def _weights_digest(model):
    return digest(dict(as_module(model).state_dict(keep_vars=True)))


@contextmanager
def noting_pass(identity, model):
    """Remember what a model looks like after forward passes of ours.

    They change attributes at most: where weights have changed, that was somebody else.
    """
    if identity is None:
        yield
        return
    weights = _weights_digest(model)
    try:
        yield
    finally:
        if _weights_digest(model) == weights:
            _remember(identity, model)


def _remember(identity, model):
    after = model_digest(model)
    if after != identity.model:
        known = _PASSED.setdefault(as_module(model), {})
        known[after] = identity.model
        while len(known) > _MAX_PASSED:
            del known[next(iter(known))]


def identify(memory, model, preprocess, reshape_transform):
    """Find the store, and hash model and preprocessing as they are now.

    Returns
    -------
    Identity or None
        ``None`` without a store, and for the default store where something can't be hashed.

    Raises
    ------
    TypeError
        If something can't be hashed, and a store was asked for.
    """
    store = _store_of(memory, model)
    if store is None:
        return None
    try:
        hashes = _current_digest(model), digest(preprocess), digest(reshape_transform)
    except (TypeError, RecursionError):
        if memory is not None:
            raise
        return None
    return Identity(store, *hashes)


@dataclass
class Result:
    """What came of a table.

    Parameters
    ----------
    vectors : ndarray of shape (n_rows, n_features), float32
        NaN in rows that failed.
    finished : list
        What ``finish`` gave for each row; ``None`` where it failed.
    failures : dict of {int: Failure}
        By row.
    n_iter : ndarray of shape (n_layers,), int, or None
        Most iterations of a row, where a solver tells them.
    """

    vectors: np.ndarray
    finished: list
    failures: dict
    n_iter: np.ndarray | None = None


class Run:
    """Embeds tables.

    Parameters
    ----------
    worker : Worker
    identity : Identity or None
        ``None`` without a store.
    contexts : list of Context
        One per layer; empty without a store.
    n_jobs : int or None
    progress : bool
    may_fail : bool
        Whether to note what is wrong with rows before their images are decoded, as all else that
        goes wrong, and not raise it at once.
    keeps_random : bool
        Whether to store what depends on random numbers of the preprocessing.
    """

    def __init__(self, worker, identity, contexts, *, n_jobs, progress, may_fail, keeps_random):
        self.worker = worker
        self.recipe = worker.recipe
        self.identity = identity
        self.contexts = contexts
        self.n_jobs = n_jobs
        self.progress = progress
        self.may_fail = may_fail
        self.keeps_random = keeps_random

    def over(self, samples, embeddings=None, *, finish=None, preview=None, keep=True):
        """Work on a table.

        Parameters
        ----------
        samples : DataFrame
        embeddings : ndarray of shape (n_rows, n_features), default=None
            Vectors to take as they are. ``None`` optimises them.
        finish : callable, default=None
            See Job.
        preview : Preview, default=None
            An image of the table that passed the network already.
        keep : bool, default=True
            Whether to give the vectors, and not only store them.

        Returns
        -------
        Result
        """
        solving = embeddings is None
        shape = (len(samples) if keep else 0, sum(self.recipe.widths))
        vectors = np.full(shape, np.nan, dtype=np.float32) if solving else embeddings
        result = Result(vectors, [None] * len(samples), {})
        groups = self._examine(samples, result, solving=solving)
        is_kept = solving and self.identity is not None
        keys = self._hash(samples, groups, result) if is_kept else None
        needed = np.full((len(samples), len(self.recipe.layers)), solving)
        needed[list(result.failures)] = False
        twins = {}
        if is_kept:
            self._look_up(samples, keys, needed, result, keep=keep)
            twins = {} if finish else _find_twins(keys, needed)
        groups = _without(groups, result.failures)
        groups = [rows for rows in groups if finish or needed[rows].any()]
        if groups:
            job = Job(samples, groups, result.vectors, needed, finish, preview, keys)
            self._work(job, keys, result)
        self._copy_twins(samples, twins, result)
        if solving and keep:
            result.vectors[list(result.failures)] = np.nan
        return result

    def _examine(self, samples, result, *, solving):
        """Note, or raise, what is wrong with rows; give the others by image."""
        groups = group_by_image(samples)
        has_foreground, problems = examine_rows(samples, groups)
        empty = []
        if solving and self.recipe.on_empty == "raise":
            empty = [int(i) for i in np.flatnonzero(~has_foreground) if i not in problems]
        if not self.may_fail:
            raise_problems(problems)
            raise_empty(samples, empty)
        for i, error in problems.items():
            result.failures[i] = Failure(i, row_name(samples, i), error)
        for i in empty:
            result.failures[i] = _empty(samples, i, "has no foreground")
        return _without(groups, result.failures)

    def _hash(self, samples, groups, result):
        """Give the digest of every row that can be read."""
        keys = np.empty(len(samples), dtype=object)
        for rows in groups:
            try:
                keys[rows] = sample_digests(samples, rows)
            except READ_ERRORS as error:  # the file changed since it was examined
                for i in rows:
                    result.failures[int(i)] = Failure(int(i), row_name(samples, i), error)
        return keys

    def _look_up(self, samples, keys, needed, result, *, keep):
        asked = np.flatnonzero(needed.any(1))
        for start in range(0, len(asked), _LOOKUP):
            rows = asked[start : start + _LOOKUP]
            for k, context in enumerate(self.contexts):
                found = self.identity.store.load(context, [keys[i] for i in rows])
                for i in rows:
                    if keys[i] in found:
                        needed[i, k] = False
                        self._take(samples, i, {k: found[keys[i]]}, result, keep=keep)

    def _take(self, samples, i, vectors, result, *, keep):
        """Enter vectors of a row; vectors of NaN stand for an empty mask."""
        if self.recipe.on_empty == "raise" and any(np.isnan(v).any() for v in vectors.values()):
            result.failures[int(i)] = _empty(samples, i, self.recipe.why_empty)
        elif keep:
            for k, vector in vectors.items():
                end = self.recipe.ends[k]
                result.vectors[i, end - self.recipe.widths[k] : end] = vector

    def _work(self, job, keys, result):
        save = None if keys is None else partial(self._save, keys=keys)
        with closing(self._batches(job, save)) as batches:
            for outcome in chain.from_iterable(batches):
                self._enter(job.samples, outcome, result)

    def _enter(self, samples, outcome, result):
        i = outcome.position
        if outcome.failure is not None:
            result.failures[i] = outcome.failure
            return
        result.finished[i] = outcome.value
        self._take(samples, i, outcome.vectors, result, keep=len(result.vectors) > 0)

    def _batches(self, job, save):
        """Yield lists of Outcomes, each of which has been saved."""
        if not runs_here(self.n_jobs):
            job = replace(job, preview=None, progress=self.progress)
            for outcomes in run_apart(self.worker, job, self.n_jobs, self.identity):
                if save is not None:
                    save(outcomes)
                yield outcomes
            return
        # The network has a thread to itself, where there is more than one.
        n_threads = max(1, torch.get_num_threads() - 1)
        job = replace(job, n_threads=n_threads, progress=self.progress)
        with noting_pass(self.identity, self.worker.model):
            yield from self.worker.run(job, save)

    def _save(self, outcomes, keys):
        for k, context in enumerate(self.contexts):
            solved = {
                keys[o.position]: o.vectors[k]
                for o in outcomes
                if k in o.vectors and (self.keeps_random or not o.random)
            }
            if solved:
                self.identity.store.save(context, solved)

    def _copy_twins(self, samples, twins, result):
        for i, first in twins.items():
            if first in result.failures:
                error = result.failures[first].error
                result.failures[i] = Failure(i, row_name(samples, i), error)
            elif len(result.vectors):
                result.vectors[i] = result.vectors[first]


def _empty(samples, i, why):
    name = row_name(samples, i)
    return Failure(int(i), name, ValueError(f"the mask of {name} {why}"))


def _without(groups, failures):
    """Leave failed rows out of the groups of rows."""
    kept = (np.array([i for i in rows if int(i) not in failures], dtype=int) for rows in groups)
    return [rows for rows in kept if len(rows)]


def _find_twins(keys, needed):
    """Let equal rows be optimised once: give {row: first row equal to it}, and clear the need."""
    first, twins = {}, {}
    for i in np.flatnonzero(needed.any(1)):
        k = first.setdefault(keys[i], int(i))
        if k != i:
            twins[int(i)] = k
            needed[i] = False
    return twins


def settle_failures(samples, result, on_error):
    """Raise what failed, or warn of it."""
    failures = dict(sorted(result.failures.items()))
    what = (
        f"{len(failures)} of {len(samples)} rows failed: {enumerate_messages(failures.values())}."
    )
    if on_error == "nan":
        warnings.warn(f"{what} Their vectors are NaN.", stacklevel=5)
        return
    causes = {"position": list(failures), "cause": [str(failure) for failure in failures.values()]}
    frame = pd.DataFrame(causes, index=samples.index[list(failures)])
    first = next(iter(failures.values()))
    raise FailedRowsError(
        f"{what} The others were computed: they are in the store, if there is one, and in the "
        "attribute embeddings of this error. Leave the failed rows out, or set on_error='nan' (for "
        "empty masks on_empty='nan').",
        frame,
        result.vectors,
    ) from first.error
