"""from_detections compared with the given masks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import from_detections

from .conftest import make_small_network

HEIGHT, WIDTH = 12, 20
CATEGORIES = ["__background__", "dog", "cat", "N/A"]


def _box_mask(top, bottom, left, right):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


# Two cats and a dog; the second cat has the lowest score.
MASKS = np.stack([_box_mask(1, 5, 2, 9), _box_mask(6, 11, 3, 8), _box_mask(2, 9, 12, 19)])
BOXES = np.array([[2, 1, 9, 5], [3, 6, 8, 11], [12, 2, 19, 9]], dtype=float)
LABELS, SCORES = np.array([2, 2, 1]), np.array([0.9, 0.3, 0.8])


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def _torchvision(**changes):
    """Results of a torchvision detector, with soft masks."""
    soft = np.where(MASKS, 0.7, 0.4).astype(np.float32)[:, None]
    output = {
        "masks": torch.from_numpy(soft).requires_grad_(),
        "boxes": torch.from_numpy(BOXES),
        "labels": torch.from_numpy(LABELS),
        "scores": torch.from_numpy(SCORES),
    }
    output.update(changes)
    return {key: value for key, value in output.items() if value is not None}


def _supervision(**changes):
    """The attributes of supervision.Detections."""
    detections = SimpleNamespace(
        xyxy=BOXES,
        mask=MASKS,
        confidence=SCORES,
        class_id=LABELS,
        tracker_id=None,
        data={"class_name": np.array(["cat", "cat", "dog"])},
        metadata={},
    )
    vars(detections).update(changes)
    return detections


def _sam():
    """Results of Segment Anything's automatic mask generator, in both output modes."""
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": _counts(MASKS[1])}
    compressed = coco_mask.encode(np.asfortranarray(MASKS[2].astype(np.uint8)))
    compressed["counts"] = compressed["counts"].decode()
    return [
        {"segmentation": mask, "area": 1, "bbox": [0, 0, 1, 1], "predicted_iou": score}
        for mask, score in zip((MASKS[0], uncompressed, compressed), SCORES, strict=True)
    ]


def _counts(mask):
    flat = np.r_[0, mask.ravel("F").astype(int), 0]
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.r_[0, edges, mask.size]).tolist()


def _decoded(data):
    return [coco_mask.decode(rle).astype(bool) for rle in data["mask"]]


@pytest.mark.parametrize(
    ("result", "names"),
    [(_torchvision(), CATEGORIES), (_supervision(), None), (_supervision(data={}), CATEGORIES)],
    ids=["torchvision", "supervision", "supervision without names"],
)
def test_instances_of_a_concept_are_merged(image, result, names):
    table = from_detections([image], [result], class_names=names)
    rows = {row.concept: row for row in table.data.itertuples()}
    assert set(rows) == {"cat", "dog"}
    masks = dict(zip(table.data["concept"], _decoded(table.data), strict=True))
    np.testing.assert_array_equal(masks["cat"], MASKS[0] | MASKS[1])
    np.testing.assert_array_equal(masks["dog"], MASKS[2])
    assert (rows["cat"].n_instances, rows["dog"].n_instances) == (2, 1)
    assert (rows["cat"].score, rows["dog"].score) == (0.9, 0.8)
    assert rows["dog"].area == MASKS[2].mean()
    assert rows["cat"].image is image
    assert table.target.tolist() == table.data["concept"].tolist()


@pytest.mark.parametrize(
    ("result", "names"),
    [(_torchvision(), CATEGORIES), (_supervision(), ["", "dog", "cat"])],
)
def test_instances_stay_separate_without_merging(image, result, names):
    how = {"class_names": names, "merge_instances": False}
    data = from_detections([image], [result], **how).data
    # The order is that of the names, then of the instances.
    assert data["concept"].tolist() == ["dog", "cat", "cat"]
    assert data["score"].tolist() == [0.8, 0.9, 0.3]
    np.testing.assert_array_equal(_decoded(data), MASKS[[2, 0, 1]])


def test_results_of_segment_anything_are_read(image):
    data = from_detections([image], [_sam()], class_names="object", merge_instances=False).data
    assert data["concept"].tolist() == ["object"] * 3
    assert data["score"].tolist() == SCORES.tolist()
    np.testing.assert_array_equal(_decoded(data), MASKS)


