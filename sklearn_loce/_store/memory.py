"""MemoryStore: LoCEs in this process."""

import threading
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace
from numbers import Integral

import numpy as np

_ROW_OVERHEAD = 600  # bytes of the keys and objects that hold one vector, measured


class MemoryStore:
    """Keep LoCEs in this process; the least recently used go first.

    Parameters
    ----------
    max_bytes : int, default=2**27
        How much memory the vectors may take, with what it takes to hold them.

    Raises
    ------
    ValueError
        If ``max_bytes`` is no integer of at least 0.

    Notes
    -----
    Clones and copies of an estimator share the store; a pickle of it is empty. Threads may use it
    at once.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce._store.keys import Key
    >>> from sklearn_loce._store.memory import MemoryStore
    >>> from sklearn_loce._solvers.solution import Solution
    >>> store, key = MemoryStore(), Key(bytes(32), {}, "features.2", "ab", "cd")
    >>> with store.open() as session:
    ...     session.save(key, {bytes(32): Solution(np.ones(3))})
    ...     session.load(key, [bytes(32)])[bytes(32)].vectors
    array([1., 1., 1.], dtype=float32)
    """

    def __init__(self, max_bytes=2**27):
        if not isinstance(max_bytes, Integral) or max_bytes < 0:
            raise ValueError(f"max_bytes must be an integer of at least 0, got {max_bytes!r}.")
        self.max_bytes = max_bytes
        self._rows = OrderedDict()
        self._n_bytes = 0
        self._probes = {}
        self._lock = threading.Lock()

    def open(self):
        """Return the store itself for a ``with`` block, as a RowStore gives a Session."""
        return nullcontext(self)

    def load(self, key, samples):
        """Return the Solutions that are there, by digest of the sample; vectors are read-only."""
        of_key, found = key.digest, {}
        with self._lock:
            for sample in samples:
                if (of_key, sample) in self._rows:
                    self._rows.move_to_end((of_key, sample))
                    found[sample] = self._rows[of_key, sample]
        return found

    def save(self, key, solutions):
        """Keep Solutions of one row each, by digest of the sample; equal keys are replaced."""
        of_key = key.digest
        with self._lock:
            for sample, solution in solutions.items():
                self._put((of_key, sample), solution)

    def _put(self, place, solution):
        # Nobody can write to an array over bytes.
        raw = np.asarray(solution.vectors, dtype=np.float32).tobytes()
        if place in self._rows:
            self._n_bytes -= _size_of(self._rows.pop(place))
        self._rows[place] = replace(solution, vectors=np.frombuffer(raw, dtype=np.float32))
        self._n_bytes += _size_of(self._rows[place])
        while self._n_bytes > self.max_bytes:
            self._n_bytes -= _size_of(self._rows.popitem(last=False)[1])

    def probes(self, source):
        """Return the probes of a source as (id, record, n_channels), the oldest first."""
        with self._lock:
            return [(probe, *facts) for probe, facts in self._probes.get(source, {}).items()]

    def save_probe(self, source, probe, record, n_channels):
        """Keep what a network gives for the probe image; an equal probe is replaced."""
        record = np.frombuffer(np.asarray(record, dtype=np.float64).tobytes())
        with self._lock:
            self._probes.setdefault(source, {})[probe] = record, int(n_channels)

    def __len__(self):
        return len(self._rows)

    def __sklearn_clone__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return type(self), (self.max_bytes,)

    def __repr__(self):
        return f"MemoryStore(max_bytes={self.max_bytes})"


def _size_of(solution):
    return solution.vectors.nbytes + _ROW_OVERHEAD
