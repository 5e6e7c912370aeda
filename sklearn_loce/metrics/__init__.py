"""Measure how well embeddings separate, find and cluster concepts.

All functions accept any matrix of embeddings, LoCEs or others, and do not need torch. Distances
between all pairs of rows are computed in chunks, so the memory grows with the number of rows only.

This recipe asks three questions about one space: do concepts stay apart, do neighbors show the same
concept, and which concepts are confused?

>>> from sklearn.datasets import load_iris
>>> from sklearn_loce.metrics import category_separation, confused_concepts, precision_at_k
>>> iris = load_iris()
>>> X, y = iris.data, iris.target_names[iris.target]
>>> round(category_separation(X, y), 2)
0.92
>>> round(precision_at_k(X, y, k=5), 2)
0.96
>>> confused_concepts(X, y)[["concept_a", "concept_b", "overlap"]].head(1).round(2)
    concept_a  concept_b  overlap
0  versicolor  virginica     0.06

Pass the image of each row as ``groups`` if images have several rows. Then neighbors come from other
images only.

If all arguments with one entry per row have a pandas index with the same labels, rows are matched
by index. Otherwise they are matched by position.
"""

from ._clusters import cluster_composition, penalized_purity_score, purity_score
from ._comparison import compare_layers, rank_layers
from ._confusion import confused_concepts, sub_concepts
from ._masks import mask_iou
from ._retrieval import mean_average_precision_at_k, precision_at_k, r_precision
from ._scorers import (
    ConceptScorer,
    MultiConceptScorer,
    get_scorer,
    get_scorer_names,
    make_cluster_scorer,
    make_embedding_scorer,
)
from ._separation import (
    category_separation,
    overlap_ratio,
    pairwise_separation,
    pairwise_silhouette,
)
from ._similarity import compare_similarity, linear_cka

__all__ = [
    "ConceptScorer",
    "MultiConceptScorer",
    "category_separation",
    "cluster_composition",
    "compare_layers",
    "compare_similarity",
    "confused_concepts",
    "get_scorer",
    "get_scorer_names",
    "linear_cka",
    "make_cluster_scorer",
    "make_embedding_scorer",
    "mask_iou",
    "mean_average_precision_at_k",
    "overlap_ratio",
    "pairwise_separation",
    "pairwise_silhouette",
    "penalized_purity_score",
    "precision_at_k",
    "purity_score",
    "r_precision",
    "rank_layers",
    "sub_concepts",
]
