"""Jobs on joblib's workers: processes of this machine, or of a cluster."""

import hashlib
import pickle
import warnings
from collections import OrderedDict
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import islice, takewhile
from threading import Event, Lock

import cloudpickle
import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from tqdm.auto import tqdm

from .._network.handle import TorchModel
from .._samples.table import part_of, row_name
from .._store.fingerprint import model_digest
from .worker import BatchSize, Job, Worker

_ATTEMPTS = 3  # in a row
_LARGE = 2**20  # bytes from which a payload is spread once, and not sent with every task
_MODELS, _MODELS_LOCK = OrderedDict(), Lock()
_MAX_MODELS = 2


def _is_cluster(backend):
    return hasattr(backend, "client")


def runs_here(n_jobs):
    """Say whether joblib, as it is configured, would use this process alone.

    Threads count as that: they take turns on the module.
    """
    backend, _ = get_active_backend()
    if _is_cluster(backend):
        return False
    return getattr(backend, "supports_sharedmem", False) or effective_n_jobs(n_jobs) == 1


def _load_model(key, payload, expected):
    """Give the model of this process, unpickled or built once; None if it isn't the caller's."""
    with _MODELS_LOCK:
        if key not in _MODELS:
            model = pickle.loads(payload.tobytes())
            _MODELS[key] = model if _is_expected(model, expected) else None
        _MODELS.move_to_end(key)
        while len(_MODELS) > _MAX_MODELS:
            _MODELS.popitem(last=False)
        return _MODELS[key]


def _is_expected(model, expected):
    """Say whether a builder made the network with this digest; None is met by all."""
    try:
        return expected is None or model_digest(model) == expected
    except ValueError:  # the handle has found other weights itself
        return False


def _has_builder(model):
    return isinstance(model, TorchModel) and model.has_builder


def _pack(model, identity):
    """Pickle a model for the workers: (payload, its key, digest that a builder must meet)."""
    expected = None
    if _has_builder(model):
        expected = model_digest(model) if identity is None else identity.model
    payload = np.frombuffer(cloudpickle.dumps(model), dtype=np.uint8)
    return payload, hashlib.sha256(payload).hexdigest(), expected


def _portable(outcome):
    """Make a failure's error one that another process can unpickle."""
    if outcome.failure is None:
        return outcome
    try:
        pickle.loads(pickle.dumps(outcome.failure.error))
    except Exception as error:  # an __init__ or __reduce__ may raise anything
        original = outcome.failure.error
        plain = RuntimeError(f"{type(original).__name__}: {original}")
        plain.__cause__ = error
        return replace(outcome, failure=replace(outcome.failure, error=plain))
    return outcome


def _work_apart(number, payload, key, expected, recipe, job):
    """Give the number of a part and its Outcomes; None for these where the builder fails.

    An exception would not do: joblib ends its workers after one, and new ones take seconds.
    """
    model = _load_model(key, payload, expected)
    if model is None:
        return number, None
    batches = Worker(model, recipe).run(job)
    return number, [_portable(outcome) for batch in batches for outcome in batch]


def _cut(groups, size):
    """Cut images into parts with ``size`` rows or little more."""
    parts, part, n_rows = [], [], 0
    for rows in groups:
        part.append(rows)
        n_rows += len(rows)
        if n_rows >= size:
            parts.append(part)
            part, n_rows = [], 0
    return [*parts, part] if part else parts


def _job_of(part, job):
    """Make a job of its own of some images; it counts its rows from 0."""
    rows = np.concatenate(part)
    groups = np.split(np.arange(len(rows)), np.cumsum([len(group) for group in part])[:-1])
    samples = part_of(job.samples, rows)
    vectors = job.vectors[rows] if job.finish else job.vectors[:0]
    keys = None if job.keys is None else job.keys[rows]
    return Job(samples, groups, vectors, job.needed[rows], job.finish, keys=keys)


