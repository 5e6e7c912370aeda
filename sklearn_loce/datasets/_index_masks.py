"""Load tables of samples from folders of images and masks of class ids or colors."""

import os
from collections.abc import Mapping
from numbers import Number
from pathlib import Path

from sklearn.utils._param_validation import StrOptions, validate_params

from ._folders import Names, files_by_name
from ._index_images import COLORS, LabeledImage, Labelling
from ._instances import make_frame
from ._label_files import IdReader, pack_color, read_colors, write_color
from ._table import TABLE_CONSTRAINTS, as_bunch, as_names


def _check_paired(images, masks, mask_dir, mask_names):
    """Raise an error unless each image has a mask and each mask has an image."""
    for here, there, what in ((images, masks, "mask"), (masks, images, "image")):
        lonely = [path for name, path in here.items() if name not in there]
        if lonely:
            raise FileNotFoundError(
                f"{len(lonely)} file(s) have no {what}: {[str(path) for path in lonely[:5]]}. The "
                f"mask of an image 'NAME' is {Path(mask_dir, str(mask_names))}: set image_prefix, "
                "image_suffix, mask_prefix and mask_suffix, or unpaired='drop' to leave such files "
                "out."
            )


def _pair(image_dir, image_names, mask_dir, mask_names, unpaired):
    """Return [(name, image, mask)], sorted by name."""
    images = files_by_name(image_dir, image_names, "image")
    masks = files_by_name(mask_dir, mask_names, "mask")
    if unpaired == "raise":
        _check_paired(images, masks, mask_dir, mask_names)
    return [(name, images[name], masks[name]) for name in sorted(images) if name in masks]


def _pack_colors(colors, where):
    """Pack one color, or each of a list."""
    try:
        is_one = isinstance(colors, str) or all(isinstance(part, Number) for part in colors)
        return [pack_color(color) for color in ([colors] if is_one and len(colors) else colors)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}.") from error


def _as_packed(palette, ignore):
    """Convert a palette to {packed color: name}, and the ignored colors to a list."""
    names, ignored = {}, _pack_colors(ignore, "ignore")
    for name, colors in palette.items():
        packed = _pack_colors(colors, f"palette[{name!r}]")
        twice = [write_color(color) for color in packed if color in {*names, *ignored}]
        if twice or not packed:
            problem = f"{twice} are given elsewhere too" if twice else "it has no color"
            raise ValueError(f"palette[{name!r}]: {problem}.")
        names |= dict.fromkeys(packed, str(name))
    return names, ignored


def _make_labelling(class_names, palette, ignore, categories):
    """Return the meaning of labels, which are ids or colors."""
    if (class_names is None) == (palette is None):
        raise ValueError(
            "Pass either class_names, for masks of ids, or palette, for colored masks."
        )
    if palette is None:
        names = as_names(class_names, ignore)
        return Labelling(names, ignore, categories=categories, source="class_names")
    names, ignored = _as_packed(palette, ignore)
    return Labelling(names, ignored, categories=categories, source="palette", coding=COLORS)


def _read_pair(pair, labelling, read, read_numbers, names):
    """Return the objects of an image and its mask."""
    name, image, labels = pair
    mask_names, instance_names = names
    numbered = None
    if instance_names.suffix is not None:
        stem = mask_names.strip(labels.name)
        numbered = labels.with_name(f"{instance_names.prefix}{stem}{instance_names.suffix}")
    sample = LabeledImage(name, image, labels, numbered)
    instances = read_numbers(numbered) if numbered else None
    return labelling.make_instances(sample, read(labels), instances)


