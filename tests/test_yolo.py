"""load_yolo compared with pycocotools on the same outlines, and with NumPy on boxes."""

import os
import sys
import time

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sklearn_loce.datasets import load_yolo

NAMES = ["person", "car", "dog"]
HEIGHT, WIDTH = 48, 80
TRIANGLE = "0.1 0.1 0.5 0.1 0.5 0.9"


@pytest.fixture
def root(tmp_path):
    """Folders "images" with one image, and "labels"."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    _save_image(tmp_path / "images" / "a.png")
    return tmp_path


def _save_image(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def _write(root, *lines, name="a"):
    (root / "labels" / f"{name}.txt").write_text("\n".join(lines))


def _load(root, **how):
    return load_yolo(root / "images", **{"class_names": NAMES, **how}).data


def _outlines(seed, n, n_corners=7):
    """Return random outlines, some with self-intersections, in shares of the image."""
    return np.random.default_rng(seed).uniform(0, 1, (n, n_corners, 2)).round(6)


def _line(label, outline, *score):
    return " ".join(map(str, (label, *np.ravel(outline), *score)))


def _drawn(outline):
    """The mask that COCO makes from an outline in pixels."""
    corners = (outline * (WIDTH, HEIGHT)).ravel().tolist()
    return coco_mask.decode(coco_mask.frPyObjects([corners], HEIGHT, WIDTH))[..., 0].astype(bool)


def _decoded(data):
    return [coco_mask.decode(rle).astype(bool) for rle in data["mask"]]


@pytest.mark.parametrize("scores", [[], [0.25]], ids=["labels", "predictions"])
def test_polygons_are_read(root, scores):
    outlines = _outlines(0, 20)
    _write(root, *(_line(i % 2, o, *scores) for i, o in enumerate(outlines)))
    masks = [_drawn(outline) for outline in outlines]
    apart = _load(root, merge_instances=False)
    assert apart["concept"].tolist() == ["person"] * 10 + ["car"] * 10
    np.testing.assert_array_equal(_decoded(apart), masks[::2] + masks[1::2])
    ids = [f"a.txt:{n}" for n in (*range(1, 21, 2), *range(2, 21, 2))]
    assert apart["annotation_id"].tolist() == ids
    merged = _load(root)
    np.testing.assert_array_equal(
        _decoded(merged), [np.any(masks[::2], axis=0), np.any(masks[1::2], axis=0)]
    )
    assert merged["annotation_id"].tolist() == [tuple(ids[:10]), tuple(ids[10:])]


def test_boxes_are_read(root):
    boxes = {"inside": (8, 6, 40, 30), "whole": (0, 0, 80, 48), "over": (70, 40, 90, 56)}
    centers = [
        ((x + to_x) / 2 / WIDTH, (y + to_y) / 2 / HEIGHT, (to_x - x) / WIDTH, (to_y - y) / HEIGHT)
        for x, y, to_x, to_y in boxes.values()
    ]
    _write(root, *(_line(1, center) for center in centers))
    expected = np.zeros((3, HEIGHT, WIDTH), dtype=bool)
    for mask, (x, y, to_x, to_y) in zip(expected, boxes.values(), strict=True):
        mask[y:to_y, x:to_x] = True
    data = _load(root, mask="rectangle", merge_instances=False)
    np.testing.assert_array_equal(_decoded(data), expected)
    with pytest.raises(ValueError, match="mask='rectangle'"):
        _load(root)


def test_a_box_beside_a_polygon_causes_a_warning(root):
    _write(root, f"0 {TRIANGLE}", "0 0.5 0.5 0.2 0.2")
    with pytest.raises((ValueError, UserWarning), match=r"a\.txt:2.*mask='rectangle'"):
        _load(root)


@pytest.mark.parametrize("shape", ["0.5 0.5 0.5 0.5", TRIANGLE], ids=["boxes", "polygons"])
def test_fields_are_kept(root, shape):
    _write(root, f"1 {shape} 0.5", f"1 {shape} 1")
    data = _load(root, mask="rectangle", keep=["score", "class_id"])
    assert data["score"].tolist() == [(0.5, 1.0)]
    assert data["class_id"].tolist() == [(1, 1)]
    _write(root, f"1 {shape}")
    with pytest.raises(ValueError, match=r"no annotation has the fields \['score'\].*'class_id'"):
        _load(root, mask="rectangle", keep=["score"])


@pytest.mark.parametrize("labels", [[f"0 {TRIANGLE}"] * 2, [f"0 {TRIANGLE} 0.5", f"0 {TRIANGLE}"]])
def test_all_lines_have_a_score_or_none(root, labels):
    _save_image(root / "images" / "b.png")
    _write(root, labels[0])
    _write(root, *labels, name="b")
    if labels[0] == labels[1]:
        assert len(_load(root)) == 2
        return
    with pytest.raises(ValueError, match=r"a\.txt, line 1 ends with a score, but .*b\.txt, line 2"):
        _load(root)


def test_images_without_objects_have_no_rows(root):
    for name in "bcd":
        _save_image(root / "images" / f"{name}.png")
    _write(root, f"0 {TRIANGLE}")
    _write(root, name="b")
    _write(root, "", "  ", name="c")
    assert _load(root)["image_id"].tolist() == ["a"]
    (root / "labels" / "a.txt").unlink()
    with pytest.raises(ValueError, match="no annotation is left"):
        _load(root)


@pytest.mark.parametrize(
    ("image", "label", "loaded", "label_dir"),
    [
        ("images/a.png", "labels/a.txt", "images", None),
        ("images/val/x/a.png", "labels/val/x/a.txt", "images/val", None),
        ("train/images/a.png", "train/labels/a.txt", ".", None),
        ("images/images/a.png", "images/labels/a.txt", "images", None),
        ("data/a.b.png", "data/a.b.txt", "data", None),
        ("data/x/a.png", "notes/x/a.txt", "data", "notes"),
        ("images/a.png", "images/a.txt", "images", "images"),
    ],
)
def test_labels_are_found_in_all_usual_folders(tmp_path, image, label, loaded, label_dir):
    _save_image(tmp_path / image)
    (tmp_path / label).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / label).write_text(f"0 {TRIANGLE}")
    data = load_yolo(tmp_path / loaded, label_dir and tmp_path / label_dir, class_names=NAMES).data
    assert data["image"].tolist() == [
        str(tmp_path / loaded / (tmp_path / image).relative_to(tmp_path / loaded))
    ]
    # The file that holds the line is found from the id.
    (name,) = data["annotation_id"].iloc[0]
    assert (tmp_path / label).as_posix().endswith(name.removesuffix(":1"))


def test_relative_folders_are_resolved(root, monkeypatch):
    _write(root, f"0 {TRIANGLE}")
    monkeypatch.chdir(root / "images")
    assert load_yolo(".", class_names=NAMES).data["image_id"].tolist() == ["a"]


def test_labels_without_an_image_cause_a_warning(root):
    _write(root, f"0 {TRIANGLE}")
    (root / "labels" / "classes.txt").write_text("\n".join(NAMES))
    assert len(_load(root)) == 1
    _write(root, f"0 {TRIANGLE}", name="b")
    with pytest.warns(UserWarning, match=r"1 label files have no image.*b\.txt"):
        assert len(_load(root)) == 1


def test_a_rotated_photo_is_upright(root):
    """Cameras rotate images by metadata; the shares of YOLO refer to the rotated image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(root / "images" / "a.jpg", exif=exif)
    (root / "images" / "a.png").unlink()
    (outline,) = _outlines(1, 1)
    _write(root, _line(0, outline))
    np.testing.assert_array_equal(_decoded(_load(root)), [_drawn(outline)])


