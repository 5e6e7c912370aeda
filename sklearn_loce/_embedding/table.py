"""From a table of samples to vectors: look up known rows, embed other rows, store them."""

from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from numbers import Integral

import numpy as np
import pandas as pd
from sklearn.base import clone
from tqdm.auto import tqdm

from .._network.handle import TorchModel, as_module, digest_model, weight_versions
from .._network.identity import digest
from .._network.preprocess import resolve_preprocess
from .._samples.images import READ_ERRORS
from .._samples.table import (
    ANNOTATION,
    enumerate_messages,
    examine_rows,
    group_by_image,
    raise_empty,
    raise_problems,
    row_name,
)
from .._solvers.solution import Solution
from .._store.keys import sample_digests
from .._store.memory import MemoryStore
from .._store.sqlite import RowStore
from .._warnings import warn_user
from ..exceptions import FailedRowsError
from .embed import Failure, Sample, Task, embed, explain_empty, fail_row
from .network import check_weights, find_keys, probe_network
from .parallel import embed_apart
from .threads import runs_here

_LOOKUP = 1000  # number of rows in one look-up, which bounds its memory
# The passes, and the place where vectors are stored, depend on these parameters.
_SHARED = ("model", "preprocess", "reshape_transform", "device", "random_state", "memory")


def find_store(memory, model):
    """Return the store of the parameter ``memory``, or ``None``."""
    if memory is False:
        return None
    if memory is None:
        return model._shared_store(MemoryStore) if isinstance(model, TorchModel) else None
    return memory if isinstance(memory, RowStore | MemoryStore) else RowStore(memory)


def may_fail(loce):
    """Return whether failed rows are reported only after the others are computed and stored."""
    return loce.on_error == "nan" or not (loce.memory is None or loce.memory is False)


@dataclass
class Table:
    """The results of all rows of a table.

    Parameters
    ----------
    samples : DataFrame
    solutions : list of Solution
        Solutions by layer; NaN in unknown rows.
    finished : dict of {int: object}
        Results of ``finish`` by row.
    failures : dict of {int: Failure}
        Failures by row.
    missed : Counter
        Counts of pairs (number of the layer, whether a new vector's projection misses its mask).
    """

    samples: pd.DataFrame
    solutions: list
    finished: dict = field(default_factory=dict)
    failures: dict = field(default_factory=dict)
    missed: Counter = field(default_factory=Counter)

    def enter(self, loce, outcomes):
        """Enter the results of some rows."""
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                self.failures[outcome.position] = outcome
            elif outcome.part == 0:
                self.finished[outcome.position] = outcome.value
                self.missed.update(outcome.missed.items())
                self.put(loce, outcome.position, outcome.solutions)

    def put(self, loce, i, solutions):
        """Enter the vectors of a row; vectors of NaN mean an empty mask."""
        is_empty = any(np.isnan(solution.vectors).any() for solution in solutions.values())
        if is_empty and loce.on_empty == "raise":
            self.fail(i, f"the mask of {row_name(self.samples, i)} {explain_empty(loce)}")
        elif len(self.solutions[0]):
            for k, solution in solutions.items():
                self.solutions[k].put(i, solution)

    def fail(self, i, error):
        """Enter the failure of a row, from an exception or a reason."""
        error = ValueError(error) if isinstance(error, str) else error
        self.failures[i] = fail_row(self.samples, i, error)

    def copy_rows(self, equal):
        """Copy the results of rows to equal rows, {row: first row}."""
        for i, first in equal.items():
            if first in self.failures:
                self.fail(i, self.failures[first].error)
            elif len(self.solutions[0]):
                for solution in self.solutions:
                    solution.put(i, solution[first])

    def matrix(self, append_bias):
        """Return the vectors, (n_rows, n_features), float32; NaN in failed rows.

        The result is ``None`` if the vectors were not kept.
        """
        if not len(self.solutions[0]):
            return None
        parts = []
        for solution in self.solutions:
            parts += [solution.vectors] + ([solution.intercept[:, None]] if append_bias else [])
        vectors = np.hstack(parts).astype(np.float32, copy=False)
        vectors[list(self.failures)] = np.nan
        return vectors


