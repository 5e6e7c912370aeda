"""The SQLite database of a RowStore: opening, and queries of its tables."""

import hashlib
import json
import math
import os
import sqlite3
from collections import namedtuple
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from .._solvers.solution import Solution
from ..exceptions import StoreError
from .keys import FORMAT_VERSION

TIMEOUT = 30.0  # seconds to wait for a lock of another process

_APPLICATION_ID = 0x4C6F4345  # "LoCE"
_SMALLEST = 512  # bytes of SQLite's smallest page
_CHUNK = 900  # SQLite allowed 999 variables for long
_VECTOR, _FACTS, _RECORD = np.dtype("<f4"), np.dtype("<f4"), np.dtype("<f8")
_TABLES = {
    name: f"CREATE TABLE {name} ({columns})"
    for name, columns in {
        "keys": (
            "id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, source BLOB NOT NULL, "
            "description BLOB NOT NULL, checksum BLOB NOT NULL"
        ),
        "probes": (
            "id INTEGER PRIMARY KEY, source BLOB NOT NULL, probe BLOB NOT NULL, "
            "record BLOB NOT NULL, n_channels INTEGER NOT NULL, checksum BLOB NOT NULL, "
            "UNIQUE (source, probe)"
        ),
        "loces": (
            "id INTEGER PRIMARY KEY, key_id INTEGER NOT NULL, sample BLOB NOT NULL, "
            "vector BLOB NOT NULL, facts BLOB, created INTEGER NOT NULL, checksum BLOB NOT NULL, "
            "UNIQUE (key_id, sample)"
        ),
    }.items()
}
_NO_ACCESS = (
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOLFS),
)
_OBSTACLES = (*_NO_ACCESS, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
_WRONG = "its checksum does not match its content"


# Opening


def as_folder(path):
    """Return the absolute path of a store's folder; raise an error if it cannot be a folder."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"path must be the path of a folder, got {path!r}.")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ValueError(
            f"path must be the path of a folder, got {path!r}. For the working directory, pass '.'."
        )
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    for part in (folder, *folder.parents):
        if os.path.isfile(part):
            raise StoreError(f"{str(part)!r} is a file; a store needs a folder of its own.")
    return str(folder)


def _way_out(file):
    return f"Move the folder {str(file.parent)!r} away; its rows are then computed again."


def _damaged(file, reason):
    return StoreError(f"{str(file)!r} is damaged ({reason}). {_way_out(file)}")


def _primary_code(error):
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


@contextmanager
def _explained(file):
    """Raise OSError for a failure of the machine, and StoreError for a failure of the file."""
    try:
        yield
    except sqlite3.Error as error:
        if _primary_code(error) in _OBSTACLES:
            raise OSError(f"{str(file)!r}: {error}") from error
        raise _damaged(file, error) from error
    except UnicodeDecodeError as error:  # SQLite's message may quote damaged text
        raise _damaged(file, "text that is not UTF-8") from error


@contextmanager
def obstacles_raised():
    """Raise StoreError for failures that only cause warnings in ``load`` and ``save``."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"The store can't be used: {error}.") from error


def _connect(file, how):
    uri = f"{file.as_uri()}?{how}"
    # The threads of a session take turns with its connection.
    options = {"timeout": TIMEOUT, "isolation_level": None, "check_same_thread": False}
    connection = sqlite3.connect(uri, uri=True, **options)
    connection.text_factory = bytes  # damaged text may not be UTF-8
    # SQLite recommends these for files that may be damaged.
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _pragma(connection, name):
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _tables_of(connection):
    """Return the SQL of all tables and other objects by name."""
    tables = {}
    for name, sql in connection.execute("SELECT name, sql FROM sqlite_master"):
        if not name.startswith(b"sqlite_"):
            tables[name.decode(errors="replace")] = (sql or b"").decode(errors="replace")
    return tables


def _check(connection, file):
    """Raise unless the file is a store of this version; return whether it already has tables."""
    if 0 < file.stat().st_size < _SMALLEST:
        # SQLite treats a file that is shorter than a page as empty.
        raise _damaged(file, "it is not an SQLite database")
    found = _tables_of(connection)
    application = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    if not found and application == version == 0:
        return False
    if application != _APPLICATION_ID:
        raise StoreError(
            f"{str(file)!r} is not a store of LoCEs but another SQLite database, with "
            f"application_id {application} and the tables {sorted(found)}. Pass another folder."
        )
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{str(file)!r} has format version {version}; this sklearn_loce reads and writes "
            f"version {FORMAT_VERSION}. Pass another folder. {_way_out(file)}"
        )
    if found != _TABLES:
        raise _damaged(file, f"its tables are {sorted(found.values())}")
    return True


