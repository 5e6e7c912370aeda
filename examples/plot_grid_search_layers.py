"""
================================================
Which layer? A grid search that computes it once
================================================

A LoCE belongs to a layer, and a network has many. The layer whose LoCEs redraw their masks best
need not be the one in which vectors of a concept lie closest together, and both depend on the
objective that the LoCEs minimize.

``GridSearchCV`` answers such questions. We search over layers, objectives and the strength of the
ridge, with two scores, and keep the vectors in a store, so that none is computed twice.
"""

# %%
# Scenes, a network and a store
# -----------------------------
# The table has one row per image-concept pair. We search on 21 scenes and keep 12 others for the
# end. ``TorchModel`` lets all candidates share the network; ``memory`` names the folder of the
# store.

# sphinx_gallery_thumbnail_number = 2
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
# A search works layer by layer, and would pass every image through the network for each of them.
# ``precompute`` does all layers in one pass per image.

from sklearn_loce import RowStore

layers = ["features.1", "features.2", "features.3", "features.4", "features.5"]
loce.precompute(scenes.data, layers)
print(f"{RowStore(folder.name).info()['n_rows']} vectors stored")

# %%
# Which layer finds the concept where it was not told?
# -----------------------------------------------------
# The score of the transformer itself is the mean held-out IoU: a LoCE is fitted to one half of a
# mask, by blocks of cells, and drawn in the other. The IoU of the mask that a LoCE was fitted to
# says less, for many channels redraw any mask. ``GroupKFold`` keeps the rows of an image in one
# fold. A LoCE depends on its row alone, so nothing leaks between folds here; the folds show how
# much the score varies with the images, as the bars below.

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
# Which layer tells concepts apart?
# ---------------------------------
# Embeddings are also there to be compared. In a pipeline they are scaled to length 1 and clustered,
# and the scorers of :mod:`sklearn_loce.metrics` judge them. ``r_precision`` asks whether a row's
# nearest rows are of its concept, as many as the concept has. ``purity`` asks whether each cluster
# holds one concept. The clusters are learned from the training folds, and the rows that are judged
# come from images that they have not seen.
#
# ``heldout_iou`` is the transformer's own score. All three share the vectors. "net2vec" is the
# paper's objective; "logistic" has one optimum, and a ridge of strength ``alpha``.

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
# ``LayerComparisonDisplay`` takes several searches by name and draws a curve for each. What redraws
# best and what retrieves best differ: a weak ridge lets LoCEs of the finer layers follow outlines,
# while concepts are told apart in the deeper layers. There the objectives differ by about as much
# as the folds do, so the layer matters more than the objective.

metrics = ["heldout_iou", "r_precision", "purity"]
display = LayerComparisonDisplay.from_search(searches, metric=metrics)

# %%
# On scenes held out
# ------------------
# The best of many candidates may look better than it is. Each search refitted the layer of best
# retrieval to all of its scenes; here it is judged on the others. ``searched`` is the R-precision
# that the search saw.

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
# What the two ridges draw
# ------------------------
# Rows of unseen scenes at the same layer, with the weak ridge and with the strong one. With the
# weak one, probabilities are close to 0 or 1 and keep to the outlines. With the strong one they
# are fainter, and narrow shapes lose most.

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
#    what a network has; a folder that stays keeps the vectors for the next session::
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
#    and ``coco.data``, ``coco.target``, ``coco.groups`` take the place of those of the scenes.
