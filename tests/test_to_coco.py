"""Round trips of tables through COCO JSON and Parquet files."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import from_detections, load_coco, load_masks, to_coco

from .conftest import make_small_network

SIZE = 12, 16


@pytest.fixture
def path(tmp_path):
    """Three images in two folders; concepts of the first are not in the order of the categories."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for key, name in ((30, "z/b.png"), (10, "a.png"), (20, "z/c d.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        images.append({"id": key, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
    places = [(30, 2), (10, 2), (10, 1), (10, 2), (20, 3), (20, 1), (20, 1)]
    for i, (image, category) in enumerate(places):
        top, left = rng.integers(0, 6, 2).tolist()
        box = [left, top, left + 5, top, left + 5, top + 4, left, top + 4]
        annotation = {"id": 100 - i, "image_id": image, "category_id": category}
        annotations.append({**annotation, "segmentation": [box], "iscrowd": i % 2})
    for i in (0, 2, 3, 6):
        annotations[i]["score"] = i / 8
    annotations[3] |= {"tags": ["far", "dark"], "bbox": [1, 2, 3, 4]}
    path = tmp_path / "annotations.json"
    names = [{"id": i, "name": name} for i, name in ((3, "tree"), (1, "person"), (2, "car"))]
    path.write_text(json.dumps({"images": images, "categories": names, "annotations": annotations}))
    return path


def _plain(value):
    """Convert arrays and tuples to lists, as Parquet does, and NaN to None."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def _assert_same(found, expected):
    assert list(found.columns) == list(expected.columns)
    for name in expected:
        assert [*map(_plain, found[name])] == [*map(_plain, expected[name])], name


KEEP = ["score", "tags", "iscrowd", "bbox"]


@pytest.mark.parametrize("merge_instances", [True, False])
@pytest.mark.parametrize("keep", [[], KEEP])
def test_coco_json_gives_the_same_table(path, merge_instances, keep):
    how = {"merge_instances": merge_instances, "keep": keep}
    table = load_coco(path, path.parent, **how).data
    written = path.parent / "written.json"
    content = to_coco(table, written, image_dir=path.parent, keep=keep)
    assert json.loads(written.read_text()) == content
    for source in (written, content):
        found = load_coco(source, path.parent, **how).data
        pd.testing.assert_frame_equal(found, table)
    # A second round changes nothing.
    assert to_coco(found, image_dir=path.parent, keep=keep) == content


def test_other_tools_read_the_file(path):
    table = load_coco(path, path.parent).data
    written = path.parent / "written.json"
    to_coco(table, written)
    coco = COCO(str(written))
    assert {image["file_name"] for image in coco.imgs.values()} == {"a.png", "z/b.png", "z/c d.png"}
    annotations = coco.dataset["annotations"]
    assert len({a["id"] for a in annotations}) == len(table)
    for annotation, row in zip(annotations, table.itertuples(), strict=True):
        mask = coco_mask.decode(row.mask)
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        rows, columns = np.nonzero(mask)
        size = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert annotation["bbox"] == [columns.min(), rows.min(), *size]
        assert annotation["area"] == mask.sum()
        assert coco.cats[annotation["category_id"]]["name"] == row.concept
        ids = [part["id"] for part in annotation.get("merged", [annotation])]
        assert ids == list(row.annotation_id)


@pytest.mark.parametrize("merge_instances", [True, False])
def test_parquet_gives_the_same_table(path, merge_instances):
    """A table from Parquet works as X, and gives the same COCO JSON."""
    pytest.importorskip("pyarrow")
    how = {"merge_instances": merge_instances, "keep": ["score", "iscrowd"]}
    table = load_coco(path, path.parent, **how).data
    file = path.parent / "table.parquet"
    table.to_parquet(file)
    back = pd.read_parquet(file)
    _assert_same(back, table)
    loce = LoCETransformer(TorchModel(make_small_network()), "2").fit(table)
    np.testing.assert_array_equal(loce.transform(back), loce.transform(table))
    content = to_coco(table, keep=how["keep"])
    assert to_coco(back, keep=how["keep"]) == content
    pd.testing.assert_frame_equal(load_coco(content, path.parent, **how).data, table)


def test_shared_and_missing_ids_are_restored(path):
    content = json.loads(path.read_text())
    content["annotations"][0]["id"] = "x"
    content["annotations"][5]["id"] = content["annotations"][6]["id"] = 7
    content["annotations"][1].pop("id")
    how = {"merge_instances": False, "keep": ["tags"]}
    content["annotations"][5]["tags"] = ["one"]
    with pytest.warns(UserWarning, match=r"1 ids are used for several annotations, such as \[7\]"):
        table = load_coco(content, path.parent, **how).data
    written = to_coco(table, keep=["tags"])
    ids = [annotation["id"] for annotation in written["annotations"]]
    assert len(set(ids)) == len(ids) == 7
    pd.testing.assert_frame_equal(load_coco(written, path.parent, **how).data, table)


def test_tables_of_other_loaders_are_written(path):
    (path.parent / "masks").mkdir()
    rng = np.random.default_rng(1)
    for name in ("z/b.png", "z/c d.png"):
        ids = np.kron(rng.integers(0, 3, (3, 4)), np.ones((4, 4))).astype(np.uint8)
        Image.fromarray(ids).save(path.parent / "masks" / name.removeprefix("z/"))
    names = ["sky", "road", "car"]
    table = load_masks(path.parent / "z", path.parent / "masks", names, keep=["class_id"]).data
    found = load_coco(to_coco(table, keep=["class_id"]), path.parent / "z", keep=["class_id"]).data
    pd.testing.assert_frame_equal(found, table)

    image = path.parent / "a.png"
    masks = rng.random((3, *SIZE)) < 0.4
    result = {"masks": masks, "labels": [1, 2, 1], "scores": [0.5, 0.25, 1]}
    result = {key: np.array(value) for key, value in result.items()}
    how = {"class_names": names, "merge_instances": False}
    table = from_detections([str(image)], [result], **how).data
    content = to_coco(table, keep=["score"])
    found = load_coco(content, path.parent, merge_instances=False, keep=["score"]).data
    pd.testing.assert_frame_equal(found[table.columns], table)


def test_custom_tables_are_written(path):
    """Masks of every form, images named by paths alone; ids are counted."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[2:5, 3:9] = True
    Image.fromarray(mask).save(path.parent / "mask.png")
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    forms = [mask, Image.fromarray(mask), path.parent / "mask.png", rle, mask.tolist()]
    X = pd.DataFrame({"mask": forms, "concept": list("edcba")})
    X["image"], X["loss"] = path.parent / "a.png", 0.5
    content = to_coco(X, keep=["loss"])
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4, 5]
    table = load_coco(content, path.parent, merge_instances=False, keep=["loss"]).data
    assert table["concept"].tolist() == list("edcba")
    assert table["loss"].tolist() == [0.5] * 5
    assert table["image_id"].tolist() == [1] * 5
    for found in table["mask"]:
        np.testing.assert_array_equal(coco_mask.decode(found), mask)


def test_any_order_of_rows_is_restored(path):
    table = load_coco(path, path.parent).data
    mixed = pd.concat([table, table.iloc[::-1].assign(image_id=table["image_id"][::-1] + 1)])
    content = to_coco(mixed)
    assert len(load_coco(content, path.parent).data) == 2 * len(table)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"image": Image.new("RGB", (16, 12))},
            r"row 1 \(annotation 98\) has its image in memory.*image\.save",
        ),
        (
            {"image": np.zeros((12, 16, 3), dtype=np.uint8)},
            r"row 1 \(annotation 98\) has its image in memory",
        ),
        ({"image": "/elsewhere/a.png"}, "1 images are outside image_dir.*'/elsewhere/a.png'"),
        (
            {"image_id": 30},
            r"row 1 \(annotation 98\): the image id 30 is used for .*z/b\.png.*a\.png",
        ),
        ({"image_id": None}, r"row 1 \(annotation 98\): the image_id nan can't be written"),
        ({"concept": None}, r"row 1 \(annotation 98\): the concept .* can't be written"),
        ({"mask": np.zeros((3, 3), dtype=bool)}, "row .*: the image id 10 is used for"),
        (
            {"mask": {"size": [12, 16], "counts": [3]}},
            r"row 1 \(annotation 98\): the mask can't be read",
        ),
        ({"mask": "nowhere.png"}, r"row 1 \(annotation 98\): the mask can't be read"),
    ],
)
def test_rows_that_cannot_be_written_raise_errors(path, change, match):
    table = load_coco(path, path.parent).data
    (name, value), cells = next(iter(change.items())), table.to_dict("list")
    cells[name][1] = value
    written = path.parent / "written.json"
    with pytest.raises(ValueError, match=match):
        to_coco(pd.DataFrame(cells), written, image_dir=path.parent)
    assert not written.exists()


