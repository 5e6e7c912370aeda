"""MemoryStore: LoCEs in the memory of this process."""

import threading
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace
from numbers import Integral

import numpy as np

_ROW_OVERHEAD = 600  # bytes of the keys and objects that hold one vector, measured


class MemoryStore:
    """Keep LoCEs in the memory of this process; drop the least recently used ones first.

    Parameters
    ----------
    max_bytes : int, default=2**27
        Maximum memory of the vectors, including the overhead of each vector.

    Raises
    ------
    ValueError
        If ``max_bytes`` is not an integer of at least 0.

    Notes
    -----
    Clones and copies of an estimator share the store. A pickle of the store is empty. Several
    threads may use it at the same time.

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
        """Return the store itself for a ``with`` block, in place of the Session of a RowStore."""
        return nullcontext(self)

    def load(self, key, samples):
        """Return the stored Solutions by digest of the sample; vectors are read-only."""
        of_key, found = key.digest, {}
        with self._lock:
            for sample in samples:
                if (of_key, sample) in self._rows:
                    self._rows.move_to_end((of_key, sample))
                    found[sample] = self._rows[of_key, sample]
        return found

    def save(self, key, solutions):
        """Store Solutions of one row each, by digest of the sample; replace equal keys."""
        of_key = key.digest
        with self._lock:
            for sample, solution in solutions.items():
                place = of_key, sample
                # An array over bytes is read-only.
                raw = np.asarray(solution.vectors, dtype=np.float32).tobytes()
                if place in self._rows:
                    self._n_bytes -= _size_of(self._rows.pop(place))
                self._rows[place] = replace(solution, vectors=np.frombuffer(raw, dtype=np.float32))
                self._n_bytes += _size_of(self._rows[place])
            while self._n_bytes > self.max_bytes:
                self._n_bytes -= _size_of(self._rows.popitem(last=False)[1])

    def probes(self, source):
        """Return the probes of a source as (id, record, n_channels), oldest first."""
        with self._lock:
            return [(probe, *facts) for probe, facts in self._probes.get(source, {}).items()]

    def save_probe(self, source, probe, record, n_channels):
        """Store the record of a network for the probe image; replace an equal probe."""
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