def embed_table(loce, samples, *, probed=False, given=None, finish=None, keeps=True, shared=()):
    """Embed the rows of a table, or finish rows with given vectors.

    Parameters
    ----------
    loce : estimator
        Fitted.
    samples : DataFrame
    probed : bool, default=False
        Whether the network has just been probed, in fit.
    given : list of Solution, default=None
        Known vectors by layer. ``None`` optimizes them.
    finish : callable, default=None
        See Task.
    keeps : bool, default=True
        Whether to return the vectors; otherwise they are only stored.
    shared : sequence of estimator
        Fitted estimators that share the passes and the store of ``loce``, which has all of their
        layers. Only their vectors are computed, and they are only stored.

    Returns
    -------
    Table
    """
    table = Table(samples, given or unknown_solutions(loce, len(samples) * keeps))
    images = examine(loce, table, solves=given is None)
    store = find_store(loce.memory, loce.model) if given is None else None
    versions = weight_versions(as_module(loce.model))
    sizes = {}
    records = loce._records if probed else probe_network(loce, sizes)
    fingerprint = None if store is None and runs_here(loce.n_jobs) else digest_model(loce.model)
    if records is None:  # vectors of a random network cannot be found again
        store = None
    with nullcontext() if store is None else store.open() as session:
        keys, digests, parts = [], None, shared or [loce]
        if session is not None:
            keys = [find_keys(part, session, fingerprint, records) for part in parts]
        if session is not None or not runs_here(loce.n_jobs):
            digests = hash_rows(table, images)
        asked = [np.full((len(samples), len(part.layers_)), given is None) for part in parts]
        for k, part in enumerate(parts):
            asked[k][list(table.failures)] = False
            if session is not None:
                into = Table(samples, unknown_solutions(part, 0)) if shared else table
                look_up(part, into, session, keys[k], digests, asked[k])
        # Equal rows are optimized once, but each of them may be finished.
        is_kept = keys and not finish
        equal = [find_equal_rows(digests, own) if is_kept else {} for own in asked]
        images = _without(images, table.failures)
        images = [rows for rows in images if finish or any(own[rows].any() for own in asked)]
        known = table.solutions if finish else None
        task = Task(samples, images, asked[0], known, finish, digests, records, fingerprint, sizes)
        if shared:
            tasks = [Task(samples, images, own) for own in asked]
            task = replace(task, shared=list(zip(shared, tasks, strict=True)))
        with closing(run(loce, task)) as batches:
            for outcomes in batches:
                if session is not None:
                    versions = check_weights(loce, fingerprint, versions)
                save(loce, session, keys, digests, outcomes)
                table.enter(loce, outcomes)
    for rows in equal:
        table.copy_rows(rows)
    return table


def run(loce, task):
    """Yield the results of the rows of each image, from threads or from joblib's workers."""
    bar = tqdm(desc="LoCE", unit="image", total=len(task.images), disable=not loce.verbose)
    with bar:
        apart = not runs_here(loce.n_jobs)
        for n_images, outcomes in embed_apart(loce, task) if apart else embed(loce, task):
            bar.update(n_images)
            yield outcomes


def unknown_solutions(loce, n_rows):
    """Return a Solution of NaN for each layer."""
    has_facts = loce._objective.has_bias
    return [Solution.unknown(n_rows, n, has_facts=has_facts) for n in loce.n_channels_]


def examine(loce, table, *, solves):
    """Note or raise errors of rows before any image is decoded; group the other rows."""
    groups = group_by_image(table.samples)
    has_foreground, problems = examine_rows(table.samples, groups)
    empty = []
    if solves and loce.on_empty == "raise":
        empty = [int(i) for i in np.flatnonzero(~has_foreground) if i not in problems]
    if not may_fail(loce):
        raise_problems(problems)
        raise_empty(table.samples, empty)
    for i, error in problems.items():
        table.fail(i, error)
    for i in empty:
        table.fail(i, f"the mask of {row_name(table.samples, i)} has no foreground")
    return _without(groups, table.failures)


def _without(groups, failures):
    """Remove failed rows from the groups of rows."""
    kept = (np.array([i for i in rows if int(i) not in failures], dtype=int) for rows in groups)
    return [rows for rows in kept if len(rows)]


def hash_rows(table, images):
    """Return the digest of image and mask of every readable row."""
    digests = np.empty(len(table.samples), dtype=object)
    for rows in images:
        try:
            digests[rows] = sample_digests(table.samples, rows)
        except READ_ERRORS as error:  # the file changed after it was examined
            for i in rows:
                table.fail(int(i), error)
    return digests


