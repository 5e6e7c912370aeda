"""from_detections on the forms of Hugging Face and ultralytics, some from their own code."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from sklearn_loce.datasets import from_detections

HEIGHT, WIDTH = 48, 64
IMAGE = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
NAMES = {0: "dog", 1: "cat", 2: "sky"}


def _box_mask(top, bottom, left, right, size=(HEIGHT, WIDTH)):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


# Two cats, a dog, and two parts of the sky, none of which overlap.
MASKS = [
    _box_mask(8, 24, 0, 16),
    _box_mask(8, 40, 24, 40),
    _box_mask(32, 48, 0, 16),
    _box_mask(0, 4, 0, 40),
    _box_mask(0, 4, 48, 64),
]
LABELS, SCORES = [1, 1, 0, 2, 2], [0.9, 0.6, 0.8, 0.7, 0.95]


def _decoded(data):
    return [coco_mask.decode(rle).astype(bool) for rle in data["mask"]]


def _load(result, image=IMAGE, **how):
    return from_detections([image], [result], **how).data


def _pipeline(n=3, **changes):
    """Results of Hugging Face's pipeline for image segmentation."""
    return [
        {
            "score": SCORES[i],
            "label": NAMES[LABELS[i]],
            "mask": Image.fromarray(MASKS[i].astype(np.uint8) * 255),
            **changes,
        }
        for i in range(n)
    ]


def _segments(ids, **changes):
    return [
        {"id": key, "label_id": label, "was_fused": label == 2, "score": score, **changes}
        for key, label, score in zip(ids, LABELS, SCORES, strict=False)
    ]


def _map(ids, empty, dtype=torch.int32):
    labels = torch.full((HEIGHT, WIDTH), empty, dtype=dtype)
    for key, mask in zip(ids, MASKS, strict=False):
        labels[torch.from_numpy(mask)] = key
    return labels


def test_results_of_hugging_face_pipelines_are_read():
    data = _load(_pipeline(), merge_instances=False, keep=["label"])
    assert data["concept"].tolist() == ["cat", "cat", "dog"]
    assert data["score"].tolist() == SCORES[:3]
    assert data["label"].tolist() == ["cat", "cat", "dog"]
    np.testing.assert_array_equal(_decoded(data), MASKS[:3])
    merged = _load(_pipeline())
    np.testing.assert_array_equal(_decoded(merged), [MASKS[0] | MASKS[1], MASKS[2]])
    assert merged["score"].tolist() == [0.9, 0.8]


def test_results_without_scores_are_read():
    data = _load(_pipeline(score=None), min_score=0.5)
    assert data["score"].isna().all()
    some = [*_pipeline(1, score=None), *_pipeline(2)]
    assert _load(some)["score"].tolist() == [0.9]


def test_boxes_of_pipelines_are_read():
    records = [
        {"score": 0.9, "label": "cat", "box": {"xmin": 2, "ymin": 3, "xmax": 12, "ymax": 9}},
        {"score": 0.8, "label": "dog", "box": {"xmin": 20, "ymin": 0, "xmax": 64, "ymax": 48}},
    ]
    data = _load(records, mask="rectangle")
    np.testing.assert_array_equal(
        _decoded(data), [_box_mask(3, 9, 2, 12), _box_mask(0, 48, 20, 64)]
    )


@pytest.mark.parametrize("empty", [-1, 0])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_maps_of_segments_are_read(empty, dtype):
    """Maps count from 0 where -1 is nothing, and from 1 where 0 is."""
    ids = [empty + 1, empty + 2, empty + 3]
    result = {"segmentation": _map(ids, empty, dtype), "segments_info": _segments(ids)}
    how = {"class_names": NAMES, "merge_instances": False}
    data = _load(result, keep=["label_id", "was_fused", "class_id"], **how)
    assert data["concept"].tolist() == ["dog", "cat", "cat"]
    np.testing.assert_array_equal(_decoded(data), [MASKS[2], MASKS[0], MASKS[1]])
    assert data["score"].tolist() == [0.8, 0.9, 0.6]
    assert data["annotation_id"].tolist() == [f"0:{ids[i]}" for i in (2, 0, 1)]
    assert data["label_id"].tolist() == data["class_id"].tolist() == [0, 1, 1]
    assert data["was_fused"].tolist() == [False] * 3


def test_binary_maps_are_read():
    stack = torch.from_numpy(np.stack(MASKS[:3])).float()
    result = {"segmentation": stack, "segments_info": _segments([0, 1, 2])}
    data = _load(result, class_names=NAMES)
    np.testing.assert_array_equal(_decoded(data), [MASKS[2], MASKS[0] | MASKS[1]])


