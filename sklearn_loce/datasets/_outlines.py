"""Polygons of annotation files in pixels, drawn as those of COCO are."""

from pycocotools import mask as coco_mask

from ._coco import _read_polygons


def fill_polygons(outlines, size, where):
    """Fill outlines, one mask each.

    Parameters
    ----------
    outlines : list of ndarray of shape (n, 2)
        x and y of the corners in pixels; three or more.
    size : (int, int)
        Height and width of the image.
    where : callable
        ``where(i)`` says in messages which outline it is.

    Returns
    -------
    list of dict
        Compressed RLE.

    Raises
    ------
    ValueError
        If an outline is too long to be drawn.
    """
    masks = []
    for i, corners in enumerate(outlines):
        try:
            flat = _read_polygons([corners.ravel().tolist()])
        except ValueError as error:
            raise ValueError(f"{where(i)} can't be read: {error}") from error
        masks += coco_mask.frPyObjects(flat, *size)
    return masks
