"""Rows are equal in this process, in joblib's workers and in those of a cluster."""

import os
import signal
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.nn import functional
from torchvision.models import mobilenet_v3_large

from sklearn_loce import RowStore, TorchModel
from sklearn_loce.exceptions import FailedRowsError

from .counting import PROBE_SIZE, Counting, build_counting, draw_table, make_loce, write_images
from .planted import seeded

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def table():
    return draw_table(24)


@pytest.fixture(scope="module")
def expected(table):
    return make_loce(memory=False, layer=["body.0", "body.2"]).fit_transform(table)


@pytest.fixture(scope="module")
def client():
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        memory_limit=None,  # else their share of a machine with many cores may be too little
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


def large():
    """Build a network with weights that are large enough to be sent only once."""
    network = build_counting()
    network.ballast = nn.Linear(1000, 1000)
    nn.init.zeros_(network.ballast.weight)
    nn.init.zeros_(network.ballast.bias)
    return network


MODELS = {
    "builder": lambda: TorchModel(build_counting),
    "module": lambda: TorchModel(build_counting()),
    "bare": build_counting,
    "large": lambda: TorchModel(large()),
}


def make(**how):
    return make_loce(**{"memory": False, "layer": ["body.0", "body.2"], "n_jobs": 2} | how)


@pytest.mark.parametrize("model", MODELS)
def test_workers_return_equal_rows(model, table, expected):
    loce = make(model=MODELS[model]())
    np.testing.assert_array_equal(loce.fit_transform(table), expected)
    module = getattr(loce.model, "module", loce.model)
    assert module.n_images == 0  # all passed elsewhere


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_cluster_returns_equal_rows(model, table, expected, client):
    with joblib.parallel_config("dask"):
        loce = make(model=MODELS[model](), n_jobs=None)
        np.testing.assert_array_equal(loce.fit_transform(table), expected)
    assert getattr(loce.model, "module", loce.model).n_images == 0


class LateReleases:
    """A client whose scheduler is told of a released key only after the next one was sent."""

    def __init__(self, client, monkeypatch):
        self.send, self.scatter, self.held = client._send_to_scheduler, client.scatter, []
        monkeypatch.setattr(client, "_send_to_scheduler", self.send_or_hold)
        monkeypatch.setattr(client, "scatter", self.scatter_and_release)

    def send_or_hold(self, message):
        if message["op"] == "client-releases-keys":
            self.held.append(message)
        else:
            self.send(message)

    def scatter_and_release(self, *args, **kwargs):
        future = self.scatter(*args, **kwargs)
        while self.held:
            self.send(self.held.pop())
        return future


@pytest.mark.slow
def test_a_model_is_sent_again_after_its_release(table, expected, client, monkeypatch):
    with joblib.parallel_config("dask"):
        loce = make(model=TorchModel(large()), n_jobs=None).fit(table)
        loce.transform(table)
        LateReleases(client, monkeypatch)
        for _ in range(3):
            np.testing.assert_array_equal(loce.transform(table), expected)


def get_threads_of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_the_number_of_torch_threads_does_not_matter():
    """The pooling of the network sums in another order with another number of threads."""
    network = TorchModel(seeded(mobilenet_v3_large))
    table = draw_table(2, n_concepts=1, size=(360, 480))
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            loce = make(model=network, layer="features.7", n_jobs=None)
            found.append(loce.fit_transform(table))
            assert torch.get_num_threads() == n_threads
            assert get_threads_of_a_new_thread() == n_threads
    finally:
        torch.set_num_threads(before)
    for vectors in found[1:]:
        np.testing.assert_array_equal(vectors, found[0])


class Scaled(Counting):
    """Depends on an attribute that neither the builder nor the repr includes."""

    scale = 1.0

    def forward(self, x):
        return super().forward(x * self.scale)


def build_scaled():
    return Scaled().eval()


def ask_workers(folder):
    """Return the process numbers of joblib's two workers."""
    folder.mkdir()
    asked = joblib.Parallel(2, batch_size=1, pre_dispatch="all")(
        joblib.delayed(meet_another)(folder) for _ in range(2)
    )
    return set(asked)


