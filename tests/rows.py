"""Rows for stores, identified by number; does not import torch.

Stores are filled through private names, since a transformer takes seconds for a thousand rows.
"""

import hashlib

import numpy as np

from sklearn_loce import RowStore
from sklearn_loce._solvers.solution import Solution
from sklearn_loce._store.keys import Key

SETTINGS = {
    "objective": "net2vec",
    "learning_rate": 0.1,
    "max_iter": 50,
    "init": "zeros",
    "mask_size": [100, 100],
    "mask_resize": "gaussian",
    "seed": None,
}


def make_key(layer="features.2", model="a" * 64, **changes):
    source = hashlib.sha256(repr((layer, model)).encode()).digest()
    return Key(source, SETTINGS | changes, layer, model, "b" * 64)


def sample(number):
    return number.to_bytes(32, "big")


def solution_of(number, n_channels=8):
    """Draw a Solution; odd numbers have the facts of a solver with a bias."""
    rng = np.random.default_rng(number)
    vector = rng.normal(size=n_channels).astype(np.float32)
    facts = rng.normal(size=3).astype(np.float32).tolist() if number % 2 else [None] * 3
    return Solution(vector, *facts)


def make_rows(numbers, n_channels=8):
    return {sample(number): solution_of(number, n_channels) for number in numbers}


def save(store, rows, key=None):
    with store.open() as session:
        session.save(key or make_key(), rows)


def load(store, numbers, key=None):
    """Return the stored rows by number."""
    with store.open() as session:
        found = session.load(key or make_key(), [sample(number) for number in numbers])
    return {int.from_bytes(digest, "big"): solution for digest, solution in found.items()}


def assert_right(found):
    for number, solution in found.items():
        assert_same(solution, solution_of(number))


def assert_same(found, expected):
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert found.vectors.dtype == np.float32
    for name in ("intercept", "n_iter", "gradient_norm"):
        assert getattr(found, name) == getattr(expected, name)


def write_rows(path, start, barrier):
    """Save 64 rows from a number on in batches of eight, and some rows of a separate key."""
    barrier.wait()
    with RowStore(path).open() as session:
        for first in range(start, start + 64, 8):
            session.save(make_key(), make_rows(range(first, first + 8)))
            session.save(make_key(max_iter=start), make_rows([first]))
            session.save_probe(make_key().source, b"", np.ones(3), 8)
            keys = [sample(number) for number in range(first, first + 8)]
            assert len(session.load(make_key(), keys)) == 8
