"""Stores of rows return exactly what was saved."""

import copy
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from torch import nn

from sklearn_loce import LoCETransformer, RowStore, TorchModel
from sklearn_loce._store import database  # its waiting time
from sklearn_loce._store.keys import Key
from sklearn_loce._store.memory import MemoryStore
from sklearn_loce.exceptions import StoreError

from .rows import (
    SETTINGS,
    assert_right,
    assert_same,
    load,
    make_key,
    make_rows,
    sample,
    save,
    solution_of,
    write_rows,
)

ROOT = Path(__file__).parents[1]
SOURCE = make_key().source


@pytest.fixture
def store(tmp_path):
    return RowStore(tmp_path / "rows")


@pytest.fixture
def filled(store):
    save(store, make_rows(range(20)))
    return store


@pytest.fixture(params=["memory", "folder"])
def any_store(request, tmp_path):
    return MemoryStore() if request.param == "memory" else RowStore(tmp_path / "rows")


def _database(store):
    return Path(store.path) / "loces.sqlite"


def _execute(store, *statement):
    with closing(sqlite3.connect(_database(store))) as connection, connection:
        return connection.execute(*statement).fetchall()


def _probes(store, source=SOURCE):
    with store.open() as session:
        return session.probes(source)


def _save_probe(store, record=(), n_channels=8, source=SOURCE, probe=b"id"):
    with store.open() as session:
        session.save_probe(source, probe, record, n_channels)


# Keys

setting_values = st.none() | st.integers() | st.floats(allow_nan=False) | st.booleans()
setting_values |= st.text(max_size=4) | st.lists(st.integers(), max_size=3)


@settings(max_examples=60)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), setting_values), min_size=2, max_size=20))
def test_different_settings_have_different_keys(several):
    def form(facts):
        return frozenset((name, type(v).__name__, repr(v)) for name, v in facts.items())

    keys = [Key(bytes(32), facts, "layer", "", "").digest for facts in several]
    assert len(set(keys)) == len(set(map(form, several)))


def test_rows_of_another_key_are_not_found(any_store):
    save(any_store, make_rows([1]))
    changes = [{"layer": "features.5"}, {"model": "c" * 64}, {"objective": "mse"}, {"seed": 0}]
    changes += [{"learning_rate": 0.2}, {"init": "00ff"}, {"mask_size": [100, 99]}]
    for change in changes:
        assert load(any_store, [1], make_key(**change)) == {}
    assert load(any_store, [1]) != {}


def test_numbers_of_numpy_equal_plain_numbers():
    key = make_key(max_iter=np.int64(50), mask_size=(100, 100))
    assert key.digest == make_key().digest
    assert json.loads(key.describe())["settings"] == SETTINGS
    with pytest.raises(TypeError, match="Settings must be numbers"):
        _ = make_key(init=np.zeros(2)).digest


# Both stores


def test_saved_rows_are_loaded_and_equal_keys_are_replaced(any_store):
    nothing = replace(solution_of(0), vectors=np.full(8, np.nan))
    save(any_store, make_rows(range(5)) | {sample(9): nothing})
    found = load(any_store, [*range(10), 77])
    np.testing.assert_array_equal(found.pop(9).vectors, nothing.vectors)
    assert sorted(found) == list(range(5))
    assert_right(found)
    save(any_store, {sample(1): solution_of(6), sample(7): solution_of(7)})
    found = load(any_store, range(9))
    assert sorted(found) == [*range(5), 7]
    assert_same(found.pop(1), solution_of(6))
    assert_right(found)