@pytest.mark.parametrize("masks", [MASKS, MASKS[:, None], torch.from_numpy(MASKS), MASKS * 255.0])
def test_arrays_of_masks_are_read(image, masks):
    how = {"class_names": "object", "merge_instances": False}
    data = from_detections([image], [masks], **how).data
    np.testing.assert_array_equal(_decoded(data), MASKS)
    assert data["score"].isna().all()
    (merged,) = _decoded(from_detections([image], [masks], class_names="object").data)
    np.testing.assert_array_equal(merged, MASKS.any(0))


@pytest.mark.parametrize(("threshold", "covered"), [(0.3, True), (0.5, False)])
def test_mask_threshold_binarizes_masks(image, threshold, covered):
    data = from_detections(
        [image], [_torchvision()], class_names=CATEGORIES, mask_threshold=threshold
    ).data
    assert bool(_decoded(data)[0].all()) is covered


def test_min_score_selects_detections(image):
    how = {"class_names": CATEGORIES, "min_score": 0.5, "merge_instances": False}
    data = from_detections([image], [_torchvision()], **how).data
    assert data["score"].tolist() == [0.8, 0.9]
    without = from_detections([image], [_torchvision(scores=None)], **how).data
    assert len(without) == 3


def test_names_are_required_only_for_sufficient_scores(image):
    labels = torch.tensor([2, 99, 1])
    how = {"class_names": CATEGORIES, "merge_instances": False}
    result = _torchvision(labels=labels)
    assert len(from_detections([image], [result], min_score=0.5, **how).data) == 2
    with pytest.raises(ValueError, match=r"no name for the class ids \[99\]"):
        from_detections([image], [result], **how)


@pytest.mark.parametrize("result", [_torchvision(masks=None), _supervision(mask=None)])
def test_boxes_without_masks_need_another_shape(image, result):
    how = {"class_names": CATEGORIES, "merge_instances": False}
    with pytest.raises(ValueError, match=r"detections: none of the 3 .*'rectangle'"):
        from_detections([image], [result], **how)
    data = from_detections([image], [result], mask="rectangle", **how).data
    np.testing.assert_array_equal(_decoded(data), MASKS[[2, 0, 1]])
    drawn = from_detections([image], [result], mask="ellipse", **how).data
    expected = from_detections([image], [_torchvision()], mask="ellipse", **how).data
    assert drawn["mask"].tolist() == expected["mask"].tolist()


def test_boxes_are_cut_at_the_border(image):
    boxes = torch.tensor([[-5.0, -3.0, 4.0, 6.0], [15.0, 8.0, 99.0, 99.0], [30.0, 0.0, 40.0, 5.0]])
    result = _torchvision(masks=None, boxes=boxes)
    how = {"class_names": CATEGORIES, "merge_instances": False, "mask": "rectangle"}
    data = from_detections([image], [result], min_area=1, **how).data
    expected = [_box_mask(0, 6, 0, 4), _box_mask(8, 12, 15, 20)]
    np.testing.assert_array_equal(_decoded(data), expected)
    with pytest.raises(ValueError, match=r"\['0:2'\] cover no pixel"):
        from_detections([image], [result], **how)


def test_images_keep_their_order_and_ids(image, tmp_path):
    path = tmp_path / "b.png"
    Image.fromarray(image).save(path)
    results = [_supervision(), _torchvision()]
    how = {"class_names": {1: "dog", 2: "cat"}}
    table = from_detections([path, image, image], [*results, []], **how)
    assert table.data["image_id"].tolist() == [0, 0, 1, 1]
    assert table.data["concept"].tolist() == ["dog", "cat"] * 2
    assert table.target_names == ["dog", "cat"]
    named = from_detections([path, image], results, image_ids=["b", "a"], **how)
    assert named.groups.tolist() == ["b", "b", "a", "a"]


def test_categories_shapes_and_areas_select_rows(image):
    how = {"class_names": CATEGORIES}
    cats = from_detections([image], [_torchvision()], categories=["cat"], **how)
    assert set(cats.target) == {"cat"}
    assert cats.target_names == ["cat"]
    large = from_detections([image], [_torchvision()], min_area=30, merge_instances=False, **how)
    assert large.data["concept"].tolist() == ["dog"]
    with pytest.raises(ValueError, match=r"no category 'cow'.*all: \['__background__', 'dog'"):
        from_detections([image], [_torchvision()], categories=["cow"], **how)


