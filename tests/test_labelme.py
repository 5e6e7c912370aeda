"""load_labelme compared with pycocotools on the same outlines, and with NumPy otherwise."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sklearn_loce.datasets import load_labelme

HEIGHT, WIDTH = 30, 44
SQUARE = [[2, 3], [12, 3], [12, 13], [2, 13]]


def _shape(points, label="car", kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def _write(folder, *shapes, name="a", **changes):
    """Write an image and its JSON file; return the path of the file."""
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **changes,
    }
    image, path = folder / f"{name}.png", folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(image)
    path.write_text(json.dumps({k: v for k, v in content.items() if v != "absent"}))
    return path


def _decoded(data):
    return [coco_mask.decode(rle).astype(bool) for rle in data["mask"]]


def _drawn(points):
    """The mask that COCO makes from an outline."""
    corners = np.ravel(points).astype(float).tolist()
    return coco_mask.decode(coco_mask.frPyObjects([corners], HEIGHT, WIDTH))[..., 0].astype(bool)


def _filled(top, bottom, left, right):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def _png(mask):
    file = io.BytesIO()
    Image.fromarray(np.asarray(mask).astype(np.uint8) * 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _disc(x, y, radius):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def _random_mask(height, width):
    return np.random.default_rng(0).random((height, width)) < 0.4


POLYGON = np.random.default_rng(1).uniform(0, 30, (9, 2)).round(3).tolist()
SHAPES = {
    "polygon": ("polygon", POLYGON, _drawn(POLYGON)),
    "polygon of old files": (None, POLYGON, _drawn(POLYGON)),
    "rectangle": ("rectangle", [[2, 3], [12, 9]], _filled(3, 9, 2, 12)),
    "rectangle from below": ("rectangle", [[12, 9], [2, 3]], _filled(3, 9, 2, 12)),
    "rectangle of four": ("rectangle", SQUARE, _filled(3, 13, 2, 12)),
    "rectangle over the rim": ("rectangle", [[-5, 20], [6, 99]], _filled(20, 30, 0, 6)),
    "oriented rectangle": ("oriented_rectangle", POLYGON[:4], _drawn(POLYGON[:4])),
    "rotation": ("rotation", POLYGON[4:8], _drawn(POLYGON[4:8])),
    "circle": ("circle", [[20.3, 14.6], [27.1, 17.2]], _disc(20.3, 14.6, np.hypot(6.8, 2.6))),
    "circle through centers": ("circle", [[20.5, 14.5], [23.5, 18.5]], _disc(20.5, 14.5, 5)),
    "circle over the rim": ("circle", [[1, 2], [9.4, 2]], _disc(1, 2, 8.4)),
    "circle over all": ("circle", [[20, 20], [200, 20]], _filled(0, 30, 0, 44)),
}
MASKS = {
    "mask": _random_mask(7, 11),
    "full mask": np.ones((7, 11), dtype=bool),
    "mask of one pixel": np.ones((1, 1), dtype=bool),
    "mask of columns": np.tile([True, False, True], (30, 1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_read(tmp_path, name):
    kind, points, expected = SHAPES[name]
    _write(tmp_path, _shape(points, kind=kind))
    data = load_labelme(tmp_path).data
    np.testing.assert_array_equal(_decoded(data), [expected])
    assert data["area"].tolist() == [expected.mean()]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("at", [(0, 0), (0, 33), (-1, -1)])
def test_masks_are_read(tmp_path, name, at):
    """labelme counts both corners of the box as pixels of it."""
    mask = MASKS[name]
    height, width = mask.shape
    top, left = min(at[0] % HEIGHT, HEIGHT - height), min(at[1] % WIDTH, WIDTH - width)
    points = [[float(left), float(top)], [float(left + width - 1), float(top + height - 1)]]
    _write(tmp_path, _shape(points, kind="mask", mask=_png(mask)))
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[top : top + height, left : left + width] = mask
    np.testing.assert_array_equal(_decoded(load_labelme(tmp_path).data), [expected])


@pytest.mark.parametrize("seed", range(5))
def test_circles_equal_disks(tmp_path, seed):
    generator = np.random.default_rng(seed)
    centers, edges = generator.uniform(-10, 50, (2, 30, 2))
    points = np.stack([centers, edges], axis=1).tolist()
    circles = [_shape(ends, kind="circle") for ends in points]
    _write(tmp_path, *circles)
    data = load_labelme(tmp_path, merge_instances=False, min_area=1).data
    discs = [_disc(*c, np.hypot(*(e - c))) for c, e in zip(centers, edges, strict=True)]
    np.testing.assert_array_equal(_decoded(data), [disc for disc in discs if disc.any()])


def test_groups_are_one_instance(tmp_path):
    boxes = [[[0, 0], [4, 4]], [[10, 10], [14, 14]], [[20, 20], [24, 24]], [[1, 1], [2, 2]]]
    groups = [(7, "car"), (None, "car"), (7, "car"), (7, "bus")]
    shapes = [
        _shape(box, label, "rectangle", group_id=group, description=f"{i}")
        for i, (box, (group, label)) in enumerate(zip(boxes, groups, strict=True))
    ]
    _write(tmp_path, *shapes)
    apart = load_labelme(tmp_path, merge_instances=False, keep=["description", "group_id"]).data
    assert apart["annotation_id"].tolist() == ["a.json:3", "a.json:0,2", "a.json:1"]
    assert apart["concept"].tolist() == ["bus", "car", "car"]
    assert apart["n_instances"].tolist() == [1, 1, 1]
    assert apart["description"].tolist() == ["3", "0", "1"]
    np.testing.assert_array_equal(_decoded(apart)[1], _filled(0, 4, 0, 4) | _filled(20, 24, 20, 24))
    merged = load_labelme(tmp_path, keep=["description"]).data
    assert merged["annotation_id"].tolist() == [("a.json:3",), ("a.json:0,2", "a.json:1")]
    assert merged["n_instances"].tolist() == [1, 2]
    assert merged["description"].tolist() == [("3",), ("0", "1")]


def test_fields_are_kept(tmp_path):
    _write(tmp_path, _shape(SQUARE, flags={"occluded": True}), _shape(SQUARE, difficult=True))
    data = load_labelme(tmp_path, keep=["flags", "difficult", "shape_type"]).data
    assert data["flags"].tolist() == [({"occluded": True}, None)]
    assert data["difficult"].tolist() == [(None, True)]
    with pytest.raises(ValueError, match=r"no annotation has the fields \['score'\].*'flags'"):
        load_labelme(tmp_path, keep=["score"])


def test_the_table_has_its_columns(tmp_path):
    _write(tmp_path, _shape(SQUARE, "dog"), _shape(SQUARE, "car"), name="x/b")
    (tmp_path / "x/b.json").write_text(
        (tmp_path / "x/b.json").read_text().replace("x/b.png", "b.png"), encoding="utf-8-sig"
    )
    _write(tmp_path, _shape(SQUARE, "dog"))
    table = load_labelme(tmp_path)
    assert table.target_names == ["car", "dog"]
    assert table.data["image_id"].tolist() == ["a", "x/b", "x/b"]
    assert table.target.tolist() == ["dog", "car", "dog"]
    assert table.data["image"].tolist() == [
        str(tmp_path / name) for name in ("a.png", "x/b.png", "x/b.png")
    ]
    dogs = load_labelme(tmp_path, categories=["dog"], mask="ellipse")
    assert set(dogs.target) == {"dog"}
    with pytest.raises(ValueError, match=r"no category 'cow'.*\['car', 'dog'\]"):
        load_labelme(tmp_path, categories=["cow"])


@pytest.mark.parametrize("kind", ["point", "points", "line", "linestrip"])
def test_shapes_without_area_cause_a_warning(tmp_path, kind):
    _write(tmp_path, _shape([[1, 1], [5, 5]], kind=kind), _shape(SQUARE))
    with pytest.warns(UserWarning, match=r"1 shapes are points or lines.*a\.json:0"):
        data = load_labelme(tmp_path).data
    assert data["annotation_id"].tolist() == [("a.json:1",)]
    _write(tmp_path, _shape([[1, 1], [5, 5]], "nose", kind), _shape(SQUARE))
    assert len(load_labelme(tmp_path, categories=["car"]).data) == 1


@pytest.mark.parametrize("path", ["../images/{}.png", "..\\images\\{}.png"])
def test_images_may_be_in_another_folder(tmp_path, path):
    for name in ("a", "x/b"):
        _write(tmp_path / "images", name=name).unlink()
        here = path if name == "a" else path.replace("images", "..\\images\\x")
        _write(tmp_path / "labels", _shape(SQUARE), name=name, imagePath=here.format(name[-1]))
        (tmp_path / "labels" / f"{name}.png").unlink()
    with pytest.raises(ValueError, match=r"a\.json: the file .* is outside .*image_dir"):
        load_labelme(tmp_path / "labels")
    expected = [str(tmp_path / "images" / name) for name in ("a.png", "x/b.png")]
    found = load_labelme(tmp_path / "labels", tmp_path / "images").data["image"]
    assert found.tolist() == expected
    if "\\" not in path:
        return
    # Images in the folder need no image_dir.
    from_above = load_labelme(tmp_path).data["image"]
    assert [str((tmp_path / p).resolve()) for p in from_above] == expected


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../secret.png", "C:\\images\\a.png", "a\0.png"]
)
def test_images_outside_the_folder_raise_an_error(tmp_path, path):
    _write(tmp_path / "folder", _shape(SQUARE), imagePath=path)
    (tmp_path / "folder" / "a.png").rename(tmp_path / "folder" / "passwd")
    with pytest.raises((ValueError, FileNotFoundError), match=r"a\.json: (the|a) (file|image)"):
        load_labelme(tmp_path / "folder")
    for name in ("..", "x/..", "\0"):
        _write(tmp_path / "folder", _shape(SQUARE), imagePath=name)
        with pytest.raises(ValueError, match=r"a\.json"):
            load_labelme(tmp_path / "folder", tmp_path / "folder")


def test_missing_images_raise_an_error(tmp_path):
    _write(tmp_path, _shape(SQUARE), imagePath="b.png")
    with pytest.raises(FileNotFoundError, match=r"a\.json: the image .*b\.png.*as image_dir\.$"):
        load_labelme(tmp_path)
    _write(tmp_path, _shape(SQUARE), imagePath="b.png", imageData="AAAA")
    with pytest.raises(FileNotFoundError, match=r"b\.png.*base64 as 'imageData'"):
        load_labelme(tmp_path)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.json: .*b\.png' can't be read"):
        load_labelme(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"imageHeight": 31}, {"imageWidth": WIDTH + 0.5}, {"imageWidth": "44"}]
)
def test_different_sizes_raise_an_error(tmp_path, changes):
    _write(tmp_path, _shape(SQUARE), **changes)
    with pytest.raises(ValueError, match=r"a\.json is of an image .* is \(30, 44\)"):
        load_labelme(tmp_path)
    _write(tmp_path, _shape(SQUARE), imageHeight="absent", imageWidth=None)
    assert len(load_labelme(tmp_path).data) == 1


def test_two_files_of_one_image_raise_an_error(tmp_path):
    _write(tmp_path, _shape(SQUARE))
    _write(tmp_path, _shape(SQUARE), name="b", imagePath="a.png")
    with pytest.raises(ValueError, match=r"a\.json and .*b\.json are both of the image .*a\.png"):
        load_labelme(tmp_path)


NAN = float("nan")


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ({"points": SQUARE}, r"lacks \['label'\]"),
        ({"label": "car"}, r"lacks \['points'\]"),
        ("car", r"lacks \['label', 'points'\]"),
        (_shape(SQUARE, label=3), "label must be a string, got 3"),
        (_shape(SQUARE, group_id=[1]), r"group_id must be an integer, got \[1\]"),
        (_shape(SQUARE, kind=["polygon"]), r"shape_type must be a string, got \['polygon'\]"),
        (_shape(SQUARE, kind="cuboid"), "shape_type 'cuboid' is none of"),
        (_shape([[0, 0], [NAN, 4], [4, 4]]), "pairs of finite numbers"),
        (_shape([[0, 0], [1e30, 4], [4, 4]], kind="circle"), "pairs of finite numbers"),
        (_shape([[0, 0], [1e8, 4], [4, 4]]), "the outline of a polygon is"),
        (_shape([0, 0, 4, 4, 4, 0]), "points must be pairs"),
        (_shape([[0, 0], [4], [4, 4]]), "points must be pairs"),
        (_shape([]), "points must be pairs"),
        (_shape(None), "points must be pairs"),
        (_shape("abc"), "points must be pairs"),
        (_shape([[0, 0], [4, 4]]), "three points or more, got 2"),
        (_shape(SQUARE[:3], kind="rectangle"), "a rectangle has 2 or 4 points, got 3"),
        (_shape(SQUARE[:3], kind="circle"), "a circle has 2 points, got 3"),
        (_shape(SQUARE[:1], kind="mask"), "a mask has 2 points, got 1"),
        (_shape([[1, 1], [4, 4]], kind="mask"), "must be a PNG in base64, got NoneType"),
        (_shape([[1, 1], [4, 4]], kind="mask", mask="!"), "can't be read as a PNG in base64"),
        (
            _shape([[1, 1], [4, 4]], kind="mask", mask=_png(np.ones((4, 5)))),
            r"its mask is \(4, 5\), but its points span \(4, 4\)",
        ),
        (
            _shape([[40, 1], [44, 4]], kind="mask", mask=_png(np.ones((4, 5)))),
            r"is not in the image \(30, 44\)",
        ),
    ],
)
def test_invalid_shapes_raise_errors(tmp_path, shape, match):
    _write(tmp_path, _shape(SQUARE), shape)
    with pytest.raises(ValueError, match=rf"a\.json: shapes\[1\] can't be read: .*{match}"):
        load_labelme(tmp_path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not a whole JSON file"),
        ("[" * 100_000, "not a whole JSON file"),
        (b"\xff\xfe", "not a whole JSON file"),
        ("[]", r"lacks \['imagePath', 'shapes'\]"),
        ('{"images": [], "annotations": []}', r"lacks \['imagePath', 'shapes'\]"),
        ('{"imagePath": "a.png", "shapes": {}}', r"lacks \['shapes'\]"),
    ],
)
def test_invalid_files_raise_errors(tmp_path, text, match):
    _write(tmp_path, _shape(SQUARE))
    path = tmp_path / "b.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"b\.json is .*{match}"):
        load_labelme(tmp_path)


def test_invalid_folders_raise_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file that is named NAME\.json"):
        load_labelme(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
        load_labelme(tmp_path / "nowhere")
    _write(tmp_path)
    with pytest.raises(ValueError, match="no annotation is left"):
        load_labelme(tmp_path)


def test_an_empty_mask_raises_an_error(tmp_path):
    empty = _shape([[1, 1], [4, 4]], kind="mask", mask=_png(np.zeros((4, 4))))
    _write(tmp_path, empty, _shape(SQUARE, "bus"))
    with pytest.raises(ValueError, match=r"\['a.json:0'\] cover no pixel"):
        load_labelme(tmp_path)
    assert load_labelme(tmp_path, min_area=1).target.tolist() == ["bus"]
