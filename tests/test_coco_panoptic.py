"""load_coco_panoptic against a plain decoding of the colors."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sklearn_loce.datasets import load_coco_panoptic

SIZE = 24, 31
CATEGORIES = [{"id": 3, "name": "sky"}, {"id": 9, "name": "car"}, {"id": 7, "name": "tree"}]


def _draw_ids(ids, path):
    """Color segments by their ids."""
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    Image.fromarray(colors.astype(np.uint8)).save(path)


def _segments(seed):
    """Return ids of segments in blocks of noise, and their descriptions."""
    rng = np.random.default_rng(seed)
    numbers = [int(n) for n in rng.choice(256**3, 6, replace=False)]
    ids = np.kron(rng.choice([0, *numbers], (8, 8)), np.ones((3, 4), dtype=int))[:, : SIZE[1]]
    numbers = [n for n in numbers if (ids == n).any()]
    info = [
        {"id": n, "category_id": CATEGORIES[i % 3]["id"], "iscrowd": int(i == 4), "area": 1}
        for i, n in enumerate(numbers)
    ]
    return ids, info


@pytest.fixture
def tree(tmp_path):
    """Write two images; return the annotation file and {image id: ids}."""
    (tmp_path / "panoptic_val").mkdir()
    content, found = {"images": [], "categories": CATEGORIES, "annotations": []}, {}
    for key, name in ((20, "b"), (10, "a")):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / f"{name}.jpg")
        found[key], info = _segments(key)
        _draw_ids(found[key], tmp_path / "panoptic_val" / f"{name}.png")
        content["images"].append(
            {"id": key, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}
        )
        content["annotations"].append(
            {"image_id": key, "file_name": f"{name}.png", "segments_info": info}
        )
    path = tmp_path / "panoptic_val.json"
    path.write_text(json.dumps(content))
    return path, found


def _change(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _load(path, **how):
    return load_coco_panoptic(path, path.parent, **how)


def _decode(mask):
    return coco_mask.decode(mask).astype(bool)


def _expected(path, found):
    """Return [(image id, concept, segment id)], by image, category and position in the file."""
    content = json.loads(path.read_text())
    infos = {a["image_id"]: a["segments_info"] for a in content["annotations"]}
    return [
        (image["id"], category["name"], segment["id"])
        for image in content["images"]
        for category in CATEGORIES
        for segment in infos[image["id"]]
        if segment["category_id"] == category["id"]
    ]


def test_segments_follow_the_colors(tree):
    path, found = tree
    bunch = _load(path, merge_instances=False, keep=["iscrowd"])
    table = bunch.data
    rows = list(zip(table["image_id"], table["concept"], table["annotation_id"], strict=True))
    assert rows == _expected(path, found)
    for key, _, number, mask in zip(*zip(*rows, strict=True), table["mask"], strict=True):
        np.testing.assert_array_equal(_decode(mask), found[key] == number)
    assert table["image"].unique().tolist() == [str(path.parent / n) for n in ("b.jpg", "a.jpg")]
    assert bunch.target_names == ["sky", "car", "tree"]
    assert table["iscrowd"].sum() > 0
    assert len(_load(path, merge_instances=False, crowd="drop").data) < len(table)


def test_segments_of_a_concept_are_merged(tree):
    path, found = tree
    table = _load(path).data
    rows = _expected(path, found)
    for row in table.itertuples():
        numbers = [n for key, name, n in rows if (key, name) == (row.image_id, row.concept)]
        assert row.annotation_id == tuple(numbers)
        np.testing.assert_array_equal(_decode(row.mask), np.isin(found[row.image_id], numbers))


def test_shapes_and_categories_are_selected(tree):
    path, found = tree
    table = _load(path, categories=["car"], mask="rectangle", merge_instances=False).data
    assert set(table["concept"]) == {"car"}
    for row in table.itertuples():
        rows, columns = np.nonzero(found[row.image_id] == row.annotation_id)
        expected = np.zeros(SIZE, dtype=bool)
        expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        np.testing.assert_array_equal(_decode(row.mask), expected)


def test_the_folder_may_have_another_name(tree):
    path, _ = tree
    expected = _load(path).data
    path.with_suffix("").rename(path.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"b\.png do not exist"):
        _load(path)
    table = _load(path, segment_dir=path.parent / "elsewhere").data
    assert table.drop(columns="mask").equals(expected.drop(columns="mask"))


def test_a_segment_without_pixels_raises_an_error(tree):
    path, _ = tree
    extra = {"id": 5, "category_id": 3}
    _change(path, lambda c: c["annotations"][0]["segments_info"].append(extra))
    with pytest.raises(ValueError, match=r"\[5\] cover no pixel .*min_area=1"):
        _load(path, merge_instances=False)
    _load(path, merge_instances=False, min_area=1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["annotations"][0]["segments_info"].pop(), r"b\.png has the ids \[\d+\]"),
        (lambda c: c["annotations"][0].pop("segments_info"), r"lacks \['segments_info'\]"),
        (lambda c: c["annotations"][0].pop("file_name"), r"lacks \['file_name'\]"),
        (lambda c: c["annotations"][0].update(segments_info={}), "not a list"),
        (
            lambda c: c["annotations"][0].update(segments_info=[3]),
            r"segments_info\[0\] .*not an object",
        ),
        (lambda c: c["annotations"][0].update(file_name="../b.png"), "is outside"),
        (lambda c: c["annotations"][0].update(file_name=""), "names a folder"),
        (lambda c: c["annotations"][0].update(file_name="\0"), "without NUL"),
        (lambda c: c["annotations"][0].update(image_id=99), r"unknown image_id\(s\): \[99\]"),
        (
            lambda c: c["annotations"][0].update(image_id=10),
            "several annotations, 'b.png' and 'a.png'",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(id="x"),
            "an integer is expected",
        ),
        (
            lambda c: c["annotations"][0]["segments_info"][0].pop("category_id"),
            r"\['category_id'\]",
        ),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=99), r"\[99\]"),
        (
            lambda c: c["annotations"][0]["segments_info"].append(
                c["annotations"][0]["segments_info"][0]
            ),
            "several segments of the ids",
        ),
        (lambda c: c["images"][0].update(height=25), r"is \(24, 31\), but its image is \(25, 31\)"),
        (lambda c: c["images"][0].update(height=24.5), "positive integers"),
        (lambda c: c["images"].append({**c["images"][0], "file_name": "c.jpg"}), "is used for"),
        (lambda c: c["categories"].append({"id": 3, "name": "x"}), "is used for"),
        (lambda c: c.pop("categories"), r"lacks \['categories'\]"),
    ],
)
def test_errors_name_the_file(tree, change, match):
    path, _ = tree
    _change(path, change)
    with pytest.raises(ValueError, match=match) as error:
        _load(path)
    assert str(path.with_suffix("")) in str(error.value)


def test_errors_in_unused_annotations_do_not_stop_the_load(tree):
    path, found = tree
    rows = [row for row in _expected(path, found) if row[:2] == (20, "sky")]

    def spoil(content):
        content["annotations"][0]["segments_info"][1]["category_id"] = 99
        content["annotations"][1]["segments_info"] = [{"id": 1, "category_id": 99}]
        content["images"][1].update(height="x")

    _change(path, spoil)
    table = _load(path, categories=["sky"], merge_instances=False).data
    assert table["annotation_id"].tolist() == [number for *_, number in rows]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_segments_of_another_mode_raise_an_error(tree, mode):
    path, _ = tree
    Image.new(mode, SIZE[::-1]).save(path.with_suffix("") / "b.png")
    with pytest.raises(ValueError, match=rf"b\.png is an image of mode {mode}.*256 G"):
        _load(path)


def test_damaged_segments_raise_an_error(tree):
    path, _ = tree
    file = path.with_suffix("") / "b.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"b\.png can't be read as an image"):
        _load(path)


def test_missing_images_raise_an_error(tree):
    path, _ = tree
    for name in "ab":
        (path.parent / f"{name}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="none of the images"):
        _load(path)