def test_callers_cannot_change_stored_rows(any_store):
    solution, record = solution_of(1), np.ones(3)
    save(any_store, {sample(1): solution})
    _save_probe(any_store, record)
    solution.vectors[:] = record[:] = 0
    found = load(any_store, [1])
    assert_right(found)
    for array in (found[1].vectors, _probes(any_store)[0][1]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 3
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            array.flags.writeable = True


def test_probes_are_loaded_in_their_order(any_store):
    assert _probes(any_store) == []
    first, second = np.random.default_rng(0).normal(size=(2, 5))
    _save_probe(any_store, first, np.int64(12), probe=b"z")
    _save_probe(any_store, second, 13, probe=b"a")
    _save_probe(any_store, second, 7, source=bytes(32))
    _save_probe(any_store, -first, 12, probe=b"z")
    found = _probes(any_store)
    assert [(probe, n) for probe, _, n in found] == [(b"z", 12), (b"a", 13)]
    np.testing.assert_array_equal([record for _, record, _ in found], [-first, second])
    assert all(type(n) is int and record.dtype == np.float64 for _, record, n in found)


def test_clones_and_copies_share_the_store(any_store):
    save(any_store, make_rows([1]))
    save(any_store, {})
    for twin in (clone(any_store, safe=False), copy.deepcopy(any_store)):
        assert len(load(twin, [1])) == 1
        assert load(twin, []) == {}


def test_threads_share_a_session(any_store):
    def use(start):
        for first in range(start, start + 40, 4):
            session.save(make_key(), make_rows(range(first, first + 4)))
            assert_right(load(any_store, range(200)))

    with any_store.open() as session, ThreadPoolExecutor(4) as pool:
        list(pool.map(use, [0, 40, 80, 120]))
    assert len(load(any_store, range(200))) == 160


# In memory


def test_the_least_recently_used_rows_are_dropped_first():
    one = 8 * 4 + 600
    store = MemoryStore(3 * one)
    save(store, make_rows([1, 2, 3]))
    load(store, [1])
    save(store, make_rows([4]))
    assert sorted(load(store, range(9))) == [1, 3, 4]
    save(store, make_rows([4]))
    assert len(store) == 3
    save(store, make_rows([5], n_channels=500))
    assert len(store) == 0


def test_a_memory_store_has_a_size_and_an_empty_pickle():
    store = MemoryStore(1000)
    save(store, make_rows([1]))
    assert len(pickle.loads(pickle.dumps(store))) == 0
    assert repr(store) == "MemoryStore(max_bytes=1000)"
    for max_bytes in (-1, 1.5, "1"):
        with pytest.raises(ValueError, match="max_bytes must be an integer"):
            MemoryStore(max_bytes)


# In a folder


def test_stores_of_a_path_are_equal(tmp_path, monkeypatch):
    store = RowStore(tmp_path / "rows")
    monkeypatch.chdir(tmp_path)
    relative = RowStore("rows")
    twins = [relative, RowStore(str(tmp_path / "rows")), pickle.loads(pickle.dumps(store))]
    assert {store, *twins} == {store}
    assert store != RowStore(tmp_path)
    assert store != str(tmp_path)
    assert repr(store) == f"RowStore({str(tmp_path / 'rows')!r})"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir("other")
    save(relative, make_rows([1]))
    assert _database(store).exists()


def test_an_invalid_path_raises_an_error(tmp_path):
    for path in (3, b"rows"):
        with pytest.raises(TypeError, match=f"must be the path of a folder, got {path!r}"):
            RowStore(path)
    for path in ("", "a\0b"):
        with pytest.raises(ValueError, match=f"got {re.escape(repr(path))}"):
            RowStore(path)
    (tmp_path / "file").touch()
    for path in ("file", "file/rows", "file/rows/more"):
        with pytest.raises(StoreError, match=r"/file' is a file; a store needs a folder"):
            RowStore(tmp_path / path)


def test_the_first_save_makes_parent_folders(tmp_path):
    store = RowStore(tmp_path / "a" / "b #1 ?%41")
    assert load(store, [1]) == {}
    assert _probes(store) == []
    assert store.info().n_rows == len(store.verify()) == 0
    frame = store.to_frame()
    assert frame.shape == (0, 6)
    assert str(frame["created"].dtype.tz) == "UTC"
    assert store.prune(layer="x") == 0
    assert not (tmp_path / "a").exists()
    save(store, make_rows([1]))
    assert [path.name for path in Path(store.path).iterdir()] == ["loces.sqlite"]
    with store.open() as session:
        session.save(make_key(), make_rows([2]))
        shutil.rmtree(store.path)  # by somebody else
        session.save(make_key(), make_rows([3]))
    assert sorted(load(store, range(9))) == [3]


def test_many_rows_are_stored_as_plain_numbers(store):
    save(store, make_rows(range(2500)))
    found = load(store, range(1000, 3500))
    assert sorted(found) == list(range(1000, 2500))
    assert_right(found)
    assert _execute(store, "PRAGMA journal_mode") == [("wal",)]
    assert b"sklearn" not in _database(store).read_bytes()
    lengths = "SELECT DISTINCT length(vector), length(facts) FROM loces ORDER BY 2"
    assert _execute(store, lengths) == [(8 * 4, None), (8 * 4, 3 * 4)]


def test_a_damaged_row_counts_as_missing(filled):
    damage = ["vector = zeroblob(32)", "vector = 'text'", "facts = zeroblob(12)", "facts = NULL"]
    for number, change in zip([2, 4, 7, 9], damage, strict=True):
        _execute(filled, f"UPDATE loces SET {change} WHERE sample = ?", [sample(number)])
    with pytest.warns(UserWarning, match=r"contains damaged rows. They are computed") as caught:
        found = load(filled, range(20))
    assert len(caught) == 1
    assert sorted(found) == [n for n in range(20) if n not in (2, 4, 7, 9)]
    problems = filled.verify()
    assert problems["sample"].tolist() == [sample(n).hex() for n in (2, 4, 7, 9)]
    assert set(problems["layer"]) == {"features.2"}
    assert len(filled.to_frame()) == 16
    save(filled, make_rows([2, 4, 7, 9]))
    assert_right(load(filled, range(20)))
    assert len(filled.verify()) == 0


def test_damaged_keys_and_probes_are_found(filled):
    save(filled, make_rows(range(20, 40)), make_key(max_iter=1))
    _save_probe(filled)
    _execute(filled, "UPDATE loces SET key_id = 3 - key_id")
    _execute(filled, "UPDATE keys SET description = '{}' WHERE id = 1")
    _execute(filled, "UPDATE probes SET n_channels = 9")
    assert filled.verify()["table"].value_counts().to_dict() == {
        "loces": 40,
        "keys": 1,
        "probes": 1,
    }
    with pytest.warns(UserWarning, match="contains damaged rows"):
        assert load(filled, range(40)) == {}
    with pytest.warns(UserWarning, match="contains damaged rows"):
        assert _probes(filled) == []
    # Vectors stay valid if the description of their key is damaged, and a save repairs it.
    _execute(filled, "UPDATE loces SET key_id = 3 - key_id")
    assert len(load(filled, range(20))) == 20
    save(filled, make_rows([1]))
    _save_probe(filled)
    assert len(filled.verify()) == 0


# Other files


def _uses(store):
    yield lambda: load(store, [1])
    yield lambda: save(store, make_rows([1]))
    yield lambda: _probes(store)
    yield lambda: _save_probe(store)
    yield from (store.info, store.to_frame, store.verify, lambda: store.prune(layer="x"))


def _assert_refused(store, match):
    for use in _uses(store):
        with pytest.raises(StoreError, match=match):
            use()


def test_a_foreign_database_raises_an_error_and_stays_unchanged(store):
    Path(store.path).mkdir()
    _execute(store, "CREATE TABLE places (name TEXT)")
    before = _database(store).read_bytes()
    _assert_refused(store, r"loces.sqlite' is not a store .*\['places'\]")
    assert _database(store).read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("PRAGMA user_version = 1", r"format version 1; .* version 2\. .*Move the folder"),
        (
            "CREATE TRIGGER t INSERT ON loces BEGIN DELETE FROM keys; END",
            r"\(its tables are .*TRIGGER.*Move the folder",
        ),
    ],
)
def test_another_version_and_other_tables_raise_errors(filled, statement, match):
    _execute(filled, statement)
    _assert_refused(filled, match)