@contextmanager
def open_to_read(file):
    """Open a connection with one view of the file; ``None`` if there is no file yet.

    Like all functions that use the file, it raises StoreError if the file is not a store, has
    another version, or is damaged. It raises OSError for a failure of the machine.
    """
    with _explained(file):
        if not file.exists():
            yield None
            return
        with closing(_connect_to_read(file)) as connection:
            yield connection if _check(connection, file) else None


def _connect_to_read(file):
    connection = _connect(file, "mode=rw")
    try:
        connection.execute("BEGIN")
        _pragma(connection, "schema_version")  # reads the file for the first time
    except sqlite3.Error as error:
        connection.close()
        if _primary_code(error) not in _NO_ACCESS:
            raise
        # If the file cannot be written, there may be no place for the index of the log. Then other
        # processes cannot write either. If one does, the checksums detect it.
        connection = _connect(file, "mode=ro&immutable=1")
        connection.execute("BEGIN")
    return connection


def connect_to_write(file):
    """Open the file to write, create it if it is missing, and check it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with _explained(file):
        connection = _connect(file, "mode=rwc")
        try:
            connection.execute("BEGIN")  # keep one view: another process may be creating tables
            is_ready = _check(connection, file)
            connection.execute("COMMIT")
            if not is_ready:
                _make_tables(connection, file)
            _write_ahead(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _make_tables(connection, file):
    connection.execute("BEGIN EXCLUSIVE")
    # Another process may have been faster.
    if not _check(connection, file):
        for table in _TABLES.values():
            connection.execute(table)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    connection.execute("COMMIT")


def _write_ahead(connection):
    # While other processes use the file, its mode cannot change. The old mode works as well, but
    # slower, and the next connection tries again. So a short wait is enough.
    connection.execute("PRAGMA busy_timeout = 200")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        if _primary_code(error) != sqlite3.SQLITE_BUSY:
            raise
    connection.execute(f"PRAGMA busy_timeout = {round(1000 * TIMEOUT)}")
    connection.execute("PRAGMA synchronous = NORMAL")


@contextmanager
def transaction(connection, file):
    """Commit all writes of the block, or none of them."""
    with _explained(file):
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def compact(file):
    """Free the disk space of deleted rows; return the size of the file in bytes."""
    with _explained(file), closing(_connect(file, "mode=rw")) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return n_bytes(connection)


def check_integrity(connection, file):
    """Raise if SQLite finds errors in its own structures."""
    found = [
        text.decode(errors="replace") for (text,) in connection.execute("PRAGMA integrity_check")
    ]
    if found != ["ok"]:
        raise _damaged(file, "; ".join(found[:3]))


def n_bytes(connection):
    """Return the size of the file in bytes in the view of the connection."""
    return _pragma(connection, "page_count") * _pragma(connection, "page_size")


# Rows of the tables


def _checksum(*parts):
    """Hash the values of a row of a table: bytes, numbers, NULL."""
    state = hashlib.sha256()
    for part in parts:
        raw = part if type(part) is bytes else repr(part).encode()
        state.update(b"%s %d:" % (type(part).__name__.encode(), len(raw)))
        state.update(raw)
    return state.digest()[:16]


def find_rows(connection, key, samples):
    """Return (sample, Solution) for a key's digest; damaged Solutions are ``None``."""
    number = connection.execute("SELECT id FROM keys WHERE digest = ?", [key]).fetchone()
    found = []
    for start in range(0, len(samples) if number else 0, _CHUNK):
        chunk = samples[start : start + _CHUNK]
        rows = connection.execute(
            "SELECT sample, vector, facts, created, checksum FROM loces "
            f"WHERE key_id = ? AND sample IN ({', '.join('?' * len(chunk))})",
            [*number, *chunk],
        )
        for *row, check in rows:
            is_sound = check == _checksum(key, *row)
            found.append((row[0], _as_solution(*row[1:3]) if is_sound else None))
    return found


def _as_solution(vector, facts):
    """Make a Solution with a read-only vector from the bytes of a row."""
    vector = np.frombuffer(vector, dtype=_VECTOR).astype(np.float32, copy=False)
    return Solution(vector, *([] if facts is None else np.frombuffer(facts, _FACTS).tolist()))


def put_rows(connection, key, solutions, created):
    """Insert or replace rows, a dict of {sample: Solution}, and their Key."""
    number, digest = _put_key(connection, key), key.digest
    for sample, solution in solutions.items():
        facts = None
        if solution.intercept is not None:
            facts = solution.intercept, solution.n_iter, solution.gradient_norm
            facts = np.array(facts, dtype=_FACTS).tobytes()
        row = sample, np.asarray(solution.vectors, dtype=_VECTOR).tobytes(), facts, created
        connection.execute(
            "INSERT OR REPLACE INTO loces (key_id, sample, vector, facts, created, checksum) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [number, *row, _checksum(digest, *row)],
        )


