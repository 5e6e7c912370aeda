"""Annotated objects, and the table of samples that they form."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from numbers import Integral
from typing import Any

import pandas as pd
from pycocotools import mask as coco_mask

from .._warnings import warn_user
from ._runs import merge_masks
from ._shapes import draw_box, draw_mask

COLUMNS = ("image", "mask", "concept", "image_id", "area", "n_instances", "annotation_id")
_LONGEST_ENCODINGS = 1 << 26  # bytes of the shapes in one image


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
        Compressed RLE; None if only the box is known.
    box : sequence of four numbers, or None
        Left, top, width and height in pixels.
    annotation_id : int, str, tuple or None
        Id in the source, for the export; a tuple if the source has merged objects.
    fields : Mapping, or tuple of Mapping
        Further fields of the source, which ``keep`` turns into columns. A tuple has one mapping per
        id.
    """

    image: Any
    image_id: int | str
    concept: str
    size: tuple[int, int]
    mask: dict | None = None
    box: Sequence | None = None
    annotation_id: int | str | tuple | None = None
    fields: Mapping | tuple = field(default_factory=dict)

    @property
    def ids(self):
        """The ids of merged objects of the source, or the single id."""
        return (
            self.annotation_id if isinstance(self.annotation_id, tuple) else (self.annotation_id,)
        )

    @property
    def parts(self):
        """The fields of each id."""
        return self.fields if isinstance(self.fields, tuple) else (self.fields,)

    def draw(self, shape):
        """Return the mask, or the box in one of the shapes, as compressed RLE."""
        try:
            if self.mask is None:
                return draw_box(shape, self.box, self.size)
            return draw_mask(shape, self.mask)
        except ValueError as error:
            raise ValueError(f"the annotation {self.annotation_id!r}: {error}") from error


def _group(instances, masks, rank, *, merge_instances):
    """Group objects and masks by rows, with concepts in the order of ``rank``."""
    groups = {}
    for position, (instance, rle) in enumerate(zip(instances, masks, strict=True)):
        key = (rank[instance.concept], 0 if merge_instances else position)
        groups.setdefault(key, []).append((instance, rle))
    return [groups[key] for key in sorted(groups)]


def _make_row(group, keep, *, merge_instances):
    """Merge the objects of a row. Kept fields of merged objects become tuples."""
    instances, masks = zip(*group, strict=True)
    rle, first = merge_masks(masks), instances[0]
    kept = {
        "annotation_id": tuple(chain(*(i.ids for i in instances))),
        **{name: tuple(part.get(name) for i in instances for part in i.parts) for name in keep},
    }
    pixels, ids = int(coco_mask.area(rle)), kept["annotation_id"]
    is_tuple = merge_instances or len(ids) > 1
    return {
        "image": first.image,
        "mask": rle,
        "concept": first.concept,
        "image_id": first.image_id,
        "area": pixels / (rle["size"][0] * rle["size"][1]),
        "n_instances": len(ids),
        "pixels": pixels,
        "ids": ids,
        **(kept if is_tuple else {name: values[0] for name, values in kept.items()}),
    }


def _draw(instances, shape):
    """Encode the objects of an image. A box may need one run per column."""
    masks, length = [], 0
    for instance in instances:
        masks.append(instance.draw(shape))
        length += len(masks[-1]["counts"])
        if shape != "segmentation" and length > _LONGEST_ENCODINGS:
            raise ValueError(
                f"the {shape}s of the first {len(masks)} of {len(instances)} objects of the image "
                f"{instance.image_id!r} take more than {_LONGEST_ENCODINGS >> 20} MiB; load fewer."
            )
    return masks


def _warn_without_mask(ids, n_rows, source):
    """Warn of objects with a box but no mask. Raise an error if no other object is left."""
    if not ids:
        return
    way = "mask='rectangle' or mask='ellipse' draws masks from the boxes"
    shown = f"such as {ids[:5]}"
    if not n_rows:
        raise ValueError(
            f"{source}: none of the {len(ids)} annotations to load has a mask, {shown}, but they "
            f"have boxes; {way}."
        )
    warn_user(
        f"{source}: {len(ids)} annotations have a box but no mask and are left out, {shown}; {way}."
    )


def _draw_rows(images, rank, shape, keep, source, *, merge_instances):
    """Return the rows of all images, and the fields that their objects have."""
    rows, fields, without_mask = [], set(), []
    for instances in images:
        chosen = [instance for instance in instances if instance.concept in rank]
        if shape == "segmentation":
            without_mask += chain(*(i.ids for i in chosen if i.mask is None))
            chosen = [instance for instance in chosen if instance.mask is not None]
        fields.update(*(part for instance in chosen for part in instance.parts))
        try:
            masks = _draw(chosen, shape)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        for group in _group(chosen, masks, rank, merge_instances=merge_instances):
            rows.append(_make_row(group, keep, merge_instances=merge_instances))
    _warn_without_mask(without_mask, len(rows), source)
    return rows, fields


def _drop_small(frame, min_area, source):
    """Omit masks below ``min_area``. Raise an error for remaining empty masks."""
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
    """Raise an error if ``keep`` has a column of the table, or a name twice."""
    names = [*COLUMNS, *keep]
    wrong = [name for name in keep if not isinstance(name, str) or names.count(name) > 1]
    if wrong:
        raise ValueError(
            f"{source}: keep must name each field once, and none of the table's own columns "
            f"{list(COLUMNS)}, got {wrong}."
        )


def _check_fields(keep, fields, source):
    """Raise an error if no object has a field of ``keep``."""
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
    """Make the table of samples, sorted by the order of images and then of concepts.

    Parameters
    ----------
    images : iterable of list of Instance
        The objects of each image.
    concepts : iterable of str
        The concepts to load. Objects of other concepts are omitted.
    keep, merge_instances, mask, min_area
        Parameters of the loaders.
    source : str or path
        Name of the source in messages.

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
