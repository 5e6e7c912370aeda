"""From rows to vectors: the work of one thread on an image, and of all threads on a table."""

import re
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from tqdm.auto import tqdm

from .._network.handle import as_module, resolve_device
from .._samples.table import read_sample_mask, row_name
from .._solvers.adamw import Recorder
from .._solvers.objectives import group_by_grid
from .._solvers.project import project
from .._solvers.solution import Solution
from .._store.keys import sample_digests
from .._warnings import warn_user
from .network import Activations, open_network, probe_network, standardize
from .threads import count_threads, map_in_threads

# Rows that are solved at once. On the CPU they are rows of one image, and the limit bounds the
# memory. On a GPU they are rows of many images: an operation takes as long for one row as for some
# dozens.
_MOST_ROWS = 64


@dataclass(frozen=True)
class Sample:
    """One row, with its inputs and its results.

    Parameters
    ----------
    position : int
        The position of the row in the table.
    activations : Activations or None
        Activations, which the rows of one image share; ``None`` after the row is finished.
    mask : ndarray of shape (height, width), bool, or None
        Mask at the size of the original image; ``None`` unless it is needed again.
    view_mask : ndarray, bool, or None
        Mask over the field of view of the network.
    target : ndarray or None
        The same mask as the objective takes it.
    solutions : dict of {int: Solution}
        The newly optimized vectors by number of the layer; NaN for an empty mask.
    controls : dict of {int: list of Solution}
        The additional solutions that ``finish`` requested, by number of the layer.
    value : object
        The result of ``finish``.
    missed : dict of {int: bool}
        Whether the projections of the new vectors miss the mask, by number of the layer. It is set
        only without ``finish``, and only if the bias does not depend on the mask. With a bias that
        the mask chooses, a projection never misses it.
    is_random : bool
        Whether the preprocessing drew random numbers.
    part : int
        Number of the estimator among those that share the passes.
    """

    position: int
    activations: Activations | None = None
    mask: np.ndarray | None = None
    view_mask: np.ndarray | None = None
    target: np.ndarray | None = None
    solutions: dict = field(default_factory=dict)
    controls: dict = field(default_factory=dict)
    value: object = None
    missed: dict = field(default_factory=dict)
    is_random: bool = False
    part: int = 0


@dataclass(frozen=True)
class Failure:
    """A row that could not be read, or whose image could not pass the network.

    Parameters
    ----------
    position : int
    name : str
        The name of the row in messages.
    error : Exception
    part : int
        Number of the estimator, as in Sample.
    """

    position: int
    name: str
    error: Exception
    part: int = 0

    def __post_init__(self):
        # The frames of an error would hold images and activations until the run ends.
        error = self.error
        while error is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__

    def __str__(self):
        text = str(self.error).rstrip(".") or type(self.error).__name__
        # Messages on an image already name its first row.
        return text if re.search(r"\brow \d", text) else f"{self.name}: {text}"


@dataclass(frozen=True)
class Task:
    """The work that an estimator requests for a table.

    Parameters
    ----------
    samples : DataFrame
    images : list of ndarray of int
        Positions of the rows of each image.
    asked : ndarray of shape (n_rows, n_layers), bool
        The vectors to optimize.
    known : list of Solution, or None
        The vectors that are already known, by layer. They are read only if there is a ``finish``.
    finish : callable or None
        Computes a further result of each row, as ``finish(loce, sample, solutions)`` with one
        Solution per layer. It needs the activations of all layers. If it has a method
        ``controls(loce, sample, layer)``, the method returns targets and weights of pixels to solve
        for, and ``sample`` contains their solutions.
    digests : ndarray of shape (n_rows,), object, or None
        Digests of images and masks. A row fails if its files have other digests when they are read.
    records : dict or None
        Records that workers compare their network with; see :func:`open_network`.
    fingerprint : bytes or None
        Digest of the network, which worker processes compare as well.
    sizes : dict
        How to read the layers of images by their size. The threads of a run fill and share it.
        Threads that begin with the same size all trace it.
    shared : list of (estimator, Task)
        The estimators that share the passes, each with its task. They replace the estimator whose
        network passes the images. Only threads support this.
    """

    samples: object
    images: list
    asked: np.ndarray
    known: list | None = None
    finish: object = None
    digests: np.ndarray | None = None
    records: dict | None = None
    fingerprint: bytes | None = None
    sizes: dict = field(default_factory=dict)
    shared: list = field(default_factory=list)

    def layers(self, loce):
        """Return the layers whose activations are needed."""
        if self.shared:
            return list(dict.fromkeys(k for part, task in self.shared for k in task.layers(part)))
        needed = self.asked.any(0) | (self.finish is not None)
        return [layer for layer, is_needed in zip(loce.layers_, needed, strict=True) if is_needed]


