"""RowStore: LoCEs in a folder, for all processes of a machine and all runs to come."""

import os
import re
import time
import warnings
from datetime import datetime, timedelta
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from . import query as query
from .file import (
    FORMAT_VERSION,
    as_folder,
    check_integrity,
    compact,
    n_bytes,
    obstacles_raised,
    reading,
    writing,
)

_FILE = "loces.sqlite"
_WARNED = set()


class RowStore:
    """Keep computed LoCEs in a folder.

    Each row has a key that tells everything apart its vector depends on: weights and code of the
    model, preprocessing, layer, settings of the optimisation, contents of image and mask, version
    of the format. What is changed is computed anew; what is not is read.

    Parameters
    ----------
    path : str or path
        The folder. It is made, with its parents, when the first rows are saved. A relative path is
        resolved when the store is made: a later change of the working directory does not move it.

    Attributes
    ----------
    path : str
        As an absolute path.

    Raises
    ------
    TypeError, ValueError
        If ``path`` is no path, is empty, or has a null character.
    StoreError
        If ``path`` is a file, or leads through one. All methods raise it where the store's file is
        another program's, of another format version, or malformed; the message names the file and
        the way out.

    Notes
    -----
    The folder holds one SQLite database, ``loces.sqlite``, with a write-ahead log. Any number of
    processes and threads of one machine may use it at once. Network file systems won't do, for the
    log needs shared memory: give the workers of a cluster no store, but let their caller have it.

    Every vector has a checksum, over its key too. One that was damaged counts as missing, with a
    warning: it is computed again and replaced. A folder that can't be written costs no result
    either: what is there is read, what is not is computed, and one warning tells that it could not
    be saved.

    Vectors computed on a GPU and on a CPU agree to rounding, and share a key. Code counts by what
    Python compiled it to, so another version of Python or of a library may find nothing: that
    costs a computation, and never gives a wrong vector.

    Stores of the same path are equal. Clones of an estimator share it, and a pickle holds the path.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_loce import RowStore
    >>> from sklearn_loce._store.memory import Context
    >>> context = Context(bytes(32), {"max_iter": 50}, "features.2", "ab", "cd")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = RowStore(folder)
    ...     store.save(context, {bytes(32): np.arange(3)})
    ...     print(store.load(context, [bytes(32)])[bytes(32)])
    ...     print(store.info().n_rows, len(store.verify()))
    ...     print(store.to_frame()[["layer", "max_iter", "n_channels"]])
    ...     print(store.prune(layer="features.2"))
    [0. 1. 2.]
    1 0
            layer  max_iter  n_channels
    0  features.2        50           3
    1
    """

    def __init__(self, path):
        self.path = as_folder(path)

    @property
    def _file(self):
        return Path(self.path) / _FILE

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
            Read-only. Rows that are missing or damaged are absent.

        Raises
        ------
        StoreError
            If the file is no store, of another version, or malformed.
        """
        try:
            with reading(self._file) as connection:
                rows = query.look_up(connection, context.digest, samples) if connection else []
        except OSError as error:
            self._warn_once("read", error)
            return {}
        found = {sample: vector for sample, vector in rows if vector is not None}
        if len(found) < len(rows):
            warnings.warn(
                f"{str(self._file)!r} holds damaged rows. They are computed again and replaced; "
                "verify() lists what is damaged.",
                stacklevel=2,
            )
        return found

    def save(self, context, vectors):
        """Keep vectors, all or none; those of the same keys are replaced.

        Parameters
        ----------
        context : Context
        vectors : dict of {bytes: ndarray of shape (n_channels,)}
            By digests of samples.

        Raises
        ------
        StoreError
            If the file is no store, of another version, or malformed.
        """
        try:
            with writing(self._file) as connection:
                query.put_rows(connection, context, vectors, time.time_ns())
        except OSError as error:
            self._warn_once("written", error)

    def n_channels(self, source):
        """Give the number of channels of a layer.

        Parameters
        ----------
        source : bytes
            As of a context.

        Returns
        -------
        int or None
            ``None`` where it is not known.
        """
        try:
            with reading(self._file) as connection:
                return query.look_up_n_channels(connection, source) if connection else None
        except OSError as error:
            self._warn_once("read", error)
            return None

    def save_n_channels(self, source, n):
        """Keep the number of channels of a layer.

        Parameters
        ----------
        source : bytes
            As of a context.
        n : int
        """
        try:
            with writing(self._file) as connection:
                query.put_n_channels(connection, source, int(n))
        except OSError as error:
            self._warn_once("written", error)

    def _warn_once(self, what, error):
        key = os.getpid(), self.path, what
        if key not in _WARNED:
            _WARNED.add(key)
            warnings.warn(
                f"The store {self.path!r} can't be {what} ({error}). LoCEs are computed all the "
                "same, and not kept.",
                stacklevel=3,
            )

    def info(self):
        """Tell what is in the store.

        Returns
        -------
        Bunch
            ``path``; ``format_version``; ``n_rows``, the number of vectors; ``n_bytes`` of the
            file; ``n_contexts``, how many combinations of model, layer and settings; ``layers``.

        Raises
        ------
        StoreError
            If the file can't be read, is no store, of another version, or malformed.
        """
        facts = Bunch(path=self.path, format_version=FORMAT_VERSION)
        facts.update(n_rows=0, n_bytes=0, n_contexts=0, layers=[])
        with obstacles_raised(), reading(self._file) as connection:
            if connection:
                contexts = query.contexts(connection)
                facts.n_rows = connection.execute("SELECT count(*) FROM loces").fetchone()[0]
                facts.n_bytes, facts.n_contexts = n_bytes(connection), len(contexts)
                facts.layers = sorted({c["layer"] for _, c in contexts.values() if c is not None})
        return facts

    def to_frame(self, vectors=False):
        """List the rows of the store.

        Parameters
        ----------
        vectors : bool, default=False
            Whether to give the vectors too, in a column of arrays.

        Returns
        -------
        DataFrame
            One row per vector, oldest first: ``layer``; ``model`` and ``preprocess``, digests in
            hexadecimal; one column per setting; ``sample``, the digest of image and mask;
            ``created``, a timestamp in UTC; ``n_channels``; and ``vector``. Damaged rows are left
            out.

        Raises
        ------
        StoreError
            If the file can't be read, is no store, of another version, or malformed.
        """
        known, rows = {}, []
        with obstacles_raised(), reading(self._file) as connection:
            if connection:
                known = query.contexts(connection)
                sound = (record for record in query.records(connection) if not record.problem)
                rows = [_as_row(record, vectors) for record in sound]
        columns = ["sample", "created", "n_channels"] + ["vector"] * vectors
        frame = query.as_frame(rows, columns=["context", *columns])
        frame["created"] = pd.to_datetime(frame["created"], unit="ns", utc=True)
        facts = _tabulate({number: facts for number, (_, facts) in known.items() if facts})
        return frame.join(facts, on="context")[[*facts.columns, *columns]]

    def verify(self):
        """Read everything and compare it with its checksums.

        Returns
        -------
        DataFrame
            What is damaged, with the columns ``table``, ``id``, ``layer``, ``sample`` and
            ``problem``; no rows if the store is sound. ``prune(damaged=True)`` removes it.

        Raises
        ------
        StoreError
            If the file can't be read, is no store, of another version, or malformed.
        """
        problems = []
        with obstacles_raised(), reading(self._file) as connection:
            if connection:
                check_integrity(connection, self._file)
                problems = list(query.problems(connection))
        return query.as_frame(problems, columns=["table", "id", "layer", "sample", "problem"])

    def prune(self, *, layer=None, model=None, older_than=None, damaged=False, max_bytes=None):
        """Remove rows that meet all criteria given, and give their space back to the disk.

        Parameters
        ----------
        layer : str, default=None
            Rows of this layer.
        model : torch.nn.Module, TorchModel or str, default=None
            Rows of this model, or of the one with this digest in hexadecimal.
        older_than : timedelta or datetime, default=None
            Rows that were saved longer ago, or before; a datetime without a time zone is in UTC.
        damaged : bool, default=False
            Rows whose checksum is not theirs.
        max_bytes : int, default=None
            After that, the oldest of all rows, until the file is no larger.

        Returns
        -------
        int
            Number of rows removed.

        Raises
        ------
        TypeError, ValueError
            If no criterion is given, or one is nothing of its kind.
        StoreError
            If the file can't be written, is no store, of another version, or malformed.
        """
        criteria = _as_criteria(layer, model, older_than, damaged)
        if not criteria and max_bytes is None:
            raise ValueError(
                "prune needs a criterion: layer, model, older_than, damaged or max_bytes. To "
                f"remove all rows, remove the folder {self.path!r}."
            )
        if max_bytes is not None and (not isinstance(max_bytes, Integral) or max_bytes < 0):
            raise ValueError(f"max_bytes must be an integer of at least 0, got {max_bytes!r}.")
        with obstacles_raised():
            if not self._file.exists():
                return 0
            n_removed = self._remove(criteria.choose) if criteria else 0
            size = compact(self._file)
            while max_bytes is not None and size > max_bytes:
                n_oldest = self._remove(partial(query.oldest, share=1 - max_bytes / size))
                n_removed, size = n_removed + n_oldest, compact(self._file)
                if not n_oldest:
                    break
        return n_removed

    def _remove(self, choose):
        """Remove the rows that a function of the connection chooses; give their number."""
        with writing(self._file) as connection:
            ids = choose(connection)
            query.remove(connection, ids)
        return len(ids)

    def __eq__(self, other):
        return self.path == other.path if isinstance(other, RowStore) else NotImplemented

    def __hash__(self):
        return hash(self.path)

    def __sklearn_clone__(self):
        return self

    def __repr__(self):
        return f"RowStore({self.path!r})"


def _as_row(record, vectors):
    vector = np.frombuffer(record.vector, dtype=query.DTYPE)
    own = record.context, record.sample.hex(), record.created, len(vector)
    return (*own, vector) if vectors else own


def _tabulate(contexts):
    """Make a table of contexts, a dict of {int: facts}, with a column per setting."""
    names = ["layer", "model", "preprocess"]
    rows = [
        {name: facts[name] for name in names}
        | {n: tuple(v) if isinstance(v, list) else v for n, v in facts["settings"].items()}
        for facts in contexts.values()
    ]
    return query.as_frame(rows, index=list(contexts), columns=None if rows else names)


def _as_criteria(layer, model, older_than, damaged):
    if not isinstance(layer, str | None):
        raise TypeError(f"layer must be the name of a layer, got {layer!r}.")
    if not isinstance(damaged, bool | np.bool_):
        raise TypeError(f"damaged must be a bool, got {damaged!r}.")
    return query.Criteria(layer, _as_hex(model), _as_nanoseconds(older_than), bool(damaged))


def _as_hex(model):
    if model is None or (isinstance(model, str) and re.fullmatch("[0-9a-f]{64}", model)):
        return model
    # Imported here: a store is looked into without torch.
    from .._embedding.run import _current_digest
    from .fingerprint import is_model

    if not is_model(model):
        raise TypeError(
            "model must be a module, a TorchModel, or 64 hexadecimal digits as in the column "
            f"'model' of to_frame(), got {model!r}."
        )
    return _current_digest(model).hex()


def _as_nanoseconds(older_than):
    if older_than is None:
        return None
    if isinstance(older_than, timedelta | np.timedelta64):
        return time.time_ns() - pd.Timedelta(older_than).as_unit("ns").value
    if not isinstance(older_than, datetime | np.datetime64):
        raise TypeError(f"older_than must be a timedelta or a datetime, got {older_than!r}.")
    moment = pd.Timestamp(older_than)
    moment = moment.tz_localize("UTC") if moment.tz is None else moment
    return moment.as_unit("ns").value