def test_a_byte_order_mark_and_float_class_ids_are_read(root):
    (root / "labels" / "a.txt").write_text(f"2.0 {TRIANGLE}\r\n", encoding="utf-8-sig")
    assert _load(root)["concept"].tolist() == ["dog"]


def test_coordinates_slightly_outside_are_clipped(root):
    _write(root, "0 -0.009 0 1.009 0 1.009 1.005 -0.009 1")
    assert _load(root)["area"].tolist() == [1.0]


YAML = "path: ../data\ntrain: images/train\nval: images/val\nnc: 3\nnames:\n"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data.yaml", YAML + "  0: person\n  1: car\n  2: dog\n"),
        ("data.yml", "names: [person, car, dog]"),
        ("classes.txt", "person\ncar\ndog\n\n"),
        ("obj.names", "person\r\ncar\r\ndog"),
    ],
)
def test_files_of_names_are_read(root, file, text):
    (root / file).write_text(text)
    _write(root, f"2 {TRIANGLE}", f"1 {TRIANGLE}")
    for path in (root / file, str(root / file)):
        assert _load(root, class_names=path)["concept"].tolist() == ["car", "dog"]


def test_ids_of_one_name_are_one_concept(root):
    outlines = _outlines(2, 2)
    _write(root, _line(0, outlines[0]), _line(7, outlines[1]))
    table = load_yolo(root / "images", class_names={0: "car", 7: "car"})
    np.testing.assert_array_equal(_decoded(table.data), [_drawn(outlines[0]) | _drawn(outlines[1])])
    assert table.target_names == ["car"]