def embed(loce, task, n_threads=None):
    """Yield the number of images and the results of their rows, in the order of the images.

    Parameters
    ----------
    loce : estimator
        Fitted.
    task : Task
    n_threads : int, default=None
        ``None`` uses as many threads as torch. The result does not depend on it.

    Yields
    ------
    n_images : int
    outcomes : list of Sample and Failure
    """
    on_gpu = _is_on_gpu(loce)
    n_threads = n_threads or _choose_threads(loce)
    size = (loce.batch_size or _MOST_ROWS) if on_gpu else 1
    batches = batch_images(task.images, size)
    recorder = Recorder() if on_gpu else None  # records the steps once for all batches

    @contextmanager
    def open_worker():
        with open_network(loce, task.layers(loce), task.records, task.sizes) as pass_image:
            yield partial(embed_images, loce, task, pass_image, recorder)

    return map_in_threads(open_worker, batches, n_threads)


def pass_images(loce, samples, images, records=None, sizes=None):
    """Yield the rows of each image, its Activations, and the exception if it failed.

    Parameters
    ----------
    loce : estimator
        Fitted.
    samples : DataFrame
    images : list of ndarray of int
        Positions of the rows of each image.
    records, sizes : dict, default=None
        See Task.
    """
    sizes = {} if sizes is None else sizes

    @contextmanager
    def open_worker():
        with open_network(loce, None, records, sizes) as pass_image:
            yield lambda rows: (rows, *_try(pass_image, samples, int(rows[0])))

    return map_in_threads(open_worker, images, _choose_threads(loce))


def read_images(loce, samples, images):
    """Yield the rows of each image with its Activations; raise the first failure.

    Parameters
    ----------
    loce : estimator
        Fitted.
    samples : DataFrame
    images : list of ndarray of int
    """
    sizes = {}
    records = probe_network(loce, sizes)
    with closing(pass_images(loce, samples, images, records, sizes)) as passed:
        for rows, activations, error in tqdm(passed, total=len(images), disable=not loce.verbose):
            if error is not None:
                raise ValueError(f"{fail_row(samples, rows[0], error)}.") from error
            yield rows, activations


def _try(function, *arguments):
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error


def _is_on_gpu(loce):
    return resolve_device(loce.device, as_module(loce.model)).type != "cpu"


def _choose_threads(loce):
    """Return 1 if the network is on a GPU or cannot be copied; otherwise torch's number."""
    return 1 if loce._is_lent or _is_on_gpu(loce) else count_threads()


def batch_images(images, size):
    """Group images until a group has the given number of rows."""
    batches, n_rows = [], size
    for rows in images:
        if n_rows >= size:
            batches.append([])
            n_rows = 0
        batches[-1].append(rows)
        n_rows += len(rows)
    return batches


def embed_images(loce, task, pass_image, recorder, images):
    """Read and pass a few images, and embed their rows; return what :func:`embed` yields."""
    outcomes, parts = [], []

    def embed_parts():
        size = loce.batch_size or _MOST_ROWS
        while parts:
            some, parts[:] = parts[:size], parts[size:]
            if task.shared:
                outcomes.extend(_embed_shared(task, some))
            else:
                outcomes.extend(_embed_rows(loce, task, some, recorder))

    for rows in images:
        activations, error = _try(pass_image, task.samples, int(rows[0]))
        if isinstance(error, torch.OutOfMemoryError) and parts:
            embed_parts()  # and free the activations of the images before
            activations, error = _try(pass_image, task.samples, int(rows[0]))
        if error is not None:
            outcomes += [fail_row(task.samples, i, error) for i in rows]
        else:
            parts += [(int(i), activations) for i in rows]
    embed_parts()
    return len(images), _check_unchanged(task, images, outcomes)


