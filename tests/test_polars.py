"""Tables, embeddings and labels of polars give the results of pandas."""

import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline

from sklearn_loce import LoCETransformer, MaskedMeanTransformer, TorchModel
from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.metrics import (
    compare_layers,
    confused_concepts,
    precision_at_k,
    purity_score,
    sub_concepts,
)
from sklearn_loce.mixture import ConceptGaussianMixture
from sklearn_loce.outliers import ConceptOutlierDetector
from sklearn_loce.plotting import (
    ChannelDisplay,
    ClusterGalleryDisplay,
    ConceptMapDisplay,
    OutlierDisplay,
    PrecisionAtKDisplay,
    ProjectionDisplay,
    RetrievalDisplay,
    to_html,
)
from sklearn_loce.segmentation import ConceptSegmenter

from .conftest import make_small_network

pl = pytest.importorskip("polars")

pytestmark = pytest.mark.usefixtures("no_figure_stays")

LOCE = LoCETransformer(TorchModel(make_small_network), "2")


def as_rle(mask):
    """Return the runs of a mask by column, beginning with background."""
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=False))
    return {"size": list(mask.shape), "counts": np.diff([0, *starts, flat.size]).tolist()}


@pytest.fixture
def tables(boxes, tmp_path):
    """Return the same table as one of pandas, and of polars with masks in each form."""
    boxes, paths = boxes.reset_index(drop=True), {}
    for i, image in enumerate(boxes["image"]):
        paths.setdefault(id(image), str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(paths[id(image)])
    for i, mask in enumerate(boxes["mask"]):
        Image.fromarray(mask).save(tmp_path / f"mask {i}.png")
    files = [paths[id(image)] for image in boxes["image"]]
    facts = {"image": files, "concept": boxes["concept"].tolist()}
    masks = {
        "rle": [as_rle(mask) for mask in boxes["mask"]],
        "lists": [mask.astype(int).tolist() for mask in boxes["mask"]],
        "paths": [str(tmp_path / f"mask {i}.png") for i in range(len(boxes))],
        "objects": pl.Series(boxes["mask"].tolist(), dtype=pl.Object),
    }
    ours = {name: pl.DataFrame(facts | {"mask": own}) for name, own in masks.items()}
    ours["pictures"] = ours["rle"].with_columns(
        image=pl.Series(boxes["image"].tolist(), dtype=pl.Object)
    )
    return pd.DataFrame(facts | {"mask": boxes["mask"]}), ours


@pytest.mark.parametrize("form", ["rle", "lists", "paths", "objects", "pictures"])
def test_masks_in_every_form_give_the_same_vectors(tables, form):
    table, ours = tables[0], tables[1][form]
    loce = clone(LOCE).fit(ours)
    assert_array_equal(loce.transform(ours), clone(LOCE).fit_transform(table))
    assert_array_equal(clone(LOCE).fit_transform(ours), loce.transform(table))
    assert_frame_equal(*(loce.evaluate(X, cv=2, flip=False) for X in (ours, table)))
    assert loce.score(ours) == loce.score(table)
    for ours_drawn, drawn in zip(loce.project(ours), loce.project(table), strict=True):
        assert_array_equal(ours_drawn, drawn)


def test_a_column_may_contain_arrays_of_images():
    rng = np.random.RandomState(0)
    images, masks = rng.randint(256, size=(2, 24, 32, 3)).astype(np.uint8), np.eye(24, 32) > 0
    columns = {
        "image": pl.Series(images, dtype=pl.Array(pl.UInt8, images.shape[1:])),
        "mask": pl.Series(np.stack([masks, masks]), dtype=pl.Array(pl.Boolean, masks.shape)),
    }
    expected = LOCE.fit_transform([(image, masks) for image in images])
    assert_array_equal(clone(LOCE).fit_transform(pl.DataFrame(columns)), expected)


def test_other_transformers_and_searches_accept_polars(tables):
    table, ours = tables[0], tables[1]["rle"]
    means = MaskedMeanTransformer(LOCE.model, "2")
    assert_array_equal(clone(means).fit_transform(ours), means.fit_transform(table))
    assert LOCE.precompute(ours) is LOCE
    scores = [cross_val_score(LOCE, X, cv=2) for X in (ours, table)]
    assert_array_equal(*scores)
    pipeline = make_pipeline(LOCE, ConceptAgglomerative())
    assert_array_equal(*(clone(pipeline).fit_predict(X, X["concept"]) for X in (ours, table)))


def test_set_output_accepts_polars(tables):
    table, ours = tables[0], tables[1]["rle"]
    loce = clone(LOCE).set_output(transform="polars").fit(ours)
    vectors = loce.transform(ours)
    assert isinstance(vectors, pl.DataFrame)
    assert vectors.columns == loce.get_feature_names_out().tolist()
    assert_array_equal(vectors.to_numpy(), LOCE.fit_transform(table))
    assert_frame_equal(loce.evaluate(ours, vectors), LOCE.evaluate(table, vectors.to_numpy()))


def test_segmenters_accept_polars(tables):
    table, ours = tables[0], tables[1]["rle"]
    for X, y in ((ours, None), (ours.drop("concept"), ours["concept"])):
        segmenter = ConceptSegmenter(LOCE).fit(X, y)
        assert_array_equal(segmenter.embeddings_, ConceptSegmenter(LOCE).fit(table).embeddings_)
        assert segmenter.score(X, y) == segmenter.score(table)
    drawn = segmenter.predict(ours[["image", "concept"]])
    for ours_drawn, expected in zip(drawn, segmenter.predict(table), strict=True):
        assert_array_equal(ours_drawn, expected)


def test_layers_are_compared_by_column(tables):
    table, ours = tables[0], tables[1]["rle"]
    how = {"layers": ["0", "2"], "metrics": ["separation", "iou"], "n_repeats": 2}
    found = [compare_layers(LOCE, X, random_state=0, **how) for X in (ours, table)]
    assert_frame_equal(*found)
    with pytest.raises(ValueError, match="'kind' is not a column of X, which has"):
        compare_layers(LOCE, ours, "kind", **how)


@pytest.fixture
def arrays():
    rng = np.random.RandomState(0)
    y = np.repeat(["bus", "car"], 12)
    return rng.normal(size=(24, 3)) + (y == "car")[:, None], y, np.arange(24) % 6


def compare_two(X, y, groups):
    how = {"k": 2, "n_repeats": 2, "random_state": 0}
    return compare_layers({"a": X, "b": X}, y, groups=groups, **how)["mean"].to_numpy()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["String", "Categorical"])