def test_fused_segments_are_one_instance():
    """Their entries share an id; the highest score counts."""
    ids = [1, 2, 3, 4, 4]
    result = {"segmentation": _map(ids, 0), "segments_info": _segments(ids)}
    data = _load(result, class_names=NAMES).set_index("concept")
    assert data.loc["sky", "n_instances"] == 1
    assert data.loc["sky", "score"] == 0.95
    np.testing.assert_array_equal(coco_mask.decode(data.loc["sky", "mask"]), MASKS[3] | MASKS[4])


def _planted_outputs(n_queries=8):
    """Logits of which post-processing must compute the masks."""
    classes = torch.full((1, n_queries, len(NAMES) + 1), -20.0)
    classes[0, range(5), LABELS] = 20 * torch.tensor(SCORES)
    classes[0, 5:, -1] = 20
    masks = torch.full((1, n_queries, HEIGHT, WIDTH), -20.0)
    masks[0, :5][torch.from_numpy(np.stack(MASKS))] = 20
    return SimpleNamespace(
        class_queries_logits=classes, masks_queries_logits=masks, logits=classes, pred_masks=masks
    )


@pytest.fixture
def processor():
    return pytest.importorskip("transformers").Mask2FormerImageProcessor()


def _agreement(data, i):
    """Return the IoU with a planted mask; resizing moves its rim by a pixel."""
    ious = [(m & MASKS[i]).sum() / (m | MASKS[i]).sum() for m in _decoded(data)]
    return max(ious)


@pytest.mark.parametrize(
    "how", [{}, {"return_coco_annotation": True}, {"return_binary_maps": True}]
)
def test_instances_of_a_real_post_processor_are_read(processor, how):
    (result,) = processor.post_process_instance_segmentation(
        _planted_outputs(), target_sizes=[(HEIGHT, WIDTH)], **how
    )
    data = _load(result, class_names=NAMES, merge_instances=False)
    assert sorted(data["concept"]) == sorted(NAMES[label] for label in LABELS)
    assert all(_agreement(data, i) > 0.8 for i in range(5))
    (plain,) = processor.post_process_instance_segmentation(
        _planted_outputs(), target_sizes=[(HEIGHT, WIDTH)]
    )
    for row, mask in zip(data.itertuples(), _decoded(data), strict=True):
        number = int(row.annotation_id.split(":")[1])
        np.testing.assert_array_equal(mask, (plain["segmentation"] == number).numpy())


@pytest.mark.parametrize("fused", [set(), {2}])
def test_segments_of_a_real_post_processor_are_read(processor, fused):
    (result,) = processor.post_process_panoptic_segmentation(
        _planted_outputs(), target_sizes=[(HEIGHT, WIDTH)], label_ids_to_fuse=fused
    )
    data = _load(result, class_names=NAMES, keep=["was_fused"]).set_index("concept")
    assert data.loc["sky", "n_instances"] == (1 if fused else 2)
    assert set(data.loc["sky", "was_fused"]) == {bool(fused)}
    for label, name in NAMES.items():
        ids = [s["id"] for s in result["segments_info"] if s["label_id"] == label]
        expected = torch.isin(result["segmentation"], torch.tensor(ids))
        np.testing.assert_array_equal(coco_mask.decode(data.loc[name, "mask"]), expected)


@pytest.mark.parametrize("form", ["tensor", "array", "dict"])
def test_maps_of_classes_are_read(form):
    labels = _map(LABELS, 7, torch.int64)
    result = {"tensor": labels, "array": labels.numpy(), "dict": {"segmentation": labels}}[form]
    names = {**NAMES, 7: "nothing"}
    data = _load(result, class_names=names, categories=["dog", "cat", "sky"])
    expected = [MASKS[2], MASKS[0] | MASKS[1], MASKS[3] | MASKS[4]]
    np.testing.assert_array_equal(_decoded(data), expected)
    assert data["annotation_id"].tolist() == [("0:0",), ("0:1",), ("0:2",)]
    assert data["score"].isna().all()
    with pytest.raises(ValueError, match=r"no name for the class ids \[7\]"):
        _load(result, class_names=NAMES)


@pytest.mark.parametrize("class_names", [None, "object"])
def test_a_map_of_classes_needs_their_names(class_names):
    """One name for all classes would make a mask of the whole image with its background."""
    with pytest.raises(ValueError, match=r"classes come without names.*id2label"):
        _load(_map(LABELS, 7), class_names=class_names)


def _letterboxed(masks, scale, rim, margin):
    """Enlarge masks by an integer, and pad them by ``rim`` rows and ``margin`` columns."""
    large = np.repeat(np.repeat(np.stack(masks), scale, axis=1), scale, axis=2)
    return np.pad(large, ((0, 0), rim, margin))


