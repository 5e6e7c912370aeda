"""Rows to put into stores, told apart by number; imports no torch."""

import numpy as np

from sklearn_loce import RowStore
from sklearn_loce._store.memory import Context, source_digest

SETTINGS = {
    "objective": "net2vec",
    "solver": "adamw",
    "learning_rate": 0.1,
    "max_iter": 50,
    "init": "zeros",
    "mask_size": [100, 100],
    "mask_resize": "gaussian",
    "seed": None,
}


def make_context(layer="features.2", model="a" * 64, **changes):
    source = source_digest(model.encode(), b"p", b"r", layer)
    return Context(source, SETTINGS | changes, layer, model, "b" * 64)


def sample(number):
    return number.to_bytes(32, "big")


def vector_of(number, n_channels=8):
    return np.random.default_rng(number).normal(size=n_channels).astype(np.float32)


def make_rows(numbers, n_channels=8):
    return {sample(number): vector_of(number, n_channels) for number in numbers}


def write_rows(path, start, barrier):
    """Save 64 rows from a number on in batches of eight, and some of a context of one's own."""
    store = RowStore(path)
    barrier.wait()
    for first in range(start, start + 64, 8):
        store.save(make_context(), make_rows(range(first, first + 8)))
        store.save(make_context(max_iter=start), make_rows([first]))
        store.save_n_channels(make_context().source, 8)
        keys = [sample(number) for number in range(first, first + 8)]
        assert len(store.load(make_context(), keys)) == 8
