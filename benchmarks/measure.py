"""Time, memory and growth of functions."""

import ctypes
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def seconds(function, clock=time.perf_counter):
    start = clock()
    function()
    return clock() - start


def in_turn(sides, repeats, at_most=None, clock=time.perf_counter):
    """Run functions in turn, so that other work on the machine affects all of them.

    Parameters
    ----------
    sides : dict of {str: callable}
    repeats : int
    at_most : dict of {str: int}, default=None
        How often to run those that take long, where that is less.
    clock : callable, default=time.perf_counter
        ``time.process_time`` leaves other work on the machine alone.

    Returns
    -------
    dict of {str: list of float}
        The seconds of each run.
    """
    times = {name: [] for name in sides}
    for k in range(repeats):
        for name, side in sides.items():
            if k < (at_most or {}).get(name, repeats):
                times[name].append(seconds(side, clock))
    return times


def median_ratio(above, below):
    """Return the median ratio of the runs in which both were measured."""
    return statistics.median(a / b for a, b in zip(above, below, strict=False))


def slope(sizes, values):
    """Return the exponent of growth: the slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


@contextmanager
def threads(n):
    """Set the number of torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread_each(n):
    """Open a pool of threads, each with one torch thread."""
    start = partial(torch.set_num_threads, 1)
    with threads(1), ThreadPoolExecutor(n, initializer=start) as pool:
        yield pool


def has_memory_counters():
    """Return whether the system has the memory counters of Linux."""
    return _STATUS.is_file() and "VmHWM" in _STATUS.read_text()


def _megabytes(counter):
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[counter].split()[0]) / 1024


def _give_back():
    """Return freed memory to the system, because reuse would hide growth."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's
        libc.malloc_trim(0)


def peak_memory():
    """Return the peak resident set of this process in MB."""
    return _megabytes("VmHWM")


def memory_growth(function):
    """Return the largest growth of the resident set during a function, in MB."""
    _give_back()
    _CLEAR.write_text("5")  # the peak starts again from what is held now
    before = _megabytes("VmRSS")
    function()
    return peak_memory() - before


def in_own_process(function, *arguments):
    """Call an importable function in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()