@pytest.mark.parametrize("content", [b"a text file\n" * 100, b"x", bytes(4096)])
def test_a_file_of_another_kind_raises_an_error(store, content):
    Path(store.path).mkdir()
    _database(store).write_bytes(content)
    _assert_refused(store, r"loces.sqlite' is damaged .*Move the folder")


def _read_damaged(store):
    """Read a store that may be damaged, check the rows that were found, and return the outcome."""
    outcome = "error"
    with warnings.catch_warnings(), suppress(StoreError):
        warnings.simplefilter("ignore")
        found, probes = load(store, range(20)), _probes(store)
        assert_right(found)
        assert all(record.tolist() == [1, 2] and n == 8 for _, record, n in probes)
        outcome = "whole" if len(found) == 20 else "part"
        store.verify()
        for row in store.to_frame(vectors=True).itertuples():
            expected = solution_of(int(row.sample, 16))
            np.testing.assert_array_equal(row.vector, expected.vectors)
    return outcome


def _changed_files(sound):
    """Yield the file with a flipped bit, and cut off."""
    generator = np.random.default_rng(0)
    inhabited = np.flatnonzero(np.frombuffer(sound, dtype=np.uint8))
    for position in [*range(16, 100, 4), *generator.choice(inhabited, 300, replace=False)]:
        changed = bytearray(sound)
        changed[position] ^= 1 << generator.integers(8)
        yield "flipped", changed
    for length in [0, 1, 15, 16, 99, 100, 511, 512, 4096, *range(5000, len(sound), 1000)]:
        yield "cut", sound[:length]


