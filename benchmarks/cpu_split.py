"""Where the processor time of a ``transform`` goes."""

import time
from collections import defaultdict
from contextlib import ExitStack
from functools import wraps
from threading import Lock
from unittest.mock import patch

from sklearn_loce._embedding import stream as _stream
from sklearn_loce._embedding import worker as _embedding
from sklearn_loce._solvers import objectives as _objectives

# What is timed: the name of the part, and the function where its caller looks it up.
PARTS = (
    ("decode images and masks", _stream, "_read"),
    ("preprocess", _stream, "make_view"),
    ("forward", _stream, "pass_network"),
    ("resize masks", _objectives, "resize_masks"),
)
_OPTIMISE = "optimise"


class Clock:
    """Adds up, by part, the processor time of the threads that work on it."""

    def __init__(self):
        self.seconds = defaultdict(float)
        self._lock = Lock()

    def timed(self, part, function):
        """Wrap a function so that its thread's time counts as that part's."""

        @wraps(function)
        def timed_function(*args, **kwargs):
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.thread_time() - start
                with self._lock:
                    self.seconds[part] += spent

        return timed_function


def _on_one_thread(function):
    def on_one_thread(*args, n_threads, **kwargs):
        return function(*args, n_threads=1, **kwargs)

    return on_one_thread


def split(function):
    """Give {part: seconds} of processor time of a call, with "rest", "all" and "wall"."""
    clock = Clock()
    with ExitStack() as stack:
        for part, module, name in PARTS:
            timed = clock.timed(part, getattr(module, name))
            stack.enter_context(patch.object(module, name, timed))
        solve = clock.timed(_OPTIMISE, _on_one_thread(_embedding.solve_rows))
        stack.enter_context(patch.object(_embedding, "solve_rows", solve))
        start, wall = time.process_time(), time.perf_counter()
        function()
        total, wall = time.process_time() - start, time.perf_counter() - wall
    parts = {part: clock.seconds[part] for part in [*(part for part, *_ in PARTS), _OPTIMISE]}
    return {**parts, "rest": total - sum(parts.values()), "all": total, "wall": wall}
