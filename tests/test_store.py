"""Stores of rows: what was saved comes back, and nothing else ever does."""

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
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from torch import nn

import sklearn_loce
from sklearn_loce import LoCETransformer, RowStore, TorchModel
from sklearn_loce._store import file as _rows_file
from sklearn_loce._store import sqlite as _row_store
from sklearn_loce._store.fingerprint import model_digest
from sklearn_loce._store.memory import Context, MemoryStore, source_digest
from sklearn_loce.exceptions import StoreError

from .rows import SETTINGS, make_context, make_rows, sample, vector_of, write_rows

ROOT = Path(__file__).parents[1]


def load(store, numbers, context=None):
    """Give what a store has, by number."""
    found = store.load(context or make_context(), [sample(number) for number in numbers])
    return {int.from_bytes(key, "big"): vector for key, vector in found.items()}


def assert_right(found):
    for number, vector in found.items():
        np.testing.assert_array_equal(vector, vector_of(number))


@pytest.fixture
def store(tmp_path):
    return RowStore(tmp_path / "rows")


@pytest.fixture
def filled(store):
    store.save(make_context(), make_rows(range(20)))
    return store


@pytest.fixture(params=["memory", "folder"])
def any_store(request, tmp_path):
    return MemoryStore() if request.param == "memory" else RowStore(tmp_path / "rows")


def _database(store):
    return Path(store.path) / "loces.sqlite"


def _execute(store, *statement):
    with closing(sqlite3.connect(_database(store))) as connection, connection:
        return connection.execute(*statement).fetchall()


# Keys

setting_values = (
    st.none()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.text(max_size=4)
    | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=60)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), setting_values), min_size=2, max_size=20))
def test_settings_that_differ_have_other_keys(several):
    def form(facts):
        return frozenset((name, type(v).__name__, repr(v)) for name, v in facts.items())

    keys = [Context(bytes(32), facts, "layer", "", "").digest for facts in several]
    assert len(set(keys)) == len(set(map(form, several)))


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "mse"},
        {"learning_rate": 0.2},
        {"max_iter": 51},
        {"init": "00ff"},
        {"mask_size": [100, 99]},
        {"mask_resize": "area"},
        {"seed": 0},
        {"layer": "features.5"},
        {"model": "c" * 64},
    ],
    ids=str,
)
def test_rows_of_another_context_are_not_found(any_store, changes):
    any_store.save(make_context(), make_rows([1]))
    assert load(any_store, [1], make_context(**changes)) == {}
    assert load(any_store, [1]) != {}


def test_numbers_of_numpy_are_the_numbers_they_are():
    context = make_context(max_iter=np.int64(50), mask_size=(100, 100))
    assert context.digest == make_context().digest
    assert json.loads(context.describe())["settings"] == SETTINGS
    with pytest.raises(TypeError, match="Settings must be numbers"):
        _ = make_context(init=np.zeros(2)).digest


def test_each_part_of_a_source_counts():
    parts = [b"m", b"p", b"r", "layer"]
    changed = [[*parts[:i], parts[i] * 2, *parts[i + 1 :]] for i in range(4)]
    assert len({source_digest(*each) for each in [parts, *changed]}) == 5


# What both stores do


def test_what_was_saved_comes_back(any_store):
    rows = make_rows(range(5)) | {sample(9): np.full(8, np.nan, dtype=np.float32)}
    any_store.save(make_context(), rows)
    found = any_store.load(make_context(), [*rows, sample(77)])
    assert found.keys() == rows.keys()
    for key, vector in rows.items():
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], vector)


def test_equal_keys_are_replaced(any_store):
    any_store.save(make_context(), make_rows([1, 2]))
    any_store.save(make_context(), {sample(1): vector_of(7), sample(3): vector_of(3)})
    found = load(any_store, range(5))
    assert sorted(found) == [1, 2, 3]
    np.testing.assert_array_equal(found[1], vector_of(7))


def test_callers_cant_change_what_is_kept(any_store):
    vector = vector_of(1)
    any_store.save(make_context(), {sample(1): vector})
    vector[:] = 0
    found = load(any_store, [1])
    assert_right(found)
    with pytest.raises(ValueError, match="read-only"):
        found[1][0] = 3
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        found[1].flags.writeable = True


