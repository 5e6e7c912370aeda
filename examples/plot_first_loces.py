"""
=======================================
First LoCEs: do sub-concepts come back?
=======================================

A Local Concept Embedding (LoCE) is the 1x1 filter that, put on the activations of a network's
layer, best redraws the mask of one concept in one image. Every pair of image and concept gets a
vector, so a concept becomes a cloud of points, and structure inside a concept can be looked for
with the tools of scikit-learn.

Here the structure is known. The scenes are drawn, with two sub-concepts planted in six of eight
concepts: near and far cars, red and green buses, and so on. The network was trained to tell the
concepts apart and never saw a sub-concept's label. We compute one LoCE for every concept in every
scene, and see whether clusters inside a concept are the planted sub-concepts.
"""

# %%
# Scenes and a network
# --------------------
# ``scenes.data`` is a table with one row per image-concept pair: image, mask, concept. The network
# comes with the package.

from sklearn_loce.datasets import load_scene_model, make_scenes

scenes = make_scenes(n_samples=120, random_state=0)
model = load_scene_model()
print(f"{len(scenes.data)} image-concept pairs in 120 scenes")

# %%
# One vector per row
# ------------------
# ``TorchModel`` lets clones of the transformer share the network. ``features.2`` is a middle layer:
# deep enough to see objects, early enough to see their colors.

from sklearn_loce import LoCETransformer, TorchModel

loce = LoCETransformer(TorchModel(model), layer="features.2")
embeddings = loce.fit_transform(scenes.data)
print(f"LoCEs: {embeddings.shape[0]} rows, {embeddings.shape[1]} channels")

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Only the table, the network and the layer change::
#
#        from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        scenes = fetch_coco_val2017(categories=["car", "bus", "train", "dog"], min_area=0.02)
#        weights = MobileNet_V3_Large_Weights.IMAGENET1K_V2
#        model = TorchModel(mobilenet_v3_large(weights=weights))
#        loce = LoCETransformer(model, layer="features.14", preprocess=weights)
#
#    The download has 1.1 GB; for annotations of your own in COCO's format there is ``load_coco``.
#    There are no planted sub-concepts to compare with.

# %%
# How well do they redraw their masks?
# ------------------------------------
# The projection of each LoCE is compared with its mask by intersection over union (IoU).

quality = loce.evaluate(scenes.data, embeddings)
iou = quality["iou"].groupby(scenes.target).agg(["mean", "std", "count"])
print("\nIoU of projection and mask, per concept")
print(iou.round(2).to_string(index_names=False))
print(f"mean IoU {quality['iou'].mean():.2f}, failed LoCEs {quality['failed'].sum()}")

# %%
# Do the planted sub-concepts come back?
# --------------------------------------
# One pipeline leads from the table to cluster labels: LoCEs, their directions (vectors of length
# 1), every channel on the same scale, two clusters. ``pipeline.fit_predict(scenes.data)`` runs all
# of it; as the LoCEs are there already, the steps behind them will do. They are fitted to one
# concept at a time. The adjusted Rand index compares the clusters with what was planted: 1 is
# perfect, 0 is chance.

from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

pipeline = make_pipeline(
    loce, Normalizer(), StandardScaler(), KMeans(n_clusters=2, n_init=10, random_state=0)
)
print("\nPlanted sub-concepts found again (adjusted Rand index)")
for concept in scenes.target_names:
    rows = scenes.target == concept
    planted = scenes.sub_concepts[rows]
    if len(set(planted)) == 2:
        found = pipeline[1:].fit_predict(embeddings[rows])
        score = adjusted_rand_score(planted, found)
        print(f"{concept:<6}{score:5.2f}   {' | '.join(sorted(set(planted)))}")

# %%
# Which concepts does the layer mix up?
# -------------------------------------
# Car and taxi were made to be confused: they differ in a small sign on the roof only. Overlap is
# the share of a concept's LoCEs that lie closer to one of the other concept than to any of their
# own. These are the pairs with the most of it.

from sklearn_loce.metrics import confused_concepts

pairs = confused_concepts(embeddings, scenes.target).head(3)
print("\nOverlap of concepts")
for pair in pairs.itertuples():
    print(f"{pair.concept_a:<6}and {pair.concept_b:<6}{pair.overlap:5.2f}")

# %%
# Another objective
# -----------------
# The LoCEs above minimize the default, ``objective="logistic"``: a logistic regression of the
# mask's pixels with a ridge, solved to its one optimum. The paper's are a parameter away: 50 steps
# of AdamW, which leave stray pixels where the activations allow them.
# :ref:`sphx_glr_auto_examples_plot_sub_concepts.py` compares the two further.

from sklearn.base import clone

net2vec = clone(loce).set_params(objective="net2vec")
stepped = net2vec.fit_transform(scenes.data)
print("\nMean IoU by objective")
print(f"logistic  {quality['iou'].mean():.2f}")
print(f"net2vec   {net2vec.evaluate(scenes.data, stepped)['iou'].mean():.2f}")

# %%
# A picture
# ---------
# For each planted sub-concept, the row of median IoU: the image with the outline of its mask, and
# below it the probabilities that its LoCE projects, with the same outline.

from sklearn_loce.plotting import ProjectionDisplay

by_iou = quality["iou"].to_numpy().argsort()
concepts = ["sky", "tree", "house", "bus", "car", "taxi"]
kinds = [sorted(set(scenes.sub_concepts[scenes.target == concept])) for concept in concepts]
rows = []
for sub_concept in [first for first, _ in kinds] + [second for _, second in kinds]:
    ranked = by_iou[scenes.sub_concepts[by_iou] == sub_concept]
    rows.append(ranked[len(ranked) // 2])
display = ProjectionDisplay.from_estimator(
    loce, scenes.data, embeddings, y=scenes.sub_concepts, rows=rows, n_cols=len(concepts)
)
display.figure_.savefig("first_loces.png", dpi=190)
print("\nPicture written to first_loces.png")