def _embed_shared(task, parts):
    """Yield the results of the rows of passed images for each estimator that shares the passes."""
    # The rows of an image keep sharing its grids, so that the solver reads them once.
    shared = {id(activations): activations for _, activations in parts}
    for number, (loce, own) in enumerate(task.shared):
        scaled = {key: standardize(loce, activations) for key, activations in shared.items()}
        rows = [(i, scaled[id(activations)]) for i, activations in parts]
        for outcome in _embed_rows(loce, own, rows, None):
            yield replace(outcome, part=number)


def fail_row(samples, i, error):
    """Return the Failure of a row."""
    return Failure(int(i), row_name(samples, i), error)


def _check_unchanged(task, images, outcomes):
    """Replace rows whose files changed after they were hashed by failures."""
    if task.digests is None:
        return outcomes
    for rows in images:
        try:
            is_same = sample_digests(task.samples, rows) == [task.digests[i] for i in rows]
        except Exception:  # the row was read, or failed, before; a new error does not matter
            is_same = False
        if not is_same:
            error = ValueError(
                f"{row_name(task.samples, rows[0])}: the image or a mask changed during the run; "
                "run it again"
            )
            outcomes = [o for o in outcomes if o.position not in rows]
            outcomes += [fail_row(task.samples, i, error) for i in rows]
    return outcomes


def _embed_rows(loce, task, parts, recorder):
    """Optimize the rows of passed images, layer by layer, and finish them."""
    outcomes, samples, targets = [], [], []
    for i, activations in parts:
        try:
            mask = read_sample_mask(task.samples, i, activations.view.original_size)
            view_mask = activations.view.see(mask)
            targets.append(loce._objective.targets([view_mask])[0])
        except Exception as error:
            outcomes.append(fail_row(task.samples, i, error))
            continue
        # Masks are large, so keep them only if they are needed again.
        kept = (mask, view_mask, targets[-1]) if task.finish is not None else ()
        samples.append(Sample(i, activations, *kept))
    solved = _solve(loce, task, samples, targets, recorder)
    if task.finish is None and loce._auto_bias != "best":
        samples = _find_missed(loce, samples, targets, solved)
    if hasattr(task.finish, "controls"):
        samples = _solve_controls(loce, task, samples, recorder)
    return outcomes + [
        _finish(loce, task, sample, target, solutions)
        for sample, target, solutions in zip(samples, targets, solved, strict=True)
    ]


def _solve(loce, task, samples, targets, recorder):
    """Return {number of the layer: Solution} for each row."""
    solved = [{} for _ in samples]
    for k, layer in enumerate(loce.layers_):
        rows = [j for j, s in enumerate(samples) if task.asked[s.position, k]]
        grids = [samples[j].activations.grids[layer] for j in rows]
        found = _solve_layer(loce, k, grids, [targets[j] for j in rows], None, recorder)
        for j, solution in zip(rows, found, strict=True):
            solved[j][k] = solution
    return solved


def _solve_controls(loce, task, samples, recorder):
    """Solve the controls of ``finish``; return the samples with their solutions."""
    solved = [{} for _ in samples]
    for k, layer in enumerate(loce.layers_):
        problems = [
            (j, sample.activations.grids[layer], target, weights)
            for j, sample in enumerate(samples)
            for target, weights in task.finish.controls(loce, sample, layer)
        ]
        if problems:
            rows, *parts = zip(*problems, strict=True)
            for j, solution in zip(rows, _solve_layer(loce, k, *parts, recorder), strict=True):
                solved[j].setdefault(k, []).append(solution)
    return [replace(s, controls=found) for s, found in zip(samples, solved, strict=True)]


