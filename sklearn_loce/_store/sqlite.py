"""RowStore: LoCEs in a folder, for all processes of a machine and all later runs."""

import os
import re
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from .._network.joined import Joined
from .._warnings import warn_user
from . import database
from .database import connect_to_write, obstacles_raised, open_to_read, transaction
from .keys import FORMAT_VERSION

_FILE = "loces.sqlite"


class RowStore:
    """Keep computed LoCEs in a folder.

    The key of a row contains everything that its vector depends on: weights and code of the model,
    preprocessing, layer, settings of the optimization, contents of image and mask, format version,
    and the activations of the model on a probe image. A row with a known key is read, and a row
    with a new key is computed.

    Parameters
    ----------
    path : str or path
        The folder. The first save creates it, with its parents. A relative path is resolved when
        the object is created, so a later change of the working directory has no effect.

    Attributes
    ----------
    path : str
        The absolute path of the folder.

    Raises
    ------
    TypeError, ValueError
        If ``path`` is not a path, is empty, or has a null character.
    StoreError
        If ``path`` is a file, or leads through a file. All methods raise it if the file of the
        store belongs to another program, has another format version, or is malformed. The message
        names the file and the remedy.

    See Also
    --------
    LoCETransformer : Accepts a store as ``memory``.

    Notes
    -----
    The folder contains one SQLite database, ``loces.sqlite``, with a write-ahead log. Any number of
    processes and threads of one machine may use it at the same time. Network file systems do not
    work, because the log needs shared memory. Workers of a cluster need no store: their caller
    reads and writes it.

    Every vector has a checksum that includes its key. Damaged rows cause a warning; they are
    computed again and replaced. If the folder cannot be written, known rows are read, other rows
    are computed, and you get one warning per call. If another program holds a lock, each call waits
    once, up to 30 seconds.

    The store keeps the records of all probes. A model whose activations agree with a record to 2e-5
    of their norm uses its keys. So another processor or number of threads still finds the vectors.

    Stores with the same path are equal. Clones of an estimator share the store. A pickle of a store
    contains only the path.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_loce import LoCETransformer, RowStore, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> X = make_scenes(2, random_state=0).data
    >>> model = TorchModel(load_scene_model())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = RowStore(folder)
    ...     _ = LoCETransformer(model, "features.2", memory=store).fit_transform(X)
    ...     print(store.info().n_rows == len(X), len(store.verify()))
    ...     print(set(store.to_frame()["layer"]))
    ...     print(store.prune(layer="features.2") == len(X))
    True 0
    {'features.2'}
    True
    """

    def __init__(self, path):
        self.path = database.as_folder(path)
        self._file = Path(self.path) / _FILE

    def open(self):
        """Open the store for the loads and saves of one run.

        Returns
        -------
        Session
            A context manager for a ``with`` block.

        See Also
        --------
        info : Count the rows of the store.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn_loce import RowStore
        >>> with tempfile.TemporaryDirectory() as folder, RowStore(folder).open() as session:
        ...     print(type(session).__name__)
        Session
        """
        return Session(self)

    def info(self):
        """Count the rows, keys and bytes of the store.

        Returns
        -------
        Bunch
            ``path``; ``format_version``; ``n_rows``, the number of vectors; ``n_bytes``, the size
            of the file; ``n_keys``, the number of combinations of model, layer and settings;
            ``layers``.

        Raises
        ------
        StoreError
            If the file cannot be read, is not a store, has another version, or is malformed.

        See Also
        --------
        to_frame : List the rows.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn_loce import MaskedMeanTransformer, RowStore, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X, folder = make_scenes(1, random_state=0).data, tempfile.TemporaryDirectory()
        >>> store = RowStore(folder.name)
        >>> model = TorchModel(load_scene_model)
        >>> _ = MaskedMeanTransformer(model, "features.2", memory=store).fit_transform(X)
        >>> info = store.info()
        >>> info.n_rows, info.layers
        (7, ['features.2'])
        >>> folder.cleanup()
        """
        info = Bunch(path=self.path, format_version=FORMAT_VERSION)
        info.update(n_rows=0, n_bytes=0, n_keys=0, layers=[])
        with obstacles_raised(), open_to_read(self._file) as connection:
            if connection:
                keys = database.all_keys(connection)
                info.n_rows = connection.execute("SELECT count(*) FROM loces").fetchone()[0]
                info.n_bytes, info.n_keys = database.n_bytes(connection), len(keys)
                info.layers = sorted({facts["layer"] for _, facts in keys.values() if facts})
        return info

    def to_frame(self, vectors=False):
        """List the rows of the store.

        Parameters
        ----------
        vectors : bool, default=False
            Whether to include the vectors as a column of arrays.

        Returns
        -------
        DataFrame
            One row per vector, oldest first, with the columns ``layer``; ``model`` and
            ``preprocess``, digests in hexadecimal; one column per setting; ``sample``, the digest
            of image and mask; ``created``, a timestamp in UTC; ``n_channels``; and ``vector``.
            Damaged rows are omitted.

        Raises
        ------
        StoreError
            If the file cannot be read, is not a store, has another version, or is malformed.

        See Also
        --------
        info : Count the rows.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn_loce import MaskedMeanTransformer, RowStore, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X, folder = make_scenes(1, random_state=0).data, tempfile.TemporaryDirectory()
        >>> store = RowStore(folder.name)
        >>> model = TorchModel(load_scene_model)
        >>> _ = MaskedMeanTransformer(model, "features.2", memory=store).fit_transform(X)
        >>> store.to_frame()[["layer", "n_channels"]].drop_duplicates()
                layer  n_channels
        0  features.2          48
        >>> folder.cleanup()
        """
        keys, rows = {}, []
        with obstacles_raised(), open_to_read(self._file) as connection:
            if connection:
                keys = database.all_keys(connection)
                sound = (row for row in database.all_rows(connection) if not row.problem)
                rows = [_list_row(row, vectors) for row in sound]
        columns = ["sample", "created", "n_channels"] + ["vector"] * vectors
        frame = _as_frame(rows, columns=["key", *columns])
        frame["created"] = pd.to_datetime(frame["created"], unit="ns", utc=True)
        facts = _list_keys({number: facts for number, (_, facts) in keys.items() if facts})
        return frame.join(facts, on="key")[[*facts.columns, *columns]]

    def verify(self):
        """Read all rows and compare them with their checksums.

        Returns
        -------
        DataFrame
            The damaged rows, with the columns ``table``, ``id``, ``layer``, ``sample`` and
            ``problem``. It is empty if no row is damaged. ``prune(damaged=True)`` removes damaged
            rows.

        Raises
        ------
        StoreError
            If the file cannot be read, is not a store, has another version, or is malformed.

        See Also
        --------
        prune : Remove damaged rows.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn_loce import MaskedMeanTransformer, RowStore, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X, folder = make_scenes(1, random_state=0).data, tempfile.TemporaryDirectory()
        >>> store = RowStore(folder.name)
        >>> model = TorchModel(load_scene_model)
        >>> _ = MaskedMeanTransformer(model, "features.2", memory=store).fit_transform(X)
        >>> store.verify().empty
        True
        >>> folder.cleanup()
        """
        problems = []
        with obstacles_raised(), open_to_read(self._file) as connection:
            if connection:
                database.check_integrity(connection, self._file)
                problems = list(database.problems(connection))
        return _as_frame(problems, columns=["table", "id", "layer", "sample", "problem"])

    def prune(self, *, layer=None, model=None, older_than=None, damaged=False, max_bytes=None):
        """Remove the rows that meet all given criteria, and free their disk space.

        Parameters
        ----------
        layer : str or Joined, default=None
            Remove rows of this layer.
        model : torch.nn.Module, TorchModel or str, default=None
            Remove rows of this model, or of the model with this digest in hexadecimal.
        older_than : timedelta or datetime, default=None
            Remove rows that are older than the timedelta, or that were saved before the datetime. A
            datetime without a time zone is in UTC.
        damaged : bool, default=False
            Remove rows whose checksum does not match.
        max_bytes : int, default=None
            Afterward, remove the oldest rows until the file is at most this large.

        Returns
        -------
        int
            Number of removed rows.

        Raises
        ------
        TypeError, ValueError
            If there is no criterion, or a criterion has an invalid type or value.
        StoreError
            If the file cannot be written, is not a store, has another version, or is malformed.

        See Also
        --------
        to_frame : List the rows.
        verify : Find damaged rows.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn_loce import MaskedMeanTransformer, RowStore, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X, folder = make_scenes(1, random_state=0).data, tempfile.TemporaryDirectory()
        >>> store = RowStore(folder.name)
        >>> model = TorchModel(load_scene_model)
        >>> _ = MaskedMeanTransformer(model, "features.2", memory=store).fit_transform(X)
        >>> store.prune(layer="features.2")
        7
        >>> folder.cleanup()
        """
        if not isinstance(layer, str | Joined | None):
            raise TypeError(f"layer must be the name of a layer, got {layer!r}.")
        layer = layer if layer is None else str(layer)
        if not isinstance(damaged, bool | np.bool_):
            raise TypeError(f"damaged must be a bool, got {damaged!r}.")
        if max_bytes is not None and (not isinstance(max_bytes, Integral) or max_bytes < 0):
            raise ValueError(f"max_bytes must be an integer of at least 0, got {max_bytes!r}.")
        criteria = layer, _as_hex(model), _as_nanoseconds(older_than), damaged
        has_criteria = damaged or any(value is not None for value in criteria[:3])
        if not has_criteria and max_bytes is None:
            raise ValueError(
                "prune needs a criterion: layer, model, older_than, damaged or max_bytes. To "
                f"remove all rows, remove the folder {self.path!r}."
            )
        with obstacles_raised():
            if not self._file.exists():
                return 0
            n_removed = self._remove(database.choose_rows, *criteria) if has_criteria else 0
            size = database.compact(self._file)
            while max_bytes is not None and size > max_bytes:
                n_oldest = self._remove(database.oldest_rows, 1 - max_bytes / size)
                n_removed, size = n_removed + n_oldest, database.compact(self._file)
                if not n_oldest:
                    break
        return n_removed

    def _remove(self, choose, *criteria):
        """Remove the rows of ``choose(connection, *criteria)``; return their number."""
        with (
            closing(connect_to_write(self._file)) as connection,
            transaction(connection, self._file),
        ):
            ids = choose(connection, *criteria)
            database.remove_rows(connection, ids)
        return len(ids)

    def __eq__(self, other):
        return self.path == other.path if isinstance(other, RowStore) else NotImplemented

    def __hash__(self):
        return hash(self.path)

    def __sklearn_clone__(self):
        return self

    def __repr__(self):
        return f"RowStore({self.path!r})"


