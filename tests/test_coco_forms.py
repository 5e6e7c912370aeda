"""load_coco on all forms of files, compared with pycocotools and definitions in NumPy."""

import json
import time

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sklearn_loce.datasets import load_coco

HEIGHT, WIDTH = 30, 41
IMAGE = {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
TRIANGLE = [3.2, 2, 30.7, 11.1, 9, 27.9]
HOOK = [20, 3.5, 39, 3, 39.5, 28, 31, 28.25, 31, 9, 20, 9]
PIXELS = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3
RLE = coco_mask.encode(np.asfortranarray(PIXELS.astype(np.uint8)))
TEXT = {"size": [HEIGHT, WIDTH], "counts": RLE["counts"].decode()}
RUNS = {
    "size": [HEIGHT, WIDTH],
    "counts": np.diff(
        np.r_[0, np.flatnonzero(np.diff(np.r_[0, PIXELS.ravel("F").astype(int)])), PIXELS.size]
    ).tolist(),
}


def _pairs(polygon):
    return np.reshape(polygon, (-1, 2)).tolist()


def _annotation(segmentation=None, **more):
    annotation = {"id": 1, "image_id": 1, "category_id": 1, **more}
    return annotation if segmentation is None else {**annotation, "segmentation": segmentation}


def _content(*annotations, images=(IMAGE,), categories=({"id": 1, "name": "car"},)):
    return {
        "images": list(images),
        "categories": list(categories),
        "annotations": list(annotations),
    }


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def load(folder):
    """Return a function that writes content to a file and loads it."""

    def load(
        *annotations, images=(IMAGE,), categories=({"id": 1, "name": "car"},), asked=None, **how
    ):
        content = _content(*annotations, images=images, categories=categories)
        path = folder / "annotations.json"
        path.write_text(json.dumps(content))
        return load_coco(path, folder, categories=asked, **how).data

    return load


def _decode(table):
    return [coco_mask.decode(mask).astype(bool) for mask in table["mask"]]


def _ann_to_mask(segmentation):
    coco = COCO()
    coco.dataset = _content(_annotation(segmentation))
    coco.createIndex()
    return coco.annToMask(coco.anns[1]).astype(bool)


@pytest.mark.parametrize(
    ("segmentation", "same"),
    [
        ([TRIANGLE], None),
        ([TRIANGLE, HOOK], None),
        (TEXT, None),
        (RUNS, None),
        (TRIANGLE, [TRIANGLE]),
        (_pairs(TRIANGLE), [TRIANGLE]),
        ([_pairs(TRIANGLE)], [TRIANGLE]),
        ([_pairs(TRIANGLE), HOOK], [TRIANGLE, HOOK]),
        ([TEXT], TEXT),
        ([RUNS], RUNS),
        ({**TEXT, "counts": str(RLE["counts"])}, TEXT),
        ({**TEXT, "size": [float(HEIGHT), float(WIDTH)]}, TEXT),
        ([TRIANGLE, [1, 2, 3, 4], []], [TRIANGLE]),
    ],
    ids=[
        *("polygon", "polygons", "compressed", "uncompressed", "flat", "pairs", "nested pairs"),
        *("pairs and flat", "RLE in a list", "runs in a list", "str(bytes)", "floats", "a line"),
    ],
)
def test_masks_equal_those_of_pycocotools(load, segmentation, same):
    (mask,) = _decode(load(_annotation(segmentation)))
    np.testing.assert_array_equal(mask, _ann_to_mask(segmentation if same is None else same))
    assert 0 < mask.sum() < mask.size


def test_random_polygons_equal_those_of_pycocotools(load):
    rng = np.random.default_rng(0)
    polygons = [
        np.round(rng.uniform(-8, 48, 2 * rng.integers(3, 9)), rng.integers(0, 4)).tolist()
        for _ in range(300)
    ]
    annotations = [_annotation([p], id=i, bbox=[0, 0, 1, 1]) for i, p in enumerate(polygons)]
    masks = _decode(load(*annotations, merge_instances=False, min_area=1))
    expected = [mask for mask in map(_ann_to_mask, [[p] for p in polygons]) if mask.any()]
    np.testing.assert_array_equal(masks, expected)
    (merged,) = _decode(load(*annotations))
    np.testing.assert_array_equal(merged, np.any(expected, axis=0))


def test_tuples_and_arrays_are_read_in_memory(folder):
    forms = [
        tuple(TRIANGLE),
        [np.array(TRIANGLE)],
        np.array(_pairs(TRIANGLE)),
        tuple(map(tuple, _pairs(TRIANGLE))),
    ]
    for segmentation in forms:
        (mask,) = _decode(load_coco(_content(_annotation(segmentation)), folder).data)
        np.testing.assert_array_equal(mask, _ann_to_mask([TRIANGLE]))


@pytest.mark.parametrize(
    "segmentation",
    [
        [TRIANGLE[:-1]],
        TRIANGLE[:-1],
        [[*TRIANGLE[:-1], "9"]],
        [[*TRIANGLE[:-1], None]],
        [[*TRIANGLE[:-1], float("nan")]],
        [[*TRIANGLE[:-1], [9]]],
        [TRIANGLE, {"size": [1, 1], "counts": [1]}],
        [{"x": 1, "y": 2}, {"x": 3, "y": 4}, {"x": 1, "y": 4}],
        [[[TRIANGLE]]],
        [[0, 0, 1], [20, 0, 1], [20, 20, 1]],
        [True] * 6,
        "text",
        3,
    ],
)
def test_errors_for_invalid_forms_show_a_valid_form(load, segmentation):
    with pytest.raises(
        ValueError, match=r"annotation 1 can't be read: .*\[\[x1, y1, x2, y2"
    ) as error:
        load(_annotation(segmentation))
    assert "min_area" not in str(error.value)


def test_a_swapped_size_raises_an_error(load):
    with pytest.raises(ValueError, match=r"a mask of \[41, 30\], but its image is \[30, 41\]"):
        load(_annotation({**RUNS, "size": [WIDTH, HEIGHT]}))


def _boxes(n, seed=0):
    rng = np.random.default_rng(seed)
    step = rng.choice([1, 2, 4, 10, 1000], (n, 1))
    boxes = np.round(rng.uniform(-6, 50, (n, 4)) * step) / step
    return np.c_[boxes[:, :2], np.abs(boxes[:, 2:])]


def test_boxes_equal_those_of_pycocotools(load):
    boxes = _boxes(2000)
    table = load(
        *(_annotation(id=i, bbox=box.tolist()) for i, box in enumerate(boxes)),
        mask="rectangle",
        merge_instances=False,
        min_area=1,
    )
    expected = coco_mask.decode(coco_mask.frPyObjects(boxes, HEIGHT, WIDTH)).astype(bool)
    expected = np.moveaxis(expected, -1, 0)
    full = np.flatnonzero(expected.any(axis=(1, 2)))
    assert table["annotation_id"].tolist() == full.tolist()
    np.testing.assert_array_equal(_decode(table), expected[full])


def _ellipse_in(mask):
    """Return the ellipse in the bounding rectangle of a mask, pixel by pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    sides = [(part[0], part[-1] + 1) for part in (rows, columns)]
    coordinates = [
        (np.arange(n) - start + 0.5) / (end - start) * 2 - 1
        for n, (start, end) in zip(mask.shape, sides, strict=True)
    ]
    return coordinates[0][:, None] ** 2 + coordinates[1] ** 2 <= 1


def test_ellipses_equal_their_definition(load):
    annotations = [
        _annotation(id=i, bbox=box.tolist()) for i, box in enumerate(_boxes(500, seed=1))
    ]
    how = {"merge_instances": False, "min_area": 1}
    rectangles = load(*annotations, mask="rectangle", **how)
    ellipses = load(*annotations, mask="ellipse", **how)
    assert ellipses["annotation_id"].tolist() == rectangles["annotation_id"].tolist()
    for ellipse, rectangle in zip(_decode(ellipses), _decode(rectangles), strict=True):
        np.testing.assert_array_equal(ellipse, _ellipse_in(rectangle))


@pytest.mark.parametrize("size", [(3001, 7), (7, 3001), (1, 9), (512, 512)])
def test_ellipses_may_fill_the_image(folder, size):
    image = {**IMAGE, "height": size[0], "width": size[1]}
    annotation = _annotation(bbox=[0, 0, size[1], size[0]])
    table = load_coco(_content(annotation, images=[image]), folder, mask="ellipse").data
    np.testing.assert_array_equal(_decode(table)[0], _ellipse_in(np.ones(size, dtype=bool)))
    again = coco_mask.encode(np.asfortranarray(_decode(table)[0].astype(np.uint8)))
    assert table["mask"][0]["counts"] == again["counts"]


BOX = [20, 10, 10, 12]
BESIDE = _annotation([[0, 0, 8, 0, 8, 8, 0, 8]], id=2, bbox=[30, 20, 5, 5])


@pytest.mark.parametrize(
    "boxed", [_annotation(), _annotation([]), {**_annotation(), "segmentation": None}]
)
def test_boxes_count_only_without_a_polygon(load, boxed):
    boxed = {**boxed, "id": 7, "bbox": BOX}
    table = load(boxed, BESIDE, mask="rectangle")
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    # A polygon counts, and not its box.
    expected[10:22, 20:30] = expected[:8, :8] = True
    np.testing.assert_array_equal(_decode(table)[0], expected)
    assert table["n_instances"].tolist() == [2]
    with pytest.warns(UserWarning, match=r"1 annotations have a box but no mask.*\[7\].*rectangle"):
        table = load(boxed, BESIDE)
    assert table[["annotation_id", "n_instances"]].to_numpy().tolist() == [[(2,), 1]]
    assert table["area"][0] * HEIGHT * WIDTH == pytest.approx(64)
    with pytest.raises(ValueError, match=r"none of the 1 annotations .* has a mask.*rectangle"):
        load(boxed)


def test_one_warning_counts_the_boxes_without_masks_of_all_images(load):
    images = [IMAGE, {**IMAGE, "id": 2, "file_name": "b.png"}]
    boxes = [_annotation(id=i, image_id=1 + i % 2, bbox=BOX) for i in range(10, 20)]
    with pytest.warns(UserWarning, match="10 annotations have a box") as warned:
        load(*boxes, BESIDE, images=images)
    assert len(warned) == 1
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    "bbox", [[1, 2, 3], [1, 2, 3, None], ["1", "2", "3", "4"], "box", 3, [[1, 2], 3]]
)
@pytest.mark.parametrize("mask", ["segmentation", "rectangle"])
def test_invalid_boxes_raise_errors(load, bbox, mask):
    with pytest.raises(ValueError, match=r"annotation 7 can't be read: a box must be four finite"):
        load(_annotation(id=7, bbox=bbox), BESIDE, mask=mask)
    # An unused box does not matter.
    assert len(load({**BESIDE, "bbox": bbox}, mask=mask)) == 1


@pytest.mark.parametrize("bbox", [[3, 3, 0, 0], [3, 3, 5, 0], [3, 3, -5, 5], [90, 90, 5, 5]])
def test_boxes_without_extent_cover_no_pixel(load, bbox):
    with pytest.raises(ValueError, match=r"\[7\] cover no pixel .*min_area=1"):
        load(_annotation(id=7, bbox=bbox), mask="rectangle")


def test_one_id_for_two_annotations_raises_an_error(load):
    segmentation, other = [TRIANGLE], {**IMAGE, "file_name": "b.png"}
    with pytest.raises(ValueError, match=r"the image id 1 is used for .*'a.png'.*'b.png'"):
        load(_annotation(segmentation), images=[IMAGE, other])
    with pytest.raises(ValueError, match=r"the category id 1 is used for \['car', 'dog'\]"):
        load(
            _annotation(segmentation),
            categories=[{"id": 1, "name": "car"}, {"id": 1, "name": "dog"}],
        )
    # A repeated entry is not a contradiction.
    again = load(
        _annotation(segmentation),
        images=[IMAGE, {**IMAGE, "license": 3}],
        categories=[{"id": 1, "name": "car"}, {"id": 1, "name": "car", "supercategory": "thing"}],
    )
    assert again["n_instances"].tolist() == [1]


def test_repeated_annotations_and_ids_cause_a_warning(load):
    first, second = _annotation([TRIANGLE], id=5), _annotation([HOOK], id=5)
    with pytest.warns(UserWarning, match=r"1 annotations repeat another .*\[5\]"):
        table = load(first, dict(first), merge_instances=False)
    assert len(table) == 1
    with pytest.warns(UserWarning, match=r"1 ids are used for several annotations, such as \[5\]"):
        table = load(first, second, merge_instances=False)
    np.testing.assert_array_equal(_decode(table), [_ann_to_mask([TRIANGLE]), _ann_to_mask([HOOK])])
    unnamed = [{k: v for k, v in a.items() if k != "id"} for a in (first, second)]
    assert load(*unnamed)["annotation_id"].tolist() == [(None, None)]


def test_ids_with_one_name_are_one_concept(folder, load):
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "car"}]
    annotations = [_annotation([TRIANGLE]), _annotation([HOOK], id=2, category_id=2)]
    table = load(*annotations, categories=categories)
    assert table[["concept", "n_instances"]].to_numpy().tolist() == [["car", 2]]
    assert load_coco(_content(*annotations, categories=categories), folder).target_names == ["car"]


def test_errors_in_unused_annotations_do_not_stop_the_load(load):
    broken_image = {"id": 3, "file_name": "../out.png", "height": "x", "width": None}
    twice = [{"id": 4, "file_name": name, "height": 1, "width": 1} for name in ("c", "d")]
    table = load(
        _annotation([TRIANGLE]),
        _annotation(id=2, category_id=255),
        _annotation("broken", id=3, category_id=2),
        _annotation(id=[], category_id=2, image_id=3),
        _annotation(id=5, category_id=2, image_id=99),
        {"category_id": 2},
        images=[IMAGE, broken_image, *twice],
        categories=[{"id": i, "name": n} for i, n in [(1, "car"), (2, "dog"), (3, "x"), (3, "y")]],
        asked=["car"],
    )
    assert table["annotation_id"].tolist() == [(1,)]


def test_errors_in_dropped_crowds_do_not_stop_the_load(load):
    crowd = _annotation("broken", id=2, category_id=9, image_id=9, iscrowd=1)
    assert len(load(_annotation([TRIANGLE]), crowd, crowd="drop")) == 1


def test_a_byte_order_mark_is_skipped(folder):
    path = folder / "bom.json"
    path.write_text(json.dumps(_content(_annotation([TRIANGLE]))), encoding="utf-8-sig")
    assert len(load_coco(path, folder).data) == 1


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("http://images.cocodataset.org/val2017/a.png", "a.png"),
        ("val2017/a.png?size=large#x", "a.png"),
        ("http://images.cocodataset.org/train2017/c%20d.png", "train2017/c d.png"),
        ("http://images.cocodataset.org/train2017/b.png", "b.png"),
    ],
)
def test_file_names_of_lvis_come_from_urls(folder, load, url, file):
    (folder / "train2017").mkdir()
    for name in ("c d.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "train2017" / name)
    image = {"id": 1, "coco_url": url, "height": HEIGHT, "width": WIDTH}
    assert load(_annotation([TRIANGLE]), images=[image])["image"].tolist() == [str(folder / file)]
    image["file_name"] = "a.png"
    assert load(_annotation([TRIANGLE]), images=[image])["image"][0] == str(folder / "a.png")


@pytest.mark.parametrize("name", ["", ".", "./", "inner", "inner/", "inner/.."])
def test_file_names_that_name_folders_raise_an_error(folder, load, name):
    (folder / "inner").mkdir()
    with pytest.raises(ValueError, match="names a folder"):
        load(_annotation([TRIANGLE]), images=[{**IMAGE, "file_name": name}])


@pytest.mark.parametrize("url", ["http://a.org/..", "http://a.org/x/..", "", "http://a.org", 3])
def test_urls_without_a_file_name_raise_an_error(load, url):
    image = {"id": 1, "coco_url": url, "height": HEIGHT, "width": WIDTH}
    with pytest.raises(ValueError, match=r"names a folder|is outside|must be a string"):
        load(_annotation([TRIANGLE]), images=[image])


@pytest.mark.parametrize(
    "height", [30.5, "30", "30.5", True, float("nan"), float("inf"), [30], -30]
)
def test_sizes_that_are_not_integers_raise_an_error(load, height):
    with pytest.raises(ValueError, match=r"'a.png' has height .*positive integers"):
        load(_annotation([TRIANGLE]), images=[{**IMAGE, "height": height}])
    assert len(load(_annotation([TRIANGLE]), images=[{**IMAGE, "height": 30.0}])) == 1


def test_a_dataset_of_torchvision_is_read(folder, load):
    datasets = pytest.importorskip("torchvision.datasets")
    expected = load(_annotation([TRIANGLE]), _annotation(TEXT, id=2))
    dataset = datasets.CocoDetection(str(folder), str(folder / "annotations.json"))
    found = load_coco(dataset).data
    assert found.drop(columns="mask").equals(expected.drop(columns="mask"))
    np.testing.assert_array_equal(_decode(found), _decode(expected))
    wrapped = datasets.wrap_dataset_for_transforms_v2(dataset)
    assert len(load_coco(wrapped).data) == len(expected)
    assert len(load_coco(dataset.coco, folder).data) == len(expected)
    with pytest.raises(ValueError, match="image_dir is needed"):
        load_coco(dataset.coco)


@pytest.mark.parametrize("source", [3, None, ["a.json"], object()])
def test_sources_of_other_types_raise_an_error(folder, source):
    with pytest.raises(TypeError, match="must be a path, a dict in COCO format or torchvision's"):
        load_coco(source, folder)


LARGE = 13_000


def _large(annotations, folder, **how):
    image = {**IMAGE, "height": LARGE, "width": LARGE}
    return load_coco(_content(*annotations, images=[image]), folder, **how).data


@pytest.mark.parametrize("mask", ["segmentation", "rectangle", "ellipse"])
def test_many_objects_in_a_large_image_are_read_quickly(folder, mask):
    """A full image or a loop over all runs for each object would take minutes."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, LARGE - 20, (4000, 2)).tolist()
    annotations = [
        _annotation([[x, y, x + 20, y, x + 20, y + 12, x, y + 12]], id=i)
        for i, (x, y) in enumerate(corners)
    ]
    start = time.process_time()
    rle = _large(annotations, folder, mask=mask)["mask"][0]
    assert time.process_time() - start < 20
    drawn = np.ones((12, 20), dtype=bool)
    drawn = _ellipse_in(drawn) if mask == "ellipse" else drawn
    expected = np.zeros((LARGE, LARGE), dtype=np.uint8, order="F")
    for x, y in corners:
        expected[y : y + 12, x : x + 20] |= drawn
    assert rle["counts"] == coco_mask.encode(expected)["counts"]


def test_outlines_that_take_too_long_raise_an_error(folder):
    around = [[0, 0, LARGE, 0, LARGE, LARGE - 1]]
    with pytest.raises(ValueError, match=r"annotation \d+ can't be read: the outlines of the poly"):
        _large([_annotation(around, id=i) for i in range(100_000)], folder)


@pytest.mark.slow
def test_shapes_that_take_too_much_memory_raise_an_error(folder):
    boxes = [_annotation(id=i, bbox=[0, 0, LARGE, LARGE - 1]) for i in range(100_000)]
    with pytest.raises(
        ValueError, match=r"the ellipses of the first \d+ of 100000 objects of .* 1"
    ):
        _large(boxes, folder, mask="ellipse")
