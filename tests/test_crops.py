"""crop_samples and paste_crops compared with loops over pixels and known boxes."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.transforms import v2

from benchmarks.segmentation import NORMALIZE
from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import crop_samples, load_scene_model, make_scenes, paste_crops

from .conftest import make_small_network

HEIGHT, WIDTH = 60, 90
BOX = ["crop_top", "crop_left", "crop_height", "crop_width"]


def _mask(top, bottom, left, right):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def _random_rows(n=40):
    """Blobs of any size and place, some of them scattered over the image."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    masks = []
    for _ in range(n):
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        top, left = rng.integers(0, (HEIGHT, WIDTH))
        height, width = rng.integers(1, 30, 2)
        mask[top : top + height, left : left + width] = rng.random() < 0.9
        mask[tuple(rng.integers(0, (HEIGHT, WIDTH)))] |= rng.random() < 0.1
        mask[top, left] = True
        masks.append(mask)
    return pd.DataFrame({"image": [image] * n, "mask": masks})


@pytest.mark.parametrize("aspect_ratio", [None, 1.0, 2.5])
@pytest.mark.parametrize(("margin", "min_size"), [(0, 1), (0.3, 7), (1.0, 16), (2, 500)])
def test_a_crop_contains_mask_and_margin(margin, min_size, aspect_ratio):
    X = _random_rows()
    crops = crop_samples(X, margin=margin, min_size=min_size, aspect_ratio=aspect_ratio)
    wanted_ratio = WIDTH / HEIGHT if aspect_ratio is None else aspect_ratio
    for (image, mask), crop in zip(X.to_numpy(), crops.itertuples(), strict=True):
        top, left, height, width = (getattr(crop, name) for name in BOX)
        inside = np.zeros_like(mask)
        for i in range(HEIGHT):
            for j in range(WIDTH):
                inside[i, j] = top <= i < top + height and left <= j < left + width
        assert inside.sum() == height * width  # the box lies in the image
        assert not (mask & ~inside).any()
        np.testing.assert_array_equal(crop.image.reshape(-1, 3), image[inside])
        np.testing.assert_array_equal(coco_mask.decode(crop.mask).ravel(), mask[inside])

        rows, columns = np.nonzero(mask)
        sides = (np.ptp(rows) + 1) * (1 + 2 * margin), (np.ptp(columns) + 1) * (1 + 2 * margin)
        assert height > min(max(sides[0], min_size), HEIGHT) - 0.51
        assert width > min(max(sides[1], min_size), WIDTH) - 0.51
        if height < HEIGHT and width < WIDTH:
            assert abs(width - wanted_ratio * height) <= 0.5 * (1 + wanted_ratio) + 1e-9
            # and it is no larger than that asks for
            short = height <= max(sides[0], min_size) + 0.5
            assert short or width <= max(sides[1], min_size) + 0.5
    assert (crops[["image_height", "image_width"]].to_numpy() == [HEIGHT, WIDTH]).all()


@pytest.mark.parametrize(
    ("mask", "box"),
    [
        (_mask(30, 32, 40, 44), (26, 36, 10, 12)),  # 3 x (2, 4), at least 10, in the middle
        (_mask(0, 2, 88, 90), (0, 80, 10, 10)),  # moved into the image, not cut
        (_mask(5, 45, 0, 90), (0, 0, 60, 90)),  # larger than the image
        (_mask(50, 60, 10, 11), (30, 5, 30, 10)),
    ],
)
def test_crops_have_the_expected_boxes(image, mask, box):
    crops = crop_samples([(image, mask)], margin=1, min_size=10, aspect_ratio=1e-9)
    # A narrow aspect needs the full height: margin and min_size determine the width.
    assert tuple(crops[BOX].iloc[0])[1::2] == box[1::2]
    crops = crop_samples([(image, mask)], margin=1, min_size=10, aspect_ratio=1e9)
    assert tuple(crops[BOX].iloc[0])[::2] == box[::2]


def test_paste_undoes_crop():
    X = _random_rows()
    crops = crop_samples(X, margin=0, min_size=5)
    masks = [coco_mask.decode(mask).astype(bool) for mask in crops["mask"]]
    pasted = paste_crops(masks, crops)
    np.testing.assert_array_equal(np.stack(pasted), np.stack(X["mask"]))
    assert {whole.dtype for whole in pasted} == {np.dtype(bool)}


def test_paste_keeps_dtypes_and_failed_rows(image):
    crops = crop_samples([(image, _mask(30, 32, 40, 44))] * 2, margin=1, min_size=10)
    height, width = crops[BOX[2:]].iloc[0]
    whole, failed = paste_crops([np.full((height, width), 0.25, np.float32), None], crops)
    assert failed is None
    assert whole.dtype == np.float32
    assert whole.sum() == 0.25 * height * width
    assert np.count_nonzero(whole) == height * width


def test_rows_keep_their_order_and_the_table_stays_unchanged(boxes):
    X = boxes.set_index(pd.Index([f"row {i}" for i in range(len(boxes))]))
    X = X.iloc[[3, 0, 4, 1, 2]]  # rows of one image apart
    before = X.copy(deep=True)
    crops = crop_samples(X, min_size=8)
    pd.testing.assert_frame_equal(X, before)
    assert crops.index.equals(X.index)
    pd.testing.assert_frame_equal(
        crops[["concept", "image_id"]], X[["concept", "image_id"]], check_column_type=False
    )
    for i in range(len(X)):
        alone = crop_samples(X.iloc[[i]], min_size=8)
        assert alone[BOX].equals(crops[BOX].iloc[[i]])
        np.testing.assert_array_equal(alone["image"].iloc[0], crops["image"].iloc[i])