def look_up(loce, table, session, keys, digests, asked):
    """Enter the stored vectors, and remove them from ``asked``."""
    rows = np.flatnonzero(asked.any(1))
    for some in np.split(rows, range(_LOOKUP, len(rows), _LOOKUP)):
        for k, key in enumerate(keys):
            found = session.load(key, [digests[i] for i in some])
            for i in some:
                if digests[i] in found:
                    asked[i, k] = False
                    table.put(loce, int(i), {k: found[digests[i]]})


def find_equal_rows(digests, asked):
    """Return {row: first row equal to it}, and remove these rows from ``asked``."""
    first, equal = {}, {}
    for i in np.flatnonzero(asked.any(1)):
        k = first.setdefault(digests[i], int(i))
        if k != i:
            equal[int(i)] = k
            asked[i] = False
    return equal


def save(loce, session, keys, digests, outcomes):
    """Store the vectors of some rows at all layers, unless they are random."""
    is_seeded = isinstance(loce.random_state, Integral)
    done = [o for o in outcomes if isinstance(o, Sample) and (is_seeded or not o.is_random)]
    for part, of_layers in enumerate(keys):
        found = [o for o in done if o.part == part]
        for k, key in enumerate(of_layers):
            own = {digests[o.position]: o.solutions[k] for o in found if k in o.solutions}
            if own:
                session.save(key, own)


def report_failures(loce, table):
    """Raise an error for failed rows, or warn of them."""
    failures, samples = dict(sorted(table.failures.items())), table.samples
    if not failures:
        return
    what = (
        f"{len(failures)} of {len(samples)} rows failed: {enumerate_messages(failures.values())}."
    )
    if loce.on_error == "nan":
        warn_user(f"{what} Their vectors are NaN.")
        return
    causes = {"position": list(failures), "cause": [str(failure) for failure in failures.values()]}
    frame = pd.DataFrame(causes, index=samples.index[list(failures)])
    if ANNOTATION in samples:
        frame[ANNOTATION] = samples[ANNOTATION].iloc[list(failures)].array
    raise FailedRowsError(
        f"{what} The others were computed: they are in the store, if there is one, and in the "
        "attribute embeddings of this error. Remove the failed rows, or set on_error='nan' (for "
        "empty masks on_empty='nan').",
        frame,
        table.matrix(loce._appends_bias),
    ) from next(iter(failures.values())).error


def warn_missed(loce, table):
    """Warn of layers at which the projections of more than half of the new vectors miss masks."""
    counts = [(table.missed[k, True], table.missed[k, False]) for k in range(len(loce.layers_))]
    parts = [
        f"{n_missed} of {n_missed + n_hit} at {layer!r}"
        for layer, (n_missed, n_hit) in zip(loce.layers_, counts, strict=True)
        if n_missed > n_hit
    ]
    if parts:
        warn_user(
            f"More than half of the LoCEs failed, {', '.join(parts)}: their projections have no "
            "pixel on their masks. Use objective='logistic' with append_bias=False, which projects "
            "with the bias that matches a mask best, or raise max_iter; see the column failed of "
            "evaluate."
        )


def check_shares(loce, beside):
    """Raise unless the same passes and the same store serve other transformers."""
    if beside and not runs_here(loce.n_jobs):
        raise ValueError(
            f"n_jobs={loce.n_jobs}: workers do not share passes among transformers. Set "
            "n_jobs=None, or precompute one transformer after the other."
        )
    for i, other in enumerate(beside):
        described = zip(_SHARED, _describe_passes(loce), _describe_passes(other), strict=True)
        for name, own, its in described:
            if own != its:
                raise ValueError(
                    f"beside[{i}] has {name}={getattr(other, name)!r}, and this transformer "
                    f"{getattr(loce, name)!r}: one pass can't serve both. Give both the same, "
                    "or precompute one after the other."
                )


def _describe_passes(loce):
    """Return values to compare for the parameters in _SHARED."""
    store = id(find_store(None, loce.model)) if loce.memory is None else loce.memory
    return (
        id(as_module(loce.model)),
        digest(resolve_preprocess(loce.preprocess, loce.model)),
        digest(loce.reshape_transform),
        loce.device,
        loce.random_state,
        store,
    )


def join_layers(parts, samples):
    """Make a fitted transformer with all layers of others, which passes images for them."""
    layers = {str(layer): layer for part in parts for layer in part._layers}
    passing = clone(parts[0]).set_params(layer=list(layers.values()), standardize=False)
    passing._fit(samples)
    return passing