def test_numbers_of_channels_are_kept(any_store):
    source = make_context().source
    assert any_store.n_channels(source) is None
    any_store.save_n_channels(source, np.int64(12))
    any_store.save_n_channels(source, 13)
    any_store.save_n_channels(bytes(32), 7)
    assert any_store.n_channels(source) == 13
    assert type(any_store.n_channels(source)) is int


def test_clones_and_copies_share_it(any_store):
    any_store.save(make_context(), make_rows([1]))
    for twin in (clone(any_store, safe=False), copy.deepcopy(any_store)):
        assert_right(load(twin, [1]))
        assert load(twin, [1])


def test_empty_requests_do(any_store):
    any_store.save(make_context(), {})
    assert any_store.load(make_context(), []) == {}


def test_threads_use_it_at_once(any_store):
    def use(start):
        for first in range(start, start + 40, 4):
            any_store.save(make_context(), make_rows(range(first, first + 4)))
            assert_right(load(any_store, range(200)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, [0, 40, 80, 120]))
    assert len(load(any_store, range(200))) == 160


# In memory


def test_the_least_recently_used_go_first():
    one = 8 * 4 + 300
    store = MemoryStore(3 * one)
    store.save(make_context(), make_rows([1, 2, 3]))
    load(store, [1])
    store.save(make_context(), make_rows([4]))
    assert sorted(load(store, range(9))) == [1, 3, 4]
    store.save(make_context(), make_rows([4, 4, 4]))
    assert len(store) == 3
    store.save(make_context(), make_rows([5], n_channels=500))
    assert len(store) == 0


@pytest.mark.parametrize("max_bytes", [-1, 1.5, "1"])
def test_memory_is_an_integer(max_bytes):
    with pytest.raises(ValueError, match="max_bytes must be an integer"):
        MemoryStore(max_bytes)


def test_a_pickled_memory_store_is_empty():
    store = MemoryStore(1000)
    store.save(make_context(), make_rows([1]))
    assert len(pickle.loads(pickle.dumps(store))) == 0
    assert repr(store) == "MemoryStore(max_bytes=1000)"


# In a folder


def test_stores_of_a_path_are_equal(tmp_path, monkeypatch):
    store = RowStore(tmp_path / "rows")
    monkeypatch.chdir(tmp_path)
    twins = [RowStore("rows"), RowStore(str(tmp_path / "rows")), pickle.loads(pickle.dumps(store))]
    assert {store, *twins} == {store}
    assert store != RowStore(tmp_path)
    assert store != str(tmp_path)
    assert repr(store) == f"RowStore({str(tmp_path / 'rows')!r})"
    assert sklearn_loce.RowStore is RowStore


def test_a_path_is_checked(tmp_path):
    with pytest.raises(TypeError, match="must be the path of a folder, got 3"):
        RowStore(3)
    with pytest.raises(TypeError, match="must be the path of a folder, got b'rows'"):
        RowStore(b"rows")
    for path in ("", "a\0b"):
        with pytest.raises(ValueError, match=f"got {re.escape(repr(path))}"):
            RowStore(path)
    (tmp_path / "file").touch()
    for path in ("file", "file/rows", "file/rows/more"):
        with pytest.raises(StoreError, match=r"/file' is a file; a store needs a folder"):
            RowStore(tmp_path / path)


def test_a_file_that_comes_in_the_way_costs_no_result(tmp_path):
    store = RowStore(tmp_path / "file" / "rows")
    (tmp_path / "file").touch()
    assert load(store, [1]) == {}
    with pytest.warns(UserWarning, match=r"file/rows' can't be written \(.*LoCEs are computed all"):
        store.save(make_context(), make_rows([1]))


def test_a_store_stays_where_it_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = RowStore("rows")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir("other")
    store.save(make_context(), make_rows([1]))
    assert store.path == str(tmp_path / "rows")
    assert (tmp_path / "rows" / "loces.sqlite").exists()