def test_categories_select_rows(root):
    _write(root, f"1 {TRIANGLE}", f"0 {TRIANGLE}", f"9 {TRIANGLE}")
    assert _load(root, categories=["car"])["concept"].tolist() == ["car"]
    with pytest.raises(ValueError, match="no category 'cow'"):
        _load(root, categories=["cow"])
    with pytest.raises(ValueError, match=r"a\.txt, line 3: .*no name for the class id 9"):
        _load(root)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("0 0.1 x 0.5 0.1 0.5 0.9", "could not convert string to float: 'x'"),
        ("car 0.1 0.1 0.5 0.1 0.5 0.9", "'car'"),
        ("0 0.1 nan 0.5 0.1 0.5 0.9", r"shares of the image in \[0, 1\], got \[nan\]"),
        ("0 0.1 inf 0.5 0.1 0.5 0.9", r"got \[inf\]"),
        ("0 10 10 60 10 60 40", r"got \[10.0, 10.0, 60.0, 10.0, 60.0\]; for pixels, divide"),
        ("0 0.5 0.5 0.2 -0.2", r"got \[-0.2\]"),
        ("0", "1 numbers are neither a box"),
        ("0 0.1 0.1 0.5", "4 numbers are neither a box"),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.9", "class id must be an integer of at least 0, got -1"),
        ("0.5 0.1 0.1 0.5 0.1 0.5 0.9", "class id must be an integer of at least 0, got 0.5"),
        ("nan 0.1 0.1 0.5 0.1 0.5 0.9", "class id must be"),
        ("3 0.1 0.1 0.5 0.1 0.5 0.9", "no name for the class id 3"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.9 2", r"score in \[0, 1\], got 2"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.9 nan", r"score in \[0, 1\], got nan"),
        ("0 0.5 0.5 0.1 0.1 0.9 7 0.5 0.5", r"got \[7.0\]"),
    ],
)
def test_invalid_lines_raise_errors(root, line, match):
    _write(root, f"0 {TRIANGLE}", "", line)
    with pytest.raises(ValueError, match=rf"a\.txt, line 3: .*{match}"):
        _load(root)


def test_a_very_long_outline_raises_an_error(root):
    _save_image(root / "images" / "a.png", (4000, 4000))
    _write(root, "0 " + "0 0 1 1 " * 500)
    with pytest.raises(ValueError, match=r"a\.txt, line 1 can't be read: the outline"):
        _load(root)


def test_invalid_files_raise_errors(root):
    path = root / "labels" / "a.txt"
    path.write_bytes(b"\xff\xfe0 1")
    with pytest.raises(ValueError, match=r"a\.txt can't be read as text"):
        _load(root)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"a\.txt is not a regular file"):
        _load(root)
    path.rmdir()
    path.symlink_to(root / "nowhere")
    with pytest.raises(ValueError, match=r"a\.txt is not a regular file"):
        _load(root)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"None of the 1 images .*labels/a\.txt"):
        _load(root)
    _write(root, f"0 {TRIANGLE}")
    (root / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png can't be read as an image"):
        _load(root)
    (root / "images" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="no image"):
        _load(root)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_pipe_instead_of_a_label_file_raises_an_error(root):
    os.mkfifo(root / "labels" / "a.txt")
    with pytest.raises(ValueError, match="not a regular file"):
        _load(root)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("names: [a, no]", r"names must be strings; put \[False\] in quotes"),
        ("names: [a, ~]", r"put \[None\]"),
        ("train: images", "must have 'names'"),
        ("- a", "must have 'names'"),
        ("names: person", "must have 'names'"),
        ("names: [a", "is not a YAML file"),
        ("names: !!python/object/apply:os.getcwd []", "is not a YAML file"),
        ("names: [a]\nkpt_shape: [17, 3]", "keypoints"),
        ("names: {x: person}", "integer ids"),
    ],
)
def test_invalid_yaml_raises_an_error(root, text, match):
    (root / "data.yaml").write_text(text)
    _write(root, f"0 {TRIANGLE}")
    with pytest.raises(ValueError, match=match):
        _load(root, class_names=root / "data.yaml")


def test_missing_names_raise_an_error(root, monkeypatch):
    _write(root, f"0 {TRIANGLE}")
    with pytest.raises(FileNotFoundError, match=r"class_names must be .*'car' does not exist"):
        _load(root, class_names="car")
    (root / "data.yaml").write_text("names: [a]")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match="pip install pyyaml; or pass class_names as a list"):
        _load(root, class_names=root / "data.yaml")


@pytest.mark.slow
def test_many_polygons_are_read_in_bounded_time(root):
    """If time grew with the square of their number, this would take minutes."""
    _save_image(root / "images" / "a.png", (2000, 2000))
    n = 30_000
    outlines = _outlines(3, n) / 50 + np.random.default_rng(4).uniform(0, 0.98, (n, 1, 2))
    _write(root, *(_line(0, outline.round(5)) for outline in outlines))
    start = time.process_time()
    assert len(_load(root, merge_instances=False)) == n
    assert time.process_time() - start < 60
