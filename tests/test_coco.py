import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from sklearn.utils import Bunch

from sklearn_loce.datasets import load_coco

SIZE = 40, 60


def _draw(polygon):
    """Rasterize a polygon with another library."""
    picture = Image.new("1", SIZE[::-1])
    ImageDraw.Draw(picture).polygon(polygon, fill=1)
    return np.asarray(picture)


def _decode(rle):
    return coco_mask.decode(rle).astype(bool)


def _uncompressed(mask):
    flat = mask.ravel("F").astype(np.int8)
    edges = np.flatnonzero(np.diff(np.r_[0, flat])) if flat.any() else []
    bounds = np.r_[0, edges, flat.size]
    return {"size": list(mask.shape), "counts": np.diff(bounds).astype(int).tolist()}


def _block(top, left, height, width):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


CAR_A, CAR_B = _block(4, 5, 10, 12), _block(20, 30, 8, 20)
CROWD, SPOT = _block(0, 0, 5, 60), _block(39, 59, 1, 1)


@pytest.fixture
def folder(tmp_path):
    """Two images; polygon, uncompressed and compressed masks; a crowd and a one-pixel object."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / name)
    compressed = coco_mask.encode(np.asfortranarray(CAR_B.astype(np.uint8)))
    content = {
        "images": [
            {"id": 11, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 5, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        "categories": [{"id": 7, "name": "person"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 2, "segmentation": _uncompressed(CAR_A)},
            {
                "id": 2,
                "image_id": 11,
                "category_id": 2,
                "segmentation": [[5, 4, 17, 4, 17, 14, 5, 14]],
            },
            {
                "id": 3,
                "image_id": 11,
                "category_id": 2,
                "segmentation": {"size": list(SIZE), "counts": compressed["counts"].decode()},
            },
            {
                "id": 4,
                "image_id": 11,
                "category_id": 7,
                "segmentation": _uncompressed(CROWD),
                "iscrowd": 1,
            },
            {"id": 5, "image_id": 5, "category_id": 7, "segmentation": _uncompressed(SPOT)},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def _load(folder, **parameters):
    return load_coco(folder / "instances.json", folder, **parameters)


def _rewrite(folder, change):
    path = folder / "instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_instances_of_a_concept_are_merged(folder):
    bunch = _load(folder)
    assert isinstance(bunch, Bunch)
    assert list(bunch.data.columns) == [
        "image",
        "mask",
        "concept",
        "image_id",
        "area",
        "n_instances",
        "annotation_id",
    ]
    assert list(zip(bunch.groups, bunch.target, strict=True)) == [
        (11, "person"),
        (11, "car"),
        (5, "person"),
        (5, "car"),
    ]
    assert bunch.data["n_instances"].tolist() == [1, 2, 1, 1]
    np.testing.assert_array_equal(_decode(bunch.data["mask"][0]), CROWD)
    np.testing.assert_array_equal(_decode(bunch.data["mask"][1]), CAR_A | CAR_B)
    np.testing.assert_array_equal(_decode(bunch.data["mask"][2]), SPOT)
    np.testing.assert_array_equal(_decode(bunch.data["mask"][3]), CAR_A)
    areas = [mask.mean() for mask in (CROWD, CAR_A | CAR_B, SPOT, CAR_A)]
    np.testing.assert_allclose(bunch.data["area"], areas)
    assert bunch.target_names == ["person", "car"]
    assert "car: 2" in bunch.DESCR
    assert bunch.data["image"][0] == str(folder / "a.png")


def test_instances_stay_separate_without_merging(folder):
    data, target = _load(folder, merge_instances=False, return_X_y=True)
    assert target.tolist() == ["person", "car", "car", "person", "car"]
    masks = [_decode(mask) for mask in data["mask"]]
    np.testing.assert_array_equal(masks[1], CAR_A)
    np.testing.assert_array_equal(masks[2], CAR_B)


def test_slanted_polygons_match_another_rasterizer(folder):
    polygon = [8, 3, 50, 12, 30, 36]

    def slant(content):
        content["annotations"][1]["segmentation"] = [polygon]

    _rewrite(folder, slant)
    mask = _decode(_load(folder, merge_instances=False).data["mask"][1])
    drawn = _draw(polygon)
    # Rasterizers may differ by a pixel along the outline.
    assert (mask & drawn).sum() / (mask | drawn).sum() > 0.9


def test_categories_and_areas_select_rows(folder):
    assert _load(folder, categories=["car"]).target_names == ["car"]
    assert _load(folder, crowd="drop").groups.tolist() == [11, 5, 5]
    assert _load(folder, min_area=2).target.tolist() == ["person", "car", "car"]
    assert _load(folder, min_area=0.1).target.tolist() == ["person", "car"]


def test_rectangles_and_ellipses_are_made_per_instance(folder):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    rectangle = _decode(_load(folder, mask="rectangle").data["mask"][1])
    np.testing.assert_array_equal(rectangle, CAR_A | CAR_B)
    ellipse = _decode(_load(folder, mask="ellipse").data["mask"][1])
    inside_a = ((rows - 8.5) / 5) ** 2 + ((columns - 10.5) / 6) ** 2 <= 1
    inside_b = ((rows - 23.5) / 4) ** 2 + ((columns - 39.5) / 10) ** 2 <= 1
    np.testing.assert_array_equal(ellipse, inside_a | inside_b)
    spot = _load(folder, mask="rectangle").data["mask"][2]
    np.testing.assert_array_equal(_decode(spot), SPOT)


def test_fields_of_annotations_are_kept(folder):
    def add_scores(content):
        for annotation in content["annotations"][1:]:
            annotation["score"] = annotation["id"] / 10

    _rewrite(folder, add_scores)
    merged = _load(folder, keep=["score"]).data
    assert merged["annotation_id"].tolist() == [(4,), (2, 3), (5,), (1,)]
    assert merged["score"].tolist() == [(0.4,), (0.2, 0.3), (0.5,), (None,)]
    apart = _load(folder, keep=["score", "iscrowd"], merge_instances=False).data
    assert apart["annotation_id"].tolist() == [4, 2, 3, 5, 1]
    assert apart["score"].tolist()[:4] == [0.4, 0.2, 0.3, 0.5]
    assert np.isnan(apart["score"][4])
    assert apart["iscrowd"].tolist()[0] == 1
    with pytest.raises(ValueError, match=r"no annotation has the fields \['scores'\].*'score'"):
        _load(folder, keep=["scores"])
    with pytest.raises(ValueError, match=r"none of the table's own columns .*\['area'\]"):
        _load(folder, keep=["area", "score"])


@pytest.mark.parametrize(
    "parameters",
    [{"crowd": "only"}, {"mask": "box"}, {"min_area": -1}, {"min_area": 1.5}, {"categories": 3}],
)
def test_parameters_are_validated(folder, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        _load(folder, **parameters)


def test_camvid_is_read_completely(camvid):
    assert len(camvid.target_names) == 11
    assert len(camvid.data) == 975
    assert len(np.unique(camvid.groups)) == 99
    assert camvid.data["n_instances"].sum() == 1804
    shares = camvid.data.groupby("image_id")["area"].sum()
    # Every pixel has at most one label, but polygons may overlap along their outlines.
    assert shares.max() < 1.02