def test_parents_are_made_by_the_first_save(tmp_path):
    store = RowStore(tmp_path / "a" / "b #1 ?%41")
    assert load(store, [1]) == {}
    assert store.n_channels(bytes(32)) is None
    assert store.info().n_rows == len(store.to_frame()) == len(store.verify()) == 0
    assert store.prune(layer="x") == 0
    assert not (tmp_path / "a").exists()
    store.save(make_context(), make_rows([1]))
    assert [path.name for path in Path(store.path).iterdir()] == ["loces.sqlite"]
    assert_right(load(store, [1]))


def test_the_log_is_written_ahead(filled):
    assert _execute(filled, "PRAGMA journal_mode") == [("wal",)]


def test_many_rows_are_found_in_chunks(store):
    store.save(make_context(), make_rows(range(2500)))
    found = load(store, range(1000, 3500))
    assert sorted(found) == list(range(1000, 2500))
    assert_right(found)


def test_nothing_is_pickled(filled):
    assert b"sklearn" not in _database(filled).read_bytes()
    with closing(sqlite3.connect(_database(filled))) as connection:
        for (stored,) in connection.execute("SELECT vector FROM loces"):
            assert len(stored) == 8 * 4


def test_a_damaged_row_counts_as_missing(filled):
    _execute(filled, "UPDATE loces SET vector = zeroblob(32) WHERE sample = ?", [sample(3)])
    _execute(filled, "UPDATE loces SET vector = 'text' WHERE sample = ?", [sample(4)])
    with pytest.warns(UserWarning, match=r"holds damaged rows. They are computed again") as caught:
        found = load(filled, range(20))
    assert len(caught) == 1
    assert sorted(found) == [n for n in range(20) if n not in (3, 4)]
    problems = filled.verify()
    assert problems["sample"].tolist() == [sample(3).hex(), sample(4).hex()]
    assert set(problems["layer"]) == {"features.2"}
    assert len(filled.to_frame()) == 18
    filled.save(make_context(), make_rows([3, 4]))
    assert_right(load(filled, range(20)))
    assert len(filled.verify()) == 0


def test_rows_that_changed_places_are_damaged(filled):
    filled.save(make_context(max_iter=1), make_rows(range(20, 40)))
    _execute(filled, "UPDATE loces SET context = 3 - context")
    for context in (make_context(), make_context(max_iter=1)):
        with pytest.warns(UserWarning, match="holds damaged rows"):
            assert load(filled, range(40), context) == {}


def test_damaged_contexts_and_channels_are_found(filled):
    context = make_context()
    filled.save_n_channels(context.source, 8)
    _execute(filled, "UPDATE contexts SET description = '{}'")
    _execute(filled, "UPDATE channels SET n_channels = 9")
    assert filled.n_channels(context.source) is None
    assert filled.verify()["table"].value_counts().to_dict() == {
        "loces": 20,
        "contexts": 1,
        "channels": 1,
    }
    # The vectors are sound all the same, and saving mends their context.
    assert len(load(filled, range(20))) == 20
    filled.save(context, make_rows([1]))
    filled.save_n_channels(context.source, 8)
    assert len(filled.verify()) == 0


# Files that are something else


def test_a_foreign_database_is_named_and_left_alone(store):
    Path(store.path).mkdir()
    _execute(store, "CREATE TABLE places (name TEXT)")
    before = _database(store).read_bytes()
    for use in _uses(store):
        with pytest.raises(StoreError, match=r"loces.sqlite' is no store .*\['places'\]"):
            use()
    assert _database(store).read_bytes() == before


def _uses(store):
    yield lambda: store.load(make_context(), [sample(1)])
    yield lambda: store.save(make_context(), make_rows([1]))
    yield lambda: store.n_channels(bytes(32))
    yield lambda: store.save_n_channels(bytes(32), 3)
    yield from (store.info, store.to_frame, store.verify, lambda: store.prune(layer="x"))


def test_another_version_is_named(filled):
    _execute(filled, "PRAGMA user_version = 7")
    for use in _uses(filled):
        with pytest.raises(StoreError, match=r"format version 7; .* version 1\. .*Move the folder"):
            use()


def test_another_table_is_named(filled):
    _execute(filled, "CREATE TRIGGER t INSERT ON loces BEGIN DELETE FROM contexts; END")
    for use in _uses(filled):
        with pytest.raises(StoreError, match=r"\(its tables are .*TRIGGER.*Move the folder"):
            use()