def _ultralytics(masks, n=3, **changes):
    """Results of ultralytics, with the attributes of its class."""
    boxes = SimpleNamespace(
        xyxy=torch.tensor([[0.0, 8, 16, 24], [24, 8, 40, 40], [0, 32, 16, 48]]),
        cls=torch.tensor([1.0, 1.0, 0.0]),
        conf=torch.tensor([0.5, 0.25, 0.75]),
        id=None,
    )
    vars(boxes).update(changes)
    return SimpleNamespace(
        boxes=boxes,
        masks=None if masks is None else SimpleNamespace(data=masks[:n]),
        names=NAMES,
        orig_shape=(HEIGHT, WIDTH),
    )


@pytest.mark.parametrize(
    ("scale", "rim", "margin"),
    [(1, (0, 0), (0, 0)), (2, (16, 16), (0, 0)), (3, (0, 0), (7, 8)), (1, (3, 4), (0, 0))],
)
@pytest.mark.parametrize("make", [torch.tensor, lambda m: torch.tensor(m).float(), np.uint8, bool])
def test_masks_of_ultralytics_lose_their_rim(scale, rim, margin, make):
    """An odd rim has the smaller half on top and on the left."""
    padded = _letterboxed(MASKS[:3], scale, rim, margin)
    masks = np.asarray(padded, dtype=make) if make in (np.uint8, bool) else make(padded)
    data = _load(_ultralytics(masks), merge_instances=False, keep=["class_id"])
    assert data["concept"].tolist() == ["cat", "cat", "dog"]
    np.testing.assert_array_equal(_decoded(data), MASKS[:3])
    assert data["score"].tolist() == [0.5, 0.25, 0.75]
    assert data["class_id"].tolist() == [1, 1, 0]


def test_a_mask_at_another_scale_is_resized_as_by_torch():
    padded = torch.nn.functional.interpolate(
        torch.tensor(_letterboxed(MASKS[:3], 1, (8, 8), (0, 0))).float()[None], scale_factor=0.5
    )[0]
    inner = padded[None, :, 4:-4]
    expected = torch.nn.functional.interpolate(inner, (HEIGHT, WIDTH), mode="bilinear")[0] > 0.5
    data = _load(_ultralytics(padded), merge_instances=False)
    np.testing.assert_array_equal(_decoded(data), expected.numpy())


def test_boxes_tracks_and_names_of_ultralytics_are_read():
    result = _ultralytics(None, id=torch.tensor([4.0, 9.0, 2.0]))
    how = {"merge_instances": False, "mask": "rectangle"}
    data = _load(result, keep=["track_id"], **how)
    np.testing.assert_array_equal(_decoded(data), MASKS[:3])
    assert data["track_id"].tolist() == [4, 9, 2]
    renamed = _load(result, class_names=["canine", "feline"], min_score=0.3, **how)
    assert renamed["concept"].tolist() == ["canine", "feline"]


def test_an_image_without_detections_has_no_rows():
    nothing = _ultralytics(None, xyxy=torch.empty(0, 4), cls=torch.empty(0), conf=torch.empty(0))
    blank = torch.full((HEIGHT, WIDTH), -1.0)
    results = [
        nothing,
        [],
        {"segmentation": blank, "segments_info": []},
        {"segmentation": None, "segments_info": []},
        {"segmentation": [[1, HEIGHT * WIDTH]], "segments_info": []},
        {"masks": [], "scores": torch.empty(0)},
        _pipeline(),
    ]
    data = from_detections([IMAGE] * len(results), results).data
    assert set(data["image_id"]) == {len(results) - 1}


def test_fields_of_other_forms_are_kept():
    torchvision = {
        "masks": torch.tensor(np.stack(MASKS[:2])),
        "labels": torch.tensor([1, 1]),
        "scores": torch.tensor([0.5, 0.25]),
        "keypoints": torch.arange(12.0).reshape(2, 2, 3),
        "image_id": 3,
        "source": "ab",
    }
    how = {"class_names": NAMES, "merge_instances": False}
    data = _load(torchvision, keep=["keypoints"], **how)
    np.testing.assert_array_equal(data["keypoints"].iloc[1], [[6, 7, 8], [9, 10, 11]])
    with pytest.raises(ValueError, match=r"\['source'\].*there are \['class_id', 'keypoints', 's"):
        _load(torchvision, keep=["source"], **how)
    supervision = SimpleNamespace(
        xyxy=np.zeros((2, 4)),
        mask=np.stack(MASKS[:2]),
        class_id=np.array([1, 1]),
        confidence=None,
        tracker_id=np.array([7, 8]),
        data={"class_name": np.array(["cat", "cat"]), "speed": [1.5, 2.5]},
    )
    data = _load(supervision, keep=["tracker_id", "speed"])
    assert data[["tracker_id", "speed"]].to_numpy().tolist() == [[(7, 8), (1.5, 2.5)]]
    sam = [{"segmentation": MASKS[0], "stability_score": 0.5}, {"segmentation": MASKS[1]}]
    data = _load(sam, class_names="object", keep=["stability_score"])
    assert data["stability_score"].tolist() == [(0.5, None)]


