"""Small embeddings with labels, random and degenerate, by name."""

import numpy as np


def _random():
    rng = np.random.RandomState(0)
    y = rng.choice(["bus", "car", "sky"], 31)
    return rng.normal(size=(31, 5)) + (y == "sky")[:, np.newaxis], y


def _far_from_origin():
    X, y = _random()
    return X + 1e3, y


def _two_concepts():
    rng = np.random.RandomState(1)
    return rng.normal(size=(14, 3)), np.array([0, 1] * 7)


def _duplicates():
    """Rows that repeat within a concept and across concepts."""
    rng = np.random.RandomState(2)
    X = rng.normal(size=(6, 4))[[0, 0, 1, 2, 0, 3, 4, 4, 2, 5, 5, 5]]
    return X, np.array(["bus", "bus", "bus", "bus", "car", "car", "car", "car", "car", *"sss"])


def _all_the_same():
    return np.full((9, 3), 0.3), np.repeat(["bus", "car", "sky"], 3)


def _collapsed_concepts():
    """Each concept is one point."""
    rng = np.random.RandomState(3)
    return np.repeat(rng.normal(size=(3, 4)), 4, axis=0), np.repeat(["bus", "car", "sky"], 4)


def _one_row_in_a_concept():
    rng = np.random.RandomState(4)
    return rng.normal(size=(12, 3)), np.array(["bus"] * 6 + ["car"] + ["sky"] * 5)


def _ties():
    """Points of an integer grid, whose distances are exact in floating point."""
    X = np.array([[i, j] for i in range(1, 6) for j in range(1, 5)], dtype=float)
    return X, np.random.RandomState(5).choice(["bus", "car", "sky"], len(X))


def _rows_of_zeros():
    """Two rows without a direction."""
    X, y = _random()
    X[[3, 11]] = 0.0
    return X, y


def _float32():
    X, y = _random()
    return X.astype(np.float32), y


def _near_duplicates():
    """Rows at four points, with noise below the precision of their squared coordinates."""
    rng = np.random.RandomState(6)
    X = 3 * rng.normal(size=(4, 3))[np.arange(28) % 4] + 1e-7 * rng.normal(size=(28, 3))
    return X, rng.choice(["bus", "car"], 28)


def _islands(gap):
    """Two groups of both concepts, `gap` apart."""
    rng = np.random.RandomState(7)
    X = rng.normal(size=(24, 3))
    X[::2, 0] += gap
    return X, rng.choice(["bus", "car"], 24)


def _two_islands():
    return _islands(1e6)


def _two_distant_islands():
    return _islands(1e8)


def _one_far_row():
    X, y = _random()
    X[5] *= 1e8
    return X, y


def _one_direction():
    """Rows of one direction and many lengths, and other rows."""
    X, y = _random()
    X[::2] = np.outer(np.arange(1, 17), [3.0, 7.0, 1.0, 0.0, 2.0])
    return X, y


def _short_and_long():
    X, y = _random()
    return X * np.where(np.arange(31) % 2, 1e-3, 1e3)[:, np.newaxis], y


CASES = {
    "random": _random,
    "far from the origin": _far_from_origin,
    "two concepts": _two_concepts,
    "duplicates": _duplicates,
    "all the same": _all_the_same,
    "collapsed concepts": _collapsed_concepts,
    "one row in a concept": _one_row_in_a_concept,
    "ties": _ties,
    "rows of zeros": _rows_of_zeros,
    "float32": _float32,
    "near duplicates": _near_duplicates,
    "two islands": _two_islands,
    "two distant islands": _two_distant_islands,
    "one far row": _one_far_row,
    "one direction": _one_direction,
    "short and long rows": _short_and_long,
}


def planted_parts(n_rows=40, std=1.0, seed=0):
    """Three concepts of two parts each; the nearest part always belongs to another concept.

    Returns
    -------
    X, y, parts
        Embeddings, concepts, and the planted sub-concepts.
    """
    rng = np.random.RandomState(seed)
    pairs = rng.normal(size=(3, 6)) * 40
    centers = np.concatenate([pairs, pairs + 6])
    parts = np.repeat(np.arange(6), n_rows)
    concepts = np.array(["bus", "car", "sky", "car", "sky", "bus"])
    return centers[parts] + std * rng.normal(size=(6 * n_rows, 6)), concepts[parts], parts