def _placed(outcomes, part):
    """Give outcomes their rows in the whole table."""
    rows = np.concatenate(part)
    for outcome in outcomes:
        position = int(rows[outcome.position])
        failure = outcome.failure and replace(outcome.failure, position=position)
        yield replace(outcome, position=position, failure=failure)


def _spread(payload):
    """Bring a large payload to every worker of a cluster; joblib maps it into local ones itself."""
    backend, _ = get_active_backend()
    if _is_cluster(backend) and payload.nbytes >= _LARGE:
        # By its hash it would have the name of the last call's, whose release may be under way.
        return backend.client.scatter(payload, broadcast=True, hash=False)
    return payload


def _is_lost_worker(error):
    kinds = (BrokenProcessPool, TimeoutError)
    return isinstance(error, kinds) or type(error).__module__.startswith("distributed")


def run_apart(worker, job, n_jobs, identity=None):
    """Work on a job in parts, each in a worker.

    The model travels once to each worker and stays there; by its builder, where that makes the
    network that is here. Where a worker dies, the parts that were not back are started again.

    Parameters
    ----------
    worker : Worker
    job : Job
    n_jobs : int or None
        As in joblib.
    identity : Identity, default=None

    Yields
    ------
    list of Outcome
        For each part.

    Raises
    ------
    RuntimeError
        If workers keep dying.
    """
    parts = dict(enumerate(_cut(job.groups, BatchSize(worker.recipe.batch_size).enough)))
    packed, n_losses = _pack(worker.model, identity), 0
    with tqdm(desc="LoCE", unit="image", total=len(job.groups), disable=not job.progress) as bar:
        while parts:
            refusal = Event()
            jobs = ((number, _job_of(part, job)) for number, part in list(parts.items()))
            try:
                for number, outcomes in _in_parallel(packed, worker.recipe, jobs, n_jobs, refusal):
                    part = parts.pop(number)
                    n_losses = 0
                    bar.update(len(part))
                    yield list(_placed(outcomes, part))
            except Exception as error:
                if not _is_lost_worker(error):
                    raise
                n_losses += 1
                _settle_loss(error, n_losses, parts, job)
            if refusal.is_set():  # changed since it was built, or random: it travels itself
                model = TorchModel(worker.model.module, forward=worker.model.forward)
                packed = _pack(model, identity)


def _settle_loss(error, n_losses, parts, job):
    rows = sorted(int(i) for part in parts.values() for group in part for i in group)
    if n_losses >= _ATTEMPTS:
        first, last = row_name(job.samples, rows[0]), row_name(job.samples, rows[-1])
        raise RuntimeError(
            f"Workers died {n_losses} times without giving a result; {len(rows)} rows, of {first} "
            f"to {last}, are left. What came back before is in the store, if there is one. Too "
            "little memory is the usual cause: lower n_jobs or batch_size."
        ) from error
    warnings.warn(
        f"A worker was lost ({type(error).__name__}); starting its rows again.", stacklevel=3
    )


def _in_parallel(packed, recipe, jobs, n_jobs, refusal):
    """Yield (number of the part, its Outcomes) as they come back.

    Where a worker's builder makes another network, ``refusal`` is set and no more are begun.
    """
    payload, key, expected = packed
    payload = _spread(payload)
    begun = takewhile(lambda _: not refusal.is_set(), jobs)
    tasks = (
        delayed(_work_apart)(number, payload, key, expected, recipe, job) for number, job in begun
    )
    for number, outcomes in _returned(tasks, n_jobs):
        if outcomes is None:
            refusal.set()
        else:
            yield number, outcomes


def _returned(tasks, n_jobs):
    """Yield what tasks return, in any order."""
    backend, _ = get_active_backend()
    if backend.supports_return_generator:
        parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
        yield from parallel(tasks)
        return
    # Such as joblib's multiprocessing and Ray's: in rounds, so that results come back on the way.
    while some := list(islice(tasks, 4 * effective_n_jobs(n_jobs))):
        yield from Parallel(n_jobs=n_jobs, batch_size=1)(some)
