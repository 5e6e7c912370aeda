import base64
import gzip
import hashlib
import re
import sys
from importlib import resources
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from sklearn_loce import LoCETransformer, TorchModel, plotting
from sklearn_loce._samples import table as _samples
from sklearn_loce.datasets import load_scene_model, make_scenes
from sklearn_loce.plotting import to_html
from sklearn_loce.plotting._html_page import SCRIPTS

from . import brute_force
from .concept_maps import (
    HOSTILE,
    FakeTransformer,
    Page,
    decode_picture,
    grid_coordinates,
    hostile_table,
    nearest,
    write_hostile_map,
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Return (page, embeddings, samples, path) of a map with hostile texts everywhere."""
    path = tmp_path_factory.mktemp("map") / "map.html"
    embeddings, samples = write_hostile_map(path)
    return Page(path), embeddings, samples, path


@pytest.fixture
def plain(tmp_path):
    """Return a function that writes a map of the table and reads it."""

    def write(n_rows=12, samples=None, embeddings=None, **how):
        samples = hostile_table(n_rows) if samples is None else samples
        if embeddings is None:
            embeddings = np.random.default_rng(0).normal(size=(len(samples), 4))
        how = {"coordinates": "pca"} | how
        return Page(to_html(embeddings, samples, tmp_path / "map.html", **how))

    return write


def plot_column(page, name):
    """Read a column of the points as Bokeh will."""
    found = []

    def search(value):
        if isinstance(value, dict):
            if value.get("name") == "ColumnDataSource" and value["attributes"]["name"] == "points":
                found.append(dict(value["attributes"]["data"]["entries"])[name])
            value = list(value.values())
        if isinstance(value, list):
            for part in value:
                search(part)

    search(page.plot)
    (column,) = found
    if isinstance(column, dict) and column["type"] == "ndarray":
        data = base64.b64decode(column["array"]["data"])
        is_compressed = data.startswith(b"\x1f\x8b")  # as newer versions of Bokeh do
        column = np.frombuffer(gzip.decompress(data) if is_compressed else data, column["dtype"])
    return column


# ---- Texts ----


def test_hostile_texts_come_through_as_they_are(hostile):
    page, _, samples, _ = hostile
    assert page.names("concepts") == samples["concept"].tolist()
    assert page.names("ids") == samples["image_id"].tolist()
    assert page.names("clusters") == [HOSTILE[i // 8] for i in range(24)]
    assert page.title == HOSTILE[2]


def test_hostile_texts_add_no_element(hostile, tmp_path):
    write_hostile_map(tmp_path / "tame.html", title="Map")
    text = (tmp_path / "tame.html").read_text(encoding="utf-8")
    assert not any(name in text for name in HOSTILE)
    assert hostile[0].tags == Page(tmp_path / "tame.html").tags
    assert hostile[0].tags.count("script") == 6


def test_only_the_page_s_own_scripts_may_run(hostile):
    page = hostile[0]
    hashes = [base64.b64encode(hashlib.sha256(p.encode()).digest()).decode() for p in page.programs]
    (allowed,) = re.findall(r"script-src ([^;]*);", page.policy)
    assert sorted(allowed.split()) == sorted(f"'sha256-{h}'" for h in hashes)
    assert len(hashes) == 4
    assert "default-src 'none'" in page.policy


def test_nothing_is_linked(hostile):
    page = hostile[0]
    links = {
        value
        for attributes in page.attributes
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data")
    }
    assert links == {"data:,", "#map"}
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_the_scripts_write_no_html():
    forbidden = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http:")
    for name in SCRIPTS:
        script = (resources.files(plotting) / "html" / name).read_text(encoding="utf-8")
        script = script.replace("http://www.w3.org/2000/svg", "")
        assert not [word for word in forbidden if word in script]


def test_file_names_that_are_no_text(plain):
    samples = hostile_table(4)
    ids = ["a", "b\udcff", "c", "d"]
    samples["image_id"] = pd.Series(ids, index=samples.index, dtype=object)
    assert plain(samples=samples).names("ids") == ["a", "b?", "c", "d"]


# ---- Numbers ----


def test_neighbours_are_those_of_brute_force(hostile):
    page, embeddings, _, _ = hostile
    order, distances = nearest(embeddings, 4)
    assert page.payload["neighbors"] == order
    np.testing.assert_allclose(page.payload["distances"], distances, rtol=1e-3)


def test_neighbours_by_another_metric(plain):
    X = np.array([[0.0, 0], [1, 0], [5, 0], [7, 0]])
    page = plain(4, embeddings=X, metric="euclidean", n_neighbors=1)
    assert page.payload["neighbors"] == [[1], [0], [3], [2]]
    assert page.payload["distances"] == [[1], [1], [2], [2]]


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "cityblock"])
def test_neighbours_are_of_other_groups(plain, metric):
    X = np.random.default_rng(0).normal(size=(12, 4))
    X[5] = np.nan
    kept, groups = np.delete(np.arange(12), 5), np.arange(12) // 5
    payload = plain(12, embeddings=X, n_neighbors=7, metric=metric, groups=groups).payload
    order = brute_force.candidates(X[kept], metric, groups[kept])
    # The groups of 5, 4 and 2 rows have 6, 7 and 9 rows beside them.
    assert payload["neighbors"] == [ranking[:7] for ranking in order]
    distances = brute_force.matrix(X[kept], metric)
    for i, found in enumerate(payload["distances"]):
        np.testing.assert_allclose(found, distances[i, order[i][:7]], rtol=1e-3)
    window = plain(12, embeddings=X, metric=metric, groups=np.arange(12), exclude=4).payload
    order = brute_force.candidates(X[kept], metric, is_out=lambda i, j: abs(kept[i] - kept[j]) <= 4)
    assert window["neighbors"] == [ranking[:10] for ranking in order]
    alone = plain(12, embeddings=X, groups=np.zeros(12)).payload
    assert alone["neighbors"] == alone["distances"] == [[]] * 11


def test_a_duplicate_is_a_neighbour_and_the_row_itself_is_not(plain):
    X = np.ones((5, 3))
    neighbours = plain(5, embeddings=X, coordinates=grid_coordinates(5)).payload["neighbors"]
    assert [sorted(row) for row in neighbours] == [
        [j for j in range(5) if j != i] for i in range(5)
    ]


def test_one_row_has_no_neighbours(plain):
    page = plain(1, coordinates=[[3.0, 4.0]])
    assert page.payload["neighbors"] == [[]]


def test_coordinates_are_the_given_ones(hostile):
    given = grid_coordinates(24)
    np.testing.assert_array_equal(plot_column(hostile[0], "x"), given[:, 0])
    np.testing.assert_array_equal(plot_column(hostile[0], "y"), given[:, 1])


def test_principal_components_are_those_of_the_svd(plain):
    X = np.random.default_rng(0).normal(size=(12, 4))
    page = plain(12, embeddings=X)
    centred = X - X.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    for name, expected, share in zip("xy", (u * s).T, s**2 / (s**2).sum(), strict=False):
        column = plot_column(page, name)
        np.testing.assert_allclose(np.abs(column), np.abs(expected), atol=1e-10)
        assert f"{100 * share:.0f} %" in page.payload["caption"]


@pytest.mark.slow
def test_umap_separates_planted_groups_and_is_the_same_again(tmp_path):
    rng = np.random.default_rng(0)
    X = np.repeat(np.eye(3) * 20, 8, axis=0) + rng.normal(size=(24, 3))
    texts = []
    for name in ("a.html", "b.html"):
        path = to_html(X, hostile_table(24), tmp_path / name, random_state=0)
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]
    places = np.column_stack([plot_column(Page(path), axis) for axis in "xy"])
    groups = places.reshape(3, 8, 2)
    centres = groups.mean(axis=1)
    spread = np.linalg.norm(groups - centres[:, None], axis=2).max()
    apart = min(np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert apart > 2 * spread


@pytest.mark.parametrize("how", ["umap", "pca"])
@pytest.mark.parametrize("n_features", [3, 40])
def test_page_and_figure_show_the_same_map(plain, how, n_features):
    X = np.random.default_rng(0).normal(size=(24, n_features))
    X[5] = np.nan
    page = plain(24, embeddings=X, coordinates=how, random_state=0)
    shown = plotting.ConceptMapDisplay.from_embeddings(
        X, embedding=how, mixture=None, random_state=0
    )
    plt.close(shown.figure_)
    for axis, column in zip("xy", shown.coordinates.T, strict=True):
        np.testing.assert_array_equal(plot_column(page, axis), column)
    assert page.payload["caption"] == f"Axes: {', '.join(shown.axis_names)}"


def test_rows_without_a_place_are_left_out_and_counted(plain):
    X = np.random.default_rng(0).normal(size=(10, 4))
    X[3], X[7, 1] = np.nan, np.inf
    coordinates = grid_coordinates(10)
    coordinates[0] = np.nan
    samples = hostile_table(10)
    page = plain(samples=samples, embeddings=X, coordinates=coordinates, n_neighbors=3)
    kept = [1, 2, 4, 5, 6, 8, 9]
    assert page.payload["row"] == kept
    assert page.payload["left_out"] == 3
    assert page.names("concepts") == samples["concept"].iloc[kept].tolist()
    assert page.payload["neighbors"] == nearest(X[kept], 3)[0]


def test_the_same_input_gives_the_same_file(hostile, tmp_path):
    write_hostile_map(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == hostile[3].read_bytes()


def test_styles_are_told_apart(plain):
    samples = hostile_table(20)
    samples["concept"] = [f"concept {i:02}" for i in range(20)]
    page = plain(samples=samples)
    styles = page.payload["concepts"]["styles"]
    assert len({tuple(style) for style in styles}) == 20
    assert plot_column(page, "marker") == [marker for _, marker, _ in styles]
    assert plot_column(page, "color") == [color for color, _, _ in styles]


# ---- Pictures ----


def test_images_are_shared_bounded_and_alike(hostile):
    page, _, samples, _ = hostile
    assert page.payload["image_of"] == [i % 8 for i in range(24)]
    assert len(page.payload["images"]) == 8
    for k, text in enumerate(page.payload["images"]):
        picture = decode_picture(text).astype(float)
        assert page.payload["sizes"][k] == [80, 60]  # never enlarged
        assert np.abs(picture - samples["image"][k]).mean() < 8


def test_thumbnail_size_bounds_the_longest_side(plain):
    page = plain(4, thumbnail_size=32)
    assert page.payload["sizes"] == [[32, 24]] * 4
    assert decode_picture(page.payload["images"][0]).shape == (24, 32, 3)


def test_every_image_is_decoded_once(plain, monkeypatch):
    read = []

    def counting(image):
        read.append(id(image))
        return image

    monkeypatch.setattr(_samples, "read_image", counting)
    plain(24)
    assert len(read) == len(set(read)) == 8


def fill(path, size):
    """Fill a path of the page, whose numbers all have signs; give which pixels' middles are in."""
    width, height = size
    y, x = np.mgrid[:height, :width] + 0.5
    middles, inside = np.column_stack([x.ravel(), y.ravel()]), np.zeros(width * height, dtype=bool)
    for line in filter(None, path.split("M")):
        start, steps = line.rstrip("z").split("l")
        first = np.array([int(n) for n in re.findall(r"[+-]\d+", start)])
        steps = np.array([int(n) for n in re.findall(r"[+-]\d+", steps)]).reshape(-1, 2)
        points = np.vstack([first, first + np.cumsum(steps, axis=0)]) / 10
        inside ^= Outline(points).contains_points(middles)  # a line within another is a hole's
    return inside.reshape(height, width)


def test_contours_enclose_the_masks(hostile):
    page, _, samples, _ = hostile
    for path, mask in zip(page.payload["contours"], samples["mask"], strict=True):
        np.testing.assert_array_equal(fill(path, (80, 60)), mask)


def test_contours_are_thinned_and_keep_to_their_masks(plain):
    samples = make_scenes(6, random_state=1, image_size=(120, 160)).data
    n_numbers = n_rim = 0
    for path, mask in zip(plain(samples=samples).payload["contours"], samples["mask"], strict=True):
        mask = coco_mask.decode(mask).astype(bool)
        rim = mask & ~ndimage.binary_erosion(mask)
        near = ndimage.binary_dilation(rim)
        wrong = fill(path, (160, 120)) != mask
        assert not (wrong & ~near).any()
        assert np.count_nonzero(wrong) <= 0.1 * np.count_nonzero(rim)
        n_numbers += path.count("+") + path.count("-")
        n_rim += np.count_nonzero(rim)
    assert n_numbers < n_rim  # two numbers would be needed for each pixel


def test_a_mask_below_a_pixel_has_a_contour_and_an_empty_one_none(plain):
    samples = hostile_table(3)
    tiny, empty = np.zeros((2, 60, 80), dtype=bool)
    tiny[30, 40] = True
    samples["mask"] = [tiny, empty, samples["mask"][2]]
    contours = plain(samples=samples, thumbnail_size=16).payload["contours"]
    assert contours[0].startswith("M")
    assert contours[1] == ""


def test_projections_light_up_what_they_cover(hostile):
    page, _, samples, _ = hostile
    for text, mask in zip(page.payload["projections"], samples["mask"], strict=True):
        picture = decode_picture(text)[..., 0] / 255
        expected = 0.25 + 0.75 * np.where(mask, 0.9, 0.1)
        expected[:, 0] = 0.25 + 0.75 * 0.9
        assert np.abs(picture - expected).mean() < 0.02


def test_without_a_transformer_there_are_no_projections_and_no_iou(plain):
    page = plain(4)
    assert page.payload["projections"] == [None] * 4
    assert page.payload["iou"] == [None] * 4


def test_iou_is_measured_from_the_projections(plain):
    samples = hostile_table(6)
    page = plain(samples=samples, transformer=FakeTransformer())
    areas = np.array([mask.sum() for mask in samples["mask"]])
    np.testing.assert_allclose(page.payload["iou"], areas / (areas + 60), rtol=1e-3)


def test_iou_is_what_the_transformer_evaluates(tmp_path):
    samples = make_scenes(3, random_state=0).data
    loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
    X = loce.fit_transform(samples)
    page = Page(to_html(X, samples, tmp_path / "map.html", coordinates="pca", transformer=loce))
    expected = loce.evaluate(samples, X)["iou"]
    np.testing.assert_allclose(page.payload["iou"], expected, rtol=1e-3)


def test_a_row_whose_projection_fails_has_none(plain):
    class Failing(FakeTransformer):
        def project(self, X, embeddings, **how):
            return [None, *super().project(X, embeddings, **how)[1:]]

    page = plain(4, transformer=Failing())
    assert page.payload["projections"][0] is None
    assert page.payload["iou"][0] is None
    assert None not in page.payload["iou"][1:]


def test_crop_shows_the_surroundings_of_each_mask(plain):
    samples = hostile_table(6, n_images=2)
    small = np.zeros((60, 80), dtype=bool)
    small[30:33, 40:44] = True
    samples["mask"] = [small, *samples["mask"][1:]]
    page = plain(samples=samples, crop=True, transformer=FakeTransformer())
    payload = page.payload
    assert sorted(payload["image_of"]) == [*range(6)]
    width, height = payload["sizes"][payload["image_of"][0]]
    assert (width, height) == (16, 12)  # a fifth of the image's sides
    inside = fill(payload["contours"][0], (width, height))
    assert inside.sum() == small.sum()
    picture = decode_picture(payload["images"][payload["image_of"][0]])
    assert picture.shape[:2] == (height, width)
    assert decode_picture(payload["projections"][0]).shape[:2] == (height, width)
    np.testing.assert_allclose(payload["iou"][0], 12 / (12 + 60), rtol=1e-3)  # of the whole image


def test_verbose_shows_progress(plain, capsys):
    plain(6)
    assert capsys.readouterr().err == ""
    plain(6, verbose=1)
    assert "6/6" in capsys.readouterr().err


def test_five_thousand_rows_stay_below_forty_megabytes(tmp_path):
    samples = make_scenes(40, random_state=0, image_size=(240, 320)).data
    samples = samples.groupby("image_id", as_index=False).head(1)  # the worst case
    sizes = []
    for table in (samples.iloc[:10], samples):
        X = np.random.default_rng(0).normal(size=(len(table), 4))
        path = to_html(X, table, tmp_path / "map.html", coordinates="pca")
        sizes.append(path.stat().st_size)
    per_row = (sizes[1] - sizes[0]) / (len(samples) - 10)
    assert sizes[1] + 5000 * per_row < 40e6


# ---- Tables ----


def test_pairs_have_one_concept_and_numbers_for_ids(plain):
    table = hostile_table(6, n_images=3)
    page = plain(samples=list(zip(table["image"], table["mask"], strict=True)), embeddings=None)
    assert page.names("concepts") == ["all rows"] * 6
    assert page.names("ids") == ["0", "1", "2", "0", "1", "2"]


def test_paths_are_ids_where_there_are_no_others(plain, tmp_path):
    table = hostile_table(4)
    names = ["<img src=x onerror=alert(1)>.png", "a'\"b.png", "{{c}}.png", "$d@{e}.png"]
    for name, image in zip(names, table["image"], strict=True):
        Image.fromarray(image).save(tmp_path / name)
    table["image"] = [tmp_path / name for name in names]
    page = plain(samples=table.drop(columns="image_id"))
    assert page.names("ids") == [str(tmp_path / name) for name in names]


def test_clusters_may_be_numbers_and_unrelated_indexes_play_no_part(plain):
    samples = hostile_table(4).set_index(pd.Index(["d", "c", "b", "a"]))
    X = np.random.default_rng(0).normal(size=(4, 3))
    X = pd.DataFrame(X, index=["e", "f", "g", "h"])
    page = plain(samples=samples, embeddings=X, clusters=pd.Series([10, -1, 2, 10]))
    assert page.payload["clusters"]["names"] == ["-1", "2", "10"]
    assert page.names("clusters") == ["10", "-1", "2", "10"]
    assert page.names("concepts") == samples["concept"].tolist()


def further_columns(page):
    """Return the texts of each further column of a page."""
    columns = page.payload["columns"]
    return {c["name"]: c.get("values") or [c["names"][k] for k in c["codes"]] for c in columns}


def test_further_columns_are_numbers_and_texts(plain):
    columns = {
        "score": [0.25, np.nan, None, 1 / 3],
        "ids": [(7, 9), [8], np.array([4, 5]), 6],  # an array is what a tuple is after parquet
        "when": pd.to_datetime(["2026-01-02", None, "2026-01-03", "2026-01-04"]),
        "file": [Path("a"), "b\udcff", None, pd.NA],
        "annotation_id": [1.0, 2.0, 123456789.0, np.nan],  # ints, of which one is missing
        "polygon": [[[1, 2]], {}, None, 3],
        "vector": list(np.random.default_rng(0).normal(size=(4, 50))),
    }
    table = hostile_table(4).drop(columns=[HOSTILE[1], "annotation_id"]).assign(**columns)
    found = further_columns(plain(samples=table))
    assert list(found) == ["annotation_id", "score", "ids", "when", "file"]
    assert found["annotation_id"] == ["1", "2", "123456789", ""]
    assert found["score"] == [0.25, None, None, 0.333333]
    assert found["ids"] == ["7, 9", "8", "4, 5", "6"]
    assert found["when"][:2] == ["2026-01-02 00:00:00", ""]
    assert found["file"] == ["a", "b?", "", ""]
    assert further_columns(plain(samples=table, columns=[])) == {}
    assert list(further_columns(plain(samples=table, columns=["vector", "ids"]))) == [
        *("vector", "ids")
    ]
    with pytest.raises(ValueError, match=r"columns contains 'polygon', whose values are not all"):
        plain(samples=table, columns=["polygon"])
    with pytest.raises(ValueError, match=r"columns contains 'color', but .* are \['score', 'ids'"):
        plain(samples=table, columns=["color"])


def test_numbers_stay_numbers_where_a_browser_can_count_them(plain):
    columns = {
        "whole": [2**53 - 1, -7, 0, 3],
        "large": [2**60 + 1, 1, 2, 3],
        "merged": [(0.5,), (1.5,), np.array([2.5]), [np.inf]],
        "flag": [True, False, True, True],
        "none": [None] * 4,
    }
    table = hostile_table(4).drop(columns=[HOSTILE[1], "annotation_id"]).assign(**columns)
    found = further_columns(plain(samples=table))
    assert found["whole"] == columns["whole"]
    assert found["large"] == [str(2**60 + 1), "1", "2", "3"]
    assert found["merged"] == [0.5, 1.5, 2.5, None]
    assert found["flag"] == ["True", "False", "True", "True"]
    assert found["none"] == [""] * 4


def test_blank_texts_get_a_name(plain):
    samples = hostile_table(4).assign(concept=["", "car", " ", ""], image_id=["", "a", "b", "c"])
    page = plain(samples=samples, clusters=["", "0", "1", "0"])
    assert page.names("concepts") == ["(no name)", "car", "(no name)", "(no name)"]
    assert page.names("clusters") == ["(no name)", "0", "1", "0"]
    assert page.names("ids") == ["(no name)", "a", "b", "c"]


# ---- Errors ----


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"embeddings": np.ones((5, 3))},
            "embeddings has 5 row.*samples has 6",
        ),
        ({"clusters": [0] * 7}, "clusters has 7 row.*samples has 6"),
        ({"iou": [0.5] * 2}, "iou has 2 row.*samples has 6"),
        ({"iou": [2.0] * 6}, r"values in \[0, 1\]"),
        ({"coordinates": np.ones((4, 2))}, "coordinates has 4 row"),
        ({"coordinates": np.ones((6, 3))}, r"shape \(n_samples, 2\), got \(6, 3\)"),
        ({"coordinates": "tsne"}, "'coordinates' parameter"),
        ({"embeddings": np.full((6, 3), np.nan)}, "None of the 6 rows is finite"),
        ({"embeddings": np.ones((6, 1))}, "'pca' needs at least 2 finite rows and 2 features"),
        ({"embeddings": np.ones((6, 3))}, "needs different rows, but the 6 finite rows are equal"),
        ({"clusters": np.zeros((6, 2))}, r"1d array, got an array of shape \(6, 2\)"),
        ({"n_neighbors": 0}, "'n_neighbors' parameter"),
        ({"thumbnail_size": 8}, "'thumbnail_size' parameter"),
        ({"transformer": object()}, "'transformer' parameter"),
    ],
)
def test_bad_input_is_named(plain, how, message):
    with pytest.raises(ValueError, match=message):
        plain(6, **how)