def test_files_contain_the_same_pixels_and_equal_crops_share_a_file(image, tmp_path):
    mask = _mask(30, 32, 40, 44)
    pairs = [(image, mask), (image, mask), (image, _mask(3, 9, 4, 8))]
    folder = tmp_path / "new" / "crops"
    crops = crop_samples(pairs, min_size=10)
    files = crop_samples(pairs, min_size=10, folder=folder)
    for array, path in zip(crops["image"], files["image"], strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), array)
    assert len(list(folder.iterdir())) == 2
    written = {path: path.read_bytes() for path in folder.iterdir()}
    again = crop_samples(pairs, min_size=10, folder=folder)
    assert again["image"].tolist() == files["image"].tolist()
    assert {path: path.read_bytes() for path in folder.iterdir()} == written


def test_arrays_do_not_keep_the_whole_image(image):
    crop = crop_samples([(image, _mask(30, 32, 40, 44))], min_size=10)["image"].iloc[0]
    assert crop.base is None


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: 50 rows, 20 columns
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    mask = np.zeros((50, 20), dtype=bool)
    mask[40, 3] = True
    crops = crop_samples([(str(tmp_path / "turned.png"), mask)], min_size=4, aspect_ratio=1)
    top, left = crops["crop_top"].iloc[0], crops["crop_left"].iloc[0]
    upright = np.rot90(pixels, -1)
    np.testing.assert_array_equal(crops["image"].iloc[0], upright[top : top + 4, left : left + 4])
    assert tuple(crops[["image_height", "image_width"]].iloc[0]) == (50, 20)


def test_pasted_projections_are_measured_on_whole_images():
    scenes = make_scenes(2, random_state=0)
    crops = crop_samples(scenes.data, margin=0.5, min_size=24)
    loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
    embeddings = loce.fit_transform(crops)
    wholes = paste_crops(loce.project(crops, embeddings), crops)
    expected = []
    for whole, mask in zip(wholes, scenes.data["mask"], strict=True):
        mask = coco_mask.decode(mask).astype(bool)
        assert whole.shape == mask.shape
        expected.append((whole & mask).sum() / (whole | mask).sum())
    np.testing.assert_allclose(loce.evaluate(crops, embeddings)["iou"], expected, rtol=1e-12)


def test_vectors_of_files_and_arrays_are_equal(boxes, tmp_path):
    loce = LoCETransformer(TorchModel(make_small_network), "3")
    arrays = loce.fit_transform(crop_samples(boxes, min_size=8))
    files = loce.fit_transform(crop_samples(boxes, min_size=8, folder=tmp_path))
    np.testing.assert_array_equal(arrays, files)


def test_empty_masks_are_named(image):
    X = pd.DataFrame({"image": [image] * 2, "mask": [_mask(1, 2, 1, 2), _mask(0, 0, 0, 0)]})
    with pytest.raises(
        ValueError, match=r"The masks of row 1 have no foreground. Leave these rows out\.$"
    ):
        crop_samples(X)


def test_unreadable_rows_are_named(image, tmp_path):
    X = [(image, _mask(1, 2, 1, 2)), (tmp_path / "none.png", _mask(1, 2, 1, 2))]
    with pytest.raises(FileNotFoundError, match=r"row 1: the image .*none.png' does not exist"):
        crop_samples(X)
    with pytest.raises(ValueError, match="row 0: the mask is 3 x 4, but the image is 60 x 90"):
        crop_samples([(image, np.ones((3, 4)))])


def test_crops_are_not_cropped_again(image):
    crops = crop_samples([(image, _mask(1, 2, 1, 2))])
    with pytest.raises(ValueError, match=r"has the columns .*crop_top.*Crop the table of whole"):
        crop_samples(crops)


@pytest.mark.parametrize(
    "wrong",
    [{"margin": -0.1}, {"min_size": 0}, {"min_size": 2.5}, {"aspect_ratio": 0}, {"folder": 3}],
)
def test_parameters_are_checked(image, wrong):
    with pytest.raises(ValueError, match=f"The '{next(iter(wrong))}' parameter of crop_samples"):
        crop_samples([(image, _mask(1, 2, 1, 2))], **wrong)


def test_paste_checks_its_input(image):
    crops = crop_samples([(image, _mask(1, 2, 1, 2))], min_size=10, aspect_ratio=1)
    with pytest.raises(ValueError, match=r"lacks the columns \['crop_top'\]"):
        paste_crops([np.ones((10, 10))], crops.drop(columns="crop_top"))
    with pytest.raises(ValueError, match="Got 2 maps, but the table of crops has 1 rows"):
        paste_crops([np.ones((10, 10))] * 2, crops)
    with pytest.raises(ValueError, match=r"Map 0 is of shape \(9, 10\), but its crop is 10 x 10"):
        paste_crops([np.ones((9, 10))], crops)


@pytest.mark.slow
def test_crops_raise_the_iou_of_small_objects(camvid, camvid_network):
    chosen = camvid.data[camvid.data["concept"].isin(["pedestrian", "bicyclist"])]
    small = chosen[chosen["area"] * 23 * 30 < 4].iloc[::12]  # less than four of the layer's cells
    enlarged = v2.Compose([v2.Resize((360, 480)), *NORMALIZE.transforms])
    whole, crops = (
        LoCETransformer(camvid_network, "backbone.13", preprocess=preprocess, objective="logistic")
        .fit(X)
        .evaluate(X)
        for X, preprocess in ((small, NORMALIZE), (crop_samples(small), enlarged))
    )
    assert (whole["foreground_cells"] < 4).all()
    assert crops["foreground_cells"].mean() > 4 * whole["foreground_cells"].mean()
    assert crops["iou"].mean() > whole["iou"].mean() + 0.1
