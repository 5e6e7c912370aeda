"""Ctrl-C at random moments; ``python -m tests.test_interrupts 500`` tries that many."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_loce import LoCETransformer, TorchModel

from .counting import draw_table

CALLS = ("fit_transform", "evaluate", "project")


class Net(nn.Sequential):
    """Three layers in training mode; with a lock, it cannot be copied."""

    def __init__(self, lock=None):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, 1, 1))
        self.lock = lock


def run(loce, name, table):
    result = loce.fit_transform(table) if name == CALLS[0] else getattr(loce, name)(table)
    if name == "evaluate":
        return result.select_dtypes("number").to_numpy(float)
    return np.stack(result).astype(float)


def describe(network):
    """List everything that a run may change for the user."""
    here = [torch.get_num_threads(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    modes = [child.training for child in network.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    names = [sorted(vars(child)) for child in network.modules()]
    weights = [float(t.double().sum()) for t in network.state_dict().values()]
    return [here, later, modes, hooks, names, weights]


def list_threads():
    """List the threads besides the main one and that of progress bars, which tqdm keeps."""
    return [t for t in threading.enumerate()[1:] if type(t).__name__ != "TMonitor"]


def wait_for(condition, seconds=2):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def interrupt_once(function, delay):
    """Call a function, interrupt it, and return the outcome."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    result = None
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        result = function()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return "interrupted", None
    return "finished", result


def interrupt_often(n_moments):
    """Interrupt calls at random moments; print the counts, and all errors."""
    table, moments, faults = draw_table(5, size=(48, 64)), random.Random(0), []
    torch.set_num_threads(2)
    counts = {"interrupted": 0, "finished": 0}
    for lock, share in ((None, 0.75), (threading.Lock(), 0.25)):
        network = Net(lock).train()
        loce = LoCETransformer(TorchModel(network), "2", memory=False, on_error="nan")
        wanted, seconds = {}, {}
        for name in (*CALLS, *CALLS):
            start = time.perf_counter()
            wanted[name] = run(loce, name, table)
            seconds[name] = time.perf_counter() - start
        before = describe(network)
        for number in range(int(n_moments * share)):
            name = CALLS[number % 3]
            delay = moments.uniform(0.0005, seconds[name])
            how, result = interrupt_once(partial(run, loce, name, table), delay)
            counts[how] += 1
            if how == "finished" and not np.array_equal(result, wanted[name], True):
                faults.append(f"{name}: finished with other rows")
            if not wait_for(lambda: not list_threads()):
                faults.append(f"{name}: {list_threads()} live on")
            if describe(network) != before:
                faults.append(f"{name}: {describe(network)} and not {before}")
            if number % 5 == 0 and not np.array_equal(run(loce, name, table), wanted[name], True):
                faults.append(f"{name}: other rows in the call after that")
    sys.stdout.write(json.dumps({"faults": faults} | counts))


def run_here(*arguments, timeout=60):
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_interrupts", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_ctrl_c_restores_everything():
    report = run_here(60)
    assert report["faults"] == []
    assert report["interrupted"] >= 20


def count_workers():
    """Count the living joblib processes that this process started."""
    n_workers = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = folder.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            line = folder.joinpath("cmdline").read_bytes()
        except OSError:
            continue
        n_workers += parent == str(os.getpid()) and b"LokyProcess" in line
    return n_workers


def interrupt_workers():
    table = draw_table(30, size=(48, 64))
    loce = LoCETransformer(Net(), "2", n_jobs=2)
    wanted = loce.fit_transform(table)
    start = time.perf_counter()
    loce.transform(table)
    seconds = time.perf_counter() - start
    had_workers, faults = count_workers(), []
    for share in (0.3, 0.7):
        how, _ = interrupt_once(lambda: loce.transform(table), share * seconds)
        if how == "interrupted" and not wait_for(lambda: not count_workers()):
            faults.append(f"{count_workers()} workers live on")
    if not np.array_equal(loce.fit_transform(table), wanted):
        faults.append("other rows in the call after that")
    sys.stdout.write(json.dumps({"faults": faults, "had_workers": had_workers}))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")
def test_ctrl_c_ends_workers():
    report = run_here("workers", timeout=120)
    assert report["had_workers"] == 2
    assert report["faults"] == []


class Raising(Net):
    error = None

    def forward(self, x):
        if self.error is not None and x.shape[-1] == 64:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize("error", [KeyboardInterrupt("by hand"), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("n_images", [1, 4])
@pytest.mark.parametrize("on_error", ["raise", "nan"])
def test_an_exit_is_not_recorded_as_a_failed_row(error, n_images, on_error):
    network, table = Raising().train(), draw_table(n_images, size=(48, 64))
    loce = LoCETransformer(network, "2", on_error=on_error).fit(table)
    network.error = None
    wanted, before = loce.transform(table), describe(network)
    network.error, others = error, list_threads()  # of workers that other tests started
    with pytest.raises(type(error)) as caught:
        loce.transform(table)
    assert caught.value.args == error.args
    assert wait_for(lambda: set(list_threads()) <= set(others))
    network.error = None
    assert describe(network) == before
    np.testing.assert_array_equal(loce.transform(table), wanted)


def test_an_interrupt_in_preprocess_is_not_recorded_as_a_failed_row():
    def interrupt(image, masks):
        raise KeyboardInterrupt

    table = draw_table(3, size=(48, 64))
    for call in ("fit", "fit_transform"):
        with pytest.raises(KeyboardInterrupt):
            getattr(LoCETransformer(Net(), "2", preprocess=interrupt, on_error="nan"), call)(table)


if __name__ == "__main__":
    interrupt_workers() if sys.argv[1] == "workers" else interrupt_often(int(sys.argv[1]))
