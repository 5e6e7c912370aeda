"""load_masks compared with COCO masks of the same scenes and with loops over pixels."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from sklearn_loce.datasets import load_masks

from .dataset_trees import save_palette_png

NAMES = ["sky", "tree", "road"]


def _blocks(rng, values, shape=(24, 36), side=4):
    small = rng.choice(values, (shape[0] // side, shape[1] // side))
    return np.kron(small, np.ones((side, side), dtype=int))


def _save(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint16 if ids.max() > 255 else np.uint8)).save(path)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    return {name: _blocks(rng, [0, 1, 2, 255]) for name in ("a", "b", "city/c")}


@pytest.fixture
def folders(tmp_path, arrays):
    """Images as JPEG and PNG, masks as PNG, one pair in a subfolder."""
    for name, ids in arrays.items():
        image = tmp_path / "images" / (f"{name}.png" if name == "b" else f"{name}.jpg")
        _save(image, ids)
        _save(tmp_path / "masks" / f"{name}.png", ids)
    return tmp_path / "images", tmp_path / "masks"


def _decode(rle):
    return coco_mask.decode(rle).astype(bool)


def test_masks_follow_the_ids(folders, arrays):
    table = load_masks(*folders, NAMES, ignore=[255])
    expected = [
        (name, NAMES[label], ids == label)
        for name, ids in arrays.items()
        for label in range(3)
        if (ids == label).any()
    ]
    got = table.data[["image_id", "concept"]].to_numpy().tolist()
    assert got == [[name, concept] for name, concept, _ in expected]
    for rle, area, (*_, mask) in zip(table.data["mask"], table.data["area"], expected, strict=True):
        np.testing.assert_array_equal(_decode(rle), mask)
        assert area == mask.mean()
    assert table.target_names == NAMES
    assert table.groups.tolist() == table.data["image_id"].tolist()
    for path in table.data["image"]:
        with Image.open(path) as image:
            assert image.size == (36, 24)


def test_a_mapping_equals_a_list_by_position(folders):
    from_list = load_masks(*folders, NAMES, ignore=[255]).data
    from_dict = load_masks(*folders, dict(enumerate(NAMES)), ignore=np.array([255])).data
    assert from_list.equals(from_dict)


def test_ids_of_one_name_are_one_concept(folders, arrays):
    names = {0: "sky", 2: "ground", 1: "ground"}
    data = load_masks(*folders, names, ignore=[255], categories=["ground"]).data
    for rle, ids in zip(data["mask"], arrays.values(), strict=True):
        np.testing.assert_array_equal(_decode(rle), np.isin(ids, (1, 2)))


def _flood(mask):
    """Collect the connected regions of a mask with a stack, including diagonal neighbors."""
    left, regions = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        stack, region = [left.pop()], np.zeros_like(mask)
        while stack:
            i, j = stack.pop()
            region[i, j] = True
            near = {(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)} & left
            left -= near
            stack += near
        regions.append(region)
    return regions


def _as_set(masks):
    return {mask.tobytes() for mask in masks}


def test_regions_are_instances(folders, arrays):
    split = load_masks(*folders, NAMES, ignore=[255], merge_instances=False).data
    merged = load_masks(*folders, NAMES, ignore=[255]).data
    for row in merged.itertuples():
        same = (split["image_id"] == row.image_id) & (split["concept"] == row.concept)
        regions = _flood(arrays[row.image_id] == NAMES.index(row.concept))
        assert row.n_instances == len(regions)
        assert _as_set(map(_decode, split.loc[same, "mask"])) == _as_set(regions)
    assert len(split) > len(merged)


@pytest.mark.parametrize("shape", ["rectangle", "ellipse"])
def test_shapes_are_made_per_region(folders, arrays, shape):
    data = load_masks(*folders, NAMES, ignore=[255], mask=shape).data
    rows, columns = np.mgrid[:24, :36]
    for row in data.itertuples():
        expected = np.zeros((24, 36), dtype=bool)
        for region in _flood(arrays[row.image_id] == NAMES.index(row.concept)):
            (top, bottom), (left, right) = (
                (line.min(), line.max() + 1) for line in np.nonzero(region)
            )
            y = (rows + 0.5 - (top + bottom) / 2) / ((bottom - top) / 2)
            x = (columns + 0.5 - (left + right) / 2) / ((right - left) / 2)
            if shape == "rectangle":
                expected |= (np.abs(y) < 1) & (np.abs(x) < 1)
            else:
                expected |= y**2 + x**2 <= 1 + 1e-12
        np.testing.assert_array_equal(_decode(row.mask), expected)


@pytest.fixture
def cityscapes(tmp_path):
    """Write ids and numbered instances as Cityscapes does; return the arrays, too."""
    labels = np.full((20, 40), 7)
    labels[2:8, 2:12], labels[2:8, 12:20], labels[12:18, 5:9] = 26, 26, 24
    labels[:, 30:] = 3
    instances = labels.copy()
    instances[2:8, 2:12], instances[2:8, 12:20] = 26000, 26001
    instances[12:18, 5:9] = 24000
    stem = "frankfurt/frankfurt_000000_000294"
    _save(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png", labels)
    _save(tmp_path / "gtFine" / f"{stem}_gtFine_labelIds.png", labels)
    _save(tmp_path / "gtFine" / f"{stem}_gtFine_instanceIds.png", instances)
    _save(tmp_path / "gtFine" / f"{stem}_gtFine_color.png", labels)
    names = {3: "out of roi", 7: "road", 24: "person", 26: "car", -1: "license plate"}
    how = {
        "image_suffix": "_leftImg8bit.png",
        "mask_suffix": "_gtFine_labelIds.png",
        "instance_suffix": "_gtFine_instanceIds.png",
    }
    return (tmp_path / "leftImg8bit", tmp_path / "gtFine", names), how, labels, instances


def test_cityscapes_folders_are_read(cityscapes):
    where, how, labels, instances = cityscapes
    wanted = ["road", "person", "car"]
    merged = load_masks(*where, **how, categories=wanted).data
    assert merged["concept"].tolist() == wanted
    assert merged["n_instances"].tolist() == [1, 1, 2]
    assert set(merged["image_id"]) == {"frankfurt/frankfurt_000000_000294"}
    kept = {"merge_instances": False, "keep": ["class_id", "instance"]}
    split = load_masks(*where, **how, categories=["car"], **kept).data
    assert split[["class_id", "instance"]].to_numpy().tolist() == [[26, 26000], [26, 26001]]
    assert split["annotation_id"][1] == "frankfurt/frankfurt_000000_000294:26:26001"
    assert merged["annotation_id"][2] == tuple(split["annotation_id"])
    # The cars touch, so only the numbers distinguish them.
    assert ndimage.label(labels == 26)[1] == 1
    for rle, number in zip(split["mask"], (26000, 26001), strict=True):
        np.testing.assert_array_equal(_decode(rle), instances == number)


def test_instances_of_ids_with_one_name_are_numbered(cityscapes):
    (images, masks, names), how, labels, instances = cityscapes
    where = images, masks, {**names, 24: "thing", 26: "thing"}
    split = load_masks(*where, **how, categories=["thing"], merge_instances=False).data
    expected = [instances == number for number in (24000, 26000, 26001)]
    np.testing.assert_array_equal([_decode(rle) for rle in split["mask"]], expected)
    (merged,) = load_masks(*where, **how, categories=["thing"]).data.itertuples()
    assert merged.n_instances == 3
    np.testing.assert_array_equal(_decode(merged.mask), labels >= 24)


def test_a_missing_instance_image_raises_an_error(cityscapes):
    where, how, *_ = cityscapes
    with pytest.raises(FileNotFoundError, match=r"_gtFine_nothing\.png does not exist"):
        load_masks(*where, **{**how, "instance_suffix": "_gtFine_nothing.png"})


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "I"])
def test_all_modes_of_index_images_are_read(tmp_path, mode):
    ids = np.array([[0, 1, 2], [2, 1, 0]])
    path = tmp_path / "masks" / "a.png"
    path.parent.mkdir()
    if mode == "P":
        save_palette_png(ids, path)
    else:
        kinds = {"L": np.uint8, "I;16": np.uint16, "I": np.int32}
        path = path.with_suffix(".tif")
        Image.fromarray(ids.astype(kinds[mode])).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
    _save(tmp_path / "images" / "a.jpg", ids)
    data = load_masks(tmp_path / "images", path.parent, NAMES, mask_suffix=path.suffix).data
    np.testing.assert_array_equal(
        [_decode(rle) for rle in data["mask"]], [ids == label for label in range(3)]
    )


def test_camvid_as_index_masks_gives_the_same_table(camvid, tmp_path):
    """The COCO masks of the scenes, written as index images, are read back."""
    frames = camvid.data[camvid.data["image_id"].isin(np.unique(camvid.groups)[::10])]
    expected = []
    for image, rows in frames.groupby("image", sort=False):
        name = image.replace("\\", "/").rsplit("/", 1)[1].removesuffix(".jpg")
        ids = np.full(rows["mask"].iloc[0]["size"], 255)
        for rle, concept in zip(rows["mask"], rows["concept"], strict=True):
            ids[_decode(rle)] = camvid.target_names.index(concept)
        _save(tmp_path / f"{name}_L.png", ids)
        for label in sorted(set(ids[ids != 255].tolist())):
            expected.append((f"{name}.jpg", camvid.target_names[label], ids == label))
    where = frames["image"].iloc[0].replace("\\", "/").rsplit("/", 1)[0]
    data = load_masks(
        where, tmp_path, camvid.target_names, ignore=[255], mask_suffix="_L.png", unpaired="drop"
    ).data
    assert len(data) == len(expected) > 80
    expected.sort(key=lambda row: (row[0], camvid.target_names.index(row[1])))
    for row, (name, concept, mask) in zip(data.itertuples(), expected, strict=True):
        assert row.image.endswith(name)
        assert row.concept == concept
        np.testing.assert_array_equal(_decode(row.mask), mask)


def test_an_unknown_id_raises_an_error(folders, arrays):
    with pytest.raises(ValueError, match=r"has the ids \[2, 255\] .*ignore=\[255\]") as error:
        load_masks(*folders, NAMES[:2])
    assert str(folders[1] / "a.png") in str(error.value)


def test_an_unknown_id_raises_an_error_for_any_categories(folders):
    with pytest.raises(ValueError, match=r"has the ids \[255\]"):
        load_masks(*folders, NAMES, categories=["sky"])


def test_an_id_that_is_named_and_ignored_raises_an_error(folders):
    with pytest.raises(ValueError, match=r"\[1\] are both in class_names and in ignore"):
        load_masks(*folders, NAMES, ignore=[1, 255])


def test_ids_that_are_not_integers_raise_an_error(folders):
    with pytest.raises(ValueError, match=r"integer ids, got \['0'\]"):
        load_masks(*folders, {"0": "sky"})


@pytest.mark.parametrize("side", [0, 1])
def test_an_unpaired_file_raises_an_error(folders, side):
    lonely = sorted(path for path in folders[1 - side].rglob("*.*"))[0]
    next(folders[side].glob("a.*")).unlink()
    what = ("image", "mask")[side]
    with pytest.raises(FileNotFoundError, match=f"have no {what}.*unpaired='drop'") as error:
        load_masks(*folders, NAMES, ignore=[255])
    assert str(lonely) in str(error.value)
    data = load_masks(*folders, NAMES, ignore=[255], unpaired="drop").data
    assert data["image_id"].unique().tolist() == ["b", "city/c"]


@pytest.fixture
def prefixed(tmp_path, arrays):
    """The same masks, with a prefix that distinguishes the files."""
    for name, ids in arrays.items():
        folder, _, stem = name.rpartition("/")
        _save(tmp_path / "images" / folder / f"leftImg8bit_{stem}.png", ids)
        _save(tmp_path / "masks" / folder / f"mask_{stem}_ids.png", ids)
        _save(tmp_path / "masks" / folder / f"number_{stem}_n.png", ids + 7)
    return tmp_path / "images", tmp_path / "masks"


def test_prefixes_pair_files(prefixed, arrays):
    how = {"image_prefix": "leftImg8bit_", "mask_prefix": "Mask_", "mask_suffix": "_ids.png"}
    data = load_masks(*prefixed, NAMES, ignore=[255], **how).data
    assert data["image_id"].unique().tolist() == ["a", "b", "city/c"]
    for row in data.itertuples():
        expected = arrays[row.image_id] == NAMES.index(row.concept)
        np.testing.assert_array_equal(_decode(row.mask), expected)
    how |= {"instance_prefix": "number_", "instance_suffix": "_n.png", "merge_instances": False}
    data = load_masks(*prefixed, NAMES, ignore=[255], keep=["class_id", "instance"], **how).data
    assert (data["instance"] == data["class_id"] + 7).all()


def test_the_error_names_prefixes_that_do_not_fit(prefixed):
    how = {"image_prefix": "leftImg8bit_", "mask_suffix": "_ids.png"}
    with pytest.raises(
        FileNotFoundError, match=r"masks/NAME_ids\.png: set image_prefix, .*mask_pre"
    ):
        load_masks(*prefixed, NAMES, ignore=[255], **how)
    with pytest.raises(FileNotFoundError, match=r"has no mask that is named label_NAME_ids\.png"):
        load_masks(*prefixed, NAMES, ignore=[255], mask_prefix="label_", **how)
    with pytest.raises(ValueError, match="instance_prefix='number_' needs an instance_suffix"):
        load_masks(
            *prefixed, NAMES, ignore=[255], mask_prefix="mask_", instance_prefix="number_", **how
        )


def test_prefix_and_suffix_do_not_overlap(folders):
    how = {"mask_prefix": "a.", "mask_suffix": ".png", "unpaired": "drop"}
    with pytest.raises(FileNotFoundError, match=r"named a\.NAME\.png"):
        load_masks(*folders, NAMES, **how)


def test_two_images_with_one_name_raise_an_error(folders):
    Image.new("RGB", (36, 24)).save(folders[0] / "a.png")
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png are both the image 'a'"):
        load_masks(*folders, NAMES, ignore=[255])
    load_masks(*folders, NAMES, ignore=[255], image_suffix=".jpg", unpaired="drop")


def test_hidden_files_are_ignored(folders):
    (folders[1] / "._a.png").write_bytes(b"")
    load_masks(*folders, NAMES, ignore=[255])


def test_a_file_that_is_not_an_image_raises_an_error(folders):
    (folders[1] / "a.png").write_text("text")
    with pytest.raises(ValueError, match=r"a\.png can't be read as an image"):
        load_masks(*folders, NAMES, ignore=[255])


def test_missing_and_empty_folders_raise_errors(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
        load_masks(folders[0], tmp_path / "nowhere", NAMES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no mask that is named NAME\.png"):
        load_masks(folders[0], tmp_path / "empty", NAMES)