def _put_key(connection, key):
    """Insert or repair a Key; return its number."""
    row = key.digest, key.source, key.describe().encode()
    connection.execute(
        "INSERT INTO keys (digest, source, description, checksum) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (digest) DO UPDATE SET source = excluded.source, "
        "description = excluded.description, checksum = excluded.checksum",
        [*row, _checksum(*row)],
    )
    query = "SELECT id FROM keys WHERE digest = ?"
    return connection.execute(query, [key.digest]).fetchone()[0]


def find_probes(connection, source):
    """Return (probe, (probe, record, n_channels)), oldest first; damaged ones are ``None``."""
    found, query = [], "SELECT probe, record, n_channels, checksum FROM probes WHERE source = ?"
    for probe, record, n, check in connection.execute(f"{query} ORDER BY id", [source]):
        is_sound = check == _checksum(source, probe, record, n)
        found.append((probe, (probe, np.frombuffer(record, _RECORD), n) if is_sound else None))
    return found


def put_probe(connection, source, probe, record, n_channels):
    """Insert or repair a probe."""
    row = source, probe, np.asarray(record, dtype=_RECORD).tobytes(), int(n_channels)
    connection.execute(
        "INSERT INTO probes (source, probe, record, n_channels, checksum) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (source, probe) DO UPDATE SET record = excluded.record, "
        "n_channels = excluded.n_channels, checksum = excluded.checksum",
        [*row, _checksum(*row)],
    )


# Maintenance

Record = namedtuple("Record", "id key_id facts sample vector created problem")


def all_keys(connection):
    """Return {number: (digest, searchable facts)}; ``None`` for damaged keys."""
    rows = connection.execute("SELECT id, digest, source, description, checksum FROM keys")
    return {
        number: (row[0], json.loads(row[2]) if check == _checksum(*row) else None)
        for number, *row, check in rows
    }


def all_rows(connection):
    """Read all rows as Records, oldest first, and compare them with their checksums."""
    keys = all_keys(connection)
    query = "SELECT id, key_id, sample, vector, facts, created, checksum FROM loces ORDER BY id"
    for number, key_id, *row, check in connection.execute(query):
        key, facts = keys.get(key_id, (None, None))
        problem = None if facts is not None else "its key is missing or damaged"
        if facts is not None and check != _checksum(key, *row):
            problem = _WRONG
        yield Record(number, key_id, facts or {}, row[0], row[1], row[3], problem)


def _damaged_probes(connection):
    query = "SELECT id, source, probe, record, n_channels, checksum FROM probes"
    rows = connection.execute(query)
    return [number for number, *row, check in rows if check != _checksum(*row)]


def problems(connection):
    """Yield all damaged rows as (table, id, layer, sample, problem)."""
    for number, (_, facts) in all_keys(connection).items():
        if facts is None:
            yield "keys", number, None, None, _WRONG
    for number in _damaged_probes(connection):
        yield "probes", number, None, None, _WRONG
    for row in all_rows(connection):
        if row.problem:
            sample = row.sample.hex() if isinstance(row.sample, bytes) else None
            yield "loces", row.id, row.facts.get("layer"), sample, row.problem


def choose_rows(connection, layer, model, before, damaged):
    """Return the ids of the rows that meet all given criteria."""
    return [
        row.id
        for row in all_rows(connection)
        if (row.problem or not damaged)
        and (layer is None or row.facts.get("layer") == layer)
        and (model is None or row.facts.get("model") == model)
        and (before is None or (isinstance(row.created, int) and row.created < before))
    ]


def oldest_rows(connection, share):
    """Return the ids of the given share of rows, oldest first."""
    n_rows = connection.execute("SELECT count(*) FROM loces").fetchone()[0]
    query = "SELECT id FROM loces ORDER BY created, id LIMIT ?"
    return [number for (number,) in connection.execute(query, [math.ceil(share * n_rows)])]


def remove_rows(connection, ids):
    """Remove rows, and all keys and probes that are unused or damaged."""
    connection.executemany("DELETE FROM loces WHERE id = ?", [(number,) for number in ids])
    connection.execute("DELETE FROM keys WHERE id NOT IN (SELECT key_id FROM loces)")
    # The source of a key is the id of a probe, or the source of the probe.
    sources = "(SELECT source FROM keys)"
    unused = f"probe NOT IN {sources} AND source NOT IN {sources}"
    connection.execute(f"DELETE FROM probes WHERE {unused}")
    broken = [(number,) for number in _damaged_probes(connection)]
    connection.executemany("DELETE FROM probes WHERE id = ?", broken)
