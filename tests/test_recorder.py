"""Recordings of the solver for GPUs, with replacements of CUDA that run on the CPU."""

import gc
import weakref
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch

from sklearn_loce._solvers import adamw as _adamw_torch
from sklearn_loce._solvers.adamw import _CHUNK, Recorder, Recording
from sklearn_loce._solvers.objectives import make_objective
from sklearn_loce._solvers.resize import bilinear_matrix
from sklearn_loce._solvers.solution import Solution


class Stream:
    def wait_stream(self, other):
        pass


class Graph:
    """Works in place on the recorded tensors, like a CUDA graph."""

    n_recorded = 0
    n_replays = 0
    error = None

    def replay(self):
        Graph.n_replays += 1
        self.recording.output.copy_(self.recording.function(*self.recording.inputs))


@pytest.fixture
def graphs(monkeypatch):
    """Treat tensors on the CPU as tensors on a GPU."""
    Graph.n_recorded = Graph.n_replays = 0
    plain = Recording.__init__

    @contextmanager
    def capture(graph, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        if Graph.error is not None:
            raise Graph.error
        Graph.n_recorded += 1
        yield

    def init(self, function, inputs):
        plain(self, function, inputs)
        self.graph.recording = self

    monkeypatch.setattr(Recording, "__init__", init)
    monkeypatch.setattr(_adamw_torch, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    yield Graph
    Graph.error = None


def _double(x):
    return x * 2


@pytest.mark.parametrize(
    ("lengths", "counts"), [((3, 3, 3, 3), (1, 3)), ((3, 3, 1, 2, 5, 4), (2, 5))]
)
def test_the_second_run_and_longer_runs_are_recorded_and_others_replayed(graphs, lengths, counts):
    recorder, inputs = Recorder(), [torch.rand(n, 2) for n in lengths]
    results = [recorder.run("double", _double, (x,)) for x in inputs]  # which stay as they are
    assert all(torch.equal(y, x * 2) for x, y in zip(inputs, results, strict=True))
    assert (graphs.n_recorded, graphs.n_replays) == counts


def test_other_shapes_and_keys_have_separate_recordings(graphs):
    recorder = Recorder()
    for _ in range(3):
        recorder.run("double", _double, (torch.rand(3, 2),))
        recorder.run("double", _double, (torch.rand(3, 4),))
        half = recorder.run("half", lambda x: x / 2, (torch.ones(3, 2),))
    assert graphs.n_recorded == 3
    assert torch.equal(half, torch.full((3, 2), 0.5))


def test_functions_that_cannot_be_recorded_run_normally_with_one_warning(graphs):
    graphs.error = RuntimeError("operation not permitted when stream is capturing")
    recorder, x = Recorder(), torch.rand(3, 2)
    recorder.run("double", _double, (x,))
    with pytest.warns(UserWarning, match="recorded on cpu.*one by one.*not permitted"):
        assert torch.equal(recorder.run("double", _double, (x,)), x * 2)
    assert torch.equal(recorder.run("double", _double, (x,)), x * 2)


def test_an_out_of_memory_error_is_raised(graphs):
    graphs.error = torch.OutOfMemoryError("CUDA out of memory")
    recorder, x = Recorder(), torch.rand(3, 2)
    recorder.run("double", _double, (x,))
    with pytest.raises(torch.OutOfMemoryError):
        recorder.run("double", _double, (x,))


def test_only_the_latest_recordings_are_kept(graphs):
    recorder = Recorder()
    for _ in range(2):
        for n in range(2 * Recorder.MOST):
            recorder.run(n, _double, (torch.rand(2),))
    assert len(recorder._recordings) == Recorder.MOST
    graphs.n_replays = 0
    recorder.run(2 * Recorder.MOST - 1, _double, (torch.rand(2),))
    assert (graphs.n_recorded, graphs.n_replays) == (2 * Recorder.MOST, 1)


def test_a_recording_keeps_the_tensors_that_it_reads(graphs):
    """A GPU reads them at their old address, even if they were deleted."""
    recorder, objective = Recorder(), make_objective("net2vec", max_iter=3)
    grids, targets = [torch.rand(4, 5, 6, dtype=torch.float64)], np.ones((1, 9, 9), np.float32)
    for _ in range(2):
        objective.solve(grids, targets, np.zeros(4), recorder=recorder)
    (recording,) = recorder._recordings.values()
    held = [weakref.ref(getattr(recording.function, name)) for name in ("start", "rows", "columns")]
    bilinear_matrix.cache_clear()
    gc.collect()
    assert all(ref() is not None for ref in held)


def test_nothing_is_recorded_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", None)
    recorder, x = Recorder(), torch.rand(3, 2)
    assert all(torch.equal(recorder.run("double", _double, (x,)), x * 2) for _ in range(3))


@pytest.mark.parametrize("objective", ["net2vec", "mse", "mae"])
def test_recorded_steps_give_the_same_vectors(graphs, objective):
    generator = torch.Generator().manual_seed(0)
    objective, start = make_objective(objective), np.linspace(-1, 1, 4)
    recorder = Recorder()
    for n_images in (3, 2, 3):
        grids = torch.rand(n_images, 4, 5, 6, generator=generator).double()
        rows = [*grids, *grids]
        targets = torch.rand(len(rows), 20, 20, generator=generator).numpy()
        played = objective.solve(rows, targets, start, recorder=recorder).vectors
        compiled = objective.solve([row.float() for row in rows], targets, start).vectors
        np.testing.assert_allclose(played, compiled, atol=2e-5, rtol=1e-5)
    assert graphs.n_replays > 0


class Watching(Recorder):
    """Records the shapes of inputs."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def run(self, key, function, inputs):
        self.shapes.append([tuple(tensor.shape) for tensor in inputs])
        return super().run(key, function, inputs)


def test_rows_that_share_activations_are_stacked_once(graphs):
    grids = torch.rand(4, 3, 5, 6, dtype=torch.float64)
    rows = [grids[0], grids[1], grids[0], grids[2], grids[1], grids[3], grids[2]]
    recorder = Watching()
    objective = make_objective("net2vec", max_iter=5)
    targets = np.random.default_rng(0).random((7, 9, 9)).astype(np.float32)
    together = objective.solve(rows, targets, np.zeros(3), recorder=recorder).vectors
    assert recorder.shapes == [[(3, 3, 5, 6), (3, 2, 9, 9)], [(1, 3, 5, 6), (1, 1, 9, 9)]]
    alone = [objective.solve([rows[i].clone()], targets[[i]], np.zeros(3)) for i in range(7)]
    np.testing.assert_allclose(together, Solution.concatenate(alone).vectors)


@pytest.mark.parametrize("n_rows", [1, 3, 2 * _CHUNK + 5])
def test_no_batch_is_longer_than_a_chunk(graphs, n_rows):
    n_images = 2 * _CHUNK // n_rows + 3
    grids = torch.rand(n_images, 2, 3, 3, dtype=torch.float64)
    rows = [grid for grid in grids for _ in range(n_rows)]
    recorder = Watching()
    objective = make_objective("net2vec", max_iter=1)
    targets = np.random.default_rng(0).random((len(rows), 5, 5)).astype(np.float32)
    found = objective.solve(rows, targets, np.zeros(2), recorder=recorder).vectors
    sizes = [n_images * n_rows for _, (n_images, n_rows, *_) in recorder.shapes]
    assert max(sizes) <= _CHUNK
    assert sum(sizes) == len(rows)
    expected = objective.solve([row.float() for row in rows], targets, np.zeros(2)).vectors
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)
