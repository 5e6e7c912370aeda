"""The SQLite file of a store of rows: its form, how it is opened, and what may be wrong with it."""

import hashlib
import os
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path

from ..exceptions import StoreError

# Counts up when rows of older versions must not be used: other tables, or other results of the
# method for the same settings.
FORMAT_VERSION = 1
TIMEOUT = 120.0  # seconds to wait for other processes

_APPLICATION_ID = 0x4C6F4345  # "LoCE"
_SMALLEST = 512  # bytes of SQLite's smallest page
_TABLES = {
    name: f"CREATE TABLE {name} ({columns})"
    for name, columns in {
        "contexts": (
            "id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, source BLOB NOT NULL, "
            "description BLOB NOT NULL, checksum BLOB NOT NULL"
        ),
        "channels": (
            "source BLOB NOT NULL PRIMARY KEY, n_channels INTEGER NOT NULL, checksum BLOB NOT NULL"
        ),
        "loces": (
            "id INTEGER PRIMARY KEY, context INTEGER NOT NULL, sample BLOB NOT NULL, "
            "vector BLOB NOT NULL, created INTEGER NOT NULL, checksum BLOB NOT NULL, "
            "UNIQUE (context, sample)"
        ),
    }.items()
}
_NO_ACCESS = (
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOLFS),
)
_OBSTACLES = (*_NO_ACCESS, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)


def as_folder(path):
    """Give the absolute path of a store's folder.

    Raises
    ------
    TypeError, ValueError, StoreError
        If it is no path, can't be one, or is a file or leads through one.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"path must be the path of a folder, got {path!r}.")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ValueError(
            f"path must be the path of a folder, got {path!r}. For the working directory, give '.'."
        )
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    for part in (folder, *folder.parents):
        if os.path.isfile(part):
            raise StoreError(f"{str(part)!r} is a file; a store needs a folder of its own.")
    return str(folder)


def checksum(*parts):
    """Hash what a row of a table holds: bytes, or numbers.

    Returns
    -------
    bytes of length 16
    """
    state = hashlib.sha256()
    for part in parts:
        raw = part if type(part) is bytes else repr(part).encode()
        state.update(b"%s %d:" % (type(part).__name__.encode(), len(raw)))
        state.update(raw)
    return state.digest()[:16]


def _way_out(file):
    return f"Move the folder {str(file.parent)!r} away: its rows are computed again then."


def _damaged(file, reason):
    return StoreError(f"{str(file)!r} is damaged ({reason}). {_way_out(file)}")


def _primary_code(error):
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


@contextmanager
def _explained(file):
    """Raise OSError where the machine is in the way, StoreError where the file is at fault."""
    try:
        yield
    except sqlite3.Error as error:
        if _primary_code(error) in _OBSTACLES:
            raise OSError(f"{str(file)!r}: {error}") from error
        raise _damaged(file, error) from error
    except UnicodeDecodeError as error:  # of SQLite's own message, where it quotes what is damaged
        raise _damaged(file, "text that is no UTF-8") from error


@contextmanager
def obstacles_raised():
    """Raise as StoreError what loading and saving only warn of."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"The store can't be used: {error}.") from error


def _connect(file, how):
    uri = f"{file.as_uri()}?{how}"
    connection = sqlite3.connect(uri, uri=True, timeout=TIMEOUT, isolation_level=None)
    connection.text_factory = bytes  # what is damaged may be no UTF-8
    # As SQLite advises for files that may have been damaged.
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _pragma(connection, name):
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _tables_of(connection):
    """Give the SQL of all tables, and of whatever else there is, by name."""
    return {
        name.decode(errors="replace"): (sql or b"").decode(errors="replace")
        for name, sql in connection.execute("SELECT name, sql FROM sqlite_master")
        if not name.startswith(b"sqlite_")
    }


def _check(connection, file):
    """Raise unless the file is a store of this version; say whether it has its tables yet."""
    if 0 < file.stat().st_size < _SMALLEST:
        # SQLite takes a file that is shorter than a page for an empty one.
        raise _damaged(file, "it is no SQLite database")
    found = _tables_of(connection)
    application, version = (
        _pragma(connection, "application_id"),
        _pragma(connection, "user_version"),
    )
    if not found and application == version == 0:
        return False
    if application != _APPLICATION_ID:
        raise StoreError(
            f"{str(file)!r} is no store of LoCEs but an SQLite database of something else, with "
            f"application_id {application} and the tables {sorted(found)}. Give another folder."
        )
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{str(file)!r} has format version {version}; this sklearn_loce reads and writes "
            f"version {FORMAT_VERSION}. Give another folder. {_way_out(file)}"
        )
    if found != _TABLES:
        raise _damaged(file, f"its tables are {sorted(found.values())}")
    return True


def _open_to_read(file):
    connection = _connect(file, "mode=rw")
    try:
        connection.execute("BEGIN")
        _pragma(connection, "schema_version")  # the first look at the file
    except sqlite3.Error as error:
        connection.close()
        if _primary_code(error) not in _NO_ACCESS:
            raise
        # Beside a file that can't be written there may be no place for the index of the log. Nobody
        # writes there either; and if somebody does, the checksums tell.
        connection = _connect(file, "mode=ro&immutable=1")
        connection.execute("BEGIN")
    return connection


@contextmanager
def reading(file):
    """Lend a connection with one view of the file; ``None`` where there is nothing yet.

    Parameters
    ----------
    file : Path

    Raises
    ------
    StoreError
        If the file is no store, of another version, or damaged.
    OSError
        If the file can't be read.
    """
    with _explained(file):
        if not file.exists():
            yield None
            return
        with closing(_open_to_read(file)) as connection:
            yield connection if _check(connection, file) else None


@contextmanager
def writing(file):
    """Lend a connection within a transaction, committed at the end.

    Parameters
    ----------
    file : Path
        Made where it is missing, its folder too.

    Raises
    ------
    StoreError
        If the file is no store, of another version, or damaged.
    OSError
        If the file can't be written.
    """
    with _explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Closing takes back what was not committed.
        with closing(_connect(file, "mode=rwc")) as connection:
            _prepare(connection, file)
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")


def _prepare(connection, file):
    connection.execute("BEGIN")  # one view of the file: another process may be making its tables
    is_ready = _check(connection, file)
    connection.execute("COMMIT")
    if not is_ready:
        connection.execute("BEGIN EXCLUSIVE")
        # Another process may have been faster.
        if not _check(connection, file):
            for table in _TABLES.values():
                connection.execute(table)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("COMMIT")
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous = NORMAL")


def _write_ahead(connection):
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        # While others are at the file, its mode can't be changed. It works in the old mode as well,
        # with more waiting, and the next connection tries again.
        if _primary_code(error) != sqlite3.SQLITE_BUSY:
            raise


def compact(file):
    """Give the space of deleted rows back to the disk; give the file's size in bytes."""
    with _explained(file), closing(_connect(file, "mode=rw")) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return n_bytes(connection)


def check_integrity(connection, file):
    """Raise unless SQLite finds its own structures sound."""
    found = [
        text.decode(errors="replace") for (text,) in connection.execute("PRAGMA integrity_check")
    ]
    if found != ["ok"]:
        raise _damaged(file, "; ".join(found[:3]))


def n_bytes(connection):
    """Give the size of the file in bytes, as the connection sees it."""
    return _pragma(connection, "page_count") * _pragma(connection, "page_size")
