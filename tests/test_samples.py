import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sklearn_loce._samples.images import read_image
from sklearn_loce._samples.masks import read_mask
from sklearn_loce._samples.table import (
    as_samples,
    check_rows,
    group_by_image,
    image_key,
    read_rows,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 8), dtype=np.uint16)


def _three(grey):
    return np.stack([grey] * 3, axis=2)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (GREY, _three(GREY)),
        (GREY[:, :, None], _three(GREY)),
        (np.dstack([RGB, GREY]), RGB),
        (DEEP, _three(np.round(DEEP / 257).astype(np.uint8))),
        (DEEP.astype(">u2"), _three(np.round(DEEP / 257).astype(np.uint8))),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY), _three(GREY)),
        (Image.fromarray(np.dstack([RGB, GREY])), RGB),
        (Image.fromarray(DEEP), _three(np.round(DEEP / 257).astype(np.uint8))),
        (Image.fromarray(DEEP.astype(np.int32)), _three(np.round(DEEP / 257).astype(np.uint8))),
    ],
)
def test_every_kind_of_pixels_becomes_rgb(image, expected):
    read = read_image(image)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
    ("mode", "pixels", "expected"),
    [
        ("RGB", RGB, RGB),
        ("L", GREY, _three(GREY)),
        ("RGBA", np.dstack([RGB, GREY]), RGB),
        ("I;16", DEEP, _three(np.round(DEEP / 257).astype(np.uint8))),
        ("1", GREY > 127, _three((GREY > 127) * np.uint8(255))),
    ],
)
def test_png_files_of_every_mode(tmp_path, mode, pixels, expected):
    picture = Image.fromarray(pixels)
    assert picture.mode == mode
    picture.save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), expected)


def test_palette_images_show_their_colours(tmp_path):
    flat = np.zeros((6, 8, 3), np.uint8)
    flat[:3] = [200, 10, 30]
    Image.fromarray(flat).quantize(4).save(tmp_path / "palette.png")
    with Image.open(tmp_path / "palette.png") as saved:
        assert saved.mode == "P"
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), flat)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    picture = Image.fromarray(RGB)
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", exif=exif)
    opened = Image.open(buffer)
    np.testing.assert_array_equal(read_image(opened), upright)
    mask = np.ones(upright.shape[:2], dtype=bool)
    samples = as_samples([(Image.open(buffer), mask)])
    assert check_rows(samples, group_by_image(samples)).all()


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (RGB.astype(np.float32) / 255, "uint8"),
        (RGB.astype(np.int64), "uint8"),
        (RGB[None], r"\(1, 6, 8, 3\)"),
        (RGB[:, :, :2], r"\(6, 8, 2\)"),
        (RGB[:0], r"\(0, 8, 3\)"),
        (Image.fromarray(GREY.astype(np.float32)), "floating-point"),
        (Image.fromarray(np.full((2, 2), -1, np.int32)), r"\[0, 65535\]"),
        (3, "got int"),
        ([[1, 2]], "got list"),
    ],
)
def test_pixels_without_a_known_scale_are_refused(image, match):
    with pytest.raises(ValueError, match=match):
        read_image(image)


def _mask(height=6, width=8):
    mask = np.zeros((height, width), dtype=bool)
    mask[1:3, 2:5] = True
    return mask


def test_pairs_and_tables_are_the_same():
    table = as_samples([(RGB, _mask()), (GREY, _mask())])
    assert list(table.columns) == ["image", "mask"]
    assert table["image"].iloc[1] is GREY
    assert as_samples(table) is table


@pytest.mark.parametrize(
    ("X", "kind", "match"),
    [
        (pd.DataFrame({"image": ["a"], "rle": [0]}), ValueError, r"lacks the columns \['mask'\]"),
        (pd.DataFrame({"image": [], "mask": []}), ValueError, r"0 sample\(s\)"),
        ([], ValueError, r"0 sample\(s\)"),
        ([RGB], TypeError, "Row 0 of X must be an"),
        ([(RGB, _mask(), "car")], TypeError, r"Row 0 .* got tuple of length 3\. Pass"),
        ((RGB, _mask()), TypeError, r"got ndarray\. Pass \[\(image, mask\)\] for one pair"),
        ({"image": [RGB], "mask": [_mask()]}, TypeError, r"Did you mean pandas\.DataFrame\(X\)"),
        ("table.csv", TypeError, "got str"),
        (3, TypeError, "got int"),
        ({"data": 1}, TypeError, "got dict. Did you mean its attribute data"),
        ((pair for pair in []), TypeError, "got generator"),
    ],
)
def test_bad_tables_are_named(X, kind, match):
    with pytest.raises(kind, match=match):
        as_samples(X)


def test_rows_of_one_image_are_found_wherever_they_stand(tmp_path):
    path = tmp_path / "a.png"
    images = [str(path), RGB, str(path), RGB.copy(), GREY, path]
    samples = as_samples([(image, _mask()) for image in images])
    groups = [list(group) for group in group_by_image(samples)]
    assert groups == [[0, 2, 5], [1, 3], [4]]