def test_a_damaged_file_never_returns_a_wrong_vector(filled):
    _save_probe(filled, [1.0, 2.0])
    outcomes = {"flipped": set(), "cut": set()}
    for kind, content in _changed_files(_database(filled).read_bytes()):
        _database(filled).write_bytes(content)
        outcomes[kind].add(_read_damaged(filled))
    # A file without content is an empty store.
    assert outcomes == {"flipped": {"whole", "part", "error"}, "cut": {"part", "error"}}


def test_a_damaged_log_never_returns_a_wrong_vector(filled, tmp_path):
    generator, damaged = np.random.default_rng(0), RowStore(tmp_path / "copy")
    with filled.open() as session:  # keeps the log from being folded into the file
        session.save(make_key(), make_rows(range(10)))
        files = {path.name: path.read_bytes() for path in Path(filled.path).iterdir()}
    for _ in range(60):
        shutil.rmtree(damaged.path, ignore_errors=True)
        Path(damaged.path).mkdir()
        log = bytearray(files["loces.sqlite-wal"])
        log[generator.integers(len(log))] ^= 1 << generator.integers(8)
        _database(damaged).write_bytes(files["loces.sqlite"])
        Path(damaged.path, "loces.sqlite-wal").write_bytes(log)
        _read_damaged(damaged)


# Folders that can't be written


@pytest.fixture
def mortal():
    """A folder that everyone may enter, and a function that gives up the rights of root."""
    if os.name != "posix":
        pytest.skip("needs the rights of POSIX")
    folder, user = Path(tempfile.mkdtemp()), os.geteuid()
    folder.chmod(0o755)
    yield folder, lambda: os.seteuid(65534) if user == 0 else None
    os.seteuid(user)
    for path in folder.glob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def _write_in_a_run(store, numbers=range(30, 33), n_channels=8):
    with store.open() as session:
        for number in numbers:
            rows = range(number, number + 50)
            session.save(make_key(), make_rows(rows, n_channels))
        session.save_probe(SOURCE, b"", [], 1)


def _assert_told_once_per_run(store, match, **how):
    for _ in range(2):
        with pytest.warns(UserWarning, match=match) as caught:
            _write_in_a_run(store, **how)
        assert [warning.filename for warning in caught] == [__file__]


def test_a_read_only_store_can_be_read(mortal):
    folder, become = mortal
    store = RowStore(folder / "rows")
    save(store, make_rows(range(20)))
    _database(store).chmod(0o444)
    Path(store.path).chmod(0o555)
    become()
    found = load(store, range(20))
    assert len(found) == len(store.to_frame()) == 20
    assert_right(found)
    assert len(store.verify()) == 0
    _assert_told_once_per_run(store, rf"{store.path}' can't be written .*readonly")
    with pytest.raises(StoreError, match="can't be used"):
        store.prune(layer="features.2")


def test_a_folder_that_cannot_be_made_does_not_affect_the_result(mortal, tmp_path):
    folder, become = mortal
    below_a_file = RowStore(tmp_path / "file" / "rows")
    (tmp_path / "file").touch()
    assert load(below_a_file, [1]) == {}
    _assert_told_once_per_run(below_a_file, r"file/rows' can't be written \(.*computed but not")
    become()
    store = RowStore(folder / "rows" / "here")
    _assert_told_once_per_run(store, "can't be written .*Permission denied")
    assert load(store, [1]) == {}


def test_an_unreadable_file_does_not_affect_the_result(mortal):
    folder, become = mortal
    store = RowStore(folder / "rows")
    save(store, make_rows([1]))
    _database(store).chmod(0)
    become()
    with pytest.warns(UserWarning, match="can't be read"):
        assert load(store, [1]) == {}
    with pytest.warns(UserWarning, match="can't be read"):
        assert _probes(store) == []
    with pytest.raises(StoreError, match="can't be used"):
        store.info()


