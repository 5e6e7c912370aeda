"""Polygons of annotation files in pixels, drawn as those of COCO are."""

from ._coco_masks import read_masks


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
        If an outline, or those of the image together, are too long to be drawn.
    """
    annotations = [{"segmentation": [corners], "at": i} for i, corners in enumerate(outlines)]
    return read_masks(annotations, list(size), lambda annotation: where(annotation["at"]))
