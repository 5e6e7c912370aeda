"""Thumbnails, outlines, frames and grids that all displays of images share."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sklearn_loce._samples import table as _samples
from sklearn_loce.plotting._grid import Layout, open_grid
from sklearn_loce.plotting._tiles import make_tile, read_tile, read_tiles, trace_outline

pytestmark = pytest.mark.usefixtures("no_figure_stays")


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.fixture
def mask():
    mask = np.zeros((60, 80), dtype=bool)
    mask[12:40, 20:44] = True
    return mask


def test_a_thumbnail_averages_the_mask(picture, mask):
    tile = make_tile(picture, mask, size=20)
    assert tile.image.shape == (15, 20, 3)
    assert tile.image.dtype == np.uint8
    expected = [
        [mask[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean() for j in range(20)] for i in range(15)
    ]
    np.testing.assert_allclose(tile.mask, expected, atol=1e-6)
    np.testing.assert_allclose(tile.image.mean(), picture.mean(), atol=2)


def test_small_images_keep_their_pixels(picture, mask):
    tile = make_tile(picture, mask, size=500)
    np.testing.assert_array_equal(tile.image, picture)
    np.testing.assert_array_equal(tile.mask, mask)


def test_a_map_is_shrunk_to_the_tile(picture, mask):
    tile = make_tile(picture, mask, size=20, crop=True)
    left, upper, right, lower = tile.box
    drawn = np.linspace(0, 1, 80)[None].repeat(60, axis=0)
    np.testing.assert_allclose(
        tile.shrink(drawn).mean(), drawn[upper:lower, left:right].mean(), atol=1e-6
    )
    assert np.isnan(tile.shrink(np.full((60, 80), np.nan))).all()


@pytest.mark.parametrize("corner", [(0, 0), (12, 20), (55, 70)])
@pytest.mark.parametrize("size", [(4, 4), (1, 10), (5, 2)])
def test_a_crop_contains_the_mask_and_has_the_shape_of_the_image(picture, corner, size):
    mask = np.zeros((60, 80), dtype=bool)
    mask[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = True
    left, upper, right, lower = make_tile(picture, mask, crop=True).box
    assert mask[upper:lower, left:right].sum() == mask.sum()
    assert 0 <= left < right <= 80
    assert 0 <= upper < lower <= 60
    assert (right - left) / (lower - upper) == pytest.approx(80 / 60, rel=0.1)
    assert right - left < 80


def test_a_crop_of_nothing_or_everything_is_the_image(picture):
    for mask in (np.zeros((60, 80), dtype=bool), np.ones((60, 80), dtype=bool)):
        assert make_tile(picture, mask, crop=True).box == (0, 0, 80, 60)


def test_all_kinds_of_images_and_masks_give_the_same_tile(picture, mask, tmp_path):
    Image.fromarray(picture).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    images = [picture, Image.fromarray(picture), tmp_path / "image.png"]
    masks = [mask, rle, tmp_path / "mask.png"]
    pairs = [(one, other) for one in images for other in masks]
    tiles = read_tiles(pairs, range(9), size=40)
    assert list(tiles) == list(range(9))
    for tile in tiles.values():
        np.testing.assert_array_equal(tile.image, tiles[0].image)
        np.testing.assert_array_equal(tile.mask, tiles[0].mask)


def test_only_images_that_are_shown_are_decoded_and_each_once(picture, mask, monkeypatch):
    images = [picture, picture[::-1].copy(), picture[:, ::-1].copy()]
    samples = pd.DataFrame({"image": [images[i // 2] for i in range(6)], "mask": [mask] * 6})
    read = []
    reader = _samples.read_image
    monkeypatch.setattr(_samples, "read_image", lambda image: read.append(image) or reader(image))
    assert list(read_tiles(samples, [5, 4, 1, 4])) == [1, 4, 5]
    assert [id(image) for image in read] == [id(images[0]), id(images[2])]


def test_errors_name_the_position_of_a_row(picture, mask):
    pairs = [(picture, mask), (picture, mask), ("missing.png", mask)]
    with pytest.raises(FileNotFoundError, match=r"row 2: the image 'missing.png' does not exist"):
        read_tile(pairs, 2)


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_out_of_range_raises(picture, mask, row):
    with pytest.raises(ValueError, match=f"contains {row}.* range from 0 to 1"):
        read_tile([(picture, mask)] * 2, row)


def test_positions_are_integers(picture, mask):
    with pytest.raises(TypeError, match=r"np\.flatnonzero"):
        read_tiles([(picture, mask)] * 2, [True, False])


@pytest.mark.parametrize("size", [0, 2.5])
def test_invalid_sizes_of_tiles_raise(picture, mask, size):
    with pytest.raises(ValueError, match="positive integer"):
        make_tile(picture, mask, size=size)


def _area(lines):
    """Area inside closed lines, holes taken off (the shoelace formula)."""
    x_y = [line.T for line in lines]
    return abs(sum(0.5 * np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) for x, y in x_y))


def test_an_outline_lies_where_half_of_a_pixel_is_covered(mask):
    (line,) = trace_outline(mask)
    np.testing.assert_array_equal(line[0], line[-1])
    np.testing.assert_allclose(line.min(axis=0), [19.5, 11.5])
    np.testing.assert_allclose(line.max(axis=0), [43.5, 39.5])
    # Corners are cut by an eighth of a pixel each.
    assert _area([line]) == pytest.approx(mask.sum(), abs=0.5 + 1e-6)


def test_holes_and_parts_have_separate_outlines(mask):
    mask[20:30, 25:35] = False
    mask[50:55, 60:70] = True
    lines = trace_outline(mask)
    assert len(lines) == 3
    assert _area(lines) == pytest.approx(mask.sum(), abs=1.6)


def test_a_mask_at_the_border_is_closed_along_it():
    (line,) = trace_outline(np.ones((5, 7)))
    assert line.min() == -0.5
    np.testing.assert_array_equal(line.max(axis=0), [6.5, 4.5])


def test_thin_masks_have_outlines_and_empty_masks_have_none(picture):
    mask = np.zeros((60, 80), dtype=bool)
    assert trace_outline(mask) == []
    mask[:, 41] = True
    tile = make_tile(picture, mask, size=20)
    assert tile.mask.max() < 0.5
    (line,) = trace_outline(tile.mask)
    assert line[:, 0].min() < 10 < line[:, 0].max()


class _Display:
    """Stands for a display."""


LAYOUT = Layout(2, (("query", 1), ("best", 2)), chart_height=1.0)


def test_a_figure_has_the_height_of_its_tiles(picture):
    display = _Display()
    with open_grid(display, None, LAYOUT) as (chart, axes):
        assert chart in display.figure_.axes
        for ax in axes.ravel():
            ax.imshow(picture)
    assert axes.shape == (2, 3)
    display.figure_.draw_without_rendering()
    for ax in axes.ravel():
        given, taken = ax.get_position(original=True), ax.get_position(original=False)
        assert taken.width == pytest.approx(given.width, rel=0.03)
        assert taken.height == pytest.approx(given.height, rel=0.03)


def test_a_figure_is_closed_if_drawing_fails():
    with pytest.raises(ZeroDivisionError), open_grid(_Display(), None, LAYOUT):
        _ = 1 / 0
    assert plt.get_fignums() == []


def test_tiles_are_read_without_matplotlib_and_torch():
    code = "import sys, sklearn_loce.plotting._tiles; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "torch", "numba"} & set(done.stdout.split())
