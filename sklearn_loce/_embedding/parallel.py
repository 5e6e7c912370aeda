"""Distribution of images to joblib's workers: processes of this machine or of a cluster."""

import hashlib
import os
import pickle
from collections import OrderedDict
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from threading import Lock

import cloudpickle
import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend

from .._network.handle import TorchModel
from .._samples.table import absolute_paths, part_of, row_name
from .._warnings import warn_user
from .embed import Failure, Task, batch_images, embed, fail_row
from .network import compare_network
from .threads import autocast_as, autocast_settings, call_in_thread, is_cluster

# Rows of a part, which is one task of a worker. Each part needs a replica and a traced pass. If the
# worker dies, the results of the whole part are lost.
_ROWS = 16, 256
_PARTS = 4  # parts per worker, so that no worker waits long for the last one
_LARGE = 2**20  # bytes; a larger payload is sent to each worker once, not with every task
_MOST_DEATHS = 2  # an image fails after it has killed this number of workers alone
_MOST_LOSSES = 3  # the call fails after this number of lost images in a row without any result
_MOST_LOADED = 2
_LOADED, _LOADING = OrderedDict(), [Lock()]
if hasattr(os, "register_at_fork"):
    # The lock may be held by a thread that does not exist in the forked child.
    os.register_at_fork(after_in_child=lambda: _LOADING.append(Lock()))


@dataclass(frozen=True)
class Payload:
    """The data that each worker receives once.

    Parameters
    ----------
    estimator : ndarray of uint8
        The fitted estimator with its model, pickled.
    key : str
        Digest of the pickle.
    records : dict
        Records of the network for the probe in the caller's process.
    fingerprint : bytes
        Digest of the network.
    settings : tuple
        The settings of autocast, and the default dtype of torch.
    """

    estimator: np.ndarray
    key: str
    records: dict
    fingerprint: bytes
    settings: tuple


def _pack(loce, task):
    lean = copy(loce)
    lean.memory, lean.n_jobs = False, None
    raw = np.frombuffer(cloudpickle.dumps(lean), dtype=np.uint8)
    settings = autocast_settings(), torch.get_default_dtype()
    key = hashlib.sha256(raw).hexdigest()
    return Payload(raw, key, task.records, task.fingerprint, settings)


def _send_estimator(payload):
    """Send a large estimator to all workers of a cluster; joblib shares it with local workers."""
    backend, _ = get_active_backend()
    if is_cluster(backend) and payload.estimator.nbytes >= _LARGE:
        # A name by hash could equal that of the last call, which Dask may be releasing.
        sent = backend.client.scatter(payload.estimator, broadcast=True, hash=False)
        return replace(payload, estimator=None), sent
    return replace(payload, estimator=None), payload.estimator


def _load(payload, raw):
    """Return this process's estimator, unpickled and compared once, or the reason of refusal."""
    records = b"".join(record.tobytes() for record in (payload.records or {}).values())
    checked = payload.key, payload.fingerprint, repr(payload.settings), records
    with _LOADING[-1]:
        if checked not in _LOADED:
            _LOADED[checked] = _unpickle(payload, raw)
        _LOADED.move_to_end(checked)
        while len(_LOADED) > _MOST_LOADED:
            _LOADED.popitem(last=False)
        return _LOADED[checked]


def _unpickle(payload, raw):
    loce = pickle.loads(raw.tobytes())
    try:
        # Compare with a single thread of torch: in a forked process, more threads would hang.
        call_in_thread(compare_network, loce, payload.fingerprint, payload.records)
    except (ValueError, RuntimeError) as error:  # another builder, class or setting
        return str(error)
    return loce


@contextmanager
def _settings_as(settings):
    autocast, dtype = settings
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with autocast_as(autocast):
            yield
    finally:
        torch.set_default_dtype(before)


def _embed_part(number, payload, raw, task):
    """Return the number of a part and its results, or a str with the reason of refusal.

    It must not raise: joblib ends its workers after an exception, and new workers take seconds.
    """
    with _settings_as(payload.settings):
        loce = _load(payload, raw)
        if isinstance(loce, str):
            return number, loce
        batches = embed(loce, task, n_threads=1)
        return number, [_portable(outcome) for _, outcomes in batches for outcome in outcomes]


def _portable(outcome):
    """Convert the error of a failure to one that another process can unpickle."""
    if not isinstance(outcome, Failure):
        return outcome
    try:
        pickle.loads(pickle.dumps(outcome.error))
    except Exception as error:  # an __init__ or __reduce__ may raise anything
        plain = RuntimeError(f"{type(outcome.error).__name__}: {outcome.error}")
        plain.__cause__ = error
        return replace(outcome, error=plain)
    return outcome


