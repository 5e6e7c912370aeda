"""
============================
A concept map in the browser
============================

Which image is behind a point of the map? A map of LoCEs shows clusters and stray points.
``to_html`` writes it as one file in which you point at a LoCE and see its image.
"""

# %%
# LoCEs, their quality and clusters
# ---------------------------------
# The layer is a middle one, early enough to represent colors. Each concept is split into two
# clusters, so that you can filter the map by them.

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
# The file contains pictures, scripts and styles, and loads nothing from the network, so you can
# send it by mail. It needs the extra ``html``, which installs Bokeh. UMAP places the points. With
# the transformer, every point also shows its projection and IoU.

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
        title="LoCEs of the package's scenes",
        random_state=0,
    )
    page = path.read_text(encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")

# %%
# The map
# -------
# - **Point** at a LoCE to see its image with the outline of the mask, and the projection.
# - **Click** a LoCE to list its nearest neighbors. They are nearest in all channels, not on the
#   map. Click the image to enlarge it.
# - **Box** and **Lasso** select many points and show their images.
# - **Save as CSV** saves the selected rows, or all rows that pass the filters, with the ids of the
#   annotations.
# - **Color and filter** the points by any column of the table. The search finds any text in it.
#
# The arrow keys, Space, Enter and Esc do the same. The address of the page contains its state, so
# you can send it to a colleague.
#
# In a notebook, ``IPython.display.IFrame("map.html", width="100%", height=700)`` shows the file. On
# this page, the small class below embeds it.

from html import escape


class Embedded:
    """A page of HTML inside another page."""

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
# ``ConceptMapDisplay`` draws such a map with Matplotlib, with the ellipses of Gaussian mixtures
# that are fitted to each concept in the plane. A concept with sub-concepts may form islands, as
# brick and plaster houses do. BIC chooses the number of components, which may differ from the
# number of sub-concepts.

from sklearn_loce.plotting import ConceptMapDisplay

display = ConceptMapDisplay.from_embeddings(embeddings, scenes.target, random_state=0)

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Only the table and the network change. With 5,000 points, selection, colors, search and export
#    take less than 0.3 s. With many more points, pass a sample of rows. ``crop=True`` shows small
#    objects::
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
#    ``to_html`` reads the images again for the thumbnails, from the paths in the table. The file
#    does not need them afterwards.