def test_metrics_and_estimators_accept_embeddings_and_labels(arrays, dtype):
    X, y, groups = arrays
    ours = pl.DataFrame(X), pl.Series(y, dtype=getattr(pl, dtype)), pl.Series(groups)
    for function in (
        lambda X, y, groups: precision_at_k(X, y, 2, groups=groups),
        lambda X, y, groups: confused_concepts(X, y, clusters=groups).to_numpy(),
        lambda X, y, groups: sub_concepts(X, y, groups).to_numpy(),
        lambda X, y, groups: purity_score(y, groups),
        lambda X, y, groups: compare_two(X, y, groups),
        lambda X, y, groups: ConceptAgglomerative().fit_predict(X, y),
        lambda X, y, groups: ConceptGaussianMixture(random_state=0).fit_predict(X, y),
        lambda X, y, groups: ConceptOutlierDetector().fit(X, y).score_samples(X, y),
        lambda X, y, groups: PrecisionAtKDisplay.from_embeddings(X, y, groups=groups).precision,
        lambda X, y, groups: ConceptMapDisplay.from_embeddings(X, y, embedding="pca").coordinates,
        lambda X, y, groups: ChannelDisplay.from_embeddings(X, y, group="car").weights,
    ):
        np.testing.assert_equal(function(*ours), function(X, y, groups))
    names = pl.DataFrame(X, schema=["a", "b", "c"])
    assert list(ChannelDisplay.from_embeddings(names).feature_names) == ["a", "b", "c"]


@pytest.mark.slow
def test_displays_accept_tables(tables, tmp_path):
    table, ours = tables[0], tables[1]["rle"]
    loce = clone(LOCE).fit(table)
    X, labels = loce.transform(table), [0, 1, 0, 1, 0]
    pages = []
    for samples in (ours, table):
        ProjectionDisplay.from_estimator(loce, samples, X)
        ClusterGalleryDisplay.from_embeddings(X, samples, labels)
        OutlierDisplay.from_embeddings(X, samples)
        RetrievalDisplay.from_estimator(loce, samples, queries=[0], n_best=2, n_worst=1)
        page = to_html(X, samples, tmp_path / "map.html", coordinates="pca", transformer=loce)
        pages.append(page.read_text())
    assert pages[0] == pages[1]


def test_the_error_explains_input_that_is_not_a_table(tables):
    ours = tables[1]["rle"]
    with pytest.raises(TypeError, match=r"LazyFrame of polars.* pass X.collect\(\)"):
        LOCE.fit(ours.lazy())
    with pytest.raises(TypeError, match="Series of polars"):
        LOCE.fit(ours["image"])
    with pytest.raises(ValueError, match=r"lacks the columns \['mask'\]"):
        LOCE.fit(ours.drop("mask"))
    pyarrow = pytest.importorskip("pyarrow")
    with pytest.raises(TypeError, match=r"of pandas or polars.*got Table. Pass X.to_pandas\(\)"):
        LOCE.fit(pyarrow.table({"image": ["a.png"], "mask": ["b.png"]}))


def test_polars_tables_need_no_pyarrow(tables, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    table, ours = tables[0], tables[1]["rle"]
    assert_array_equal(clone(LOCE).fit_transform(ours), LOCE.fit_transform(table))


def test_predictions_are_split_with_the_rows(tables):
    table, ours = tables[0], tables[1]["rle"]
    twice = pl.concat([ours, ours]), pd.concat([table, table], ignore_index=True)
    drawn = [cross_val_predict(ConceptSegmenter(LOCE), X, cv=2) for X in twice]
    for one, other in zip(*drawn, strict=True):
        assert_array_equal(one, other)
