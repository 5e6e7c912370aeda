"""Convert images of class ids or colors to objects."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from ._instances import Instance
from ._label_files import distinct, write_color
from ._runs import encode_labels
from ._table import choose

_SHOWN = 10
_BLURRED = 20  # more unknown labels cannot be an oversight
_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class LabeledImage:
    """Paths of an image and its labels.

    Parameters
    ----------
    image_id : str
    image : Path
    labels : Path
        Index image of class ids.
    instances : Path or None
        Index image that numbers the instances.
    """

    image_id: str
    image: Path
    labels: Path
    instances: Path | None


@dataclass(frozen=True)
class Coding:
    """Terms for messages about ids or colors.

    Parameters
    ----------
    labels : str
        Name of the labels.
    parameter : str
        Parameter that names the labels.
    ignored : str
        An example of labels to ignore.
    field : str
        Name of the field for ``keep``.
    write : callable
        Function that formats a label.
    """

    labels: str
    parameter: str
    ignored: str
    field: str
    write: Callable


IDS = Coding("ids", "class_names", "[255]", "class_id", int)
COLORS = Coding("colors", "palette", "['#000000']", "color", write_color)


def _check_labels(labels, known, coding, path):
    """Raise an error if an image has labels without a name that are not ignored."""
    if known.issuperset(distinct(labels).tolist()):
        return
    values, counts = np.unique(labels, return_counts=True)
    unknown = [i for i in np.argsort(-counts) if int(values[i]) not in known]
    most = sorted(unknown[:_SHOWN])
    shown = [coding.write(values[i]) for i in most]
    pixels = ", ".join(str(counts[i]) for i in most)
    blurred = (
        " So many come from JPEG compression or smooth resizing, which masks do not survive."
        if len(unknown) > _BLURRED
        else ""
    )
    raise ValueError(
        f"{path} has the {coding.labels} {shown} ({pixels} pixels; {len(unknown)} in all), which "
        f"are not in {coding.parameter}. Name them, or ignore them, as in "
        f"ignore={coding.ignored}.{blurred}"
    )


def _bounding_box(inside):
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _encode_parts(parts, box, shape):
    """Encode the parts of a box in an image of ``shape``. Parts are numbered from 1."""
    numbers = np.zeros((parts.shape[0], shape[1]), dtype=np.int32)
    numbers[:, box[1]] = parts
    # The image is transposed, see split_concept. Whole columns precede and follow the box.
    masks = encode_labels(numbers.T, left=box[0].start, width=shape[0])
    return [mask for number, mask in masks.items() if number]


def _split_regions(labels, ids):
    """Return (mask, id, number) of the connected regions of a concept."""
    inside = np.isin(labels, ids)
    box = _bounding_box(inside)
    parts, count = ndimage.label(inside[box], structure=_EIGHT_NEIGHBORS)
    masks = _encode_parts(parts, box, labels.shape)
    return list(zip(masks, [ids[0]] * count, range(1, count + 1), strict=True))


def _split_numbered(labels, instances, label):
    """Return (mask, id, number) of the numbered parts of a class."""
    inside = labels == label
    box = _bounding_box(inside)
    ranks, numbers = pd.factorize(instances[inside], sort=True)
    parts = np.zeros(labels.shape, dtype=np.int32)
    parts[inside] = ranks + 1
    masks = _encode_parts(parts[box], box, labels.shape)
    return list(zip(masks, [label] * len(masks), numbers.tolist(), strict=True))


def split_concept(labels, instances, ids):
    """Encode the instances of a concept, or its connected regions without numbers.

    Parameters
    ----------
    labels : ndarray of shape (height, width), int
    instances : ndarray of shape (height, width), int, or None
    ids : list of int
        The ids of the concept, all of which occur in ``labels``.

    Returns
    -------
    list of (dict, int, int)
        Compressed RLE, class id and number of each. A region of several ids has the first id.
    """
    # The transpose of an array in column order is contiguous, which halves the time.
    if instances is None:
        return _split_regions(labels.T, ids)
    return [part for label in ids for part in _split_numbered(labels.T, instances.T, label)]


class Labelling:
    """The meaning of labels, and their conversion to objects.

    Parameters
    ----------
    names : dict
        {label: concept}; several labels may share a concept. Colors are packed.
    ignore : iterable of int
        Labels that belong to no concept.
    categories : list of str or None
        The concepts to keep.
    source : str or path
        Name of the dataset in messages.
    coding : Coding
    """

    def __init__(self, names, ignore, *, categories, source, coding=IDS):
        self.known = {*names, *ignore}
        self.coding = coding
        self.concepts = {}
        for label, name in choose(categories, names, source).items():
            self.concepts.setdefault(name, []).append(label)

    def make_instances(self, sample, labels, instances):
        """Return the objects of one image, with concepts in the order of their names.

        Parameters
        ----------
        sample : LabeledImage
        labels : ndarray of shape (height, width), int
        instances : ndarray of shape (height, width), int, or None

        Returns
        -------
        list of Instance
        """
        _check_labels(labels, self.known, self.coding, sample.labels)
        if instances is not None and instances.shape != labels.shape:
            raise ValueError(
                f"{sample.labels} is {labels.shape}, but {sample.instances} is {instances.shape} "
                "(height, width)."
            )
        present = set(distinct(labels).tolist())
        objects = []
        for concept, ids in self.concepts.items():
            ids = [label for label in ids if label in present]
            if ids:
                parts = split_concept(labels, instances, ids)
                objects += [self._make_instance(sample, concept, labels.shape, *p) for p in parts]
        return objects

    def _make_instance(self, sample, concept, size, mask, label, number):
        """Return one object. Its id consists of image, class and number."""
        label = self.coding.write(label)
        return Instance(
            str(sample.image),
            sample.image_id,
            concept,
            size,
            mask=mask,
            annotation_id=f"{sample.image_id}:{label}:{number}",
            fields={self.coding.field: label, "instance": number},
        )
