"""The content of tables of samples, and errors of invalid tables.

``crop_samples`` with a large crop gives the images and masks as they are read.
"""

import io
import pickle
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sklearn_loce import LoCETransformer
from sklearn_loce._samples.table import absolute_paths, group_by_image  # no public name has these
from sklearn_loce.datasets import crop_samples

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 8), dtype=np.uint16)
MASK = np.zeros((6, 8), dtype=bool)
MASK[1:3, 2:5] = True


def read(samples):
    return crop_samples(samples, min_size=1000)


def read_image(image, size=(6, 8)):
    return read([(image, np.ones(size, dtype=bool))])["image"].iloc[0]


def _three(gray):
    return np.stack([gray] * 3, axis=2)


EIGHT = _three(np.round(DEEP / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (GRAY, _three(GRAY)),
        (GRAY[:, :, None], _three(GRAY)),
        (np.dstack([RGB, GRAY]), RGB),
        (DEEP, EIGHT),
        (DEEP.astype(">u2"), EIGHT),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GRAY), _three(GRAY)),
        (Image.fromarray(np.dstack([RGB, GRAY])), RGB),
        (Image.fromarray(GRAY > 127), _three((GRAY > 127) * np.uint8(255))),
        (Image.fromarray(DEEP), EIGHT),
        (Image.fromarray(DEEP.astype(np.int32)), EIGHT),
    ],
)
def test_every_kind_of_pixels_is_converted_to_rgb(image, expected, tmp_path):
    np.testing.assert_array_equal(read_image(image), expected)
    if isinstance(image, Image.Image) and image.mode != "I":  # which PNG has not
        image.save(tmp_path / "image.png")
        for path in (tmp_path / "image.png", str(tmp_path / "image.png")):
            np.testing.assert_array_equal(read_image(path), expected)


TWELVE = RNG.integers(0, 4096, (6, 8), dtype=np.uint16)
TWELVE[0, 0] = 4095


def _png_of_16_bit_colors(array):
    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", *array.shape[1::-1], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def _tiff_of_12_bits(array):
    """Pack two pixels into three bytes, as microscopes do; Pillow can't write that."""
    bits = "".join(f"{value:012b}" for value in array.ravel().tolist())
    pixels = int(bits, 2).to_bytes(len(bits) // 8, "big")
    height, width = array.shape
    entries = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 12 * 8 + 4}
    entries |= {278: height, 279: len(pixels)}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + pixels


@pytest.mark.parametrize("n_bits", [8, 10, 12])
def test_unused_bits_of_16_cause_a_warning(tmp_path, n_bits):
    pixels = TWELVE >> (12 - n_bits)
    (tmp_path / "color.png").write_bytes(_png_of_16_bit_colors(_three(pixels)))
    Image.fromarray(pixels).save(tmp_path / "gray.png")
    Image.fromarray(pixels).save(tmp_path / "gray.tif")
    cells = [pixels, _three(pixels), Image.fromarray(pixels)]
    cells += [tmp_path / name for name in ("color.png", "gray.png", "gray.tif")]
    for cell in cells:
        with pytest.warns(
            UserWarning, match=f"lower {n_bits} bits.* image \\* {2 ** (16 - n_bits)}"
        ):
            read_image(cell)
    # As the warning advises, the whole range is used now, and there is no warning.
    np.testing.assert_allclose(
        read_image(pixels * 2 ** (16 - n_bits)), _three(pixels) * 255.0 / (2**n_bits - 1), atol=1.5
    )


def test_fully_used_16_bits_do_not_warn(tmp_path):
    bright = DEEP.copy()
    bright[0, 0] = 4096
    (tmp_path / "color.png").write_bytes(_png_of_16_bit_colors(_three(bright)))
    for cell in (np.minimum(bright, 4096), np.zeros_like(DEEP), tmp_path / "color.png"):
        read_image(cell)


def test_a_tiff_that_declares_12_bits_is_scaled(tmp_path):
    (tmp_path / "a.tif").write_bytes(_tiff_of_12_bits(TWELVE))
    expected = np.floor(TWELVE * 255.0 / 4095 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), _three(expected))
    with Image.open(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(read_image(image), _three(expected))


def test_palette_images_are_read_as_colors(tmp_path):
    flat = np.zeros((6, 8, 3), np.uint8)
    flat[:3] = [200, 10, 30]
    palette = Image.fromarray(flat).quantize(4)
    assert palette.mode == "P"
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), flat)


UPRIGHT = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, -1),
    7: RGB[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(RGB, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation, kind):
    exif, buffer, upright = Image.Exif(), io.BytesIO(), UPRIGHT[orientation]
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(buffer, format=kind, exif=exif)
    size = upright.shape[:2]
    np.testing.assert_array_equal(read_image(Image.open(buffer), size), upright)
    if size == (8, 6):
        with pytest.raises(ValueError, match="the mask is 6 x 8, but the image is 8 x 6"):
            read_image(Image.open(buffer), (6, 8))


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (RGB.astype(np.float32) / 255, "uint8"),
        (RGB.astype(np.int64), "uint8"),
        (RGB[None], r"\(1, 6, 8, 3\)"),
        (RGB[:, :, :2], r"\(6, 8, 2\)"),
        (RGB[:0], r"\(0, 8, 3\)"),
        (RGB.transpose(2, 0, 1), r"got \(3, \d+, \d+\); pass image.transpose\(1, 2, 0\)"),
        (torch.zeros(3, 6, 8), r"got Tensor; of a tensor, pass image\.permute\(1, 2, 0\)\.numpy"),
        (Image.fromarray(GRAY.astype(np.float32)), "floating-point"),
        (Image.fromarray(np.full((6, 8), -1, np.int32)), r"\[0, 65535\]"),
        (3, "got int"),
        ([[1, 2]], "got list"),
        (np.array(None), "uint8"),
    ],
)
def test_pixels_without_a_known_scale_raise_an_error(image, match):
    with pytest.raises(ValueError, match=f"row 0: the image can't be read: .*{match}"):
        read_image(image)


