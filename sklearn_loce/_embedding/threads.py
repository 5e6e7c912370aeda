"""Threads that process images, each with its own network and settings."""

import contextvars
import os
import queue
import threading
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from joblib import effective_n_jobs
from joblib.externals.loky import get_reusable_executor
from joblib.parallel import get_active_backend


class _OneThread:
    """Sets torch to one thread in our threads, because the last bits depend on the number.

    torch keeps the number per thread, but new threads get the latest number. So the last of our
    threads that ends restores the user's number. The user's threads never change it: only they are
    interrupted by Ctrl-C.
    """

    def __init__(self):
        self.lock, self.n_users, self.before = threading.Lock(), 0, None

    @contextmanager
    def __call__(self, before):
        with self.lock:
            self.before = before if self.n_users == 0 else self.before
            self.n_users += 1
            torch.set_num_threads(1)
        try:
            yield
        finally:
            with self.lock:
                self.n_users -= 1
                if self.n_users == 0:
                    torch.set_num_threads(self.before)


_ONE_THREAD = [_OneThread()]
if hasattr(os, "register_at_fork"):
    # A child process has none of our threads, which would restore the number.
    os.register_at_fork(after_in_child=lambda: _ONE_THREAD.append(_OneThread()))


def count_threads():
    """Return the user's number of torch threads."""
    own = _ONE_THREAD[-1]
    with own.lock:
        return own.before if own.n_users else torch.get_num_threads()


def is_cluster(backend):
    """Return whether a backend of joblib is a cluster."""
    return hasattr(backend, "client")


def runs_here(n_jobs):
    """Return whether joblib's present backend uses only this process, with or without threads."""
    backend, _ = get_active_backend()
    if is_cluster(backend):
        return False
    return getattr(backend, "supports_sharedmem", False) or effective_n_jobs(n_jobs) == 1


@contextmanager
def ended_by_interrupt(n_jobs):
    """End joblib's local workers on Ctrl-C, at any point of the block."""
    try:
        yield
    except KeyboardInterrupt:
        if not runs_here(n_jobs) and type(get_active_backend()[0]).__name__ == "LokyBackend":
            get_reusable_executor().shutdown(wait=False, kill_workers=True)
        raise


def autocast_settings():
    """Return the autocast settings of this thread: (device type, dtype, whether it is enabled)."""
    devices = ["cpu", *["cuda"] * torch.cuda.is_available()]
    return [(d, torch.get_autocast_dtype(d), torch.is_autocast_enabled(d)) for d in devices]


@contextmanager
def autocast_as(settings):
    """Use the autocast settings of another thread or process."""
    with ExitStack() as exits:
        for device, dtype, enabled in settings:
            if enabled or torch.is_autocast_enabled(device):
                exits.enter_context(torch.autocast(device, dtype=dtype, enabled=enabled))
        yield


class _Threads:
    """Threads that take items from one list, each with its own function."""

    def __init__(self, open_worker, items, n_threads, n_ahead):
        self._open_worker, self._items = open_worker, iter(enumerate(items))
        self._lock, self._stops = threading.Lock(), threading.Event()
        self.free = threading.Semaphore(n_ahead)  # a thread takes one for each item
        self.results = queue.SimpleQueue()
        self._before, self._autocast = count_threads(), autocast_settings()
        self.threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(self._serve,))
            for _ in range(n_threads)
        ]

    def stop(self):
        """End all threads, even if Ctrl-C arrives: they may still use the network."""
        try:
            self._end()
        finally:
            self._end()

    def _end(self):
        self._stops.set()
        for _ in self.threads:
            self.free.release()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    def _serve(self):
        if self._stops.is_set():  # Ctrl-C arrived while this thread started
            return
        try:
            with (
                _ONE_THREAD[-1](self._before),
                torch.no_grad(),
                autocast_as(self._autocast),
                self._open_worker() as work,
            ):
                while True:
                    self.free.acquire()
                    with self._lock:
                        item = None if self._stops.is_set() else next(self._items, None)
                    if item is None:
                        return
                    self.results.put((item[0], work(item[1]), None))
        except BaseException as error:  # raised again in the caller's thread
            self.results.put((None, None, error))


def map_in_threads(open_worker, items, n_threads):
    """Yield ``work(item)`` in the order of the items.

    Parameters
    ----------
    open_worker : callable
        Called in each thread; returns a context manager of the thread's function ``work``.
    items : sequence
    n_threads : int
        Number of threads. Each uses one thread of torch, no gradients, and the autocast settings
        and context variables of the caller.
    """
    if not items:
        return
    n_threads = min(n_threads, len(items))
    # Finished results wait for earlier ones. At most two per thread wait, which bounds the memory.
    threads = _Threads(open_worker, items, n_threads, 2 * n_threads)
    waiting = {}
    try:
        for thread in threads.threads:
            thread.start()
        for number in range(len(items)):
            while number not in waiting:
                done, result, error = threads.results.get()
                if error is not None:
                    raise error
                waiting[done] = result
            yield waiting.pop(number)
            threads.free.release()
    finally:
        threads.stop()


def call_in_thread(function, *arguments):
    """Call a function in a new thread, with one thread of torch."""
    (result,) = map_in_threads(lambda: nullcontext(lambda _: function(*arguments)), [None], 1)
    return result