class Session:
    """Loads and saves LoCEs of a RowStore in all threads of one run.

    After a load fails, the session skips all further loads, and likewise for saves. So a lock of
    another program causes only one wait. The end of the ``with`` block gives one warning.

    Parameters
    ----------
    store : RowStore
    """

    def __init__(self, store):
        self._file = store._file
        self._lock = threading.Lock()
        # The connection for writing stays open: closing it merges the log into the file, which
        # takes at least 2 ms.
        self._connection = self._status = None
        self._warnings = {}

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        with self._lock:  # after an interrupt of this thread, another one may still be writing
            if self._connection is not None:
                self._connection.close()
        for message in self._warnings.values():
            warn_user(message)

    def load(self, key, samples):
        """Return the stored Solutions by digest of the sample, without damaged ones."""
        return dict(self._find(database.find_rows, key.digest, list(samples)))

    def save(self, key, solutions):
        """Store Solutions of one row each, by digest of the sample; store all or none."""
        self._write(database.put_rows, key, solutions, time.time_ns())

    def probes(self, source):
        """Return the probes of a source as (id, record, n_channels), oldest first."""
        return [probe for _, probe in self._find(database.find_probes, source)]

    def save_probe(self, source, probe, record, n_channels):
        """Store the record of a network for the probe image; replace an equal probe."""
        self._write(database.put_probe, source, probe, record, n_channels)

    def _find(self, find, *args):
        """Return the undamaged pairs of ``find(connection, *args)``."""
        if "read" in self._warnings:
            return []
        try:
            with open_to_read(self._file) as connection:
                pairs = find(connection, *args) if connection else []
        except OSError as error:
            self._fail("read", error)
            return []
        sound = [pair for pair in pairs if pair[1] is not None]
        if len(sound) < len(pairs):
            self._warnings["damaged"] = (
                f"{str(self._file)!r} contains damaged rows. They are computed again and replaced; "
                "verify() lists the damaged rows."
            )
        return sound

    def _write(self, put, *args):
        with self._lock:
            if "written" in self._warnings:
                return
            try:
                self._connect()
                with transaction(self._connection, self._file):
                    put(self._connection, *args)
            except OSError as error:
                self._fail("written", error)

    def _connect(self):
        """Open the file, and open it again if it was removed or replaced."""
        if self._connection is not None:
            if self._file.exists() and os.path.samestat(self._file.stat(), self._status):
                return
            self._connection.close()
        self._connection = connect_to_write(self._file)
        self._status = self._file.stat()

    def _fail(self, what, error):
        self._warnings[what] = (
            f"The store {str(self._file.parent)!r} can't be {what} ({error}). LoCEs are computed "
            "but not stored."
        )


