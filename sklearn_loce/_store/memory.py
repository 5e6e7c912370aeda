"""Where computed LoCEs are kept: what tells one from another, and the store in memory."""

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from .file import FORMAT_VERSION
from .sqlite import RowStore

__all__ = ["Context", "MemoryStore", "RowStore", "source_digest"]

_ROW_OVERHEAD = 300  # bytes of the keys and objects that hold one vector, measured


def _as_plain(value):
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Settings must be numbers, strings, lists or None, got {value!r}.")


def _as_json(facts):
    return json.dumps(facts, sort_keys=True, default=_as_plain)


def _hash(*facts):
    return hashlib.sha256(_as_json(facts).encode()).digest()


def source_digest(model, preprocess, reshape_transform, layer):
    """Hash what the activations of a layer depend on.

    Parameters
    ----------
    model, preprocess, reshape_transform : bytes
        Their digests.
    layer : str

    Returns
    -------
    bytes of length 32
        Of these and the version of the format, which counts up when the method's results change.
    """
    digests = [part.hex() for part in (model, preprocess, reshape_transform)]
    return _hash("source", FORMAT_VERSION, digests, layer)


@dataclass(frozen=True)
class Context:
    """What the LoCEs of a layer depend on, besides image and mask.

    Parameters
    ----------
    source : bytes of length 32
        What the activations depend on, as :func:`source_digest` hashes it.
    settings : dict of {str: number, str, list or None}
        What the optimisation depends on.
    layer : str
        Name of the layer.
    model, preprocess : str
        Digests in hexadecimal, by which a store can be searched.

    Examples
    --------
    >>> from sklearn_loce._store.memory import Context
    >>> first = Context(bytes(32), {"max_iter": 50}, "features.2", "ab", "cd")
    >>> second = Context(bytes(32), {"max_iter": 51}, "features.2", "ab", "cd")
    >>> first.digest == second.digest
    False
    """

    source: bytes
    settings: dict
    layer: str
    model: str
    preprocess: str

    @property
    def digest(self):
        """Hash of source and settings."""
        return _hash("context", self.source.hex(), self.settings)

    def describe(self):
        """Write down in JSON what the context is.

        Returns
        -------
        str
        """
        names = "layer", "model", "preprocess", "settings"
        return _as_json({name: getattr(self, name) for name in names})


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
    >>> from sklearn_loce._store.memory import Context, MemoryStore
    >>> store, context = MemoryStore(), Context(bytes(32), {}, "features.2", "ab", "cd")
    >>> store.save(context, {bytes(32): np.ones(3)})
    >>> store.load(context, [bytes(32)])
    {b'...': array([1., 1., 1.], dtype=float32)}
    """

    def __init__(self, max_bytes=2**27):
        if not isinstance(max_bytes, Integral) or max_bytes < 0:
            raise ValueError(f"max_bytes must be an integer of at least 0, got {max_bytes!r}.")
        self.max_bytes = max_bytes
        self._rows = OrderedDict()
        self._n_bytes = 0
        self._n_channels = {}
        self._lock = threading.Lock()

    def load(self, context, samples):
        """Give the vectors that are there.

        Parameters
        ----------
        context : Context
        samples : sequence of bytes
            Digests of samples.

        Returns
        -------
        dict of {bytes: ndarray of shape (n_channels,), float32}
            Read-only.
        """
        of_context, found = context.digest, {}
        with self._lock:
            for sample in samples:
                raw = self._rows.get((of_context, sample))
                if raw is not None:
                    self._rows.move_to_end((of_context, sample))
                    # bytes can't change, nor can an array over them
                    found[sample] = np.frombuffer(raw, dtype=np.float32)
        return found

    def save(self, context, vectors):
        """Keep vectors; those of the same keys are replaced.

        Parameters
        ----------
        context : Context
        vectors : dict of {bytes: ndarray of shape (n_channels,)}
            By digests of samples.
        """
        of_context = context.digest
        with self._lock:
            for sample, vector in vectors.items():
                self._put((of_context, sample), np.asarray(vector, dtype=np.float32).tobytes())

    def _put(self, key, raw):
        self._n_bytes += len(raw) + _ROW_OVERHEAD - self._size_of(self._rows.pop(key, None))
        self._rows[key] = raw
        while self._n_bytes > self.max_bytes:
            self._n_bytes -= self._size_of(self._rows.popitem(last=False)[1])

    @staticmethod
    def _size_of(raw):
        return 0 if raw is None else len(raw) + _ROW_OVERHEAD

    def n_channels(self, source):
        """Give the number of channels of a layer; ``None`` where it is not known."""
        with self._lock:
            return self._n_channels.get(source)

    def save_n_channels(self, source, n):
        """Keep the number of channels of a layer."""
        with self._lock:
            self._n_channels[source] = int(n)

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
