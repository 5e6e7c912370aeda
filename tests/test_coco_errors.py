"""Errors of load_coco for invalid files."""

import json
from copy import deepcopy

import pytest

from sklearn_loce.datasets import load_coco

from .dataset_trees import coco_content, make_coco_tree


@pytest.fixture
def path(tmp_path):
    return make_coco_tree(tmp_path)


def _write(path, change):
    """Change the file's content in place."""
    content = deepcopy(coco_content())
    change(content)
    path.write_text(json.dumps(content))


def _segment(path, segmentation):
    """Change the outline of the first annotation."""
    _write(path, lambda content: content["annotations"][0].update(segmentation=segmentation))


def _raises(path, match):
    """Expect a ValueError that names the file."""
    with pytest.raises(ValueError, match=match) as error:
        load_coco(path, path.parent)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_json_raises_an_error(path, share):
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    _raises(path, "not a whole JSON file")


@pytest.mark.parametrize("content", [[], {}, "text", 1, {"images": [], "categories": []}])
def test_json_of_another_format_raises_an_error(path, content):
    path.write_text(json.dumps(content))
    _raises(path, "not in COCO format: it lacks")


@pytest.mark.parametrize("table", ["images", "categories", "annotations"])
@pytest.mark.parametrize("value", [None, {}, 3])
def test_a_section_that_is_not_a_list_raises_an_error(path, table, value):
    _write(path, lambda content: content.update({table: value}))
    _raises(path, f"'{table}' is not a list")


@pytest.mark.parametrize(
    ("table", "key"),
    [
        *(("images", key) for key in ("id", "file_name", "height", "width")),
        *(("categories", key) for key in ("id", "name")),
        *(("annotations", key) for key in ("image_id", "category_id")),
    ],
)
def test_an_entry_without_a_key_raises_an_error(path, table, key):
    _write(path, lambda content: content[table][-1].pop(key))
    _raises(path, rf"{table}\[\d\] .* lacks \['{key}'\]")


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("images", "id", []),
        ("images", "id", None),
        ("categories", "id", {}),
        *(("categories", "name", value) for value in (None, ["car"], 3)),
        ("annotations", "image_id", [1]),
        ("annotations", "category_id", {"a": 1}),
    ],
)
def test_ids_and_names_of_another_type_raise_an_error(path, table, key, value):
    _write(path, lambda content: content[table][0].update({key: value}))
    _raises(path, rf"{table}\[0\] has .*'{key}'")


@pytest.mark.parametrize("name", [None, 3, ["a"], {"a": 1}, "a\0.jpg"])
def test_invalid_file_names_raise_an_error(path, name):
    _write(path, lambda content: content["images"][0].update(file_name=name))
    _raises(path, "must be a string without NUL")


def test_an_entry_that_is_not_an_object_raises_an_error(path):
    _write(path, lambda content: content["annotations"].append("x"))
    _raises(path, r"annotations\[3\]")


def test_an_annotation_without_mask_and_box_raises_an_error(path):
    _write(path, lambda content: content["annotations"][0].pop("segmentation"))
    _raises(path, "annotation 11 .* neither a 'segmentation' nor a 'bbox'")


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_an_unknown_id_raises_an_error(path, key):
    _write(path, lambda content: content["annotations"][0].update({key: 99}))
    _raises(path, rf"unknown {key}\(s\): \[99\]")


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        None,
        [[3, 3, 3, 3, 3, 3]],
        [[3, 3, 4, 4]],
        [[]],
        {"size": [6, 8], "counts": [48]},
        [[20, 20, 24, 20, 24, 24]],
    ],
    ids=["none", "null", "a point", "a line", "no corner", "empty RLE", "off the image"],
)
def test_an_empty_object_raises_an_error(path, segmentation):
    _segment(path, segmentation)
    _raises(path, r"annotations \[11\] cover no pixel .*min_area=1")
    kept = load_coco(path, path.parent, min_area=1).data
    assert kept[["image_id", "concept"]].to_numpy().tolist() == [[1, "person"], [2, "car"]]


def test_an_empty_object_is_merged_with_others_of_its_concept(path):
    def change(content):
        empty = {**content["annotations"][0], "id": 14, "segmentation": []}
        content["annotations"].append(empty)

    _write(path, change)
    assert load_coco(path, path.parent).data["area"].tolist() == [4 / 48, 12 / 48, 12 / 48]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[0, 0, 4, 0, 4, 3, 0]],
        [[0, 0, 4, float("nan"), 4, 3]],
        [[0, 0, 4, float("inf"), 4, 3]],
        [["a", 0, 4, 0, 4, 3]],
        {"size": [6, 8], "counts": [1, 2]},
        {"size": [6, 8], "counts": [50, -2]},
        {"counts": [48]},
        "text",
        7,
    ],
)
def test_an_invalid_segmentation_raises_an_error(path, segmentation):
    _segment(path, segmentation)
    _raises(path, "annotation 11 can't be read")


def test_a_mask_with_another_size_than_its_image_raises_an_error(path):
    _segment(path, {"size": [8, 6], "counts": [24, 24]})
    _raises(path, r"annotation 11 .* is a mask of \[8, 6\], but its image is \[6, 8\]")


@pytest.mark.parametrize(("height", "width"), [(0, 8), (6, 0), (-6, 8), (None, 8), ("six", 8)])
def test_an_image_without_a_size_raises_an_error(path, height, width):
    _write(path, lambda content: content["images"][0].update(height=height, width=width))
    _raises(path, "'000001.jpg' has height .* both must be positive")


@pytest.mark.parametrize("value", ["1e400", "-1e400", "NaN", "1" * 300, "[6]"])
def test_invalid_sizes_raise_an_error(path, value):
    path.write_text(path.read_text().replace('"height": 6', f'"height": {value}', 1))
    _raises(path, "height|larger than the limit|mask of")


def test_an_unknown_category_raises_an_error_with_close_names(path):
    with pytest.raises(ValueError, match=r"no category 'cars'.*Close names: \['car'"):
        load_coco(path, path.parent, categories=["cars"])


def test_an_empty_selection_raises_an_error(path):
    with pytest.raises(ValueError, match="no annotation is left"):
        load_coco(path, path.parent, min_area=0.9)


def test_missing_files_and_folders_raise_errors(path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_coco(path.with_name("nowhere.json"), path.parent)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_coco(path, path.with_name("nowhere"))
    empty = path.parent / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="none of the images"):
        load_coco(path, empty)