@pytest.mark.parametrize(
    ("X", "kind", "match"),
    [
        (pd.DataFrame({"image": ["a"], "rle": [0]}), ValueError, r"lacks the columns \['mask'\]"),
        (pd.DataFrame({"image": [], "mask": []}), ValueError, r"0 sample\(s\)"),
        ([], ValueError, r"0 sample\(s\)"),
        ([RGB], TypeError, "Row 0 of X must be an"),
        ([(RGB, MASK, "car")], TypeError, r"Row 0 .* got tuple of length 3\. Pass"),
        ((RGB, MASK), TypeError, r"got ndarray\. Pass \[\(image, mask\)\] for one pair"),
        ({"image": [RGB], "mask": [MASK]}, TypeError, r"Did you mean pandas\.DataFrame\(X\)"),
        ("table.csv", TypeError, "got str"),
        (3, TypeError, "got int"),
        ({"data": 1}, TypeError, "got dict. Did you mean its attribute data"),
        ((pair for pair in []), TypeError, "got generator"),
    ],
)
def test_bad_tables_raise_errors(X, kind, match):
    loce = LoCETransformer(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)), "0")
    with pytest.raises(kind, match=match):
        loce.fit(X)


def test_rows_of_one_image_are_grouped_in_any_order(tmp_path):
    path, other = tmp_path / "a.png", RGB.copy()
    other[0, 0, 0] ^= 1
    images = [str(path), RGB, str(path), RGB.copy(), GRAY, path, other, GRAY.reshape(8, 6)]
    groups = group_by_image(pd.DataFrame({"image": images}))
    assert [list(group) for group in groups] == [[0, 2, 5], [1, 3], [4], [6], [7]]
    names = pd.DataFrame({"image": [f"image_{i % 50}.png" for i in range(500)]})
    assert [list(g) for g in group_by_image(names)] == [list(range(i, 500, 50)) for i in range(50)]


def test_absolute_paths_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    images, masks = ["a/../b.png", tmp_path / "c.png", RGB], ["m.png", MASK, {}]
    table = pd.DataFrame({"image": images, "mask": masks, "n": [1, 2, 3]})
    monkeypatch.chdir(tmp_path)
    absolute = absolute_paths(table)
    assert list(absolute["image"][:2]) == [f"{tmp_path}/a/../b.png", f"{tmp_path}/c.png"]
    assert absolute["image"][2] is RGB
    assert list(absolute["mask"]) == [f"{tmp_path}/m.png", MASK, {}]
    assert absolute["n"].tolist() == [1, 2, 3]
    assert table["mask"][0] == "m.png"
    pickle.loads(pickle.dumps(absolute))


@pytest.mark.parametrize(
    ("index", "name"),
    [
        ([0, 1], "row 1"),
        (["a", "b"], r"row 1 \(index 'b'\)"),
        ([7, 7], r"row 1 \(index 7\)"),
        (pd.MultiIndex.from_tuples([("a", 1), ("a", 2)]), r"row 1 \(index \('a', .*2\)+"),
    ],
)
def test_the_error_names_a_missing_file_and_its_row(tmp_path, index, name):
    gone = str(tmp_path / "gone.png")
    images = pd.DataFrame({"image": [RGB, gone], "mask": [MASK, MASK]}, index=index)
    masks = pd.DataFrame({"image": [RGB, RGB], "mask": [MASK, gone]}, index=index)
    for what, table in {"image": images, "mask": masks}.items():
        match = rf"^{name}: the {what} '.*gone\.png' does not exist\.$"
        with pytest.raises(FileNotFoundError, match=match):
            read(table)


def test_errors_name_damaged_files_and_other_formats(tmp_path):
    cut, notes = tmp_path / "cut.png", tmp_path / "notes.png"
    Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:3000])
    notes.write_text("not an image")
    large = np.ones((60, 80), dtype=bool)
    with pytest.raises(ValueError, match=r"row 1: the image '.*cut\.png' can't be read"):
        read([(RGB, MASK), (cut, large)])
    with Image.open(cut) as opened, pytest.raises(ValueError, match="row 1: the image can't be"):
        read([(RGB, MASK), (opened, large)])
    with pytest.raises(ValueError, match=r"row 0: the image '.*notes\.png' is not an image"):
        read([(notes, MASK)])


def test_one_message_lists_several_problems():
    pairs = [(np.roll(RGB, i), MASK.T) for i in range(7)]
    with pytest.raises(
        ValueError,
        match=r"row 0: the mask is 8 x 6, but the image is 6 x 8.*; row "
        r"4: .*; and 2 more\.$",
    ):
        read(pairs)


def test_the_error_names_empty_masks():
    pairs = [(RGB, MASK), *[(RGB, ~MASK & MASK)] * 7]
    with pytest.raises(ValueError, match=r"masks of row 1, .* row 5 and 2 more have no foreground"):
        read(pairs)
