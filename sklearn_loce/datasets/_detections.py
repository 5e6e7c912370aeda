"""Make tables of samples from results of detectors and segmenters."""

from collections import Counter
from collections.abc import Mapping
from numbers import Real

import numpy as np
from sklearn.utils._param_validation import Interval, validate_params

from .._samples.images import size_of_image
from .._samples.masks import compress_rle, rle_size
from ._instances import Instance, make_frame
from ._results import as_array, read_result
from ._shapes import check_box
from ._table import TABLE_CONSTRAINTS, as_bunch, choose, encode

_ERRORS = (FileNotFoundError, OSError, TypeError, ValueError)


def _name_concepts(result, kept, class_names):
    """Return the concepts of the instances to keep."""
    if isinstance(class_names, str) and not result.is_map:
        return [class_names] * len(kept)
    if class_names is None and result.class_names is not None:
        return [str(name) for name in result.class_names[kept]]
    if result.class_ids is None:
        raise ValueError(
            "the masks come without classes; name them all alike, as in class_names='object'."
        )
    class_names = result.names if class_names is None else class_names
    if class_names is None or isinstance(class_names, str):
        raise ValueError(
            "the classes come without names; pass class_names, for torchvision "
            "weights.meta['categories'], for Hugging Face model.config.id2label."
        )
    names = dict(class_names if isinstance(class_names, Mapping) else enumerate(class_names))
    labels = result.class_ids[kept].tolist()
    unknown = sorted(set(labels) - names.keys())
    if unknown:
        raise ValueError(f"class_names has no name for the class ids {unknown[:10]}.")
    return [str(names[label]) for label in labels]


def _encode_mask(result, i, size, threshold):
    """Encode a mask. Raise an error if it has another size than the image."""
    if result.masks is None:
        return None
    mask = result.draw(result.masks[i], size)
    is_rle = isinstance(mask, Mapping)
    mask = mask if is_rle else as_array(mask)
    found = rle_size(mask) if is_rle else mask.shape
    if found != size:
        raise ValueError(f"a mask is {found}, but the image is {size} (height, width).")
    if is_rle:
        return compress_rle(mask)
    if mask.dtype.kind != "f":
        return encode(mask != 0)
    if np.isnan(mask).any():
        raise ValueError("a mask of floating-point numbers has NaN.")
    return encode(mask > threshold)


def _as_coco_box(corners, size):
    """Convert left, top, right and bottom to left, top, width and height."""
    # Clip near the image, because rounding of a huge width would move the right side.
    left, top, right, bottom = np.clip(check_box(corners), -1, max(size) + 1).tolist()
    return left, top, right - left, bottom - top


def _fields_of(result, i, score):
    """Return the fields of an instance besides its mask, for ``keep``."""
    fields = {name: values[i] for name, values in result.fields.items()}
    if result.class_ids is not None:
        fields["class_id"] = result.class_ids[i : i + 1].tolist()[0]
    return {**fields, "score": float(score)}


def _make_instances(image, image_id, result, *, class_names, min_score, threshold):
    """Convert the result of an image to a list of instances."""
    result = read_result(result)
    scores = np.full(len(result), np.nan) if result.scores is None else result.scores
    kept = np.flatnonzero(~(scores < min_score))
    if len(kept) == 0:
        return []
    size = tuple(size_of_image(image))
    if result.size not in (None, size):
        raise ValueError(
            f"it is of an image {result.size}, but the image is {size} (height, width)."
        )
    return [
        Instance(
            image,
            image_id,
            concept,
            size,
            mask=_encode_mask(result, i, size, threshold),
            box=None if result.boxes is None else _as_coco_box(result.boxes[i], size),
            annotation_id=f"{image_id}:{i if result.ids is None else result.ids[i]}",
            fields=_fields_of(result, i, scores[i]),
        )
        for i, concept in zip(kept, _name_concepts(result, kept, class_names), strict=True)
    ]


def _read_instances(image, image_id, result, position, **how):
    """Convert the result of an image to a list of instances. Errors name the image."""
    try:
        return _make_instances(image, image_id, result, **how)
    except _ERRORS as error:
        kind = next(kind for kind in _ERRORS if isinstance(error, kind))
        raise kind(f"detections[{position}]: {error}") from error