def test_many_path_objects_do_not_get_mixed_up():
    names = [f"image_{i % 50}.png" for i in range(500)]
    samples = pd.DataFrame({"image": names, "mask": [None] * 500})
    groups = group_by_image(samples)
    assert [list(group) for group in groups] == [list(range(i, 500, 50)) for i in range(50)]


def test_keys_tell_pixels_apart():
    other = RGB.copy()
    other[0, 0, 0] ^= 1
    assert image_key(RGB) != image_key(other)
    assert image_key(GREY) != image_key(GREY.reshape(8, 6))


def _problems(pairs, index=None):
    samples = as_samples(pairs)
    if index is not None:
        samples.index = index
    check_rows(samples, group_by_image(samples))


def test_a_missing_file_is_named_with_its_row(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"row 1: the image '.*gone\.png' does not exist"):
        _problems([(RGB, _mask()), (str(tmp_path / "gone.png"), _mask())])
    with pytest.raises(FileNotFoundError, match=r"row 0: the mask '.*gone\.png' does not exist"):
        _problems([(RGB, str(tmp_path / "gone.png"))])


def test_rows_are_named_by_their_label_too(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"row 1 \(index 'b'\)"):
        _problems([(RGB, _mask()), (str(tmp_path / "gone"), _mask())], index=["a", "b"])


def test_labels_are_named_as_numbers_of_python():
    with pytest.raises(ValueError, match=r"row 1 \(index 7\): the image"):
        _problems([(RGB, _mask()), (RGB.astype(float), _mask())], index=[7, 7])


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (RGB.transpose(2, 0, 1), r"got \(3, \d+, \d+\); pass image.transpose\(1, 2, 0\)"),
        (torch.zeros(3, 6, 8), r"got Tensor; of a tensor, pass image\.permute\(1, 2, 0\)\.numpy"),
    ],
)
def test_images_with_channels_first_are_told_the_way_out(image, match):
    with pytest.raises(ValueError, match=match):
        _problems([(image, _mask())])


@pytest.mark.parametrize("mask", [[[0, 1, 1, 0]], [[True, False]], [[0, 1], [1, 0]]])
def test_lists_of_rows_are_masks(mask):
    samples = as_samples([(np.zeros((*np.shape(mask), 3), dtype=np.uint8), mask)])
    assert check_rows(samples, group_by_image(samples)).all()  # has foreground
    np.testing.assert_array_equal(read_mask(mask), mask)


@pytest.mark.parametrize("polygons", [[[1, 2, 3, 4, 5, 6]], [[1, 2, 3, 4, 5, 6], [1, 2] * 4]])
def test_polygons_are_told_from_masks(polygons):
    with pytest.raises(ValueError, match="row 0: the mask can't be read: polygons are no mask"):
        _problems([(RGB, polygons)])


def test_rows_of_a_multi_index_are_named_too(tmp_path):
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])
    with pytest.raises(FileNotFoundError, match=r"row 1 \(index \('a', .*2\)+: the image"):
        _problems([(RGB, _mask()), (str(tmp_path / "gone"), _mask())], index=index)


def test_a_turned_tiff_is_measured_as_it_is_read(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.tif", exif=exif)
    assert read_image(tmp_path / "turned.tif").shape == (8, 6, 3)
    samples = as_samples([(tmp_path / "turned.tif", np.ones((8, 6), bool))])
    assert check_rows(samples, group_by_image(samples)).all()
    with pytest.raises(ValueError, match=r"the mask is 6 x 8, but the image .* is 8 x 6"):
        _problems([(tmp_path / "turned.tif", np.ones((6, 8), bool))])


def test_a_truncated_pil_image_is_named(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with (
        Image.open(path) as opened,
        pytest.raises(ValueError, match="row 1: the image can't be read"),
    ):
        _problems([(RGB, _mask()), (opened, _mask(60, 80))])


def test_a_file_that_is_no_image_is_named(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    with pytest.raises(ValueError, match=r"row 0: the image '.*notes\.png' is not an image"):
        _problems([(path, _mask())])


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    samples = as_samples([(RGB, _mask()), (path, _mask(60, 80))])
    with pytest.raises(ValueError, match=r"row 1: the image '.*cut\.png' can't be read"):
        read_rows(samples, [1])


def test_masks_of_another_size_are_named():
    with pytest.raises(ValueError, match="row 0: the mask is 8 x 6, but the image is 6 x 8"):
        _problems([(RGB, _mask().T)])


def test_several_problems_come_in_one_message():
    pairs = [(np.roll(RGB, i), _mask().T) for i in range(7)]
    with pytest.raises(ValueError, match=r"row 0: .*; row 4: .*; and 2 more\.$"):
        _problems(pairs)


def test_empty_masks_are_reported_not_raised():
    samples = as_samples([(RGB, _mask()), (RGB, np.zeros((6, 8), bool))])
    assert check_rows(samples, group_by_image(samples)).tolist() == [True, False]
