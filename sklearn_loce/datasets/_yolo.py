"""Tables of samples from folders in YOLO format."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.utils._param_validation import validate_params

from .._samples.images import READ_ERRORS, size_of_image
from .._warnings import warn_user
from ._coco_masks import fill_polygons
from ._folders import Names, files_by_name
from ._instances import Instance, make_frame
from ._table import TABLE_CONSTRAINTS, as_bunch, as_names, choose

# The tolerance of ultralytics: rounded labels may exceed the border of the image.
_TOLERANCE = 0.01
_BOX, _TRIANGLE = 4, 6
# Lists of names that tools store beside the labels.
_NO_LABELS = ("classes.txt", "train.txt", "val.txt", "test.txt")


@dataclass(frozen=True)
class _Line:
    """One object of a label file. ``shape`` is a box or a polygon in shares of the image."""

    number: int
    class_id: int
    shape: np.ndarray
    score: float | None


def _swap(folders):
    """Replace the last folder "images" by "labels", as in YOLO."""
    last = len(folders) - 1 - folders[::-1].index("images")
    return [*folders[:last], "labels", *folders[last + 1 :]]


def _label_of(name, image_dir, label_dir):
    """Return the folder of the labels, and the relative path of the label file of an image."""
    *folders, file = f"{name}.txt".split("/")
    if label_dir is not None:
        return Path(label_dir), f"{name}.txt"
    if "images" in folders:
        return Path(image_dir), "/".join([*_swap(folders), file])
    parts = list(Path(os.path.abspath(image_dir)).parts)
    return Path(*_swap(parts)) if "images" in parts else Path(image_dir), f"{name}.txt"


def _read_text(path):
    """Read a text file. A pipe or device is an error, because it might never end."""
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path} can't be read as text: {error}") from error


def _as_class_id(value):
    if not value.is_integer() or value < 0:
        raise ValueError(f"the class id must be an integer of at least 0, got {value:g}")
    return int(value)


def _check_range(values):
    """Clip coordinates slightly outside [0, 1]. Raise an error if they are far outside."""
    wrong = values[~((values >= -_TOLERANCE) & (values <= 1 + _TOLERANCE))]
    if len(wrong):
        raise ValueError(
            f"coordinates must be shares of the image in [0, 1], got {wrong[:5].tolist()}; for "
            "pixels, divide x by the image's width and y by its height"
        )
    return np.clip(values, 0, 1)


def _parse_line(number, text):
    """Parse "class cx cy w h" or "class x1 y1 x2 y2 ...", with an optional score at the end."""
    values = np.array([float(word) for word in text.split()])
    # Coordinates are pairs, so an extra number is a score.
    score = float(values[-1]) if len(values) % 2 == 0 else None
    shape = values[1 : len(values) if score is None else -1]
    if len(shape) != _BOX and len(shape) < _TRIANGLE:
        raise ValueError(
            f"{len(values)} numbers are neither a box (class, center x and y, width, height) nor a "
            "polygon (class, and x and y of three points or more)"
        )
    if score is not None and not 0 <= score <= 1:
        raise ValueError(f"the number after the coordinates is a score in [0, 1], got {score:g}")
    return _Line(number, _as_class_id(values[0]), _check_range(shape), score)


def _parse(path):
    """Return the objects of a label file. Errors name the line."""
    lines = []
    for number, text in enumerate(_read_text(path).splitlines(), start=1):
        try:
            lines += [_parse_line(number, text)] if text.strip() else []
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}.") from error
    return lines


def _check_scores(path, lines, seen):
    """Raise an error if only some objects have a score, because a number is missing or extra."""
    for line in lines:
        where = f"{path}, line {line.number}"
        seen.setdefault(line.score is not None, where)
        if len(seen) > 1:
            raise ValueError(
                f"{seen[True]} ends with a score, but {seen[False]} does not. The first has an "
                "extra number, or the second lacks a number."
            )


def _choose_lines(path, lines, chosen, *, all_named):
    """Keep the objects of chosen classes. If all are loaded, each must have a name."""
    unknown = [line for line in lines if line.class_id not in chosen]
    if unknown and all_named:
        raise ValueError(
            f"{path}, line {unknown[0].number}: class_names has no name for the class id "
            f"{unknown[0].class_id}; it names {list(chosen)[:20]}."
        )
    return [line for line in lines if line.class_id in chosen]


def _size_of(path):
    try:
        return tuple(size_of_image(path))
    except READ_ERRORS as error:
        raise ValueError(f"{path} can't be read as an image: {error}") from error


def _draw_shapes(lines, size, path):
    """Return the mask of each polygon, and the box of each other line, in pixels."""
    height, width = size
    drawn = {}
    for line in lines:
        if len(line.shape) == _BOX:
            center, extent = line.shape[:2] * (width, height), line.shape[2:] * (width, height)
            drawn[line.number] = {"box": [*(center - extent / 2), *extent]}
    polygons = [line for line in lines if line.number not in drawn]
    masks = fill_polygons(
        [line.shape.reshape(-1, 2) * (width, height) for line in polygons],
        size,
        lambda i: f"{path}, line {polygons[i].number}",
    )
    numbers = [line.number for line in polygons]
    return drawn | {n: {"mask": mask} for n, mask in zip(numbers, masks, strict=True)}


def _read_image(image, name, path, label, lines, chosen):
    """Return the objects of one image. ``label`` is the relative path of its label file."""
    if not lines:
        return []
    size = _size_of(image)
    drawn = _draw_shapes(lines, size, path)
    return [
        Instance(
            str(image),
            name,
            chosen[line.class_id],
            size,
            **drawn[line.number],
            annotation_id=f"{label}:{line.number}",
            fields={"class_id": line.class_id}
            | ({} if line.score is None else {"score": line.score}),
        )
        for line in lines
    ]


def _read_images(images, labels, chosen, *, all_named):
    """Yield the objects of each image."""
    seen = {}
    for name, (folder, label) in labels.items():
        path = folder / label
        lines = _parse(path)
        _check_scores(path, lines, seen)
        lines = _choose_lines(path, lines, chosen, all_named=all_named)
        yield _read_image(images[name], name, path, label, lines, chosen)


def _find_labels(images, image_dir, label_dir):
    """Return {image: (folder, label file)} without images that have no file."""
    expected = {name: _label_of(name, image_dir, label_dir) for name in images}
    labels = {name: at for name, at in expected.items() if os.path.lexists(at[0] / at[1])}
    if not labels:
        first = Path(*next(iter(expected.values())))
        raise FileNotFoundError(
            f"None of the {len(images)} images in {str(image_dir)!r} has a label file, such as "
            f"{str(first)!r}; pass their folder as label_dir."
        )
    _warn_of_lonely({folder / label for folder, label in expected.values()})
    return labels


def _warn_of_lonely(expected):
    """Warn of label files without an image, because their objects are omitted."""
    found = {path for folder in {p.parent for p in expected} for path in folder.glob("*.txt")}
    lonely = sorted(path for path in found - expected if path.name not in _NO_LABELS)
    if lonely:
        warn_user(
            f"{len(lonely)} label files have no image and are left out: "
            f"{[str(path) for path in lonely[:5]]}."
        )


def _load_yaml(path):
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs PyYAML: pip install pyyaml; or pass class_names as a list."
        ) from error
    try:
        return yaml.safe_load(_read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error


def _read_yaml(path):
    """Read the class names of a data.yaml."""
    content = _load_yaml(path)
    names = content.get("names") if isinstance(content, Mapping) else None
    if not isinstance(names, Mapping | list):
        raise ValueError(  # noqa: TRY004 - the file is at fault, not the caller's type
            f"{path} must have 'names', a list or {{id: name}}."
        )
    if "kpt_shape" in content:
        raise ValueError(f"{path} has 'kpt_shape': its labels are keypoints, not masks.")
    # YAML reads an unquoted no as False, and an unquoted null as None.
    values = names.values() if isinstance(names, Mapping) else names
    wrong = [name for name in values if type(name) not in (str, int)]
    if wrong:
        raise ValueError(f"{path}: names must be strings; put {wrong[:5]} in quotes.")
    return names


def _read_names(class_names):
    """Convert class names, or the file of them, to {id: name}."""
    if isinstance(class_names, str | os.PathLike):
        path = Path(class_names)
        if not path.exists():
            raise FileNotFoundError(
                f"class_names must be a list, a dict or the file of them; {str(path)!r} does not "
                "exist."
            )
        is_yaml = path.suffix.lower() in (".yaml", ".yml")
        class_names = _read_yaml(path) if is_yaml else _read_text(path).strip().splitlines()
    return as_names(class_names)


@validate_params(
    {
        "image_dir": [str, os.PathLike],
        "label_dir": [str, os.PathLike, None],
        "class_names": [Mapping, "array-like", str, os.PathLike],
        **TABLE_CONSTRAINTS,
    },
    prefer_skip_nested_validation=True,
)
def load_yolo(
    image_dir,
    label_dir=None,
    *,
    class_names,
    categories=None,
    merge_instances=True,
    min_area=0,
    mask="segmentation",
    keep=(),
    return_X_y=False,
):
    """Load a table of samples from a folder in YOLO format.

    Each image has a text file with the same name. A line is an object, with coordinates in shares
    of the image's width and height: "class x1 y1 x2 y2 ..." is a polygon, and "class cx cy w h" is
    a box by its center. Predictions end with a score. Folders are searched recursively. Only the
    sizes of images are read.

    Parameters
    ----------
    image_dir : str or path
        Folder of the images.
    label_dir : str or path, default=None
        Folder of the label files, with the same subfolders. ``None`` follows YOLO: the last folder
        "images" in the path of an image is replaced by "labels". If there is no such folder, labels
        are beside the images.
    class_names : dict or list of str, or path
        The concepts as ``{id: name}``, or as a list whose first name has the id 0. A path is the
        file of the names: a "data.yaml" with ``names`` (needs PyYAML), or a text file with one name
        per line. Ids with the same name become one concept.
    categories : list of str, default=None
        Names of the concepts to load; ``None`` loads all.
    merge_instances : bool, default=True
        Whether to merge the instances of a concept in an image into one row, as in the paper.
        Otherwise each instance is a row.
    min_area : int or float, default=0
        Minimum area of a mask. An int is a number of pixels, and a float in [0, 1] is a share of
        the image. Rows with smaller masks are omitted.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The polygon itself, the bounding rectangle of each instance, or the ellipse inscribed in
        it. Boxes need "rectangle" or "ellipse".
    keep : list of str, default=()
        Further fields to keep: "class_id", and "score" if lines end with one. Each becomes a
        column. For merged instances, its cells are tuples with one value per instance.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        The table, with the attributes of :func:`load_coco`. Rows are sorted by image, and then in
        the order of ``class_names``. ``image_id`` is the name of the image with its subfolders.
        ``annotation_id`` is ``"FILE:LINE"``, with the relative path of the label file and the
        number of the line, counted from 1.
    (data, target) : tuple if ``return_X_y`` is True
        The table and the concepts.

    Raises
    ------
    FileNotFoundError
        If a folder is missing or empty, or no image has a label file.
    ImportError
        If ``class_names`` is a YAML file and PyYAML is not installed.
    ValueError
        If a line is neither box nor polygon, has NaN, has coordinates outside [0, 1] by more than
        0.01, or has a class without a name; if only some lines have a score; if a file or image
        cannot be read, a category is unknown, or nothing is left to load. The message names file
        and line.

    Warns
    -----
    UserWarning
        If label files have no image.

    See Also
    --------
    from_detections : Load the ``Results`` of ultralytics without files.
    load_labelme : Load folders of labelme.

    Notes
    -----
    As in YOLO, an image without a label file has no object. Files with keypoints, and predictions
    that end with the number of a track, cannot always be distinguished from polygons.

    References
    ----------
    .. [1] https://docs.ultralytics.com/datasets/segment/

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sklearn_loce.datasets import load_yolo
    >>> root = Path(tempfile.mkdtemp())
    >>> for folder in ("images", "labels"):
    ...     (root / folder).mkdir()
    >>> Image.new("RGB", (8, 6)).save(root / "images" / "a.png")
    >>> _ = (root / "labels" / "a.txt").write_text("1 0 0 0.5 0 0.5 0.5 0 0.5")
    >>> table = load_yolo(root / "images", class_names=["person", "car"])
    >>> table.data[["concept", "image_id", "area", "annotation_id"]]
      concept image_id  area annotation_id
    0     car        a  0.25    (a.txt:1,)
    """
    names = _read_names(class_names)
    chosen = choose(categories, names, "class_names")
    images = files_by_name(image_dir, Names("", None), "image")
    labels = _find_labels(images, image_dir, label_dir)
    concepts = list(dict.fromkeys(chosen.values()))
    frame = make_frame(
        _read_images(images, labels, chosen, all_named=categories is None),
        concepts,
        keep=keep,
        merge_instances=merge_instances,
        mask=mask,
        min_area=min_area,
        source=image_dir,
    )
    return as_bunch(frame, concepts, image_dir, return_X_y=return_X_y)
