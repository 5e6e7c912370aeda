import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.transform import resize as skimage_resize
from torch.nn import functional

from sklearn_loce._solvers.resize import resize_masks
from sklearn_loce.datasets import crop_samples

RNG = np.random.default_rng(0)


def _blobs(height, width):
    coarse = RNG.random((7, 9)) > 0.6
    rows = np.arange(height) * 7 // height
    columns = np.arange(width) * 9 // width
    return coarse[rows][:, columns]


@pytest.mark.parametrize(
    ("size_in", "size_out"),
    [
        ((360, 480), (100, 100)),
        ((37, 53), (100, 100)),
        ((101, 99), (100, 100)),
        ((100, 100), (100, 100)),
        ((37, 480), (100, 100)),
        ((333, 55), (28, 71)),
        ((1, 300), (100, 100)),
        ((719, 1283), (101, 33)),
        ((9_000, 3), (100, 100)),
    ],
)
def test_gaussian_resize_equals_skimage(size_in, size_out):
    mask = _blobs(*size_in)
    expected = skimage_resize(mask.astype(float), size_out)
    resized = resize_masks([mask], size_out)[0]
    np.testing.assert_allclose(resized, expected, atol=1e-6)
    # The pixels of the concept determine the weight of the objective.
    np.testing.assert_array_equal(resized > 0, expected.astype(np.float32) > 0)


def test_gaussian_resize_equals_skimage_on_a_single_pixel():
    mask = np.zeros((360, 480), dtype=bool)
    mask[200, 301] = True
    expected = skimage_resize(mask.astype(float), (100, 100))
    np.testing.assert_allclose(resize_masks([mask], (100, 100))[0], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ("area", {"mode": "area"}),
        ("nearest", {"mode": "nearest-exact"}),
        ("bilinear", {"mode": "bilinear", "antialias": True}),
    ],
)
def test_other_methods_equal_those_of_torch(method, how):
    mask = _blobs(90, 130)
    stack = torch.from_numpy(mask.astype(np.float64))[None, None]
    expected = functional.interpolate(stack, size=(20, 30), **how)[0, 0].numpy()
    np.testing.assert_allclose(resize_masks([mask], (20, 30), method)[0], expected, atol=1e-6)


def test_resize_accepts_masks_of_different_sizes():
    assert resize_masks([_blobs(20, 30), _blobs(50, 40)], (10, 12)).shape == (2, 10, 12)


def read_mask(mask, size=None):
    """Read a mask as a crop of the whole image."""
    image = np.zeros((*(np.shape(mask) if size is None else size), 3), dtype=np.uint8)
    crop = crop_samples([(image, mask)], min_size=1000)["mask"].iloc[0]
    return coco_mask.decode(crop).astype(bool)


def test_every_form_of_a_mask_gives_the_same_array(tmp_path):
    mask = _blobs(23, 31)
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.ravel("F"), 2])))
    counts = [int(n) for n in ([0, *runs] if mask[0, 0] else runs)]
    Image.fromarray(mask).save(tmp_path / "one_bit.png")
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "gray.png")
    plain = {"size": [23, 31], "counts": counts}
    forms = [
        mask,
        mask.tolist(),
        mask.astype(np.uint8) * 7,
        mask.astype(np.float32),
        compressed,
        {**compressed, "counts": compressed["counts"].decode()},
        plain,
        tmp_path / "one_bit.png",
        str(tmp_path / "gray.png"),
        Image.fromarray(mask),
    ]
    for form in forms:
        np.testing.assert_array_equal(read_mask(form, mask.shape), mask)
    assert plain == {"size": [23, 31], "counts": counts}  # the user's own is left alone


@pytest.mark.parametrize("mask", [[[0, 1, 1, 0]], [[True, False]], [[0, 1], [1, 0]]])
def test_lists_of_rows_are_read_as_masks(mask):
    np.testing.assert_array_equal(read_mask(mask), mask)


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        ({"size": [2, 2]}, "'counts'"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "integers of at least 0"),
        ({"size": [2, 2], "counts": b""}, "cut off"),
        ({"size": [0, 2], "counts": []}, "two positive integers"),
        (np.array([[0, 1], [2, 0]]), "labels == 3"),
        (np.array([[0, 255], [254, 0]], np.uint8), "one value besides 0"),
        (np.array([[0.2, 0.3], [0, 1]]), "Threshold a soft mask"),
        (np.full((2, 2), np.nan), "Threshold a soft mask"),
        (np.zeros((2, 2, 3), dtype=bool), r"shape \(2, 2, 3\)"),
        ([["a", "b"], ["c", "d"]], "dtype"),
        ([[1, 2, 3, 4, 5, 6]], "polygons are not a mask"),
        ([[1, 2, 3, 4, 5, 6], [1, 2] * 4], "polygons are not a mask"),
        (Image.new("RGB", (2, 2)), r"image\.convert\('L'\)"),
    ],
)
def test_bad_masks_raise_errors(mask, match):
    with pytest.raises(ValueError, match=f"row 0: the mask can't be read: .*{match}"):
        read_mask(mask, (2, 2))


@pytest.mark.parametrize("seed", range(20))
def test_invalid_runs_of_compressed_rles_raise_errors(seed):
    """All encodings of pycocotools are accepted, and truncated or extended ones are refused."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 90), rng.integers(1, 90))) < rng.random() ** 3
    mask[0, 0] = True
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(read_mask(rle, mask.shape), mask)
    for counts in (rle["counts"][:-1], rle["counts"] + b"1", rle["counts"] * 2):
        with pytest.raises(ValueError, match="mask RLE"):
            read_mask({**rle, "counts": counts}, mask.shape)
