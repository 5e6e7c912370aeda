"""load_voc compared with masks that are built pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sklearn_loce.datasets import load_voc

from .dataset_trees import DOG, PERSON, VOID, make_voc_tree, planted_voc_image, save_palette_png

CLASSES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]


def _random_image(rng, height, width):
    """Blocks of random classes, objects and void, which need not agree with each other."""
    shape = -(-height // 4), -(-width // 4)
    classes = rng.choice([0, 1, 12, 15, 20, VOID], shape)
    objects = rng.choice([0, 1, 2, 3, VOID], shape)
    grow = np.ones((4, 4), dtype=int)
    return tuple(
        np.kron(part, grow)[:height, :width].astype(np.uint8) for part in (classes, objects)
    )


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    sizes = {"2007_000002": (23, 17), "2007_000003": (16, 40), "2007_000004": (1, 9)}
    drawn = {name: _random_image(rng, *size) for name, size in sizes.items()}
    return {"2007_000009": planted_voc_image(), **drawn}


@pytest.fixture
def tree(tmp_path, images):
    splits = {"train": list(images)[1:], "val": list(images)[:1], "trainval": list(images)}
    make_voc_tree(tmp_path, images, splits)
    return tmp_path


def _masks(data):
    return [coco_mask.decode(rle).astype(bool) for rle in data["mask"]]


def _expected_rows(images):
    """Yield (name, class, {object: mask}) in the order of lists and class ids."""
    for name, (classes, objects) in images.items():
        for label in range(1, 21):
            found = {}
            for i, j in np.ndindex(classes.shape):
                if classes[i, j] == label and objects[i, j] != VOID:
                    mask = found.setdefault(objects[i, j], np.zeros(classes.shape, dtype=bool))
                    mask[i, j] = True
            if found:
                yield name, CLASSES[label - 1], dict(sorted(found.items()))


def test_rows_follow_the_definition(tree, images):
    table = load_voc(tree)
    expected = list(_expected_rows(images))
    got = table.data[["image_id", "concept", "n_instances"]].to_numpy().tolist()
    assert got == [[name, concept, len(found)] for name, concept, found in expected]
    for mask, (*_, found) in zip(_masks(table.data), expected, strict=True):
        np.testing.assert_array_equal(mask, np.any(list(found.values()), axis=0))
    assert table.data["area"].tolist() == [mask.mean() for mask in _masks(table.data)]
    assert table.target_names == CLASSES
    assert table.target.tolist() == table.data["concept"].tolist()
    assert table.groups.tolist() == table.data["image_id"].tolist()


def test_instances_follow_the_definition(tree, images):
    data = load_voc(tree, merge_instances=False).data
    expected = [
        (name, concept, mask)
        for name, concept, found in _expected_rows(images)
        for mask in found.values()
    ]
    assert data[["image_id", "concept"]].to_numpy().tolist() == [[n, c] for n, c, _ in expected]
    assert (data["n_instances"] == 1).all()
    for mask, (*_, planted) in zip(_masks(data), expected, strict=True):
        np.testing.assert_array_equal(mask, planted)


def test_masks_exclude_void(tree):
    data = load_voc(tree, "val").data
    classes, _ = planted_voc_image()
    covered = np.any(_masks(data), axis=0)
    np.testing.assert_array_equal(covered, np.isin(classes, (PERSON, DOG)))
    assert not covered[classes == VOID].any()
    assert data["concept"].tolist() == ["dog", "person"]


def test_rectangles_are_made_per_instance(tree):
    data = load_voc(tree, "val", mask="rectangle", categories=["person"]).data
    classes, _ = planted_voc_image()
    # The planted persons are rectangles, with a gap that one box would fill.
    np.testing.assert_array_equal(_masks(data)[0], classes == PERSON)


@pytest.mark.parametrize("inner", [".", "VOC2012", "VOCdevkit/VOC2012"])
def test_the_root_may_contain_the_tree(tmp_path, images, inner):
    make_voc_tree(tmp_path / inner, images, {"trainval": images})
    data = load_voc(tmp_path).data
    assert all(Path(path).is_file() for path in data["image"])


def test_a_custom_split_is_read(tree):
    (tree / "ImageSets" / "Segmentation" / "mine.txt").write_text("2007_000009\n\n")
    assert load_voc(tree, "mine").data["image_id"].unique().tolist() == ["2007_000009"]


def test_min_area_equals_a_filter_in_pandas(tree):
    everything = load_voc(tree).data
    for min_area, kept in (
        (40, everything["area"] * _pixels(everything) >= 40),
        (0.1, everything["area"] >= 0.1),
    ):
        assert 0 < kept.sum() < len(kept)
        some = load_voc(tree, min_area=min_area).data
        assert some.equals(everything[kept].reset_index(drop=True))


def _pixels(data):
    return np.array([np.prod(rle["size"]) for rle in data["mask"]])


def test_return_X_y_returns_a_pair(tree):  # noqa: N802 - as the parameter
    data, target = load_voc(tree, return_X_y=True)
    assert target.tolist() == data["concept"].tolist()


@pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationObject"])
def test_an_image_without_its_mask_raises_an_error(tree, folder):
    path = tree / folder / "2007_000003.png"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 file\(s\) are missing") as error:
        load_voc(tree)
    assert str(path) in str(error.value)
    assert str(tree / "ImageSets" / "Segmentation" / "trainval.txt") in str(error.value)


def test_a_mask_without_its_image_raises_an_error(tree):
    (tree / "JPEGImages" / "2007_000003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"JPEGImages.2007_000003\.jpg"):
        load_voc(tree, "train")
    load_voc(tree, "val")


def test_an_unknown_id_raises_an_error(tree):
    classes, _ = planted_voc_image()
    classes[0, 0] = 21
    path = tree / "SegmentationClass" / "2007_000009.png"
    save_palette_png(classes, path)
    with pytest.raises(ValueError, match=r"has the ids \[21\]") as error:
        load_voc(tree)
    assert str(path) in str(error.value)


def test_a_mask_in_colors_raises_an_error(tree):
    path = tree / "SegmentationClass" / "2007_000009.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(ValueError, match=r"has colors, such as #.* but no ids") as error:
        load_voc(tree)
    assert str(path) in str(error.value)


def test_masks_of_two_sizes_raise_an_error(tree):
    path = tree / "SegmentationObject" / "2007_000009.png"
    save_palette_png(np.ones((19, 30)), path)
    with pytest.raises(ValueError, match=r"\(20, 30\), but .* is \(19, 30\)") as error:
        load_voc(tree)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_a_truncated_mask_raises_an_error(tree, share):
    path = tree / "SegmentationClass" / "2007_000003.png"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="can't be read as an image") as error:
        load_voc(tree)
    assert str(path) in str(error.value)


def test_a_missing_tree_raises_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder 'SegmentationClass'"):
        load_voc(tmp_path)


def test_an_unknown_split_raises_an_error(tree):
    with pytest.raises(FileNotFoundError, match=r"no split 'test'.*\['train', 'trainval', 'val'\]"):
        load_voc(tree, "test")


def test_an_unknown_category_raises_an_error(tree):
    with pytest.raises(ValueError, match=r"no category 'tv'.*tvmonitor"):
        load_voc(tree, categories=["tv"])


def test_an_empty_selection_raises_an_error(tree):
    with pytest.raises(ValueError, match="no annotation is left"):
        load_voc(tree, categories=["sofa"])
