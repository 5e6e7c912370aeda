"""
=============================
A concept map in the browser
=============================

A map of LoCEs shows clusters and stray points, and the next question is always: which image is
that? ``to_html`` writes the map as one file in which every point answers.
"""

# %%
# LoCEs, their quality, and clusters
# ----------------------------------
# The layer is a middle one, early enough to see colors. Clusters are looked for within each
# concept, two in each, so that the map can be filtered by them.

from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler, normalize

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes

scenes = make_scenes(n_samples=60, random_state=0)
loce = LoCETransformer(TorchModel(load_scene_model), layer="features.2")
embeddings = normalize(loce.fit_transform(scenes.data))
clusters = scenes.target.copy()
for concept in scenes.target_names:
    rows = scenes.target == concept
    kmeans = KMeans(n_clusters=2, n_init=10, random_state=0)
    labels = kmeans.fit_predict(StandardScaler().fit_transform(embeddings[rows]))
    clusters[rows] = [f"{concept} {label}" for label in labels]
iou = loce.evaluate(scenes.data)["iou"].mean()
print(f"{len(embeddings)} LoCEs, mean IoU {iou:.2f}")

# %%
# One file
# --------
# The file holds pictures, scripts and styles, and asks for nothing from the network: it can be sent
# by mail. It needs the extra ``html``, which is Bokeh. UMAP lays the points out, and with the
# transformer every point gets its projection and IoU.

from pathlib import Path
from tempfile import TemporaryDirectory

from sklearn_loce.plotting import to_html

with TemporaryDirectory() as folder:
    path = to_html(
        embeddings,
        scenes.data,
        Path(folder) / "map.html",
        transformer=loce,
        clusters=clusters,
        thumbnail_size=112,
        title="LoCEs of drawn scenes",
        random_state=0,
    )
    page = path.read_text(encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")

# %%
# The map
# -------
# Point at a LoCE to see its image with the outline of the mask, and what the LoCE projects. Select
# it, and its nearest neighbors among the embeddings are listed: nearest in all channels, not on
# the map. A click on the image enlarges it. **Box** and **Lasso** select many points and show their
# images; **Save as CSV** saves what is selected, or what passes the filters, with the ids of the
# annotations. Any column of the table colors the points, numbers by a scale, and filters them; any
# text of it is found. The arrow keys, Space, Enter and Esc do the same, and the address of the
# page holds its state, to be sent to a colleague.
#
# In a notebook, ``IPython.display.IFrame("map.html", width="100%", height=700)`` shows the file. On
# this page it is part of the page, which the small class below sees to.

from html import escape


class Embedded:
    """A page of HTML, to be shown in another page."""

    def __init__(self, page):
        self.page = page

    def _repr_html_(self):
        text = escape(self.page).replace("\t", "&#9;").replace("\n", "&#10;")
        style = "width: 100%; height: 700px; border: 1px solid #888"
        return f'<iframe title="Concept map" style="{style}" srcdoc="{text}"></iframe>'


Embedded(page)

# %%
# On paper
# --------
# ``ConceptMapDisplay`` draws such a map for a page, with the ellipses of Gaussian mixtures that are
# fitted to each concept in the plane. Where sub-concepts were planted, a concept may fall into
# islands, as brick and plaster houses do; the mixture's number of components is chosen by a
# criterion, and need not be the number of kinds.

from sklearn_loce.plotting import ConceptMapDisplay

display = ConceptMapDisplay.from_embeddings(embeddings, scenes.target, random_state=0)

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Nothing changes but the table and the network. Of 5,000 points, selection, colors, search and
#    export are answered within 0.3 s; of many more, pass a sample of rows. Small objects are seen
#    with ``crop=True``::
#
#        from torchvision.models import VGG16_Weights, vgg16
#
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        weights = VGG16_Weights.IMAGENET1K_V1
#        scenes = fetch_coco_val2017(categories=["car", "bus", "truck"])
#        loce = LoCETransformer(
#            TorchModel(vgg16(weights=weights)),
#            layer="features.28",
#            preprocess=weights,
#            memory="loces",
#        )
#
#    Images are read again for the thumbnails, from the paths in the table; the file needs them no
#    longer.
