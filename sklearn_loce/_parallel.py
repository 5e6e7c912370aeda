"""Jobs on joblib's workers: processes of this machine, or of a cluster."""

import hashlib
import pickle
import warnings
from collections import OrderedDict
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from threading import Lock

import cloudpickle
import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from tqdm.auto import tqdm

from ._embedding import Job, Worker
from ._samples import part_of

_ATTEMPTS = 5
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


def _load_model(key, payload):
    """Give the model of this process; unpickled, or built, once."""
    with _MODELS_LOCK:
        if key not in _MODELS:
            _MODELS[key] = pickle.loads(payload.tobytes())
        _MODELS.move_to_end(key)
        while len(_MODELS) > _MAX_MODELS:
            _MODELS.popitem(last=False)
        return _MODELS[key]


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


def _work_apart(number, key, payload, recipe, job):
    worker = Worker(_load_model(key, payload), recipe)
    return number, [_portable(outcome) for batch in worker.run(job) for outcome in batch]


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
    return Job(samples, groups, vectors, job.needed[rows], job.finish)


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
        return backend.client.scatter(payload, broadcast=True)
    return payload


def _is_lost_worker(error):
    return isinstance(error, BrokenProcessPool) or type(error).__module__.startswith("distributed")


def run_apart(worker, job, n_jobs):
    """Work on a job in parts, each in a worker.

    The model travels once to each worker and stays there. Where a worker dies, the parts that were
    not back are started again.

    Parameters
    ----------
    worker : Worker
    job : Job
    n_jobs : int or None
        As in joblib.

    Yields
    ------
    list of Outcome
        For each part.
    """
    recipe = worker.recipe
    payload = np.frombuffer(cloudpickle.dumps(worker.model), dtype=np.uint8)
    key = hashlib.sha256(payload).hexdigest()
    parts = dict(enumerate(_cut(job.groups, recipe.batch_size)))
    with tqdm(desc="LoCE", unit="image", total=len(job.groups), disable=not job.progress) as bar:
        attempt = 0
        while parts:
            attempt += 1
            try:
                for number, outcomes in _in_parallel(key, payload, recipe, job, parts, n_jobs):
                    part = parts.pop(number)
                    bar.update(len(part))
                    yield list(_placed(outcomes, part))
            except Exception as error:
                if not _is_lost_worker(error) or attempt == _ATTEMPTS:
                    raise
                warnings.warn(
                    f"A worker was lost ({type(error).__name__}); starting its rows again.",
                    stacklevel=2,
                )


def _in_parallel(key, payload, recipe, job, parts, n_jobs):
    payload = _spread(payload)
    tasks = (
        delayed(_work_apart)(number, key, payload, recipe, _job_of(part, job))
        for number, part in list(parts.items())
    )
    return Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)(tasks)