def test_an_image_without_detections_has_no_rows(image):
    empty = _supervision(xyxy=np.empty((0, 4)), mask=None, confidence=None, class_id=None, data={})
    blank = _torchvision(
        masks=torch.empty(0, 1, HEIGHT, WIDTH),
        boxes=torch.empty(0, 4),
        labels=torch.empty(0, dtype=torch.int64),
        scores=torch.empty(0),
    )
    results = [empty, blank, [], _torchvision()]
    data = from_detections([image] * 4, results, class_names=CATEGORIES).data
    assert data["image_id"].tolist() == [3, 3]
    with pytest.raises(ValueError, match="no annotation is left"):
        from_detections([image], [empty])


def test_the_table_is_embedded(image):
    data = from_detections([image], [_torchvision()], class_names=CATEGORIES).data
    loce = LoCETransformer(TorchModel(make_small_network()), "0", mask_size=(HEIGHT, WIDTH))
    assert loce.fit_transform(data).shape == (2, 8)


def test_results_of_a_real_detector_are_read(image):
    """The output of torchvision's Mask R-CNN, with random weights, is read."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    network = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, box_score_thresh=0.0,
        box_detections_per_img=5,
    ).eval()  # fmt: skip
    picture = np.tile(image, (6, 4, 1))
    with torch.no_grad():
        (output,) = network([torch.from_numpy(picture).permute(2, 0, 1) / 255])
    assert len(output["masks"]) > 0
    data = from_detections(
        [picture], [output], class_names=CATEGORIES, merge_instances=False, min_area=1
    ).data
    kept = [i for i, mask in enumerate(output["masks"]) if (mask[0] > 0.5).any()]
    order = sorted(kept, key=lambda i: int(output["labels"][i]))
    assert len(data) == len(order) > 0
    for i, mask in zip(order, _decoded(data), strict=True):
        np.testing.assert_array_equal(mask, (output["masks"][i, 0] > 0.5).numpy())


def test_results_without_classes_or_names_raise_errors(image):
    with pytest.raises(ValueError, match=r"detections\[0\]: the masks come without classes"):
        from_detections([image], [_sam()])
    with pytest.raises(ValueError, match=r"detections\[1\]: the classes come without names"):
        from_detections([image] * 2, [_supervision(), _torchvision()])


@pytest.mark.parametrize("result", [None, 3, "text", {"scores": SCORES}, [1, 2], [{"area": 1}]])
def test_an_unknown_form_raises_an_error(image, result):
    with pytest.raises(TypeError, match=r"detections\[0\]: expected an object with mask, xyxy"):
        from_detections([image], [result])


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (_torchvision(masks=MASKS[0]), r"must be of shape \(n, height, width\)"),
        (_torchvision(labels=LABELS[:2]), r"one of each per instance, got .*'class_ids': 2"),
        ([{"segmentation": {"size": [12, 20], "counts": [1]}}], "must sum to 240"),
        ([{"segmentation": {"size": [2, 2], "counts": [4]}}], r"\(2, 2\), but the image is \(12"),
        ([{"segmentation": MASKS[0].T}], r"a mask is \(20, 12\), but the image is \(12, 20\)"),
    ],
)
def test_invalid_results_raise_errors(image, result, match):
    with pytest.raises(ValueError, match=match):
        from_detections([image], [result], class_names=CATEGORIES if "labels" in result else "x")


def test_inconsistent_lengths_raise_an_error(image):
    with pytest.raises(ValueError, match="'images': 2, 'detections': 1"):
        from_detections([image] * 2, [_supervision()])
    with pytest.raises(ValueError, match="'image_ids': 2"):
        from_detections([image], [_supervision()], image_ids=[1, 2])


def test_one_id_for_two_images_raises_an_error(image):
    with pytest.raises(ValueError, match=r"image_ids has \['a'\] more than once"):
        from_detections([image] * 3, [_supervision()] * 3, image_ids=["a", "b", "a"])


def test_a_missing_image_file_raises_an_error_if_its_size_is_needed(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"detections\[0\].*nowhere\.png"):
        from_detections([tmp_path / "nowhere.png"], [_supervision(mask=None)], mask="rectangle")
