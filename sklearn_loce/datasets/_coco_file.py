"""Read and check files in COCO format.

Entries that are not loaded are not checked, so their errors do not matter.
"""

import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from ._table import choose, locate, read_json

_TABLES = ("images", "categories", "annotations")
ID = int | float | str


def read_source(source, image_dir):
    """Return content, image folder and name of a file, a dict or a dataset in memory.

    Raises
    ------
    TypeError, ValueError
        If the type is wrong, or the content is not valid JSON in COCO format.
    """
    if isinstance(source, str | os.PathLike):
        content, name = read_json(source), source
    else:
        # CocoDetection of torchvision contains COCO of pycocotools, which contains the content.
        coco = getattr(source, "coco", source)
        content = coco if isinstance(coco, Mapping) else getattr(coco, "dataset", None)
        name, image_dir = f"the {type(source).__name__}", image_dir or getattr(source, "root", None)
        if not isinstance(content, Mapping):
            raise TypeError(
                "annotation_file must be a path, a dict in COCO format or torchvision's "
                f"CocoDetection, got {type(source).__name__}."
            )
    if image_dir is None:
        raise ValueError(f"{name}: image_dir is needed, the folder of the images.")
    _check_tables(content, name)
    return content, image_dir, name


def _check_tables(content, source):
    """Raise an error unless each of the three tables is a list of objects."""
    missing = [t for t in _TABLES if not isinstance(content, Mapping) or t not in content]
    if missing:
        raise ValueError(f"{source} is not in COCO format: it lacks {missing}.")
    for table in _TABLES:
        if not isinstance(content[table], list | tuple):
            raise ValueError(  # noqa: TRY004 - the file is at fault, not the caller's type
                f"{source} is not in COCO format: {table!r} is not a list."
            )
        for i, entry in enumerate(content[table]):
            if not isinstance(entry, Mapping):
                raise ValueError(  # noqa: TRY004 - as above
                    f"{source}: {table}[{i}] is not an object, but {entry!r:.100}."
                )


def check_entry(entry, types, name, source):
    """Raise an error unless an entry has the keys and types of ``types``."""
    lacking = [key for key in types if key not in entry]
    if lacking:
        raise ValueError(f"{source}: {name} (id {entry.get('id')!r}) lacks {lacking}.")
    for key, expected in types.items():
        if not isinstance(entry[key], expected):
            found = {key: entry[key]}
            kind = {str: "a string", int: "an integer"}.get(expected, "a number or string")
            raise ValueError(  # noqa: TRY004 - as above
                f"{source}: {name} has {found}; {kind} is expected."
            )


def choose_concepts(content, categories, source):
    """Return {id: name} of the chosen categories in the order of the file."""
    names = {}
    for i, entry in enumerate(content["categories"]):
        check_entry(entry, {"id": ID, "name": str}, f"categories[{i}]", source)
        names.setdefault(entry["id"], {})[entry["name"]] = None
    for key, found in names.items():
        if len(found) > 1 and (categories is None or {*found} & {*categories}):
            raise ValueError(
                f"{source}: the category id {key!r} is used for {list(found)}; give each its own "
                "id."
            )
    return choose(categories, {key: next(iter(found)) for key, found in names.items()}, source)


def choose_images(content, wanted, source):
    """Return {id: entry} of the chosen images in the order of the file."""
    images = {}
    for i, entry in enumerate(content["images"]):
        check_entry(entry, {"id": ID}, f"images[{i}]", source)
        key = entry["id"]
        if key not in wanted:
            continue
        _check_image(entry, f"images[{i}]", source)
        other = images.setdefault(key, entry)
        if _describe(other) != _describe(entry):
            raise ValueError(
                f"{source}: the image id {key!r} is used for {_describe(other)} and "
                f"{_describe(entry)} (file, height, width); give each its own id."
            )
    check_known("image_id", wanted, images, source)
    return images


def check_known(key, wanted, known, source):
    """Raise an error if annotations refer to unknown ids."""
    dangling = sorted({*wanted} - known.keys(), key=str)
    if dangling:
        raise ValueError(
            f"{source}: annotations point to {len(dangling)} unknown {key}(s): {dangling[:5]}."
        )


def _check_image(image, name, source):
    """Raise an error unless an image has a file name and a size."""
    check_entry(image, dict.fromkeys([_file_key(image), "height", "width"], object), name, source)
    sides = image["height"], image["width"]
    if not all(_is_positive_integer(side) for side in sides):
        raise ValueError(
            f"{source}: the image {image[_file_key(image)]!r} has height {sides[0]!r} and width "
            f"{sides[1]!r}; both must be positive integers."
        )


def _is_positive_integer(value):
    """Return whether a value is a length in pixels. Some tools write 640.0."""
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return is_whole and not isinstance(value, bool) and value >= 1


def _file_key(image):
    """Return the key of the file name, because LVIS v1 has no file_name."""
    return "coco_url" if "coco_url" in image and "file_name" not in image else "file_name"


def _describe(image):
    return image[_file_key(image)], image["height"], image["width"]


def image_size(image):
    """Return [height, width] of a chosen image."""
    return [int(image["height"]), int(image["width"])]


def image_path(image, folder, source):
    """Return the path of a chosen image. For LVIS, it is the end of the URL."""
    if "file_name" in image:
        return locate(folder, image["file_name"], source)
    url = image["coco_url"]
    parts = PurePosixPath(unquote(urlsplit(url).path)).parts if isinstance(url, str) else (url,)
    short = locate(folder, parts[-1] if parts else "", source)
    if os.path.exists(short) or len(parts) < 2:
        return short
    long = locate(folder, "/".join(parts[-2:]), source)
    return long if os.path.exists(long) else short