def meet_another(folder):
    """Return the number of this process after another one has started."""
    (folder / str(os.getpid())).touch()
    late = time.monotonic() + 300
    while len(list(folder.iterdir())) < 2:
        if time.monotonic() > late:
            raise TimeoutError("no other worker came")
        time.sleep(0.01)
    return os.getpid()


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_network_changed_after_its_build_is_sent_itself(on_disk, table, tmp_path):
    model = TorchModel(build_scaled)
    model.module.scale = 3.0
    expected = make(model=model, n_jobs=None).fit_transform(table)
    loce = make(model=model, memory=tmp_path / "store" if on_disk else False)
    before = ask_workers(tmp_path / "before")
    np.testing.assert_array_equal(loce.fit_transform(table), expected)
    # They were not started again, which takes seconds.
    assert ask_workers(tmp_path / "after") == before
    assert not np.array_equal(make(model=TorchModel(build_scaled)).fit_transform(table), expected)


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_other_backends_of_joblib_work(backend, table, expected):
    with joblib.parallel_config(backend, n_jobs=2):
        found = make(n_jobs=None).fit_transform(table)
    np.testing.assert_array_equal(found, expected)


class Deadly(Counting):
    """Kills every process except that in which it was made."""

    def __init__(self):
        super().__init__()
        self.home = os.getpid()

    def forward(self, x):
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


@pytest.mark.slow
def test_workers_that_always_die_raise_a_clear_error(table):
    loce = make(model=TorchModel(Deadly().eval())).fit(table)
    with (
        pytest.warns(UserWarning, match="A worker was lost"),
        pytest.raises(RuntimeError, match=r"Workers died with 3 images in a row"),
    ):
        loce.transform(table)


@pytest.mark.slow
def test_workers_evaluate_and_project(table):
    plain, spread = make(n_jobs=None).fit(table), make().fit(table)
    assert spread.evaluate(table).equals(plain.evaluate(table))
    embeddings = plain.transform(table)
    ours = spread.project(table, embeddings, layer="body.2", threshold=None)
    theirs = plain.project(table, embeddings, layer="body.2", threshold=None)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


class Watching(nn.Sequential):
    """Writes the process and its number of threads to a file."""

    def __init__(self, path):
        super().__init__(*build_counting().body)
        self.path = str(path)

    def forward(self, x):
        if x.shape[-2:] != PROBE_SIZE:
            with open(self.path, "a") as file:
                file.write(f"{os.getpid()} {torch.get_num_threads()}\n")
        return super().forward(x)


def test_a_worker_runs_one_thread_and_each_image_passes_once(table, tmp_path):
    model = TorchModel(Watching(tmp_path / "log").eval())
    make(model=model, layer="2").fit_transform(table)
    lines = (tmp_path / "log").read_text().split("\n")[:-1]
    assert {line.split()[1] for line in lines} == {"1"}
    assert len(lines) == 24
    assert len({line.split()[0] for line in lines}) <= 3


class CountingLoads(TorchModel):
    """Writes to a file when it is unpickled."""

    def __init__(self, source, path):
        super().__init__(source)
        self.path = str(path)

    def __setstate__(self, state):
        self.__dict__.update(state)
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()}\n")


@pytest.mark.parametrize("backend", ["loky", pytest.param("dask", marks=pytest.mark.slow)])
def test_the_model_is_sent_once_per_worker(backend, table, tmp_path, client):
    model = CountingLoads(large(), tmp_path / "log")
    with joblib.parallel_config(backend, n_jobs=2):
        loce = make(model=model, batch_size=2).fit(table)
        for _ in range(2):
            loce.transform(table)
    pids = (tmp_path / "log").read_text().split()
    assert 1 <= len(pids) == len(set(pids)) <= 2


def test_only_the_caller_writes_the_store(table, tmp_path, expected):
    loce = make(memory=tmp_path / "store")
    np.testing.assert_array_equal(loce.fit_transform(table), expected)
    assert RowStore(tmp_path / "store").info()["n_rows"] == 2 * len(table)
    again = clone(loce).set_params(model=TorchModel(build_counting))
    np.testing.assert_array_equal(again.fit_transform(table), expected)
    assert again.model.module.n_images == 0


