"""The way back from rows to the annotations in the file."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import crop_samples, load_coco, load_scene_model
from sklearn_loce.exceptions import FailedRowsError
from sklearn_loce.plotting import (
    ClusterGalleryDisplay,
    OutlierDisplay,
    ProjectionDisplay,
    RetrievalDisplay,
)
from sklearn_loce.segmentation import ConceptSegmenter

pytestmark = pytest.mark.usefixtures("no_figure_stays")

CARS, BUSES = 1, 2


@pytest.fixture
def file(tmp_path):
    """Write a COCO file: on each of 8 images two cars and a bus, with ids and scores."""
    images, annotations, rng = [], [], np.random.default_rng(0)
    for k in range(8):
        images.append({"id": k, "file_name": f"{k}.png", "height": 48, "width": 64})
        pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        for j, category in enumerate([CARS, CARS, BUSES]):
            left, top = 4 + 20 * j, 6 + 2 * k
            corners = [left, top, left + 14, top, left + 14, top + 12, left, top + 12]
            annotation = {"id": 1000 + 10 * k + j, "image_id": k, "category_id": category}
            more = {"segmentation": [corners], "score": round((k + j) / 16, 3)}
            annotations.append(annotation | more)
    names = [{"id": CARS, "name": "car"}, {"id": BUSES, "name": "bus"}]
    content = {"images": images, "annotations": annotations, "categories": names}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path / "instances.json"


@pytest.fixture
def table(file):
    return load_coco(file, file.parent, keep=["score"]).data


@pytest.fixture
def embeddings(table):
    return np.random.default_rng(1).normal(size=(len(table), 4))


@pytest.fixture
def loce():
    return LoCETransformer(TorchModel(load_scene_model), "features.2")


def ids_in_file(file, table):
    """Collect the ids of each row from the file itself, by image and category."""
    content = json.loads(file.read_text())
    codes = {name["name"]: name["id"] for name in content["categories"]}
    return [
        tuple(
            annotation["id"]
            for annotation in content["annotations"]
            if (annotation["image_id"], annotation["category_id"]) == (image_id, codes[concept])
        )
        for image_id, concept in zip(table["image_id"], table["concept"], strict=True)
    ]


def captions_of(display):
    """Return the captions of the tiles, in the order of the table."""
    tiles = [ax for ax in display.axes_.ravel() if ax.get_images()]
    if isinstance(display, ProjectionDisplay):
        tiles = tiles[len(display.table) :]
    return [ax.get_xlabel().split("\n") for ax in tiles]


DISPLAYS = {
    "retrieval": lambda X, table, **how: RetrievalDisplay.from_embeddings(
        X, table, queries=[0, 5], n_best=3, n_worst=1, **how
    ),
    "outliers": lambda X, table, **how: OutlierDisplay.from_embeddings(X, table, **how),
    "clusters": lambda X, table, **how: ClusterGalleryDisplay.from_embeddings(
        X, table, X.argmax(axis=1), **how
    ),
    "projections": lambda X, table, **how: ProjectionDisplay.from_estimator(
        _Blank(), table, X, rows=[3, 1, 14, 2], **how
    ),
}
every_display = pytest.mark.parametrize("kind", DISPLAYS)


class _Blank:
    def project(self, X, embeddings, *, layer, threshold):
        return [np.zeros((48, 64), dtype=np.float32) for _ in range(len(X))]


@every_display
def test_displays_keep_their_rows(kind, file, table, embeddings):
    table.index = [f"r{k}" for k in range(len(table))]
    display = DISPLAYS[kind](embeddings, table)
    shown = display.table
    positions = shown["position"].to_numpy()
    assert shown["annotation_id"].tolist() == ids_in_file(file, table.iloc[positions])
    assert shown.index.tolist() == table.index[positions].tolist()
    for name in ("concept", "image_id", "image", "score"):
        assert shown[name].tolist() == table[name].iloc[positions].tolist()
    assert "mask" not in shown
    assert len(shown) == len(captions_of(display))


def test_tables_have_the_results_of_displays(table, embeddings):
    embeddings[3] = np.nan
    found = DISPLAYS["retrieval"](embeddings, table)
    expected = np.column_stack([found.queries, found.matches])
    np.testing.assert_array_equal(found.table["position"], expected.ravel())
    np.testing.assert_array_equal(found.table["query"], [0] * 5 + [5] * 5)
    distances = found.table["distance"].to_numpy().reshape(2, 5)
    np.testing.assert_array_equal(distances[:, 1:], found.distances)
    assert np.isnan(distances[:, 0]).all()
    found = DISPLAYS["outliers"](embeddings, table)
    position, score = found.table["position"], found.table["outlier_score"]
    np.testing.assert_array_equal(score, found.scores[position])
    np.testing.assert_array_equal(found.table["outlier"], [True, *[False] * 5] * 2)
    assert found.table["score"].tolist() == table["score"].iloc[position].tolist()
    found = DISPLAYS["clusters"](embeddings, table)
    np.testing.assert_array_equal(found.table["position"], np.concatenate(found.rows))
    np.testing.assert_array_equal(found.table["distance"], np.concatenate(found.distances))
    sizes = [len(rows) for rows in found.rows]
    np.testing.assert_array_equal(found.table["cluster"], np.repeat(found.clusters, sizes))


def test_the_table_has_the_shown_concept(table, embeddings):
    y = np.array(["other", "name"])[np.arange(len(table)) % 2]
    shown = RetrievalDisplay.from_embeddings(embeddings, table, y, queries=0).table
    assert shown["concept"].tolist() == y[shown["position"]].tolist()


@pytest.mark.slow
@every_display
def test_captions_show_values_of_the_rows(kind, table, embeddings):
    table = table.assign(note=[None, 0.98765, 12.0, "a name"] * (len(table) // 4))
    written = {None: "none", 0.98765: "0.988", 12.0: "12", "a name": "a name"}
    columns = ["position", "annotation_id", "note"]
    before = captions_of(DISPLAYS[kind](embeddings, table))
    display = DISPLAYS[kind](embeddings, table, captions=columns)
    shown = display.table
    expected = [
        [str(position), ", ".join(map(str, ids)), written[note]]
        for position, ids, note in shown[columns].itertuples(index=False)
    ]
    found = captions_of(display)
    assert [lines[-3:] for lines in found] == expected
    assert [lines[:-3] for lines in found] == [[t for t in lines if t] for lines in before]
    display.plot(captions="annotation_id")
    assert [lines[-1] for lines in captions_of(display)] == [ids for _, ids, _ in expected]
    assert captions_of(display.plot()) == before
    with pytest.raises(ValueError, match=r"captions contains 'color', and the .*'position'"):
        display.plot(captions=["note", "color"])


@every_display
def test_captions_do_not_overlap(kind, table, embeddings):
    table = table.assign(annotation_id=[(10**9 + k,) * 9 for k in range(len(table))])
    display = DISPLAYS[kind](embeddings, table, captions=["annotation_id", "image"])
    figure = display.figure_
    figure.canvas.draw()
    boxes = [ax.xaxis.label.get_window_extent() for ax in display.axes_.ravel() if ax.axison]
    boxes = [box for box in boxes if box.height > 1]
    others = [ax.get_window_extent() for ax in display.axes_.ravel() if ax.axison]
    for k, box in enumerate(boxes):
        assert figure.bbox.x0 - 1 <= box.x0
        assert box.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 - 1 <= box.y0
        for other in [*boxes[:k], *others]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(width, height) <= 1.5


def test_captions_fit_without_a_layout(table, embeddings):
    _, ax = plt.subplots(figsize=(7, 7))
    columns = ["annotation_id", "score", "image_id"]
    display = DISPLAYS["outliers"](embeddings, table, captions=columns, ax=ax)
    display.figure_.canvas.draw()
    label = display.axes_[0, 0].xaxis.label.get_window_extent()
    (heading,) = display.axes_[1, 0].texts
    assert heading.get_window_extent().y1 < label.y0


def test_a_display_without_a_table_has_no_captions(table, embeddings):
    display = DISPLAYS["clusters"](embeddings, table)
    display.table = None
    assert display.plot() is display
    with pytest.raises(ValueError, match=r"captions contains 'score', and the columns of table"):
        display.plot(captions="score")


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (17, "row 1 (annotation 17)"),
        ("a b.png:3", "row 1 (annotation 'a b.png:3')"),
        ((4,), "row 1 (annotation 4)"),
        ((4, 7), "row 1 (annotations 4, 7)"),
        (np.array([4, 7]), "row 1 (annotations 4, 7)"),  # what a tuple is after parquet
        (tuple(range(8)), "row 1 (annotations 0, 1, 2, 3, 4 and 3 more)"),
        (("a", None), "row 1 (annotation 'a')"),
        (None, "row 1"),
        ((), "row 1"),
        (float("nan"), "row 1"),
    ],
)
def test_messages_name_annotations(table, loce, cell, name):
    broken = table.iloc[:2].copy()
    broken["annotation_id"] = pd.Series([(1,), cell], dtype=object)
    broken["image"] = [broken["image"][0], "missing.png"]
    with pytest.raises(FileNotFoundError) as caught:
        loce.fit(table).transform(broken)
    assert str(caught.value).startswith(f"{name}: the image 'missing.png'")
    with pytest.raises(FileNotFoundError) as caught:
        DISPLAYS["retrieval"](np.eye(9), pd.concat([broken, table[:7]]), captions=None)
    assert str(caught.value).startswith(f"{name}: ")


def test_an_index_and_annotations_are_both_named(table, loce):
    broken = table.set_index(table["image"].map(lambda path: path[-5:])).assign(mask=None)
    with pytest.raises(ValueError, match=r"^row 0 \(index '0.png', annotations 1000, 1001\): the"):
        loce.fit(broken)


@pytest.mark.parametrize("on_error", ["raise", "nan"])
def test_failed_rows_are_listed_with_their_annotations(file, table, loce, on_error, tmp_path):
    bad = [1, 6]
    broken = table.copy()
    broken.loc[bad, "mask"] = None
    loce.set_params(memory=tmp_path / "store", on_error=on_error).fit(table)
    expected = ids_in_file(file, table.iloc[bad])
    if on_error == "nan":
        ids = ", ".join(map(str, expected[0]))
        with pytest.warns(UserWarning, match=rf"2 of 16 rows failed.*annotations? {ids}"):
            loce.transform(broken)
        return
    with pytest.raises(FailedRowsError) as caught:
        loce.transform(broken)
    assert caught.value.failures["annotation_id"].tolist() == expected
    assert caught.value.failures["position"].tolist() == bad


def test_evaluate_lists_annotations(file, table, loce):
    expected = ids_in_file(file, table)
    frame = loce.set_params(layer=["features.1", "features.2"]).fit(table).evaluate(table)
    assert frame["annotation_id"].tolist() == [ids for ids in expected for _ in range(2)]
    bare = table.drop(columns="annotation_id")
    pd.testing.assert_frame_equal(loce.evaluate(bare), frame.drop(columns="annotation_id"))
    segmenter = ConceptSegmenter(loce.set_params(layer="features.2")).fit(table)
    assert segmenter.evaluate(table)["annotation_id"].tolist() == expected
    assert "annotation_id" not in segmenter.evaluate(bare)


def test_crops_keep_all_columns(table):
    crops = crop_samples(table, min_size=16)
    for name in ("annotation_id", "score", "n_instances", "concept", "image_id"):
        assert crops[name].tolist() == table[name].tolist()


@pytest.mark.slow
def test_a_wrong_label_is_corrected_in_the_file(file, table, embeddings):
    row = 4
    rest = table["concept"] == table["concept"][row]
    embeddings[rest] = [1.0, 0.0, 0.0, 0.0] + 0.01 * embeddings[rest]
    embeddings[row] = [0.0, 1.0, 0.0, 0.0]
    found = OutlierDisplay.from_embeddings(embeddings, table).table
    suspects = found[found["outlier"] & (found["concept"] == table["concept"][row])]
    (wrong,) = suspects["annotation_id"]
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        if annotation["id"] in wrong:
            annotation["category_id"] = BUSES if table["concept"][row] == "car" else CARS
    file.write_text(json.dumps(content))
    mended = load_coco(file, file.parent, merge_instances=False).data.set_index("annotation_id")
    before = table["concept"][row]
    assert (mended.loc[list(wrong), "concept"] != before).all()
    assert (mended["concept"] == before).sum() == (rest.sum() - 1) * len(wrong)
