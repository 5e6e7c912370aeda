"""The metrics as double loops that follow their definitions.

Distances are computed in decimals of 60 digits, so they hold no rounding noise that could decide.
"""

import math
from decimal import Decimal, localcontext
from functools import cache

import numpy as np

# Directions of float64 rows have an error of about 1e-16, and cosine distances its square.
COSINE_RESOLUTION = Decimal("1e-28")


def exact_distance(a, b, metric):
    pairs = [(Decimal(float(p)), Decimal(float(q))) for p, q in zip(a, b, strict=True)]
    if metric == "euclidean":
        return sum((p - q) ** 2 for p, q in pairs).sqrt()
    if metric == "cityblock":
        return sum(abs(p - q) for p, q in pairs)
    lengths = sum(p**2 for p, _ in pairs) * sum(q**2 for _, q in pairs)
    if not lengths:
        return Decimal(1)
    value = 1 - sum(p * q for p, q in pairs) / lengths.sqrt()
    return value if value > COSINE_RESOLUTION else Decimal(0)


def exact_matrix(X, metric):
    """Distances of all pairs to 40 decimals, and None from a row to itself."""
    return _exact_matrix(tuple(map(tuple, np.asarray(X).tolist())), metric)


@cache
def _exact_matrix(rows, metric):
    n = range(len(rows))
    with localcontext() as context:
        context.prec = 70
        upper = {
            (i, j): round(exact_distance(rows[i], rows[j], metric), 40)
            for i in n
            for j in n[i + 1 :]
        }
    return [[None if i == j else upper[min(i, j), max(i, j)] for j in n] for i in n]


def matrix(X, metric):
    """Distances of all pairs, and NaN from a row to itself."""
    D = exact_matrix(X, metric)
    return np.array([[math.nan if d is None else float(d) for d in row] for row in D])


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
        gap, spread = np.quantile(gaps, quantile), np.mean(inside)
        values.append(gap / spread if spread else math.inf if gap else 0.0)
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
    D = exact_matrix(X, metric)

    def overlap(a, b):
        if len(a) == 1:
            return math.nan
        beaten = [min(D[i][j] for j in b) < min(D[i][j] for j in a if j != i) for i in a]
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
    D, n = exact_matrix(X, metric), len(X)

    def order(i):
        return sorted((j for j in range(n) if j != i), key=lambda j: (D[i][j], j))

    return [order(i) for i in range(n)]


def candidates(X, metric, groups=None, is_out=None):
    """Rankings of the rows of other groups, or of those for which `is_out` is false."""
    groups = range(len(X)) if groups is None else groups
    is_out = is_out or (lambda i, j: groups[i] == groups[j])
    ranked = enumerate(rankings(X, metric))
    return [[j for j in ranking if not is_out(i, j)] for i, ranking in ranked]


def retrieval(X, y, metric, judge, groups=None, is_out=None):
    """Mean over queries of ``judge(relevance of the ranking, relevant rows)`` by concept.

    With something left out, queries for which nothing of their concept stays are left out too.
    """
    judged = []
    for i, ranking in enumerate(candidates(X, metric, groups, is_out)):
        relevant = [y[j] == y[i] for j in ranking]
        lone = (groups is not None or is_out is not None) and not any(relevant)
        judged.append(math.nan if lone else judge(relevant, sum(relevant)))
    own_values = [[judged[i] for i in own] for own in rows_of(y).values()]
    found = [[v for v in values if not math.isnan(v)] for values in own_values]
    return np.array([sum(values) / len(values) if values else math.nan for values in found])


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