@pytest.mark.parametrize("keep", [["score"], ["label", "score"]])
def test_the_score_is_kept_with_any_keep(keep):
    data = _load(_pipeline(), keep=keep)
    assert data["score"].tolist() == [0.9, 0.8]
    assert data.columns.tolist().count("score") == 1
    with pytest.raises(ValueError, match="keep must name each field once"):
        _load(_pipeline(), keep=["label", "label"])


def _result(segments, segmentation=None):
    return {
        "segmentation": _map([1, 2, 3], 0) if segmentation is None else segmentation,
        "segments_info": segments,
    }


SOFT = np.where(np.stack(MASKS), 0.9, np.nan)
RUNS = [[1, 100], [101, HEIGHT * WIDTH - 100]]


@pytest.mark.parametrize(
    ("result", "match"),
    [
        ([{"mask": MASKS[0], "score": 1.0}], "entry 0 lacks 'label'; it has"),
        ([*_pipeline(1), {"label": "cat", "score": 1.0}], "entry 1 lacks 'mask'"),
        ([{"segmentation": MASKS[0]}, {"area": 1}], "entry 1 lacks 'segmentation'"),
        ([{"label": "cat", "box": {"xmin": 1}}], "entry 0 lacks 'ymin'"),
        (_pipeline(mask=Image.new("L", (9, 9))), r"\(9, 9\), but the image is \(48, 64\)"),
        (_pipeline(mask=Image.new("RGB", (WIDTH, HEIGHT))), r"a mask is \(48, 64, 3\)"),
        (_pipeline(score="high"), "could not convert"),
        (_pipeline(label=None), "the masks come without classes"),
        (_result([{"id": 1, "score": 1.0}]), "entry 0 lacks 'label_id'"),
        (_result([{"label_id": 1}]), "entry 0 lacks 'id'"),
        (_result(_segments([1, 2])), r"segments_info lacks the ids \[3\]"),
        (_result(_segments([1, 2, 1])), "the id 1 is used for segments of the labels 1 and 0"),
        (_result(_segments([1, 2, 3]), SOFT), "one of each per instance"),
        (_result(_segments([1, 2, 3, 4, 5]), SOFT), "has NaN"),
        (_result(_segments([1]), SOFT[0]), "with integer ids"),
        (_result(_segments([1, 2]), RUNS), "2 run-length encodings of 2 segments"),
        ({"segmentation": None, "segments_info": _segments([1])}, "one of each per instance"),
        (_result(_segments([1]), [[1, 100], [101, 100]]), "are of 200 pixels, but the image"),
        (_result(_segments([1]), [RUNS[0], [110, *RUNS[1][1:]]]), "are of 3072 pixels"),
        (MASKS[0], "a map must .* with integer ids, got .* of bool"),
        (np.where(MASKS[0], 0.5, 0), "a map must .* of float64"),
        (np.full((3, HEIGHT, WIDTH), np.nan), "has NaN"),
        (np.zeros((2, 2), dtype=int), r"a mask is \(2, 2\), but the image is \(48, 64\)"),
        (_ultralytics(torch.zeros(3, 9, 9), cls=torch.zeros(2)), "one of each per instance"),
        (SimpleNamespace(boxes=None, masks=None, names={}, orig_shape=(1, 1)), "must have boxes"),
    ],
)
def test_invalid_results_raise_errors(result, match):
    names = None if isinstance(result, list) or hasattr(result, "names") else NAMES
    names = "car" if isinstance(result, list) and "segmentation" in result[0] else names
    names = "car" if getattr(result, "ndim", 0) == 3 else names
    with pytest.raises(ValueError, match=rf"detections\[0\]: .*{match}"):
        _load(result, class_names=names)


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH + 1), (WIDTH, HEIGHT)])
def test_results_of_another_image_raise_an_error(shape):
    """Boxes alone do not show the size, so the size of the result is compared."""
    image = np.zeros((*shape, 3), dtype=np.uint8)
    for masks, mask in ((None, "rectangle"), (torch.zeros(3, HEIGHT, WIDTH), "segmentation")):
        with pytest.raises(ValueError, match=r"detections\[0\]: it is of an image \(48, 64\)"):
            _load(_ultralytics(masks), image, mask=mask)


def test_missing_names_raise_an_error():
    result = _ultralytics(torch.tensor(np.stack(MASKS[:3])), cls=torch.tensor([1.0, 9.0, 0.0]))
    with pytest.raises(ValueError, match=r"no name for the class ids \[9\]"):
        _load(result)
