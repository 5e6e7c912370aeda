"""Coarser shapes in place of a segmentation: what an annotator with less time would draw."""

import numpy as np
from pycocotools import mask as coco_mask


def _segmentation(rle):
    return rle


def _rectangle(rle):
    """Fill the bounding rectangle of a mask."""
    if coco_mask.area(rle) == 0:
        return rle
    return coco_mask.frPyObjects(coco_mask.toBbox(rle)[None], *rle["size"])[0]


def _ellipse(rle):
    """Fill the ellipse inscribed in the bounding rectangle; pixels count by their center."""
    height, width = rle["size"]
    left, top, box_width, box_height = coco_mask.toBbox(rle).astype(int)
    if box_width == 0 or box_height == 0:
        return rle
    rows = (np.arange(box_height) + 0.5) / box_height * 2 - 1
    columns = (np.arange(box_width) + 0.5) / box_width * 2 - 1
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    mask[top : top + box_height, left : left + box_width] = rows[:, None] ** 2 + columns**2 <= 1
    return coco_mask.encode(mask)


SHAPES = {"segmentation": _segmentation, "rectangle": _rectangle, "ellipse": _ellipse}