def test_a_full_disk_does_not_affect_the_result(filled):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        numbers = range(100, 1000, 50)
        _assert_told_once_per_run(filled, "can't be written", numbers=numbers, n_channels=200)
    finally:  # before the test ends: pytest writes to files that may be longer
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = load(filled, range(1000))
    assert len(found) % 50 == 20
    assert len(found) < 920
    assert len(filled.verify()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_lock_causes_one_wait_and_does_not_affect_the_result(filled, monkeypatch, mode):
    monkeypatch.setattr(database, "TIMEOUT", 1.5)
    _execute(filled, f"PRAGMA journal_mode = {mode}")
    with closing(sqlite3.connect(_database(filled), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(load(filled, range(20))) == 20
        start = time.monotonic()
        _assert_told_once_per_run(filled, "can't be written .*database is locked")
        assert time.monotonic() - start < 6 * 1.5  # two of eight waits, and time for the rest


# Several processes


@pytest.mark.slow
def test_several_processes_write_one_store(store):
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(4)
    # Neighboring processes share half of their rows.
    starts = [0, 32, 64, 96]
    workers = [spawn.Process(target=write_rows, args=(store.path, n, barrier)) for n in starts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    found = load(store, range(160))
    assert len(found) == 160
    assert_right(found)
    assert store.info().n_rows == 160 + 4 * 8
    assert len(store.verify()) == 0


_ENDLESS = """
import itertools, sys
from sklearn_loce import RowStore
from tests.rows import make_key, make_rows
with RowStore(sys.argv[1]).open() as session:
    for batch in itertools.count():
        session.save(make_key(), make_rows(range(4 * batch, 4 * batch + 4)))
        print(batch, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_writer_leaves_only_complete_batches(store):
    generator = np.random.default_rng(0)
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", _ENDLESS, store.path], stdout=subprocess.PIPE, cwd=ROOT
        )
        writer.stdout.readline()
        time.sleep(generator.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        told = writer.communicate()[0].split()
        n_saved = 1 + int(told[-1]) if told else 1
        assert len(store.verify()) == 0
        found = load(store, range(4 * (n_saved + 5)))
        assert_right(found)
        assert len(found) % 4 == 0
        assert len(found) >= 4 * n_saved
        assert store.prune(layer="features.2") >= len(found)


# Maintenance


@pytest.fixture
def mixed(store):
    """Rows of two layers and two models, with SQL in the names."""
    save(store, make_rows(range(4)))
    save(store, make_rows(range(3)), make_key(max_iter=5))
    save(store, make_rows(range(2)), make_key("x'; DROP TABLE loces; --"))
    last = make_key('"quoted" \ud800 %', model="c" * 64, init="'; --")
    save(store, make_rows([1]), last)
    return store


def test_info_and_to_frame_list_the_rows(mixed):
    now, info = pd.Timestamp.now("UTC"), mixed.info()
    assert (info.path, info.n_rows, info.n_keys, info.format_version) == (mixed.path, 10, 4, 2)
    assert info.layers == ['"quoted" \ud800 %', "features.2", "x'; DROP TABLE loces; --"]
    assert info.n_bytes == _database(mixed).stat().st_size
    frame = mixed.to_frame(vectors=True)
    ends = ["sample", "created", "n_channels", "vector"]
    assert frame.columns.tolist() == ["layer", "model", "preprocess", *sorted(SETTINGS), *ends]
    assert frame["max_iter"].tolist() == [50] * 4 + [5] * 3 + [50] * 3
    assert set(frame["mask_size"]) == {(100, 100)}
    assert frame["layer"].value_counts()["x'; DROP TABLE loces; --"] == 2
    assert ((now - frame["created"]) < timedelta(minutes=5)).all()
    for row in frame.itertuples():
        np.testing.assert_array_equal(row.vector, solution_of(int(row.sample, 16)).vectors)
    assert mixed.to_frame().columns.tolist() == frame.columns[:-1].tolist()
    _execute(mixed, "UPDATE loces SET vector = zeroblob(4) WHERE id IN (1, 10)")
    frame, problems = mixed.to_frame(), mixed.verify()
    assert problems["layer"].tolist() == ["features.2", '"quoted" \ud800 %']
    assert len(frame) == 8
    assert frame["layer"].dtype == problems["layer"].dtype == frame["sample"].dtype == object
    assert problems["id"].dtype == frame["max_iter"].dtype == frame["n_channels"].dtype == int


@pytest.mark.parametrize(
    ("criteria", "n_removed"),
    [
        ({"layer": "features.2"}, 7),
        ({"layer": "x'; DROP TABLE loces; --"}, 2),
        ({"model": "c" * 64}, 1),
        ({"older_than": timedelta(0)}, 10),
        ({"older_than": datetime(2200, 1, 1, tzinfo=UTC), "layer": "features.2"}, 7),
        ({"older_than": np.datetime64("2100-01-01")}, 10),
        ({"damaged": True}, 0),
        ({"max_bytes": 0}, 10),
        ({"max_bytes": 10**9}, 0),
    ],
    ids=str,
)
def test_prune_removes_the_selected_rows(mixed, criteria, n_removed):
    assert mixed.prune(**criteria) == n_removed
    assert mixed.info().n_rows == 10 - n_removed
    assert len(mixed.verify()) == 0


def test_prune_accepts_models(store):
    network = nn.Sequential(nn.Conv2d(3, 2, 1))
    pairs = [(np.zeros((4, 4, 3), dtype=np.uint8), np.eye(4, dtype=bool))]
    LoCETransformer(network, "0", memory=store).fit_transform(pairs)
    assert store.info().n_rows == 1
    assert store.prune(model=nn.Sequential(nn.Conv2d(3, 2, 1))) == 0
    assert store.prune(model=TorchModel(network)) == 1


def test_prune_removes_probes_without_rows(mixed):
    # The source of a key is that of its probe, or the id of the probe.
    save(mixed, make_rows([1]), replace(make_key("own"), source=b"probe"))
    for source, probe in [(SOURCE, b""), (bytes(32), b"probe"), (bytes(32), b"other")]:
        _save_probe(mixed, source=source, probe=probe)
    assert mixed.prune(older_than=timedelta(days=1)) == 0
    assert [probe for probe, *_ in _probes(mixed, bytes(32))] == [b"probe"]
    assert len(_probes(mixed)) == 1
    assert mixed.prune(layer="features.2") == 7
    assert _probes(mixed) == []


def test_prune_removes_damaged_rows(mixed):
    _save_probe(mixed)
    _execute(mixed, "UPDATE loces SET created = created + 1 WHERE id = 1")
    _execute(mixed, "UPDATE keys SET checksum = x'00' WHERE id = 3")
    _execute(mixed, "UPDATE probes SET n_channels = 9")
    assert len(mixed.verify()) == 1 + 1 + 2 + 1
    assert mixed.prune(damaged=True) == 3
    assert (len(mixed.verify()), mixed.info().n_rows) == (0, 7)


def test_prune_frees_the_disk_and_keeps_the_newest(store):
    for start in range(0, 2000, 500):
        save(store, make_rows(range(start, start + 500), n_channels=100))
    before = _database(store).stat().st_size
    n_removed = store.prune(max_bytes=before // 2)
    after = _database(store).stat().st_size
    assert 0.4 * before < after <= before // 2
    assert sorted(load(store, range(2000))) == list(range(n_removed, 2000))


@pytest.mark.parametrize(
    ("criteria", "error", "message"),
    [
        ({}, ValueError, "prune needs a criterion"),
        ({"layer": 3}, TypeError, "layer must be the name of a layer, got 3"),
        ({"model": "resnet"}, TypeError, "64 hexadecimal digits .*got 'resnet'"),
        ({"model": 3}, TypeError, "model must be a module, a TorchModel"),
        ({"older_than": "yesterday"}, TypeError, "timedelta or a datetime, got 'yesterday'"),
        ({"damaged": "yes"}, TypeError, "damaged must be a bool, got 'yes'"),
        ({"max_bytes": -1}, ValueError, "max_bytes must be an integer of at least 0, got -1"),
        ({"max_bytes": "1 GB"}, ValueError, "max_bytes must be an integer"),
    ],
    ids=str,
)
def test_prune_checks_its_criteria(filled, criteria, error, message):
    with pytest.raises(error, match=message):
        filled.prune(**criteria)
    assert filled.info().n_rows == 20
