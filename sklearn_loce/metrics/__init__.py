"""Separation, overlap, purity, retrieval and confusion of concepts in an embedding space.

Every function takes any matrix of embeddings, LoCEs or others, and never needs torch. Those that
compute all distances between rows work in chunks: their memory grows with the number of rows.

Where all that is given row by row has an index of pandas, with the same labels in another order,
rows are matched by it. Otherwise positions count.
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