def test_columns_that_cannot_be_kept_raise_errors(path):
    table = load_coco(path, path.parent).data
    with pytest.raises(ValueError, match=r"keep names \['x'\]"):
        to_coco(table, keep=["x"])
    for name in ("area", "mask"):
        with pytest.raises(ValueError, match=rf"keep names \['{name}'\], which the format"):
            to_coco(table, keep=[name])
    with pytest.raises(ValueError, match=r"keep names \['id'\], which the format"):
        to_coco(table.assign(id=1), keep=["id"])
    with pytest.raises(ValueError, match="lacks the column 'concept'"):
        to_coco(table.drop(columns="concept"))
    written = path.parent / "written.json"
    with pytest.raises(ValueError, match=r"keep names can't be written as JSON: .*Timestamp"):
        to_coco(table.assign(when=pd.Timestamp("2026-01-01")), written, keep=["when"])
    assert not written.exists()


def test_images_with_another_size_than_their_entry_raise_an_error(path):
    """The table is made without the images; the error of a later read has both sizes."""
    Image.new("RGB", (16, 13)).save(path.parent / "a.png")
    table = load_coco(path, path.parent).data
    loce = LoCETransformer(TorchModel(make_small_network()), "2")
    with pytest.raises(
        ValueError, match=r"the mask is 12 x 16, but the image .*a\.png' is 13 x 16"
    ):
        loce.fit_transform(table)
