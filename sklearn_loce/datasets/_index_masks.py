"""Tables of samples from folders of images and index masks."""

import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path

from sklearn.utils._param_validation import StrOptions, validate_params

from ._index_images import LabelledImage, Labelling, read_index_image
from ._instances import make_frame
from ._table import TABLE_CONSTRAINTS, as_bunch

_IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def _files_by_name(folder, suffixes, what):
    """Give {path in the folder without the suffix: path} of the files that end with a suffix."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {str(folder)!r} does not exist.")
    found = {}
    for path in sorted(folder.rglob("*")):
        suffix = next((s for s in suffixes if path.name.lower().endswith(s.lower())), None)
        if suffix is None or path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()[: -len(suffix)]
        if name in found:
            raise ValueError(f"{found[name]} and {path} are both the {what} {name!r}.")
        found[name] = path
    if not found:
        raise FileNotFoundError(
            f"{str(folder)!r} has no {what} that ends with {' or '.join(suffixes)}."
        )
    return found


def _check_paired(images, masks, mask_dir, mask_suffix):
    """Raise unless each image has a mask and each mask an image."""
    for here, there, what in ((images, masks, "mask"), (masks, images, "image")):
        lonely = [path for name, path in here.items() if name not in there]
        if lonely:
            raise FileNotFoundError(
                f"{len(lonely)} file(s) have no {what}: {[str(path) for path in lonely[:5]]}. The "
                f"mask of an image 'NAME' is {Path(mask_dir, 'NAME')}{mask_suffix}: set "
                "image_suffix and mask_suffix, or unpaired='drop' to leave such files out."
            )


def _pair(image_dir, image_suffix, mask_dir, mask_suffix, unpaired):
    """Give [(name, image, mask)], sorted by name."""
    suffixes = _IMAGE_SUFFIXES if image_suffix is None else (image_suffix,)
    images = _files_by_name(image_dir, suffixes, "image")
    masks = _files_by_name(mask_dir, (mask_suffix,), "mask")
    if unpaired == "raise":
        _check_paired(images, masks, mask_dir, mask_suffix)
    return [(name, images[name], masks[name]) for name in images if name in masks]


def _as_mapping(class_names, ignore):
    """Bring class names to {id: name} and check them against the ignored ids."""
    names = dict(class_names if isinstance(class_names, Mapping) else enumerate(class_names))
    wrong = [key for key in (*names, *ignore) if not isinstance(key, Integral)]
    if wrong:
        raise ValueError(f"class_names and ignore must hold integer ids, got {wrong[:5]}.")
    both = sorted(set(names) & set(ignore))
    if both:
        raise ValueError(f"The ids {both} are both in class_names and in ignore.")
    return {int(key): str(name) for key, name in names.items()}


def _read_pair(pair, labelling, mask_suffix, instance_suffix):
    """Give the objects of an image and its index mask."""
    name, image, labels = pair
    stem = labels.name[: -len(mask_suffix)]
    numbered = instance_suffix and labels.with_name(stem + instance_suffix)
    instances = read_index_image(numbered) if numbered else None
    sample = LabelledImage(name, image, labels, numbered)
    return labelling.make_instances(sample, read_index_image(labels), instances)


@validate_params(
    {
        "image_dir": [str, os.PathLike],
        "mask_dir": [str, os.PathLike],
        "class_names": [Mapping, "array-like"],
        "ignore": ["array-like"],
        "image_suffix": [str, None],
        "mask_suffix": [str],
        "instance_suffix": [str, None],
        "unpaired": [StrOptions({"raise", "drop"})],
        **TABLE_CONSTRAINTS,
    },
    prefer_skip_nested_validation=True,
)
def load_masks(
    image_dir,
    mask_dir,
    class_names,
    *,
    ignore=(),
    image_suffix=None,
    mask_suffix=".png",
    instance_suffix=None,
    unpaired="raise",
    categories=None,
    merge_instances=True,
    min_area=0,
    mask="segmentation",
    keep=(),
    return_X_y=False,
):
    """Load a table of samples from folders of images and index masks.

    An index mask is an image whose pixels are class ids, as CamVid, Cityscapes, ADE20K and most
    tools for semantic segmentation write them. Folders are searched with all that is in them; an
    image and its mask have the same name in the same subfolder, up to their suffixes. Images
    themselves are not opened.

    Parameters
    ----------
    image_dir, mask_dir : str or path
        Folders of the images and of the masks.
    class_names : dict or list of str
        The concepts, as ``{id: name}`` or by place, where the first name has the id 0. Ids of the
        same name become one concept.
    ignore : list of int, default=()
        Ids that belong to no concept, such as 255 for void. Any other id that has no name is an
        error.
    image_suffix : str, default=None
        What follows the common name in the images' file names, such as "_leftImg8bit.png";
        ``None`` stands for the endings of the usual image formats.
    mask_suffix : str, default=".png"
        The same for the masks, such as "_gtFine_labelIds.png".
    instance_suffix : str, default=None
        The same for index images beside the masks that number the instances, such as
        "_gtFine_instanceIds.png". Pixels of one class and one number are an instance. With
        ``None``, the connected regions of a concept (diagonal neighbors included) stand for its
        instances.
    unpaired : {"raise", "drop"}, default="raise"
        What to do with images without a mask and masks without an image.
    categories : list of str, default=None
        Names of the concepts to load; ``None`` loads all.
    merge_instances : bool, default=True
        Whether the instances of a concept in an image become one row (the paper's way) or stay
        one row each. Together they cover the same pixels.
    min_area : int or float, default=0
        Rows with smaller masks are left out: pixels where it is an int, the share of the image in
        [0, 1] where it is a float.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The mask itself, the bounding rectangle of each instance, or the ellipse inscribed in it.
    keep : list of str, default=()
        Further fields to keep: "class_id" and "instance", the number of the instance or region.
        Each becomes a column; where instances are merged, a tuple with one value per instance.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        As :func:`load_coco` gives it, rows sorted by image and in the order of ``class_names``;
        ``image_id`` is the common name of image and mask with its subfolders, and
        ``annotation_id`` is "IMAGE_ID:CLASS_ID:NUMBER", with the number of the instance or region.
    (data, target) : tuple if ``return_X_y`` is True

    Raises
    ------
    FileNotFoundError
        If a folder is missing or empty, or an image has no mask or a mask no image.
    ValueError
        If a mask can't be read or holds an id that has no name, an id is both named and ignored, a
        category is unknown, or nothing is left to load. The message names the file.

    Examples
    --------
    Cityscapes, with the names from its own tools and its numbered instances; and ADE20K, where 0
    is what no class fits::

        from cityscapesscripts.helpers.labels import labels

        load_masks("leftImg8bit/val", "gtFine/val", {label.id: label.name for label in labels},
                   categories=["road", "person", "car"], image_suffix="_leftImg8bit.png",
                   mask_suffix="_gtFine_labelIds.png",
                   instance_suffix="_gtFine_instanceIds.png")
        load_masks("images/validation", "annotations/validation",
                   dict(enumerate(ade20k_names, start=1)), ignore=[0])

    A tree made for the occasion:

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
    names = _as_mapping(class_names, ignore)
    labelling = Labelling(names, ignore, categories=categories, source="class_names")
    pairs = _pair(image_dir, image_suffix, mask_dir, mask_suffix, unpaired)
    frame = make_frame(
        (_read_pair(pair, labelling, mask_suffix, instance_suffix) for pair in pairs),
        labelling.concepts,
        keep=keep,
        merge_instances=merge_instances,
        mask=mask,
        min_area=min_area,
        source=mask_dir,
    )
    return as_bunch(frame, labelling.concepts, mask_dir, return_X_y=return_X_y)
