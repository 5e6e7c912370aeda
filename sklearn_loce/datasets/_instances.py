"""Annotated objects, and the table that is made of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from ._shapes import SHAPES

COLUMNS = ("image", "mask", "concept", "image_id", "area", "n_instances", "annotation_id")


@dataclass(frozen=True)
class Instance:
    """One annotated object of an image.

    Parameters
    ----------
    image : str, path, PIL image or ndarray
    image_id : int or str
    concept : str
    size : (int, int)
        Height and width of the image in pixels.
    mask : dict or None
        Compressed RLE; None where only the box is known.
    box : sequence of four numbers, or None
        Left, top, width and height in pixels.
    annotation_id : int, str or None
        As the source has it, for the way back.
    fields : Mapping
        What else the source says about the object; ``keep`` makes columns of it.
    """

    image: Any
    image_id: int | str
    concept: str
    size: tuple[int, int]
    mask: dict | None = None
    box: Sequence | None = None
    annotation_id: int | str | None = None
    fields: Mapping = field(default_factory=dict)

    def draw(self, shape):
        """Give the mask in a shape of ``SHAPES``, as compressed RLE."""
        if self.mask is None and (shape == "segmentation" or self.box is None):
            has_box = (
                "" if self.box is None else " but a box: mask='rectangle' draws a mask from it"
            )
            raise ValueError(f"the annotation {self.annotation_id!r} has no mask{has_box}.")
        return SHAPES[shape](_fill_box(self.box, self.size) if self.mask is None else self.mask)


def _fill_box(box, size):
    """Fill a box, cut at the image's borders: pycocotools walks the whole of its outline."""
    corners = np.asarray(box, dtype=float)
    if corners.shape != (4,) or not np.isfinite(corners).all():
        raise ValueError(f"a box must be four finite numbers, got {corners.tolist()}")
    start, end = corners[:2], corners[:2] + np.maximum(corners[2:], 0)
    limits = np.array(size[::-1]) + 1
    start, end = np.clip(start, -1, limits), np.clip(end, -1, limits)
    return coco_mask.frPyObjects(np.array([[*start, *(end - start)]]), *size)[0]


def _group(instances, rank, *, merge_instances):
    """Collect the objects that share a row, concepts in the order of ``rank``."""
    groups = {}
    for position, instance in enumerate(instances):
        if instance.concept in rank:
            key = (rank[instance.concept], 0 if merge_instances else position)
            groups.setdefault(key, []).append(instance)
    return [groups[key] for key in sorted(groups)]


def _make_row(group, shape, keep, *, merge_instances):
    """Merge the objects of a row; what is kept of them becomes a tuple where they are merged."""
    rle, first = coco_mask.merge([instance.draw(shape) for instance in group]), group[0]
    kept = {"annotation_id": tuple(instance.annotation_id for instance in group)}
    kept |= {name: tuple(instance.fields.get(name) for instance in group) for name in keep}
    pixels = int(coco_mask.area(rle))
    return {
        "image": first.image,
        "mask": rle,
        "concept": first.concept,
        "image_id": first.image_id,
        "area": pixels / (rle["size"][0] * rle["size"][1]),
        "n_instances": len(group),
        "pixels": pixels,
        "ids": kept["annotation_id"],
        **(kept if merge_instances else {name: values[0] for name, values in kept.items()}),
    }


def _draw_rows(images, rank, shape, keep, source, *, merge_instances):
    """Give the rows of all images, and the fields that their objects have."""
    rows, fields = [], set()
    for instances in images:
        for group in _group(instances, rank, merge_instances=merge_instances):
            fields.update(*(instance.fields for instance in group))
            try:
                rows.append(_make_row(group, shape, keep, merge_instances=merge_instances))
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from error
    return rows, fields


def _drop_small(frame, min_area, source):
    """Leave out masks below ``min_area``; an empty one that would stay is an error."""
    measure = "pixels" if isinstance(min_area, Integral) else "area"
    frame = frame[frame[measure] >= min_area]
    empty = [name for ids in frame.loc[frame["pixels"] == 0, "ids"] for name in ids]
    if empty:
        raise ValueError(
            f"{source}: the annotations {empty[:5]} cover no pixel ({len(empty)} in all); "
            "min_area=1 leaves them out."
        )
    return frame


def _check_keep(keep, source):
    """Raise where ``keep`` names a column of the table, or a name twice."""
    names = [*COLUMNS, *keep]
    wrong = [name for name in keep if not isinstance(name, str) or names.count(name) > 1]
    if wrong:
        raise ValueError(
            f"{source}: keep must name each field once, and none of the table's own columns "
            f"{list(COLUMNS)}, got {wrong}."
        )


def _check_fields(keep, fields, source):
    """Raise where no object has a field to keep."""
    unknown = [name for name in keep if name not in fields]
    if unknown:
        raise ValueError(
            f"{source}: no annotation has the fields {unknown} that keep names; there are "
            f"{sorted(fields)}."
        )


def make_frame(
    images: Iterable[Sequence[Instance]],
    concepts,
    *,
    keep=(),
    merge_instances=True,
    mask="segmentation",
    min_area=0,
    source,
):
    """Make the table of samples: images in their order, then concepts in theirs.

    Parameters
    ----------
    images : iterable of list of Instance
        The objects of one image after the other.
    concepts : iterable of str
        The concepts to load; objects of others are left out.
    keep, merge_instances, mask, min_area
        As the loaders have them.
    source : str or path
        What messages call the origin.

    Returns
    -------
    DataFrame

    Raises
    ------
    ValueError
        If a mask is empty, no object has a field to keep, or no row is left.
    """
    keep = list(keep)
    _check_keep(keep, source)
    rank = {concept: i for i, concept in enumerate(dict.fromkeys(concepts))}
    rows, fields = _draw_rows(images, rank, mask, keep, source, merge_instances=merge_instances)
    columns = [*COLUMNS, *keep]
    frame = _drop_small(pd.DataFrame(rows, columns=[*columns, "pixels", "ids"]), min_area, source)
    if frame.empty:
        raise ValueError(f"{source}: no annotation is left to load; widen categories or min_area.")
    _check_fields(keep, fields, source)
    return frame[columns].reset_index(drop=True)
