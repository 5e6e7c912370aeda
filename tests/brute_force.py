"""The metrics again, as double loops in float64 written from their definitions."""

import math

import numpy as np


def distance(a, b, metric):
    if metric == "euclidean":
        return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))
    if metric == "cityblock":
        return sum(abs(float(p) - float(q)) for p, q in zip(a, b, strict=True))
    if any(a) and list(a) == list(b):
        return 0.0
    length = math.sqrt(sum(float(p) ** 2 for p in a)) * math.sqrt(sum(float(q) ** 2 for q in b))
    return (
        1.0 - sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / length
        if length
        else 1.0
    )


def matrix(X, metric):
    """Distances of all pairs, and NaN from a row to itself."""
    return np.array(
        [
            [math.nan if i == j else distance(a, b, metric) for j, b in enumerate(X)]
            for i, a in enumerate(X)
        ]
    )


def rows_of(y):
    return {str(c): [i for i, label in enumerate(y) if label == c] for c in sorted(set(y))}


def category_separation(X, y, metric):
    D, values = matrix(X, metric), []
    for own in rows_of(y).values():
        gap = min(D[i, j] for i in own for j in range(len(y)) if j not in own)
        inside = [D[i, j] for i in own for j in own if i != j]
        if not inside:
            values.append(math.nan)
        elif sum(inside) == 0:
            values.append(math.inf if gap > 0 else 0.0)
        else:
            values.append(gap / (sum(inside) / len(inside)))
    return np.array(values)


def robust_category_separation(X, y, metric, quantile):
    D, values = matrix(X, metric), []
    for own in rows_of(y).values():
        gaps = [D[i, j] for i in own for j in range(len(y)) if j not in own]
        inside = [D[i, j] for i in own for j in own if i != j]
        values.append(np.quantile(gaps, quantile) / np.mean(inside))
    return np.array(values)


def over_pairs(y, function):
    concepts = list(rows_of(y).values())
    return np.array(
        [[0.0 if a is b else function(a, b) for b in concepts] for a in concepts], dtype=float
    )


def pairwise_separation(X, y, metric):
    D = matrix(X, metric)

    def separation(a, b):
        widest = max(D[i, j] for i in a + b for j in a + b if i != j)
        return min(D[i, j] for i in a for j in b) / (widest + 1e-6)

    return over_pairs(y, separation)


def robust_pairwise_separation(X, y, metric, quantile):
    D = matrix(X, metric)

    def separation(a, b):
        gaps = [D[i, j] for i in a for j in b]
        widths = [D[i, j] for i in a + b for j in a + b if i < j]
        return np.quantile(gaps, quantile) / (np.quantile(widths, 1 - quantile) + 1e-6)

    return over_pairs(y, separation)


def overlap_ratio(X, y, metric):
    D = np.round(matrix(X, metric), 13)

    def overlap(a, b):
        if len(a) == 1:
            return math.nan
        beaten = [min(D[i, j] for j in b) < min(D[i, j] for j in a if j != i) for i in a]
        return sum(beaten) / len(a)

    return over_pairs(y, overlap)


def pairwise_silhouette(X, y, metric):
    D = matrix(X, metric)

    def one(i, own, other):
        if len(own) == 1:
            return 0.0
        inside = sum(D[i, j] for j in own if j != i) / (len(own) - 1)
        outside = sum(D[i, j] for j in other) / len(other)
        larger = max(inside, outside)
        return (outside - inside) / larger if larger else 0.0

    def silhouette(a, b):
        values = [one(i, a, b) for i in a] + [one(j, b, a) for j in b]
        return sum(values) / len(values)

    return over_pairs(y, silhouette)


def rankings(X, metric):
    """Other rows by distance, ties by row number."""
    D = np.round(matrix(X, metric), 13)
    n = len(X)
    return [sorted((j for j in range(n) if j != i), key=lambda j: (D[i, j], j)) for i in range(n)]


def retrieval(X, y, metric, judge):
    """Mean over queries of ``judge(relevance of the ranking, relevant rows)`` by concept."""
    values = []
    for own in rows_of(y).values():
        judged = [
            judge([j in own for j in ranking], len(own) - 1)
            for i, ranking in enumerate(rankings(X, metric))
            if i in own
        ]
        values.append(sum(judged) / len(judged))
    return np.array(values)


def precision_at(k):
    def judge(relevant, n_relevant):
        return sum(relevant[:k]) / k

    return judge


def average_precision_at(k):
    def judge(relevant, n_relevant):
        if n_relevant == 0:
            return math.nan
        hits, total = 0, 0.0
        for rank, hit in enumerate(relevant[:k], start=1):
            if hit:
                hits += 1
                total += hits / rank
        return total / min(k, n_relevant)

    return judge


def r_precision(relevant, n_relevant):
    return sum(relevant[:n_relevant]) / n_relevant if n_relevant else math.nan


def purity(y, labels):
    total = 0
    for cluster in set(labels) - {-1}:
        inside = [label for label, found in zip(y, labels, strict=True) if found == cluster]
        total += max(inside.count(concept) for concept in set(inside))
    return total / len(y)


def mask_iou(first, second):
    both = either = 0
    for row_a, row_b in zip(first, second, strict=True):
        for a, b in zip(row_a, row_b, strict=True):
            both += bool(a) and bool(b)
            either += bool(a) or bool(b)
    return both / either if either else 0.0
