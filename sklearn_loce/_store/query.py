"""What a store of rows asks of its tables, given an open connection."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .file import checksum

DTYPE = np.dtype("<f4")
_CHUNK = 900  # SQLite allowed 999 variables for long


@dataclass(frozen=True)
class Record:
    """One row of the table of LoCEs.

    Parameters
    ----------
    id, context : int
    facts : dict or None
        Layer, model, preprocess and settings; ``None`` where the context is missing or damaged.
    sample : bytes
        Digest of image and mask.
    vector : bytes
    created : int
        Nanoseconds since 1970, in UTC.
    problem : str or None
        What is wrong with it.
    """

    id: int
    context: int
    facts: dict | None
    sample: bytes
    vector: bytes
    created: int
    problem: str | None


def look_up(connection, context, samples):
    """Find the vectors of samples.

    Returns
    -------
    list of (bytes, ndarray of float32 or None)
        ``None`` for a row that is damaged. Rows that are not there are left out.
    """
    number = connection.execute("SELECT id FROM contexts WHERE digest = ?", [context]).fetchone()
    if number is None:
        return []
    samples, found = list(samples), []
    for start in range(0, len(samples), _CHUNK):
        chunk = samples[start : start + _CHUNK]
        rows = connection.execute(
            "SELECT sample, vector, created, checksum FROM loces "
            f"WHERE context = ? AND sample IN ({', '.join('?' * len(chunk))})",
            [*number, *chunk],
        )
        found += [(row[0], _vector(context, *row)) for row in rows]
    return found


def _vector(context, sample, vector, created, check):
    if check != checksum(context, sample, vector, created):
        return None
    return np.frombuffer(vector, dtype=DTYPE).astype(np.float32, copy=False)


def put_rows(connection, context, vectors, created):
    """Insert or replace vectors, a dict of {sample: ndarray}, and their context."""
    key, number = context.digest, _put_context(connection, context)
    raw = {sample: np.asarray(v, dtype=DTYPE).tobytes() for sample, v in vectors.items()}
    connection.executemany(
        "INSERT OR REPLACE INTO loces (context, sample, vector, created, checksum) "
        "VALUES (?, ?, ?, ?, ?)",
        [(number, s, v, created, checksum(key, s, v, created)) for s, v in raw.items()],
    )


def _put_context(connection, context):
    """Insert a context or mend it; give its number."""
    facts = context.digest, context.source, context.describe().encode()
    connection.execute(
        "INSERT INTO contexts (digest, source, description, checksum) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (digest) DO UPDATE SET source = excluded.source, "
        "description = excluded.description, checksum = excluded.checksum",
        [*facts, checksum(*facts)],
    )
    query = "SELECT id FROM contexts WHERE digest = ?"
    return connection.execute(query, [context.digest]).fetchone()[0]


def look_up_n_channels(connection, source):
    """Find the number of channels of a layer; ``None`` where it is missing or damaged."""
    query = "SELECT n_channels, checksum FROM channels WHERE source = ?"
    row = connection.execute(query, [source]).fetchone()
    return row[0] if row is not None and row[1] == checksum(source, row[0]) else None


def put_n_channels(connection, source, n):
    """Insert or replace the number of channels of a layer."""
    row = source, n, checksum(source, n)
    connection.execute("INSERT OR REPLACE INTO channels VALUES (?, ?, ?)", row)


def contexts(connection):
    """Read all contexts.

    Returns
    -------
    dict of {int: (bytes, dict or None)}
        Digest, and what the context is; ``None`` where it is damaged.
    """
    rows = connection.execute("SELECT id, digest, source, description, checksum FROM contexts")
    return {
        number: (facts[0], json.loads(facts[2]) if check == checksum(*facts) else None)
        for number, *facts, check in rows
    }


def records(connection):
    """Read all rows, the oldest first, and compare them with their checksums."""
    known = contexts(connection)
    query = "SELECT id, context, sample, vector, created, checksum FROM loces ORDER BY id"
    for number, context, sample, vector, created, check in connection.execute(query):
        key, facts = known.get(context, (None, None))
        problem = None if facts is not None else "its context is missing or damaged"
        if facts is not None and check != checksum(key, sample, vector, created):
            problem = "its checksum is not that of its content"
        yield Record(number, context, facts, sample, vector, created, problem)


def as_frame(rows, **names):
    """Make a table in which text is of dtype object.

    pandas keeps text as UTF-8 where it can, which can't hold each str that may name a layer.
    """
    frame = pd.DataFrame(rows, dtype=object, **names)
    return frame.apply(lambda column: column if _has_text(column) else column.infer_objects())


def _has_text(column):
    return any(isinstance(value, str) for value in column)


def _damaged_channels(connection):
    rows = connection.execute("SELECT rowid, source, n_channels, checksum FROM channels")
    return [number for number, source, n, check in rows if check != checksum(source, n)]


def problems(connection):
    """Give what is damaged, as (table, id, layer, sample, problem)."""
    wrong = "its checksum is not that of its content"
    for number, (_, facts) in contexts(connection).items():
        if facts is None:
            yield "contexts", number, None, None, wrong
    for number in _damaged_channels(connection):
        yield "channels", number, None, None, wrong
    for record in records(connection):
        if record.problem:
            layer = record.facts["layer"] if record.facts else None
            sample = record.sample.hex() if isinstance(record.sample, bytes) else None
            yield "loces", record.id, layer, sample, record.problem


@dataclass(frozen=True)
class Criteria:
    """Which rows to remove: those that meet all that is not ``None``.

    Parameters
    ----------
    layer, model : str or None
    before : int or None
        Nanoseconds since 1970, in UTC.
    damaged : bool
    """

    layer: str | None
    model: str | None
    before: int | None
    damaged: bool

    def __bool__(self):
        return self.damaged or any(v is not None for v in (self.layer, self.model, self.before))

    def choose(self, connection):
        """Give the ids of the rows that meet them."""
        if self.damaged:
            return [
                r.id for r in records(connection) if r.problem and self._fit(r.facts, r.created)
            ]
        known = contexts(connection)
        rows = connection.execute("SELECT id, context, created FROM loces")
        return [
            number
            for number, context, created in rows
            if self._fit(known.get(context, (None, None))[1], created)
        ]

    def _fit(self, facts, created):
        facts = facts or {}
        return (
            (self.layer is None or facts.get("layer") == self.layer)
            and (self.model is None or facts.get("model") == self.model)
            and (self.before is None or (isinstance(created, int) and created < self.before))
        )


def oldest(connection, share):
    """Give the ids of a share of the rows, the oldest ones."""
    n_rows = connection.execute("SELECT count(*) FROM loces").fetchone()[0]
    query = "SELECT id FROM loces ORDER BY created, id LIMIT ?"
    return [number for (number,) in connection.execute(query, [math.ceil(share * n_rows)])]


def remove(connection, ids):
    """Remove rows, and contexts and channels that have none any more or are damaged."""
    connection.executemany("DELETE FROM loces WHERE id = ?", [(number,) for number in ids])
    connection.execute("DELETE FROM contexts WHERE id NOT IN (SELECT context FROM loces)")
    connection.execute("DELETE FROM channels WHERE source NOT IN (SELECT source FROM contexts)")
    broken = [(number,) for number in _damaged_channels(connection)]
    connection.executemany("DELETE FROM channels WHERE rowid = ?", broken)