@pytest.mark.parametrize("content", [b"a text file\n" * 100, b"x", bytes(4096)])
def test_a_file_of_another_kind_is_named(store, content):
    Path(store.path).mkdir()
    _database(store).write_bytes(content)
    for use in _uses(store):
        with pytest.raises(StoreError, match=r"loces.sqlite' is damaged .*Move the folder"):
            use()


def _look(store):
    """Load from a store that may be damaged; give the outcome, having checked it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = load(store, range(20))
            n_channels = store.n_channels(make_context().source)
        except StoreError:
            return "error"
    assert_right(found)
    assert n_channels in (8, None)
    return "whole" if len(found) == 20 else "part"


def _listing_is_right(store):
    try:
        store.verify()
        frame = store.to_frame(vectors=True)
    except StoreError:
        return
    for row in frame.itertuples():
        np.testing.assert_array_equal(row.vector, vector_of(int(row.sample, 16)))


@pytest.fixture
def sound_bytes(filled):
    filled.save_n_channels(make_context().source, 8)
    return _database(filled).read_bytes()


def test_a_flipped_byte_never_gives_a_wrong_vector(sound_bytes, filled):
    generator = np.random.default_rng(0)
    inhabited = np.flatnonzero(np.frombuffer(sound_bytes, dtype=np.uint8))
    positions = [*range(16, 100, 4), *generator.choice(inhabited, 300, replace=False)]
    outcomes = []
    for position in positions:
        changed = bytearray(sound_bytes)
        changed[position] ^= 1 << generator.integers(8)
        _database(filled).write_bytes(changed)
        outcomes.append(_look(filled))
        _listing_is_right(filled)
    assert set(outcomes) == {"whole", "part", "error"}


def test_a_truncated_file_never_gives_a_wrong_vector(sound_bytes, filled):
    lengths = np.linspace(0, len(sound_bytes) - 1, 40).astype(int)
    outcomes = []
    for length in [*lengths, 1, 15, 16, 99, 100, 511, 512, 4096]:
        _database(filled).write_bytes(sound_bytes[:length])
        outcomes.append(_look(filled))
    # Of the last page only zeros may be missing.
    assert outcomes.count("error") > 40
    assert outcomes[0] == "part"


def test_a_damaged_log_never_gives_a_wrong_vector(filled, tmp_path):
    generator, store = np.random.default_rng(0), RowStore(tmp_path / "copy")
    with _rows_file.reading(_database(filled)):  # keeps the log from being folded into the file
        filled.save(make_context(), make_rows(range(10)))
        files = {path.name: path.read_bytes() for path in Path(filled.path).iterdir()}
    for _ in range(60):
        shutil.rmtree(store.path, ignore_errors=True)
        Path(store.path).mkdir()
        log = bytearray(files["loces.sqlite-wal"])
        log[generator.integers(len(log))] ^= 1 << generator.integers(8)
        _database(store).write_bytes(files["loces.sqlite"])
        Path(store.path, "loces.sqlite-wal").write_bytes(log)
        _look(store)


# Folders that can't be written


@pytest.fixture
def world_folder():
    """A folder that others than its owner may enter, away from those of pytest."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in (folder / "rows", folder):
        if path.exists():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def as_mortal():
    """Give up the rights of root, who may write everywhere, for a test."""
    if os.name != "posix":
        pytest.skip("needs the rights of POSIX")
    is_root = os.geteuid() == 0

    def become():
        if is_root:
            os.seteuid(65534)

    yield become
    if is_root:
        os.seteuid(0)


@pytest.fixture(autouse=True)
def forget_warnings(monkeypatch):
    monkeypatch.setattr(_row_store, "_WARNED", set())