def _solve_layer(loce, k, grids, targets, weights, recorder):
    """Return a Solution for each row; NaN if no pixel of the concept has a weight."""
    counted = zip(targets, weights or [1] * len(targets), strict=True)
    full = [j for j, (target, weight) in enumerate(counted) if (target * weight > 0).any()]
    empty = Solution.unknown(1, loce.n_channels_[k], has_facts=loce._objective.has_bias)[0]
    found = [empty] * len(grids)
    if full:
        solve = partial(loce._objective.solve, start=loce._starts[k], recorder=recorder)
        parts = [[part[j] for j in full] for part in (grids, targets, *[weights] * bool(weights))]
        stack = loce._objective.mask_size is not None
        for j, solution in zip(full, _solve_in_memory(solve, *parts, stack=stack), strict=True):
            found[j] = solution
    return found


def _solve_in_memory(solve, grids, targets, weights=None, *, stack):
    """Optimize rows at once, or in halves if the device runs out of memory."""
    try:
        pixels = [p if p is None or not stack else np.stack(p) for p in (targets, weights)]
        solution = solve(grids, pixels[0], weights=pixels[1])
        return [solution[j] for j in range(len(grids))]
    except torch.OutOfMemoryError as error:
        if len(grids) == 1:
            raise MemoryError(
                "Not even one row fits into the device's memory; use device='cpu'."
            ) from error
    half = len(grids) // 2
    warn_user(
        f"The device ran out of memory with {len(grids)} rows at once, so the run continues "
        f"with {half}. Set batch_size={half} to avoid this."
    )
    if solve.keywords["recorder"] is not None:
        solve.keywords["recorder"].clear()  # frees the memory of the recordings
    solutions = []
    for part in slice(half), slice(half, None):
        own = None if weights is None else weights[part]
        solutions += _solve_in_memory(solve, grids[part], targets[part], own, stack=stack)
    return solutions


def _finish(loce, task, sample, target, solutions):
    """Return the results of a row without its inputs, or its Failure."""
    samples, i = task.samples, sample.position
    has_foreground, value = bool((target > 0).any()), None
    if not has_foreground and solutions and loce.on_empty == "raise":
        reason = f"the mask of {row_name(samples, i)} {explain_empty(loce)}"
        return fail_row(samples, i, ValueError(reason))
    if has_foreground and not all(np.isfinite(s.vectors).all() for s in solutions.values()):
        reason = f"the LoCE of {row_name(samples, i)} did not stay finite; {loce._objective.advice}"
        return fail_row(samples, i, ValueError(reason))
    if task.finish is not None:
        known = {k: solution[i] for k, solution in enumerate(task.known)}
        try:
            value = task.finish(loce, sample, {**known, **solutions})
        except Exception as error:
            return fail_row(samples, i, error)
    found = {"solutions": solutions, "value": value, "missed": sample.missed}
    return Sample(i, **found, is_random=sample.activations.view.random)


def _find_missed(loce, samples, targets, solved):
    """Return the samples with ``missed``; the projection of a vector of NaN misses its mask."""
    missed = [{} for _ in samples]
    for k, layer in enumerate(loce.layers_):
        rows = [j for j, solutions in enumerate(solved) if k in solutions]
        grids = [samples[j].activations.grids[layer] for j in rows]
        for group in group_by_grid(grids):  # an image has one product for all of its rows
            some = [rows[n] for n in group]
            size, solutions = targets[some[0]].shape, [solved[j][k] for j in some]
            projections = _project_rows(loce, grids[group[0]], solutions, size)
            for j, projection in zip(some, projections, strict=True):
                missed[j][k] = not (projection & (targets[j] > 0)).any()
    return [replace(sample, missed=own) for sample, own in zip(samples, missed, strict=True)]


def _project_rows(loce, grid, solutions, size):
    """Return where the projections of vectors onto one grid are above 0.5, (n_rows, H, W)."""
    vectors = torch.from_numpy(np.stack([s.vectors for s in solutions])).to(grid)
    bias = torch.tensor([s.intercept for s in solutions]).to(grid) if loce._appends_bias else None
    projections = project(grid.expand(len(solutions), -1, -1, -1), vectors, size, bias)
    return (projections > 0.5).cpu().numpy()


def explain_empty(loce):
    """Explain how a mask with foreground can lose it."""
    if loce._objective.mask_size is None:
        return "lies outside the part of the image that preprocess keeps"
    return f"loses its foreground at mask_size={tuple(loce._objective.mask_size)}"