def _check_ids(images, detections, image_ids):
    lengths = {"images": len(images), "detections": len(detections)}
    if image_ids is not None:
        lengths["image_ids"] = len(image_ids)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"There must be one of each per image, got {lengths}.")
    repeated = [key for key, n in Counter(() if image_ids is None else image_ids).items() if n > 1]
    if repeated:
        raise ValueError(
            f"image_ids has {repeated[:5]} more than once; give each image its own id, and add a "
            "column for common values, such as a video."
        )


def _order(found, class_names):
    """Return {concept: name}: named concepts in their order, then others by first occurrence."""
    named = class_names.values() if isinstance(class_names, Mapping) else class_names
    if class_names is None or isinstance(class_names, str):
        named = ()
    seen = [instance.concept for instances in found for instance in instances]
    return {name: name for name in map(str, (*named, *seen))}


@validate_params(
    {
        "images": [list, tuple],
        "detections": [list, tuple],
        "class_names": [Mapping, "array-like", str, None],
        "min_score": [Interval(Real, 0, 1, closed="both")],
        "mask_threshold": [Real],
        "image_ids": ["array-like", None],
        **TABLE_CONSTRAINTS,
    },
    prefer_skip_nested_validation=True,
)
def from_detections(
    images,
    detections,
    *,
    class_names=None,
    min_score=0.0,
    mask_threshold=0.5,
    image_ids=None,
    categories=None,
    merge_instances=True,
    min_area=0,
    mask="segmentation",
    keep=(),
    return_X_y=False,
):
    """Make a table of samples from the results of detectors and segmenters.

    The form of a result determines its source. None of the packages is needed.

    Parameters
    ----------
    images : list of str, path, PIL image or ndarray of shape (height, width, 3)
        One per result.
    detections : list
        One result per image:

        - an object with ``mask`` of shape (n, height, width), ``class_id`` of shape (n,), ``xyxy``
          of shape (n, 4), and optionally ``confidence`` of shape (n,) and ``data["class_name"]``,
          such as ``supervision.Detections``;
        - a dict with ``masks`` of shape (n, 1, height, width), ``boxes``, ``labels`` and
          ``scores``, the output of torchvision's detectors;
        - an object with ``masks``, ``boxes``, ``names`` and ``orig_shape``, such as ``Results`` of
          ultralytics; the padding of masks is removed, and they are resized to the image;
        - a list of dicts with ``segmentation``, an array of shape (height, width) or an RLE dict,
          such as automatic masks of Segment Anything (``predicted_iou`` is the score);
        - a list of dicts with ``score``, ``label`` and ``mask``, a PIL image, or ``box``, from the
          pipelines of Hugging Face for image segmentation and object detection;
        - a dict with ``segmentation`` and ``segments_info``, from
          ``post_process_instance_segmentation`` and ``post_process_panoptic_segmentation`` of
          Hugging Face, as a map, as binary maps or as run-length encodings;
        - a map of class ids of shape (height, width), from ``post_process_semantic_segmentation``;
          each class is an instance;
        - an array or tensor of masks of shape (n, height, width) or (n, 1, height, width).
    class_names : dict, list of str or str, default=None
        Names of the class ids, as ``{id: name}`` or as a list. Use ``weights.meta["categories"]``
        for torchvision, and ``model.config.id2label`` for Hugging Face. A str is the name of all
        masks, for results without classes. ``None`` uses the names in the results.
    min_score : float, default=0.0
        Instances with a lower score are omitted. Detectors of torchvision return up to 100
        instances per image, most of them uncertain. Instances without a score are kept.
    mask_threshold : float, default=0.5
        Pixels of floating-point masks above this value belong to the instance.
    image_ids : array-like of shape (n_images,), default=None
        Id of each image. ``None`` numbers the images from 0.
    categories : list of str, default=None
        Names of the concepts to keep; ``None`` keeps all.
    merge_instances : bool, default=True
        Whether to merge the instances of a concept in an image into one row, as in the paper.
        Otherwise each instance is a row.
    min_area : int or float, default=0
        Minimum area of a mask. An int is a number of pixels, and a float in [0, 1] is a share of
        the image. Rows with smaller masks are omitted.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The mask itself, the bounding rectangle of each instance, or the ellipse inscribed in it.
        The latter two use boxes if there are no masks.
    keep : list of str, default=()
        Further fields of the results to keep. Each becomes a column. For merged instances, its
        cells are tuples with one value per instance. Fields are "class_id" and other values per
        instance: "stability_score" of Segment Anything, "tracker_id" and the entries of ``data`` of
        supervision, "track_id" of ultralytics, "was_fused" and "label_id" of Hugging Face, and
        further entries of the dict of torchvision. The column ``score`` is always present.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        The table, with the attributes of :func:`load_coco`. The column ``score`` is the highest
        score of the instances of a row, or NaN. ``annotation_id`` is "IMAGE_ID:NUMBER", with the
        position in the result, or the id of a segment or class. Rows are in the order of images,
        then of ``class_names``, then of instances.
    (data, target) : tuple if ``return_X_y`` is True
        The table and the concepts.

    Raises
    ------
    FileNotFoundError
        If an image does not exist.
    TypeError
        If the form of a result is unknown.
    ValueError
        If the lengths of the lists differ, two images have the same id, classes have no names, a
        mask cannot be read, has NaN or another size than its image, segments are ambiguous, or
        nothing is left to load. The message names the result.

    See Also
    --------
    load_yolo : Load predictions and labels in YOLO format.
    load_coco : Load annotations in COCO format.

    Notes
    -----
    Convert a FiftyOne dataset by its export to the COCO format::

        dataset.export("exported", dataset_type=fiftyone.types.COCODetectionDataset,
                       label_field="ground_truth")
        table = load_coco("exported/labels.json", "exported/data")

    A direct conversion keeps the ids of FiftyOne::

        dataset.compute_metadata()
        rows = [
            {"image": sample.filepath, "concept": instance.label, "image_id": sample.id,
             "label_id": instance.id,
             "mask": instance.to_segmentation(
                 frame_size=(sample.metadata.width, sample.metadata.height)).mask > 0}
            for sample in dataset
            for instance in sample.ground_truth.detections
        ]
        X = pandas.DataFrame(rows)

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.datasets import from_detections
    >>> image = np.zeros((4, 4, 3), dtype=np.uint8)
    >>> masks = np.zeros((2, 1, 4, 4), dtype=np.float32)
    >>> masks[0, 0, :2], masks[1, 0, 3] = 0.9, 0.8
    >>> output = {"masks": masks, "labels": np.array([2, 1]), "scores": np.array([0.9, 0.4])}
    >>> table = from_detections([image], [output], class_names=["background", "dog", "cat"])
    >>> table.data[["concept", "area", "n_instances", "score"]]
      concept  area  n_instances  score
    0     dog  0.25            1    0.4
    1     cat  0.50            1    0.9

    These lines show networks of Hugging Face and ultralytics::

        segmenter = transformers.pipeline("image-segmentation")
        from_detections(images, segmenter(images))

        results = processor.post_process_instance_segmentation(
            outputs, target_sizes=[image.size[::-1] for image in images])
        from_detections(images, results, class_names=model.config.id2label)

        from_detections(paths, list(ultralytics.YOLO("yolo11n-seg.pt")(paths)), min_score=0.5)
    """
    _check_ids(images, detections, image_ids)
    ids = range(len(images)) if image_ids is None else image_ids
    how = {"class_names": class_names, "min_score": min_score, "threshold": mask_threshold}
    found = [
        _read_instances(image, image_id, result, i, **how)
        for i, (image, image_id, result) in enumerate(zip(images, ids, detections, strict=True))
    ]
    chosen = choose(categories, _order(found, class_names), "detections")
    frame = make_frame(
        found,
        chosen,
        keep=["score", *(name for name in keep if name != "score")],
        merge_instances=merge_instances,
        mask=mask,
        min_area=min_area,
        source="detections",
    )
    if merge_instances:
        frame["score"] = [np.fmax.reduce(scores) for scores in frame["score"]]
    return as_bunch(frame, chosen, "detections", return_X_y=return_X_y)
