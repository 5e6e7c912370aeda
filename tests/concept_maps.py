"""A small concept map with hostile texts, and a parser of the pages."""

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
from PIL import Image

from sklearn_loce.plotting import to_html

from . import brute_force

# Texts as tags, attributes, templates and the ends of their elements.
HOSTILE = (
    "<script>window.hurt = 1</script>",
    '"><img src=x onerror="window.hurt = 1">',
    "</script><script>window.hurt = 1</script>",
    "$$x$$ {{ 7 * 7 }} {% raw %} @{x} $x ${window.hurt = 1} %s &amp; \\u003c",
    "'; window.hurt = 1; //\u2028",
    "<!--<script>",
)
COLUMNS = 6
SPACING = 2.0


def hostile_table(n_rows=24, n_images=8):
    """Draw a table of boxes on noise whose concepts, ids and further columns are hostile texts.

    Rows 0, n_images, ... share an image. The concepts come in turn.
    """
    rng = np.random.default_rng(0)
    images = []
    for k in range(n_images):
        image = np.full((60, 80, 3), 30 * k, dtype=np.uint8)
        image[:, :, k % 3] += rng.integers(0, 25, (60, 80), dtype=np.uint8)
        images.append(image)
    rows = []
    for i in range(n_rows):
        mask = np.zeros((60, 80), dtype=bool)
        mask[10 : 20 + i, 15 : 30 + i] = True
        image_id = f"{i % n_images} {HOSTILE[i % n_images % len(HOSTILE)]}"
        ids = tuple(f"{i}.{k} {HOSTILE[k]}" for k in range(i % 3))
        rows.append((images[i % n_images], mask, HOSTILE[i % len(HOSTILE)], image_id, ids, i / 8))
    columns = ["image", "mask", "concept", "image_id", "annotation_id", HOSTILE[1]]
    return pd.DataFrame(rows, columns=columns)


def grid_coordinates(n_rows):
    """Place points on a grid, row after row from the top, so that none hides another."""
    places = np.arange(n_rows)
    return SPACING * np.column_stack([places % COLUMNS, -(places // COLUMNS)])


def nearest(embeddings, k):
    """Return the k nearest other rows of each row, and their cosine distances."""
    order = [ranking[:k] for ranking in brute_force.rankings(embeddings, "cosine")]
    matrix = brute_force.matrix(embeddings, "cosine")
    return order, [[matrix[i, j] for j in row] for i, row in enumerate(order)]


class FakeTransformer:
    """Projects every mask at 0.9 inside and 0.1 outside, except for a wrong column."""

    def project(self, X, embeddings, *, layer, threshold):
        """Return probabilities, as a transformer does with ``threshold=None``."""
        if threshold is not None or len(X) != len(embeddings):
            raise ValueError("one row each, and probabilities")
        projections = [np.where(mask, 0.9, 0.1).astype(np.float32) for mask in X["mask"]]
        for projection in projections:
            projection[:, 0] = 0.9
        return projections


def write_hostile_map(path, n_rows=24, **how):
    """Write a map with all options; return (embeddings, samples)."""
    samples = hostile_table(n_rows)
    embeddings = np.random.default_rng(1).normal(size=(n_rows, 5))
    how = {
        "coordinates": grid_coordinates(n_rows),
        "clusters": [HOSTILE[i // 8 % len(HOSTILE)] for i in range(n_rows)],
        "iou": np.linspace(0, 1, n_rows),
        "transformer": FakeTransformer(),
        "n_neighbors": 4,
        "title": HOSTILE[2],
    } | how
    to_html(embeddings, samples, path, **how)
    return embeddings, samples


class _Elements(HTMLParser):
    """Collects the elements of a page, and the texts of its scripts and title."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts = [], [], []
        self._is_open = False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        self.texts.append("")
        self._is_open = True

    def handle_endtag(self, tag):
        self._is_open = False

    def handle_data(self, data):
        if self._is_open:
            self.texts[-1] += data


class Page:
    """The content of a page, from a parser of HTML and JSON.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path):
        elements = _Elements()
        elements.feed(path.read_text(encoding="utf-8"))
        elements.close()
        self.tags, self.attributes, texts = elements.tags, elements.attributes, elements.texts
        self.title = texts[self.tags.index("title")]
        (self.policy,) = (a["content"] for a in self.attributes if "http-equiv" in a)
        scripts = {}
        self.programs = []
        for tag, attributes, text in zip(self.tags, self.attributes, texts, strict=True):
            if tag == "script" and "type" in attributes:
                scripts[attributes["id"]] = json.loads(text)
            elif tag == "script":
                self.programs.append(text)
        (self.style,) = (text for tag, text in zip(self.tags, texts, strict=True) if tag == "style")
        self.plot, self.payload = scripts["plot"], scripts["payload"]

    def names(self, kind):
        """Return the text of each row's concept, cluster or image id."""
        group = self.payload[kind]
        return [group["names"][code] for code in group["codes"]]


def decode_picture(text):
    """Read a picture of the page as an array."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
