"""Load tables of samples from a PASCAL VOC tree."""

import os
from pathlib import Path

from sklearn.utils._param_validation import validate_params

from ._index_images import LabeledImage, Labelling
from ._instances import make_frame
from ._label_files import VOC_COLORS, IdReader
from ._table import TABLE_CONSTRAINTS, as_bunch, locate

# The order of the development kit. The id of a class is its position, counted from 1.
_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_NAMES = dict(enumerate(_CLASSES, start=1))
_BACKGROUND, _VOID = 0, 255


def _find_tree(root):
    """Find the folder with SegmentationClass: root, or a folder of the published archive."""
    candidates = [Path(root, *inner) for inner in ((), ("VOC2012",), ("VOCdevkit", "VOC2012"))]
    for folder in candidates:
        if (folder / "SegmentationClass").is_dir():
            return folder
    raise FileNotFoundError(
        f"No folder 'SegmentationClass' in any of {[str(c) for c in candidates]}; root must be the "
        "folder VOC2012, or a folder that contains it."
    )


def _read_split(tree, split):
    """Return the file of a split and the names of its images."""
    path = tree / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.txt"))
        raise FileNotFoundError(f"There is no split {split!r}: {path} is missing. Known: {known}.")
    return path, path.read_text(encoding="utf-8").split()


def _locate(tree, names, split_file):
    def find(folder, name):
        return Path(locate(tree / folder, name, split_file))

    samples = [
        LabeledImage(
            name,
            find("JPEGImages", f"{name}.jpg"),
            find("SegmentationClass", f"{name}.png"),
            find("SegmentationObject", f"{name}.png"),
        )
        for name in names
    ]
    missing = [
        str(file)
        for sample in samples
        for file in (sample.image, sample.labels, sample.instances)
        if not file.is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{split_file} lists images of which {len(missing)} file(s) are missing: {missing[:5]}."
        )
    return samples


def _read_instances(sample, labelling, classes, objects):
    labels = classes.read(sample.labels)
    instances = objects.read(sample.instances)
    if labels.shape == instances.shape:
        # Void pixels of either image belong to no object.
        labels[instances == _VOID] = _VOID
    return labelling.make_instances(sample, labels, instances)


@validate_params(
    {"root": [str, os.PathLike], "split": [str], **TABLE_CONSTRAINTS},
    prefer_skip_nested_validation=True,
)
def load_voc(
    root,
    split="trainval",
    *,
    categories=None,
    merge_instances=True,
    min_area=0,
    mask="segmentation",
    keep=(),
    return_X_y=False,
):
    """Load a table of samples from a PASCAL VOC 2012 tree.

    The index images in ``SegmentationClass`` and ``SegmentationObject`` are read as published. If
    an optimizer has sorted their palettes, the colors of VOC determine the ids. Pixels with the id
    255 (void: outlines of objects and uncertain regions) belong to no mask. The images themselves
    are not opened.

    Parameters
    ----------
    root : str or path
        The folder ``VOC2012``, or a folder that contains it, such as the unpacked archive.
    split : str, default="trainval"
        Name of a list in ``ImageSets/Segmentation``: "train", "val", "trainval" or your own list.
    categories : list of str, default=None
        Names of the classes to load; ``None`` loads all 20.
    merge_instances : bool, default=True
        Whether to merge the instances of a concept in an image into one row, as in the paper.
        Otherwise each instance is a row. Both cover the same pixels.
    min_area : int or float, default=0
        Minimum area of a mask. An int is a number of pixels, and a float in [0, 1] is a share of
        the image. Rows with smaller masks are omitted.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The mask itself, the bounding rectangle of each instance, or the ellipse inscribed in it.
    keep : list of str, default=()
        Further fields to keep: "class_id" and "instance", the number of the object. Each becomes a
        column. For merged instances, its cells are tuples with one value per instance.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        The table, with the attributes of :func:`load_coco`. Rows are in the order of the list and
        of the class ids. ``image_id`` is the name of the image, such as "2007_000032", and
        ``annotation_id`` is "IMAGE_ID:CLASS_ID:NUMBER".
    (data, target) : tuple if ``return_X_y`` is True
        The table and the concepts.

    Raises
    ------
    FileNotFoundError
        If the tree, the split, or an image or mask that the split lists is missing.
    ValueError
        If a mask cannot be read or has an id that VOC does not define, a category is unknown, or
        nothing is left to load. The message names the file.

    See Also
    --------
    fetch_voc2012 : Download the tree and load it.

    References
    ----------
    .. [1] M. Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective",
       IJCV, 2015.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sklearn_loce.datasets import load_voc
    >>> root = Path(tempfile.mkdtemp())
    >>> ids = np.zeros((4, 6), dtype=np.uint8)
    >>> ids[:2, :3], ids[2, :3] = 15, 255
    >>> for folder, pixels in [("JPEGImages/a.jpg", ids), ("SegmentationClass/a.png", ids),
    ...                        ("SegmentationObject/a.png", np.where(ids == 15, 1, ids))]:
    ...     (root / folder).parent.mkdir()
    ...     Image.fromarray(pixels).save(root / folder)
    >>> (root / "ImageSets/Segmentation").mkdir(parents=True)
    >>> _ = (root / "ImageSets/Segmentation/val.txt").write_text("a")
    >>> load_voc(root, "val").data[["concept", "image_id", "area", "n_instances"]]
      concept image_id  area  n_instances
    0  person        a  0.25            1
    """
    tree = _find_tree(root)
    labelling = Labelling(_NAMES, (_BACKGROUND, _VOID), categories=categories, source=tree)
    split_file, names = _read_split(tree, split)
    readers = [IdReader(known, VOC_COLORS) for known in (labelling.known, set(range(256)))]
    frame = make_frame(
        (_read_instances(s, labelling, *readers) for s in _locate(tree, names, split_file)),
        labelling.concepts,
        keep=keep,
        merge_instances=merge_instances,
        mask=mask,
        min_area=min_area,
        source=split_file,
    )
    for reader in readers:
        reader.finish()
    return as_bunch(frame, labelling.concepts, split_file, return_X_y=return_X_y)