@validate_params(
    {
        "image_dir": [str, os.PathLike],
        "mask_dir": [str, os.PathLike],
        "class_names": [Mapping, "array-like", None],
        "palette": [Mapping, None],
        "ignore": ["array-like"],
        "image_prefix": [str],
        "image_suffix": [str, None],
        "mask_prefix": [str],
        "mask_suffix": [str],
        "instance_prefix": [str],
        "instance_suffix": [str, None],
        "unpaired": [StrOptions({"raise", "drop"})],
        **TABLE_CONSTRAINTS,
    },
    prefer_skip_nested_validation=True,
)
def load_masks(
    image_dir,
    mask_dir,
    class_names=None,
    *,
    palette=None,
    ignore=(),
    image_prefix="",
    image_suffix=None,
    mask_prefix="",
    mask_suffix=".png",
    instance_prefix="",
    instance_suffix=None,
    unpaired="raise",
    categories=None,
    merge_instances=True,
    min_area=0,
    mask="segmentation",
    keep=(),
    return_X_y=False,
):
    """Load a table of samples from folders of images and masks of all concepts.

    The pixels of a mask are class ids, as in CamVid, Cityscapes, ADE20K and most tools for semantic
    segmentation, or colors, as in the raw CamVid and in drawing tools. Folders are searched
    recursively. An image and its mask have the same name in the same subfolder, except for prefixes
    and suffixes. The images themselves are not opened.

    Parameters
    ----------
    image_dir, mask_dir : str or path
        Folders of the images and of the masks.
    class_names : dict or list of str, default=None
        Concepts of masks of ids as ``{id: name}``, or as a list whose first name has the id 0. Ids
        with the same name become one concept.
    palette : dict, default=None
        Concepts of colored masks as ``{name: color}``. A color is ``(red, green, blue)`` or a
        string such as "#804080". A list of colors becomes one concept.
    ignore : list of int or of colors, default=()
        Ids or colors that belong to no concept, such as 255 for void. Other ids or colors without a
        name are an error.
    image_prefix : str, default=""
        Text before the common name in the file names of images, such as ``"leftImg8bit_"``.
    image_suffix : str, default=None
        Text after the common name, such as "_leftImg8bit.png". ``None`` means the suffixes of the
        usual image formats.
    mask_prefix, mask_suffix : str, default="", ".png"
        The same for the masks, such as "_gtFine_labelIds.png".
    instance_prefix, instance_suffix : str, default="", None
        The same for images with numbers of instances, such as "_gtFine_instanceIds.png". Pixels
        with the same class and number form an instance. Without a suffix, the instances are the
        connected regions of a concept, where diagonal neighbors are connected.
    unpaired : {"raise", "drop"}, default="raise"
        Whether images without a mask, and masks without an image, raise an error or are omitted.
    categories : list of str, default=None
        Names of the concepts to load; ``None`` loads all.
    merge_instances : bool, default=True
        Whether to merge the instances of a concept in an image into one row, as in the paper.
        Otherwise each instance is a row. Both cover the same pixels.
    min_area : int or float, default=0
        Minimum area of a mask. An int is a number of pixels, and a float in [0, 1] is a share of
        the image. Rows with smaller masks are omitted.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The mask itself, the bounding rectangle of each instance, or the ellipse inscribed in it.
    keep : list of str, default=()
        Further fields to keep: "class_id" (with a palette "color", such as "#804080") and
        "instance", the number of the instance or region. Each becomes a column. For
        merged instances, its cells are tuples with one value per instance.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        The table, with the attributes of :func:`load_coco`. Rows are sorted by image, and then in
        the order of ``class_names`` or ``palette``. ``image_id`` is the common name of image and
        mask with its subfolders. ``annotation_id`` is "IMAGE_ID:CLASS_ID:NUMBER" or
        "IMAGE_ID:COLOR:NUMBER", with the number of the instance or region.
    (data, target) : tuple if ``return_X_y`` is True
        The table and the concepts.

    Raises
    ------
    FileNotFoundError
        If a folder is missing or empty, an image has no mask, or a mask has no image.
    ValueError
        If a mask cannot be read, is ambiguous, or has an id or color without a name, an id or color
        is both named and ignored, a category is unknown, or nothing is left to load. The message
        names the file.

    Warns
    -----
    UserWarning
        If the indexes of masks differ from their colors, but the ids are known, see Notes.

    See Also
    --------
    load_voc : The tree of PASCAL VOC.
    load_coco_panoptic : Segments that are colored by their ids.

    Notes
    -----
    Label tools store ids as the indexes of a palette image, and use its colors for display. An
    optimizer such as oxipng, or a GIF writer, preserves the colors only. It removes unused colors
    and sorts the others, so the indexes are not ids anymore. If all colors are gray and their
    values have names, these values are the ids, and you get a warning. If an image uses every entry
    of another palette, its ids are uncertain. This is an error, unless another mask uses a part of
    the same palette, or the palette is that of VOC. It is also an error if both readings of an
    image of 1, 2 or 4 bits have names. In all of these cases, pass the meaning of each color as
    ``palette``.

    Examples
    --------
    The calls below load the raw CamVid with colored masks, Cityscapes with the names of its tools
    and numbered instances, and ADE20K, where 0 means no class::

        load_masks("701_StillsRaw_full", "LabeledApproved_full", mask_suffix="_L.png",
                   palette={"road": (128, 64, 128), "lane": [(128, 0, 192), (192, 0, 64)], ...})

        from cityscapesscripts.helpers.labels import labels

        load_masks("leftImg8bit/val", "gtFine/val", {label.id: label.name for label in labels},
                   categories=["road", "person", "car"], image_suffix="_leftImg8bit.png",
                   mask_suffix="_gtFine_labelIds.png",
                   instance_suffix="_gtFine_instanceIds.png")
        load_masks("images/validation", "annotations/validation",
                   dict(enumerate(ade20k_names, start=1)), ignore=[0])

    The next example creates its own files.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sklearn_loce.datasets import load_masks
    >>> root = Path(tempfile.mkdtemp())
    >>> ids = np.array([[0, 0, 1, 1], [2, 2, 2, 255]], dtype=np.uint8)
    >>> for name in ("images/a.jpg", "masks/a.png"):
    ...     (root / name).parent.mkdir()
    ...     Image.fromarray(ids).save(root / name)
    >>> table = load_masks(root / "images", root / "masks", ["sky", "tree", "road"], ignore=[255])
    >>> table.data[["concept", "image_id", "area"]]
      concept image_id   area
    0     sky        a  0.250
    1    tree        a  0.250
    2    road        a  0.375
    """
    labelling = _make_labelling(class_names, palette, ignore, categories)
    image_names, mask_names = Names(image_prefix, image_suffix), Names(mask_prefix, mask_suffix)
    instance_names = Names(instance_prefix, instance_suffix)
    if instance_prefix and instance_suffix is None:
        raise ValueError(f"instance_prefix={instance_prefix!r} needs an instance_suffix.")
    pairs = _pair(image_dir, image_names, mask_dir, mask_names, unpaired)
    ids, numbers = IdReader(labelling.known), IdReader(None)
    read = ids.read if palette is None else read_colors
    names = mask_names, instance_names
    frame = make_frame(
        (_read_pair(pair, labelling, read, numbers.read, names) for pair in pairs),
        labelling.concepts,
        keep=keep,
        merge_instances=merge_instances,
        mask=mask,
        min_area=min_area,
        source=mask_dir,
    )
    for reader in (ids, numbers):
        reader.finish()
    return as_bunch(frame, labelling.concepts, mask_dir, return_X_y=return_X_y)
