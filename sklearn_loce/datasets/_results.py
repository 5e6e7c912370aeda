"""Convert results of detectors and segmenters to a common form."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .._samples.masks import empty_rle
from ._runs import encode_labels


def _draw_as_is(mask, size):
    return mask


@dataclass(frozen=True)
class Result:
    """The detected instances of one image.

    Parameters
    ----------
    masks : sequence or None
        One per instance: an array of shape (height, width), an RLE dict, or an input of ``draw``.
    boxes : ndarray of shape (n, 4) or None
        Left, top, right, bottom in pixels.
    class_ids, class_names, scores : ndarray of shape (n,) or None
    names : Mapping, sequence or None
        Names of the class ids in the result.
    ids : sequence of int or None
        Ids of the instances in the result; None counts them.
    fields : Mapping
        {name: one value per instance} of other fields.
    size : (int, int) or None
        Height and width of the image in the result.
    draw : callable
        ``draw(mask, size)`` decodes one mask, so that the others need no memory.
    is_map : bool
        Whether every pixel belongs to a class, which may be the background.
    """

    masks: Sequence | None
    boxes: np.ndarray | None = None
    class_ids: np.ndarray | None = None
    class_names: np.ndarray | None = None
    scores: np.ndarray | None = None
    names: Any = None
    ids: Sequence | None = None
    fields: Mapping = field(default_factory=dict)
    size: tuple[int, int] | None = None
    draw: Callable = _draw_as_is
    is_map: bool = False

    def __post_init__(self):
        parts = ("masks", "boxes", "class_ids", "class_names", "scores")
        lengths = {k: len(vars(self)[k]) for k in parts if vars(self)[k] is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"there must be one of each per instance, got {lengths}.")

    def __len__(self):
        return len(self.boxes if self.masks is None else self.masks)


def as_array(values):
    """Convert a tensor on any device, a list or an array to an array."""
    if values is None:
        return None
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _as_masks(values):
    """Convert a stack of masks to the shape (n, height, width)."""
    masks = as_array(values)
    if masks is None or masks.shape[:1] == (0,):
        return masks
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3:
        raise ValueError(
            "masks must be of shape (n, height, width) or (n, 1, height, width), got "
            f"{masks.shape}."
        )
    return masks


def _as_column(values):
    """Convert one value per instance to a list, with numbers and strings of Python."""
    if isinstance(values, list | tuple):
        return list(values)
    array = as_array(values)
    return array.tolist() if array.ndim == 1 else list(array)


def _columns_of(table, length, but):
    """Return {name: one value per instance} of the entries with this length."""
    columns = {
        name: _as_column(values)
        for name, values in table.items()
        if name not in but and (isinstance(values, list | tuple) or getattr(values, "ndim", 0) > 0)
    }
    return {name: column for name, column in columns.items() if len(column) == length}


def _column(records, name):
    """Return the values of all records with a name."""
    for i, record in enumerate(records):
        if not isinstance(record, Mapping) or name not in record:
            found = sorted(map(str, record)) if isinstance(record, Mapping) else record
            raise ValueError(f"entry {i} lacks {name!r}; it has {found}.")
    return [record[name] for record in records]


def _fields_of(records, but):
    """Return {name: one value per record}, with None for missing values."""
    names = dict.fromkeys(name for record in records for name in record if name not in but)
    return {name: [record.get(name) for record in records] for name in names}


def _scores_of(records, name):
    return np.array([record.get(name) for record in records], dtype=float)


def _read_sam(records):
    return Result(
        _column(records, "segmentation"),
        scores=_scores_of(records, "predicted_iou"),
        fields=_fields_of(records, ("segmentation",)),
    )


def _read_pipeline(records):
    """Read results of pipelines of Hugging Face: PIL images, or boxes by named sides."""
    has_masks = "mask" in records[0]
    ends = ("xmin", "ymin", "xmax", "ymax")
    sides = [] if has_masks else [_column(_column(records, "box"), end) for end in ends]
    labels = _column(records, "label")
    return Result(
        [np.asarray(mask) for mask in _column(records, "mask")] if has_masks else None,
        boxes=None if has_masks else np.array(sides, dtype=float).T,
        class_names=None if None in labels else np.array(labels, dtype=object),
        scores=_scores_of(records, "score"),
        fields=_fields_of(records, ("mask", "box", "score")),
    )


def _read_records(records):
    if not records:
        return Result(())
    return (_read_sam if "segmentation" in records[0] else _read_pipeline)(records)


def _encode_map(labels):
    """Return {id: RLE} of the ids on a map. Hugging Face may return floats."""
    labels = as_array(labels)
    is_whole = labels.dtype.kind in "iuf" and bool((labels == np.round(labels)).all())
    if labels.ndim != 2 or not is_whole:
        raise ValueError(
            "a map must be of shape (height, width) with integer ids, got "
            f"{labels.shape} of {labels.dtype}; masks must be of shape (n, height, width)."
        )
    return encode_labels(labels.astype(np.int64))


def _read_map(labels):
    """Read a map of class ids. Each class is an instance."""
    masks = _encode_map(labels)
    ids = np.array(list(masks))
    return Result(list(masks.values()), class_ids=ids, ids=ids, is_map=True)


def _distinct_segments(segments):
    """Return the segment with the highest score per id, because fused segments share ids."""
    chosen = {}
    for key, segment in zip(_column(segments, "id"), segments, strict=True):
        known = chosen.setdefault(key, segment)
        if known["label_id"] != segment["label_id"]:
            raise ValueError(
                f"the id {key} is used for segments of the labels {known['label_id']} and "
                f"{segment['label_id']}, so the map is ambiguous; leave out "
                "label_ids_to_fuse."
            )
        if (segment.get("score") or 0) > (known.get("score") or 0):
            chosen[key] = segment
    return list(chosen.values())


def _masks_of(segments, segmentation):
    """Return the masks of segments on a map, where -1 or 0 is background."""
    masks, ids = _encode_map(segmentation), _column(segments, "id")
    unknown = sorted(masks.keys() - {*ids, -1, 0})
    if unknown:
        raise ValueError(f"segments_info lacks the ids {unknown[:10]} of the map.")
    hidden = empty_rle(segmentation.shape)
    return [masks.get(key, hidden) for key in ids]


def _draw_runs(runs, size, *, covered):
    """Decode the runs of Hugging Face: start, length, ... in row order, counted from 1."""
    n_pixels = size[0] * size[1]
    starts, lengths = np.asarray(runs[::2]) - 1, np.asarray(runs[1::2])
    ends = starts + lengths if len(starts) == len(lengths) else starts + n_pixels + 1
    if covered != n_pixels or starts.min() < 0 or lengths.min() < 1 or ends.max() > n_pixels:
        raise ValueError(
            f"the run-length encodings are of {covered} pixels, but the image is {size} (height, "
            "width); pass target_sizes to the post-processing."
        )
    steps = np.zeros(n_pixels + 1, dtype=np.int8)
    steps[starts] += 1
    steps[ends] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8).reshape(size) > 0


def _order_runs(runs, ids):
    """Return the runs of each segment. They are sorted by id, with the background first."""
    if len(runs) != len(ids) + 1 or len(set(ids)) != len(ids):
        raise ValueError(
            f"there are {len(runs)} run-length encodings of {len(ids)} segments and the "
            "background, so they can't be assigned; use return_binary_maps=True."
        )
    rank = {key: i for i, key in enumerate(sorted(ids), start=1)}
    return [runs[rank[key]] for key in ids]


def _read_segments(result):
    """Read results of post-processing of Hugging Face: a map of ids, masks or runs."""
    if "segments_info" not in result:
        return _read_map(result["segmentation"])
    segments, masks, draw = list(result["segments_info"]), result["segmentation"], _draw_as_is
    _column(segments, "label_id")
    if isinstance(masks, list):
        draw = partial(_draw_runs, covered=sum(sum(runs[1::2]) for runs in masks))
        masks = _order_runs(masks, _column(segments, "id"))
    elif not segments:
        masks = ()
    elif np.ndim(masks) == 2:
        segments = _distinct_segments(segments)
        masks = _masks_of(segments, masks)
    else:
        masks = _as_masks(() if masks is None else masks)
    return Result(
        masks,
        class_ids=np.array(_column(segments, "label_id")),
        scores=_scores_of(segments, "score"),
        ids=_column(segments, "id"),
        fields=_fields_of(segments, ("id", "score")),
        draw=draw,
    )


def _read_supervision(detections):
    data, boxes = getattr(detections, "data", None) or {}, as_array(detections.xyxy)
    table = {**data, "tracker_id": getattr(detections, "tracker_id", None)}
    return Result(
        masks=_as_masks(detections.mask),
        boxes=boxes,
        class_ids=as_array(detections.class_id),
        class_names=as_array(data.get("class_name")),
        scores=as_array(getattr(detections, "confidence", None)),
        fields=_columns_of(table, len(boxes), ()),
    )


def _read_torchvision(output):
    masks, boxes = _as_masks(output.get("masks")), as_array(output.get("boxes"))
    return Result(
        masks=masks,
        boxes=boxes,
        class_ids=as_array(output.get("labels")),
        scores=as_array(output.get("scores")),
        fields=_columns_of(
            output, len(boxes if masks is None else masks), ("masks", "boxes", "labels", "scores")
        ),
    )


def _undo_letterbox(mask, size, *, shape):
    """Remove the padding of ultralytics, and resize the rest to the image."""
    if mask.shape == shape:
        return mask
    from torch import from_numpy  # a local import, because loaders of files need no torch
    from torch.nn.functional import interpolate

    gain = min(have / wanted for have, wanted in zip(mask.shape, shape, strict=True))
    inner = [max(round(wanted * gain), 1) for wanted in shape]
    # The smaller half of an odd padding precedes the image. 0.1 is the constant of ultralytics.
    first = [round((have - n) / 2 - 0.1) for have, n in zip(mask.shape, inner, strict=True)]
    cut = mask[first[0] : first[0] + inner[0], first[1] : first[1] + inner[1]]
    soft = from_numpy(cut.astype(np.float32))[None, None]
    return interpolate(soft, shape, mode="bilinear", align_corners=False)[0, 0].numpy()


def _read_ultralytics(results):
    if results.boxes is None:
        raise ValueError("results of ultralytics must have boxes; use a detector or a segmenter.")
    boxes, shape = results.boxes, tuple(map(int, results.orig_shape))
    track_id = getattr(boxes, "id", None)
    return Result(
        masks=None if results.masks is None else _as_masks(results.masks.data),
        boxes=as_array(boxes.xyxy),
        class_ids=as_array(boxes.cls).astype(int),
        scores=as_array(boxes.conf),
        names=results.names,
        fields={} if track_id is None else {"track_id": as_array(track_id).astype(int).tolist()},
        size=shape,
        draw=partial(_undo_letterbox, shape=shape),
    )


def _has(*names):
    return lambda result: all(hasattr(result, name) for name in names)


def _is_mapping_with(*names):
    return lambda result: isinstance(result, Mapping) and bool({*names} & result.keys())


def _is_list_of_records(result):
    known = {"segmentation", "mask", "box"}
    return isinstance(result, list | tuple) and (
        not result or (isinstance(result[0], Mapping) and bool(known & result[0].keys()))
    )


# Tests for each form, and their readers.
_FORMS = (
    (_is_mapping_with("segmentation"), _read_segments),
    (_is_mapping_with("masks", "boxes"), _read_torchvision),
    (_has("masks", "boxes", "names", "orig_shape"), _read_ultralytics),
    (_has("mask", "xyxy", "class_id"), _read_supervision),
    (lambda result: getattr(result, "ndim", None) == 2, _read_map),
    (_has("ndim"), lambda masks: Result(_as_masks(masks))),
    (_is_list_of_records, _read_records),
)


def read_result(result):
    """Detect the form of a result, and convert it to a Result.

    Raises
    ------
    TypeError
        If the form is unknown.
    ValueError
        If a part is missing, or parts contradict each other.
    """
    for has_form, read in _FORMS:
        if has_form(result):
            return read(result)
    raise TypeError(
        "expected an object with mask, xyxy and class_id (supervision) or with masks, boxes and "
        "names (ultralytics), a dict with 'masks' or 'boxes' (torchvision) or with 'segmentation' "
        "and 'segments_info' (Hugging Face), a list of dicts with 'segmentation' (SAM) or 'mask' "
        "and 'label' (Hugging Face's pipelines), an array of masks or a map of class ids, got "
        f"{type(result).__name__}."
    )
