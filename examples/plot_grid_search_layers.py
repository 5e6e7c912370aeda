"""
================================================
Which layer? A grid search that computes it once
================================================

Which layer and which objective suit your data? ``GridSearchCV`` answers this. The layer whose
projections match their masks best need not be the layer whose vectors separate concepts best.

We search over layers, objectives and the strength of the ridge, with several scores. A store keeps
the vectors, so no vector is computed twice.
"""

# %%
# Scenes, a network and a store
# -----------------------------
# The table has one row per image-concept pair. We search on 21 scenes and hold out 12 others.
# ``TorchModel`` lets all candidates share the network. ``memory`` names the folder of the store.

import tempfile

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes

scenes = make_scenes(n_samples=21, random_state=0)
test = make_scenes(n_samples=12, random_state=1)
folder = tempfile.TemporaryDirectory()
loce = LoCETransformer(TorchModel(load_scene_model()), "features.1", memory=folder.name)
print(f"{len(scenes.data)} rows to search on, {len(test.data)} held out")

# %%
# Fill the store
# --------------
# A search works layer by layer and passes every image through the network for each layer.
# ``precompute`` embeds all layers in one pass per image.

from sklearn_loce import RowStore

layers = ["features.1", "features.2", "features.3", "features.4", "features.5"]
loce.precompute(scenes.data, layers)
print(f"{RowStore(folder.name).info()['n_rows']} vectors stored")

# %%
# Which layer has the best held-out IoU?
# --------------------------------------
# The score of the transformer is the mean held-out IoU: a LoCE is optimized on one half of a mask,
# by blocks of cells, and projected onto the other half. The IoU on the same mask shows less,
# because a layer with many channels can match any mask. ``GroupKFold`` keeps the rows of an
# image in one fold. A LoCE depends only on its row, so nothing leaks between folds. The bars below
# show how much the score varies between folds.

from sklearn.model_selection import GridSearchCV, GroupKFold

search = GridSearchCV(loce, {"layer": layers}, cv=GroupKFold(3))
search.fit(scenes.data, scenes.target, groups=scenes.groups)
print(f"best: {search.best_params_}, held-out IoU {search.best_score_:.3f}")
print(f"{RowStore(folder.name).info()['n_rows']} vectors stored: the search added none")

# %%
from sklearn_loce.plotting import LayerComparisonDisplay

display = LayerComparisonDisplay.from_search(search)
_ = display.ax_.set_ylabel("held-out IoU")

# %%
# Which layer separates concepts?
# -------------------------------
# To compare embeddings, the pipeline scales them to length 1 and clusters them. The scorers of
# :mod:`sklearn_loce.metrics` judge the result:
#
# - ``r_precision`` is the share of a row's nearest rows that show its concept. It uses as many
#   neighbors as the concept has other rows.
# - ``purity`` is high if each cluster contains one concept. The clusters are fitted on the training
#   folds and judged on the others.
# - ``heldout_iou`` is the score of the transformer.
#
# All three use the same stored vectors. "net2vec" is the objective of the paper. "logistic" has one
# optimum and a ridge of strength ``alpha``.

from sklearn.cluster import KMeans
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer

from sklearn_loce.metrics import get_scorer

score = get_scorer(["heldout_iou", "r_precision", "purity"])
clusters = KMeans(n_clusters=len(scenes.target_names), n_init=10, random_state=0)
pipeline = Pipeline([("loce", loce), ("normalizer", Normalizer()), ("clusters", clusters)])
objectives = {
    "net2vec": {"loce__objective": ["net2vec"]},
    "logistic, alpha=1e-4": {"loce__objective": ["logistic"], "loce__alpha": [1e-4]},
    "logistic, alpha=1e-2": {"loce__objective": ["logistic"], "loce__alpha": [1e-2]},
}
searches = {
    name: GridSearchCV(
        pipeline,
        {"loce__layer": layers, **objective},
        scoring=score,
        refit="r_precision",
        cv=GroupKFold(3),
    ).fit(scenes.data, scenes.target, groups=scenes.groups)
    for name, objective in objectives.items()
}
print(f"{RowStore(folder.name).info()['n_rows']} vectors stored")

# %%
# ``LayerComparisonDisplay`` takes several searches by name and draws a curve for each. The layer
# with the best projections is not the best for retrieval: with a weak ridge, projections of the
# finer layers follow outlines, while the deeper layers separate concepts. There the objectives
# differ by about as much as the folds, so the layer matters more than the objective.

metrics = ["heldout_iou", "r_precision", "purity"]
display = LayerComparisonDisplay.from_search(searches, metric=metrics)

# %%
# On held-out scenes
# ------------------
# The best of many candidates may look better than it is. Each search refitted the layer with the
# best retrieval to all of its scenes. Here it is scored on the held-out scenes. ``searched`` is the
# R-precision of the search.

import pandas as pd

held_out = pd.DataFrame(
    [
        {
            "layer": search.best_params_["loce__layer"],
            "searched": search.best_score_,
            **score(search.best_estimator_, test.data, test.target),
        }
        for search in searches.values()
    ],
    index=list(searches),
)
print(held_out.round(3).to_string())

# %%
# Projections with a weak and a strong ridge
# ------------------------------------------
# The rows are from held-out scenes, at the same layer. With the weak ridge, probabilities are close
# to 0 or 1 and follow the outlines. With the strong ridge, they are fainter, and narrow shapes lose
# most.

from sklearn_loce.plotting import ProjectionDisplay

for name in ("logistic, alpha=1e-4", "logistic, alpha=1e-2"):
    drawer = searches[name].best_estimator_["loce"]
    drawer = drawer.set_params(layer="features.4").fit(test.data)
    display = ProjectionDisplay.from_estimator(drawer, test.data, rows=range(8), n_cols=4)
    display.figure_.suptitle(name, fontsize="medium")

folder.cleanup()

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Only the table, the network and the layers change. ``list_layers(model, (480, 640))`` lists
#    the layers of a network. A permanent folder keeps the vectors for the next session::
#
#        from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        coco = fetch_coco_val2017(categories=["car", "bus", "cat", "dog"], min_area=0.02)
#        weights = MobileNet_V3_Large_Weights.IMAGENET1K_V2
#        model = TorchModel(mobilenet_v3_large(weights=weights))
#        loce = LoCETransformer(model, "features.8", preprocess=weights, memory="loces", n_jobs=-1)
#        layers = ["features.8", "features.11", "features.14", "features.16"]
#
#    Use ``coco.data``, ``coco.target`` and ``coco.groups`` instead of those of the scenes.