def test_workers_name_failed_rows_by_their_position_in_the_table(table, tmp_path):
    files = write_images(table, tmp_path)
    content = (tmp_path / "20.png").read_bytes()
    (tmp_path / "20.png").write_bytes(content[: len(content) // 2])
    loce = make(memory=tmp_path / "store", layer="body.0")
    with pytest.raises(FailedRowsError, match=r"2 of 48 rows failed: row 40: the image") as caught:
        loce.fit_transform(files)
    assert caught.value.failures["position"].tolist() == [40, 41]


class Suicidal(nn.Sequential):
    """Kills a process once; a file holds its number."""

    def __init__(self, path):
        super().__init__(*build_counting().body)
        self.path = str(path)
        self.home = os.getpid()

    def forward(self, x):
        if os.getpid() != self.home and x.mean() > 0.9:  # one white image
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_a_killed_worker_loses_no_row(backend, table, tmp_path, client):
    images = table["image"].tolist()
    images[20] = images[21] = np.full_like(images[20], 255)
    deadly = table.assign(image=images)
    loce = make(model=TorchModel(Suicidal(tmp_path / "killed").eval()), layer="2", batch_size=2)
    plain = clone(loce).set_params(n_jobs=None).fit_transform(deadly)
    with joblib.parallel_config(backend, n_jobs=2), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A worker was lost")
        found = loce.fit_transform(deadly)
    assert (tmp_path / "killed").exists()
    np.testing.assert_array_equal(found, plain)


class OddError(Exception):
    def __init__(self, a, b):
        super().__init__("odd")


class Odd(Counting):
    def forward(self, x):
        if x.shape[-2:] != PROBE_SIZE:
            raise OddError(1, 2)
        return super().forward(x)


def test_errors_that_cannot_be_pickled_become_plain_errors(table):
    with pytest.raises(FailedRowsError, match="OddError: odd"):
        make(model=TorchModel(Odd().eval())).fit_transform(table[:4])


class Fatal(Counting):
    """Kills its process at each white image, unless it was made there."""

    def __init__(self):
        super().__init__()
        self.home = os.getpid()

    def forward(self, x):
        if os.getpid() != self.home and x.mean() > 0.9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


@pytest.mark.slow
def test_an_image_that_always_kills_its_worker_does_not_affect_others(table, tmp_path):
    images = table["image"].tolist()
    images[20] = images[21] = np.full_like(images[20], 255)
    loce = make(model=TorchModel(Fatal().eval()), memory=tmp_path / "store", on_error="nan")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = loce.fit_transform(table.assign(image=images))
    assert any("row 20: the worker died on this image" in str(w.message) for w in caught)
    assert np.flatnonzero(np.isnan(found).any(1)).tolist() == [20, 21]
    expected = make(n_jobs=None).fit_transform(table)
    np.testing.assert_array_equal(np.delete(found, [20, 21], 0), np.delete(expected, [20, 21], 0))
    assert RowStore(tmp_path / "store").info()["n_rows"] == 2 * (len(table) - 2)


def test_relative_paths_refer_to_the_folder_of_the_caller(table, tmp_path, monkeypatch):
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        write_images(draw_table(24, seed=seed), tmp_path / name)
    relative = table.assign(image=[f"{i}.png" for i in table["image_id"]])
    found = {}
    for name in ("a", "b"):
        monkeypatch.chdir(tmp_path / name)
        found[name] = make().fit_transform(relative)
    np.testing.assert_array_equal(found["b"], make(n_jobs=None).fit_transform(relative))
    assert not np.array_equal(found["a"], found["b"])


def test_a_class_changed_only_here_is_refused_or_sent(table, tmp_path, monkeypatch):
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: functional.leaky_relu(x, 0.3))
    loce = make(memory=tmp_path / "store")
    with pytest.raises(RuntimeError, match=r"A worker has another network than its caller.*body"):
        loce.fit_transform(table)
    assert RowStore(tmp_path / "store").info()["n_rows"] == 0


def test_workers_use_the_autocast_settings_of_the_caller(table):
    loce = make()
    full = loce.fit_transform(table)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loce.fit_transform(table)
        np.testing.assert_array_equal(half, make(n_jobs=None).fit_transform(table))
    assert not np.array_equal(half, full)