def _list_row(row, vectors):
    vector = np.frombuffer(row.vector, dtype=np.float32)
    own = row.key_id, row.sample.hex(), row.created, len(vector)
    return (*own, vector) if vectors else own


def _list_keys(keys):
    """Make a table of keys, a dict of {int: facts}, with a column per setting."""
    names = ["layer", "model", "preprocess"]
    rows = [
        {name: facts[name] for name in names}
        | {n: tuple(v) if isinstance(v, list) else v for n, v in facts["settings"].items()}
        for facts in keys.values()
    ]
    return _as_frame(rows, index=list(keys), columns=None if rows else names)


def _as_frame(rows, **names):
    """Make a table whose text columns have the dtype object.

    pandas stores text as UTF-8 where it can. UTF-8 cannot hold every str, but layers may have any.
    """
    frame = pd.DataFrame(rows, dtype=object, **names)
    return frame.apply(lambda column: column if _has_text(column) else column.infer_objects())


def _has_text(column):
    return any(isinstance(value, str) for value in column)


def _as_hex(model):
    if model is None or (isinstance(model, str) and re.fullmatch("[0-9a-f]{64}", model)):
        return model
    # Import it here, because the other methods do not need torch.
    from .._network.handle import as_module, digest_model

    if not hasattr(as_module(model), "named_modules"):
        raise TypeError(
            "model must be a module, a TorchModel, or 64 hexadecimal digits as in the column "
            f"'model' of to_frame(), got {model!r}."
        )
    return digest_model(model).hex()


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