def _choose_size(loce, task):
    """Return the number of rows of a part; few if each row returns a map of the image's size."""
    if task.finish is not None:
        return _ROWS[0]
    n_rows = sum(map(len, task.images))
    return int(np.clip(n_rows / (_PARTS * effective_n_jobs(loce.n_jobs)), *_ROWS))


def _task_of(images, task):
    """Make a separate task for some images, with rows counted from 0."""
    rows = np.concatenate(images)
    own = np.split(np.arange(len(rows)), np.cumsum([len(group) for group in images])[:-1])
    return Task(
        samples=absolute_paths(part_of(task.samples, rows)),
        images=own,
        asked=task.asked[rows],
        known=task.known and [solution[rows] for solution in task.known],
        finish=task.finish,
        digests=task.digests[rows],
    )


def _place(outcomes, images):
    """Set the positions of outcomes to rows of the whole table."""
    rows = np.concatenate(images)
    return [replace(outcome, position=int(rows[outcome.position])) for outcome in outcomes]


def embed_apart(loce, task):
    """Embed images in joblib's workers; see :func:`embed`.

    Each worker receives the estimator once, and compares its network with the caller's network
    before it starts. If a worker dies, the images that may be the cause are tried one at a time.

    Raises
    ------
    RuntimeError
        If workers have another network, or die on every image.
    """
    loce = copy(loce)  # its model may be packed in another way
    left = dict(enumerate(batch_images(task.images, _choose_size(loce, task))))
    payload, n_losses = _pack(loce, task), 0
    while left:
        begun, refusal = [], []
        try:
            for number, outcomes in _in_parallel(loce, payload, task, left, begun, refusal):
                images = left.pop(number)
                n_losses = 0
                yield len(images), _place(outcomes, images)
        except Exception as error:
            if not _is_lost_worker(error):
                raise
            warn_user(
                f"A worker was lost ({type(error).__name__}); its images are tried one at a time."
            )
            for images in [left.pop(number) for number in begun if number in left]:
                for rows in images:
                    outcomes = _embed_alone(loce, payload, task, rows)
                    n_losses = n_losses + 1 if outcomes is None else -len(task.images)
                    _check_losses(n_losses, task)
                    yield 1, _fail_alone(task, rows) if outcomes is None else outcomes
        if refusal:
            payload = _repack(loce, task, refusal[0])


def _repack(loce, task, reason):
    """Send the network itself if the builder makes another one; raise if it was already sent."""
    if not (isinstance(loce.model, TorchModel) and loce.model.has_builder):
        raise RuntimeError(reason)
    loce.model = TorchModel(loce.model.module, forward=loce.model.forward)
    return _pack(loce, task)


def _check_losses(n_losses, task):
    if n_losses >= _MOST_LOSSES:
        raise RuntimeError(
            f"Workers died with {n_losses} images in a row and returned no result. The usual cause "
            "is a lack of memory: lower n_jobs or batch_size."
        )


def _embed_alone(loce, payload, task, rows):
    """Embed one image in a worker; ``None`` if the worker dies each time."""
    for _ in range(_MOST_DEATHS):
        try:
            for _, outcomes in _in_parallel(loce, payload, task, {0: [rows]}, [], []):
                return _place(outcomes, [rows])
        except Exception as error:
            if not _is_lost_worker(error):
                raise
    return None


def _fail_alone(task, rows):
    error = RuntimeError(
        f"{row_name(task.samples, rows[0])}: the worker died on this image, {_MOST_DEATHS} times; "
        "it may need too much memory, or crash a library"
    )
    return [fail_row(task.samples, i, error) for i in rows]


def _is_lost_worker(error):
    kinds = (BrokenProcessPool, TimeoutError)
    return isinstance(error, kinds) or type(error).__module__.startswith("distributed")


def _in_parallel(loce, payload, task, parts, begun, refusal):
    """Yield (number of the part, results) when they arrive.

    ``begun`` collects the numbers of parts that were sent to workers. After a refusal, no more
    parts are sent, and ``refusal`` contains the reason.
    """
    lean, raw = _send_estimator(payload)

    def tasks():
        for number, images in list(parts.items()):
            if refusal:
                return
            begun.append(number)
            yield delayed(_embed_part)(number, lean, raw, _task_of(images, task))

    for number, outcomes in _returned(tasks(), loce.n_jobs):
        if isinstance(outcomes, str):
            refusal.append(outcomes)
        else:
            yield number, outcomes


def _returned(tasks, n_jobs):
    """Yield the results of tasks, in any order."""
    backend, _ = get_active_backend()
    if backend.supports_return_generator:
        parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
        yield from parallel(tasks)
        return
    # Backends such as multiprocessing and Ray run in rounds, so that results arrive early.
    while some := list(islice(tasks, 4 * effective_n_jobs(n_jobs))):
        yield from Parallel(n_jobs=n_jobs, batch_size=1)(some)
