"""Images whose pixels are class ids: reading them, and turning them into rows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from .._samples.images import READ_ERRORS, open_image
from ._instances import Instance
from ._table import choose, encode

# Palette images count by their index, not by their color.
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class LabelledImage:
    """Where one image and its labels are.

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


def read_index_image(path):
    """Read an image of ids, one per pixel.

    Returns
    -------
    ndarray of shape (height, width)
        Integers or booleans, in column order, as run-length encoding goes.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, can't be read, or shows colors in place of ids.
    """
    try:
        with open_image(path) as image:
            if image.mode in _INDEX_MODES:
                return np.array(image, order="F")
            mode = image.mode
    except FileNotFoundError as error:
        raise FileNotFoundError(f"The mask {path} does not exist.") from error
    except READ_ERRORS as error:
        raise ValueError(f"{path} can't be read as an image: {error}") from error
    raise ValueError(
        f"{path} is an image of mode {mode}, but a mask must hold one class id per pixel (mode L, "
        "P or I). Masks drawn in colors must be turned into ids first."
    )


def distinct(ids):
    """Give the sorted distinct values of an index image, without sorting its pixels."""
    return np.sort(pd.unique(ids.ravel(order="K")))


def check_ids(labels, known, path):
    """Raise where an image holds ids that have neither a name nor are ignored."""
    unknown = [int(i) for i in distinct(labels) if i not in known]
    if unknown:
        raise ValueError(
            f"{path} holds the ids {unknown[:10]} ({len(unknown)} in all), which class_names does "
            "not name. Name them, or list those that mean nothing, as in ignore=[255]."
        )


def _bounding_box(inside):
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _encode_parts(parts, box, shape):
    """Encode each part of a box; parts are numbered from 1, and lie in an image of ``shape``."""
    masks = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        mask = np.zeros(shape, dtype=np.uint8)
        mask[box][rows, columns] = parts[rows, columns] == number
        # The image lies on its side: see split_concept.
        masks.append(encode(mask.T))
    return masks


def _split_regions(labels, ids):
    """Give (mask, id, number) of the connected regions of a concept."""
    inside = np.isin(labels, ids)
    box = _bounding_box(inside)
    parts, count = ndimage.label(inside[box], structure=_EIGHT_NEIGHBOURS)
    masks = _encode_parts(parts, box, labels.shape)
    return list(zip(masks, [ids[0]] * count, range(1, count + 1), strict=True))


def _split_numbered(labels, instances, label):
    """Give (mask, id, number) of the parts of a class that have a number of their own."""
    inside = labels == label
    box = _bounding_box(inside)
    ranks, numbers = pd.factorize(instances[inside], sort=True)
    parts = np.zeros(labels.shape, dtype=np.int32)
    parts[inside] = ranks + 1
    masks = _encode_parts(parts[box], box, labels.shape)
    return list(zip(masks, [label] * len(masks), numbers.tolist(), strict=True))


def split_concept(labels, instances, ids):
    """Encode the instances of a concept, or its connected regions where none are numbered.

    Parameters
    ----------
    labels : ndarray of shape (height, width), int
    instances : ndarray of shape (height, width), int, or None
    ids : list of int
        The concept's ids, all of which are in ``labels``.

    Returns
    -------
    list of (dict, int, int)
        Compressed RLE, class id (a region of several has the first) and number of each.
    """
    # Transposed, arrays in column order are contiguous, which halves the time.
    if instances is None:
        return _split_regions(labels.T, ids)
    return [part for label in ids for part in _split_numbered(labels.T, instances.T, label)]


class Labelling:
    """What the ids mean, and how objects are made of them.

    Parameters
    ----------
    names : dict
        {id: concept}; several ids may share a concept.
    ignore : iterable of int
        Ids that belong to no concept.
    categories : list of str or None
        The concepts to keep.
    source : str or path
        What messages call the dataset.
    """

    def __init__(self, names, ignore, *, categories, source):
        self.known = {*names, *ignore}
        self.concepts = {}
        for label, name in choose(categories, names, source).items():
            self.concepts.setdefault(name, []).append(label)

    def make_instances(self, sample, labels, instances):
        """Give the objects of one image, concepts in the order of their names.

        Parameters
        ----------
        sample : LabelledImage
        labels : ndarray of shape (height, width), int
        instances : ndarray of shape (height, width), int, or None

        Returns
        -------
        list of Instance
        """
        check_ids(labels, self.known, sample.labels)
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
                objects += _make_instances(sample, concept, labels, instances, ids)
        return objects


def _make_instances(sample, concept, labels, instances, ids):
    """Give the objects of one concept; their ids name the image, the class and the number."""
    return [
        Instance(
            str(sample.image),
            sample.image_id,
            concept,
            labels.shape,
            mask=mask,
            annotation_id=f"{sample.image_id}:{label}:{number}",
            fields={"class_id": label, "instance": number},
        )
        for mask, label, number in split_concept(labels, instances, ids)
    ]