def test_a_read_only_store_is_read(world_folder, as_mortal):
    store = RowStore(world_folder / "rows")
    store.save(make_context(), make_rows(range(20)))
    _database(store).chmod(0o444)
    Path(store.path).chmod(0o555)
    as_mortal()
    assert len(load(store, range(20))) == 20
    assert_right(load(store, range(20)))
    assert len(store.to_frame()) == 20
    assert len(store.verify()) == 0
    with pytest.warns(UserWarning, match=rf"{store.path}' can't be written .*readonly"):
        store.save(make_context(), make_rows([30]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.save(make_context(), make_rows([30]))
    with pytest.raises(StoreError, match="can't be used"):
        store.prune(layer="features.2")


def test_a_folder_that_cant_be_made_costs_no_result(world_folder, as_mortal):
    as_mortal()
    store = RowStore(world_folder / "rows" / "here")
    with pytest.warns(UserWarning, match="can't be written .*Permission denied"):
        store.save(make_context(), make_rows([1]))
    store.save_n_channels(bytes(32), 1)
    assert load(store, [1]) == {}


def test_a_file_that_cant_be_read_costs_no_result(world_folder, as_mortal):
    store = RowStore(world_folder / "rows")
    store.save(make_context(), make_rows([1]))
    _database(store).chmod(0)
    as_mortal()
    with pytest.warns(UserWarning, match="can't be read"):
        assert load(store, [1]) == {}
    assert store.n_channels(bytes(32)) is None
    with pytest.raises(StoreError, match="can't be used"):
        store.info()


@contextmanager
def full_disk():
    """Let no file grow beyond 100 kB.

    It is no fixture: before these end, pytest writes, and perhaps to a file that is longer.
    """
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_no_result(filled):
    def fill():
        for start in range(100, 1000, 100):
            filled.save(make_context(), make_rows(range(start, start + 100), n_channels=200))

    with full_disk(), pytest.warns(UserWarning, match="can't be written"):
        fill()
    found = filled.load(make_context(), [sample(n) for n in range(1000)])
    assert len(found) % 100 == 20
    assert len(found) < 920
    assert len(filled.verify()) == 0


def test_a_locked_store_costs_no_result(filled, monkeypatch):
    monkeypatch.setattr(_rows_file, "TIMEOUT", 0.1)
    with closing(sqlite3.connect(_database(filled), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(load(filled, range(20))) == 20
        with pytest.warns(UserWarning, match="can't be written .*database is locked"):
            filled.save(make_context(), make_rows([30]))


# Several processes


def test_processes_write_one_store_at_once(store):
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(4)
    # Neighbours write half of their rows both.
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
from tests.rows import make_context, make_rows
for batch in itertools.count():
    RowStore(sys.argv[1]).save(make_context(), make_rows(range(4 * batch, 4 * batch + 4)))
    print(batch, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_store_that_another_is_making_is_waited_for(store, monkeypatch):
    look, others = _rows_file._tables_of, []

    def look_while_another_writes(connection):
        found = look(connection)
        if not others:
            others.append(pool.submit(store.save, make_context(), make_rows([1])))
            wait(others, timeout=0.5)
        return found

    monkeypatch.setattr(_rows_file, "_tables_of", look_while_another_writes)
    with ThreadPoolExecutor(1) as pool:
        store.save(make_context(), make_rows([2]))
    others[0].result()
    assert sorted(load(store, range(4))) == [1, 2]


def test_a_killed_writer_leaves_whole_batches(store):
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


# Looking after a store


@pytest.fixture
def mixed(store):
    """Rows of two layers and two models, with SQL in the names."""
    store.save(make_context(), make_rows(range(4)))
    store.save(make_context(max_iter=5), make_rows(range(3)))
    store.save(make_context("x'; DROP TABLE loces; --"), make_rows(range(2)))
    store.save(make_context('"quoted" \ud800 %', model="c" * 64, init="'; --"), make_rows([1]))
    return store


def test_info(mixed):
    info = mixed.info()
    assert (info.n_rows, info.n_contexts, info.format_version) == (10, 4, 1)
    assert info.layers == ['"quoted" \ud800 %', "features.2", "x'; DROP TABLE loces; --"]
    assert info.path == mixed.path
    assert info.n_bytes == _database(mixed).stat().st_size


def test_to_frame(mixed):
    now = pd.Timestamp.now("UTC")
    frame = mixed.to_frame(vectors=True)
    ends = ["sample", "created", "n_channels", "vector"]
    assert frame.columns.tolist() == ["layer", "model", "preprocess", *sorted(SETTINGS), *ends]
    assert frame["max_iter"].tolist() == [50] * 4 + [5] * 3 + [50] * 3
    assert set(frame["mask_size"]) == {(100, 100)}
    assert frame["layer"].value_counts()["x'; DROP TABLE loces; --"] == 2
    assert ((now - frame["created"]) < timedelta(minutes=5)).all()
    for row in frame.itertuples():
        np.testing.assert_array_equal(row.vector, vector_of(int(row.sample, 16)))
    assert mixed.to_frame().columns.tolist() == frame.columns[:-1].tolist()


def test_tables_hold_each_name_and_what_are_numbers(mixed):
    _execute(mixed, "UPDATE loces SET vector = zeroblob(4) WHERE id IN (1, 10)")
    problems = mixed.verify()
    assert problems["layer"].tolist() == ["features.2", '"quoted" \ud800 %']
    frame = mixed.to_frame()
    assert len(frame) == 8
    assert frame["layer"].dtype == problems["layer"].dtype == frame["sample"].dtype == object
    assert problems["id"].dtype == frame["max_iter"].dtype == frame["n_channels"].dtype == int


def test_to_frame_of_nothing(store):
    frame = store.to_frame()
    assert frame.shape == (0, 6)
    assert str(frame["created"].dtype.tz) == "UTC"


@pytest.mark.parametrize(
    ("criteria", "n_removed"),
    [
        ({"layer": "features.2"}, 7),
        ({"layer": "x'; DROP TABLE loces; --"}, 2),
        ({"layer": "'; DELETE FROM loces; --"}, 0),
        ({"model": "c" * 64}, 1),
        ({"model": "c" * 64, "layer": "features.2"}, 0),
        ({"older_than": timedelta(days=1)}, 0),
        ({"older_than": timedelta(0)}, 10),
        ({"older_than": datetime(2200, 1, 1, tzinfo=UTC), "layer": "features.2"}, 7),
        ({"older_than": pd.Timestamp("2020-01-01")}, 0),
        ({"older_than": np.datetime64("2100-01-01")}, 10),
        ({"damaged": True}, 0),
        ({"max_bytes": 0}, 10),
        ({"max_bytes": 10**9}, 0),
    ],
    ids=str,
)
def test_prune(mixed, criteria, n_removed):
    assert mixed.prune(**criteria) == n_removed
    assert mixed.info().n_rows == 10 - n_removed
    assert len(mixed.verify()) == 0


def test_prune_takes_models(store):
    module = nn.Conv2d(3, 2, 1)
    store.save(make_context(model=model_digest(module).hex()), make_rows([1]))
    store.save(make_context(), make_rows([1, 2]))
    assert store.prune(model=nn.Conv2d(3, 2, 1)) == 0
    assert store.prune(model=TorchModel(module)) == 1


class _Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.convolution = 0, nn.Conv2d(3, 2, 1)

    def forward(self, images):
        self.calls += 1
        return self.convolution(images)


def test_prune_knows_a_network_that_a_pass_has_changed(store):
    network, images = _Counting(), np.zeros((1, 4, 4, 3), dtype=np.uint8)
    table = pd.DataFrame({"image": list(images), "mask": [np.eye(4, dtype=bool)]})
    LoCETransformer(network, layer="convolution", memory=store, max_iter=1).fit_transform(table)
    assert store.info().n_rows == 1
    assert store.prune(model=network) == 1


def test_prune_removes_what_is_damaged(mixed):
    mixed.save_n_channels(make_context().source, 8)
    _execute(mixed, "UPDATE loces SET created = created + 1 WHERE id = 1")
    _execute(mixed, "UPDATE contexts SET checksum = x'00' WHERE id = 3")
    _execute(mixed, "UPDATE channels SET n_channels = 9")
    assert len(mixed.verify()) == 1 + 1 + 2 + 1
    assert mixed.prune(damaged=True) == 3
    assert len(mixed.verify()) == 0
    assert mixed.info().n_rows == 7


def test_prune_frees_the_disk_and_keeps_the_newest(store):
    for start in range(0, 2000, 500):
        store.save(make_context(), make_rows(range(start, start + 500), n_channels=100))
    before = _database(store).stat().st_size
    n_removed = store.prune(max_bytes=before // 2)
    after = _database(store).stat().st_size
    assert 0.4 * before < after <= before // 2
    kept = store.load(make_context(), [sample(n) for n in range(2000)])
    assert sorted(kept) == [sample(n) for n in range(n_removed, 2000)]


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