def test_umap_reports_how_many_rows_it_needs(plain):
    with pytest.raises(
        ValueError, match="'umap' needs at least 3 finite rows and 1 feature, got 2"
    ):
        plain(2, coordinates="umap")


def test_a_place_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere' does not exist"):
        to_html(np.ones((3, 2)), hostile_table(3), tmp_path / "nowhere" / "map.html")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        to_html(np.ones((3, 2)), hostile_table(3), tmp_path)


def test_a_failure_leaves_the_old_file_alone(plain, tmp_path):
    (tmp_path / "map.html").write_text("old")
    samples = hostile_table(4)
    samples["mask"] = [*samples["mask"][:3], np.ones((3, 3), dtype=bool)]
    with pytest.raises(ValueError, match="row 3: the mask is 3 x 3"):
        plain(samples=samples)
    assert [p.name for p in tmp_path.iterdir()] == ["map.html"]
    assert (tmp_path / "map.html").read_text() == "old"


def test_a_file_that_can_not_be_put_in_place_leaves_nothing(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_hostile_map(tmp_path / "map.html")
    assert list(tmp_path.iterdir()) == []


def test_missing_bokeh_names_the_extra(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-loce\[html\]"'):
        plain(4)


def test_the_input_is_left_alone(tmp_path):
    samples, X = hostile_table(6), np.ones((6, 3))
    before = samples.copy()
    X.flags.writeable = False
    to_html(X, samples, tmp_path / "map.html", coordinates=grid_coordinates(6))
    pd.testing.assert_frame_equal(samples, before)
