"""Write tables of samples as annotations in COCO format, for annotation tools."""

import json
import os
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from itertools import count, pairwise
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask
from sklearn.utils._param_validation import validate_params

from .._samples.images import PATH
from .._samples.table import as_samples, row_name
from ._instances import COLUMNS
from ._table import as_rle

# Fields of annotations in the format. "bbox" and "iscrowd" of the table are kept.
_OWN_KEYS = {"id", "category_id", "segmentation", "merged"}


def _file_names(samples, image_dir):
    """Return file names relative to a folder, by default the deepest common folder."""
    for i, image in enumerate(samples["image"]):
        if not isinstance(image, PATH):
            raise ValueError(  # noqa: TRY004 - the table is at fault, not the caller's type
                f"{row_name(samples, i)} has its image in memory, but the COCO format needs files. "
                "Write the image to a file first, as in image.save('NAME.png'), and put the path "
                "into the table."
            )
    paths = [os.path.abspath(image) for image in samples["image"]]
    if image_dir is None:
        image_dir = os.path.commonpath(map(os.path.dirname, paths))
    root = os.path.abspath(image_dir)
    outside = [path for path in paths if not Path(path).is_relative_to(root)]
    if outside:
        raise ValueError(
            f"{len(outside)} images are outside image_dir {root!r}, such as {outside[0]!r}."
        )
    return [Path(path).relative_to(root).as_posix() for path in paths]


def _image_entries(samples, names, masks):
    """Return one entry per image, in the order of the first rows."""
    ids = samples["image_id"] if "image_id" in samples else pd.factorize(np.array(names))[0] + 1
    entries = {}
    for i, (key, name, mask) in enumerate(zip(ids, names, masks, strict=True)):
        height, width = map(int, mask["size"])
        entry = {"id": _as_json(key), "file_name": name, "height": height, "width": width}
        if entries.setdefault(entry["id"], entry) != entry:
            raise ValueError(
                f"{row_name(samples, i)}: the image id {key!r} is used for "
                f"{entries[entry['id']]} and for {entry}."
            )
    return list(entries.values()), list(map(_as_json, ids))


def _order_concepts(image_ids, concepts):
    """Return the concepts in a common order of all images, or by their first rows."""
    graph, images = {concept: set() for concept in concepts}, {}
    for key, concept in zip(image_ids, concepts, strict=True):
        images.setdefault(key, []).append(concept)
    for rows in images.values():
        for before, after in pairwise(dict.fromkeys(rows)):
            graph[after].add(before)
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError:
        return list(graph)


def _encode_mask(samples, i):
    """Convert the mask of a row to compressed RLE."""
    try:
        return as_rle(samples["mask"].iloc[i])
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{row_name(samples, i)}: the mask can't be read: {error}") from error


def _as_json(value):
    """Convert numbers and arrays of NumPy to Python, and NaN to None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def _identify(ids):
    """Return a distinct id per row: its own if no other row has it, or a new id."""
    uses = Counter(key for keys in ids for key in keys)
    free = count(max((key for key in uses if isinstance(key, int)), default=0) + 1)
    is_own = [len(keys) == 1 and keys[0] is not None and uses[keys[0]] == 1 for keys in ids]
    return [keys[0] if own else next(free) for keys, own in zip(ids, is_own, strict=True)]


def _describe_parts(samples, i, ids, keep):
    """Return the kept fields of each object of a row."""
    is_merged = isinstance(_as_json(samples["annotation_id"].iloc[i]), list)
    parts = [{} for _ in ids]
    for name in keep:
        value = _as_json(samples[name].iloc[i])
        is_one_each = is_merged and isinstance(value, list) and len(value) == len(ids)
        for part, own in zip(parts, value if is_one_each else [value] * len(ids), strict=True):
            part[name] = own
    return parts


def _annotation_entries(samples, image_ids, masks, categories, keep):
    """Return one annotation per row."""
    if "annotation_id" not in samples:
        samples = samples.assign(annotation_id=range(1, len(samples) + 1))
    ids = [_as_json(value) for value in samples["annotation_id"]]
    ids = [value if isinstance(value, list) else [value] for value in ids]
    entries = []
    for i, (key, mask) in enumerate(zip(_identify(ids), masks, strict=True)):
        entry = {
            "id": key,
            "image_id": image_ids[i],
            "category_id": categories[samples["concept"].iloc[i]],
            "segmentation": {**mask, "counts": mask["counts"].decode("ascii")},
            "bbox": coco_mask.toBbox(mask).tolist(),
            "area": int(coco_mask.area(mask)),
            "iscrowd": 0,
        }
        parts = _describe_parts(samples, i, ids[i], keep)
        if ids[i] == [key]:
            entry |= parts[0]
        else:
            entry["merged"] = [{"id": k, **p} for k, p in zip(ids[i], parts, strict=True)]
        entries.append({name: value for name, value in entry.items() if value is not None})
    return entries


def _check_columns(samples, keep):
    """Raise an error unless concepts, image ids and ``keep`` are valid."""
    if "concept" not in samples:
        raise ValueError(f"The table lacks the column 'concept'; it has {list(samples.columns)}.")
    for name, kinds in (("concept", str), ("image_id", str | Real)):
        for i, value in enumerate(samples.get(name, ())):
            if not isinstance(value, kinds) or value != value:
                raise ValueError(
                    f"{row_name(samples, i)}: the {name} {value!r} can't be written in the COCO "
                    f"format; it must be a string{'' if kinds is str else ' or a number'}."
                )
    absent = [name for name in keep if name not in samples]
    if absent:
        raise ValueError(f"keep names {absent}; the table has {list(samples.columns)}.")
    own = [name for name in keep if name in _OWN_KEYS.union(COLUMNS)]
    if own:
        raise ValueError(f"keep names {own}, which the format or the table uses itself.")


def _write(content, path):
    """Write the file, and leave no partial file after an error."""
    try:
        text = json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"A column that keep names can't be written as JSON: {error}.") from error
    part = Path(f"{os.fspath(path)}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


@validate_params(
    {
        "X": "no_validation",
        "path": [str, os.PathLike, None],
        "image_dir": [str, os.PathLike, None],
        "keep": ["array-like"],
    },
    prefer_skip_nested_validation=True,
)
def to_coco(X, path=None, *, image_dir=None, keep=()):
    """Write a table of samples as annotations in COCO format.

    Annotation tools read the file, and :func:`load_coco` converts it back to a table. Each row
    becomes one annotation with a compressed run-length encoding. Masks that a loader has merged
    cannot be split again.

    Parameters
    ----------
    X : DataFrame of shape (n_samples, n_columns)
        Table with the columns ``image`` (path), ``mask`` and ``concept``, and optionally
        ``image_id`` and ``annotation_id``. Images are not opened.
    path : str or path, default=None
        JSON file to write. ``None`` writes no file.
    image_dir : str or path, default=None
        Folder that file names are relative to. ``None`` uses the deepest common folder of all
        images.
    keep : list of str, default=()
        Further columns that become fields of the annotations. Cells of None or NaN are omitted.

    Returns
    -------
    dict
        The content of the file, with ``images``, ``categories`` and ``annotations``.

    Raises
    ------
    ValueError
        If a column is missing, an image is in memory or outside ``image_dir``, an ``image_id``
        is used for two images or two sizes, or a mask cannot be read. The message names the row.

    See Also
    --------
    load_coco : Read the file again.

    Notes
    -----
    If rows are in the order of a loader, by image and then by concept, ``load_coco(path, image_dir,
    keep=keep)`` returns an equal table. Use ``merge_instances=False`` to keep several rows of an
    image and concept.

    An annotation has the ``annotation_id`` of its row, if this is a single id of no other row.
    Other rows have new ids. Their own ids, and kept fields of each instance, are in the list
    ``merged`` of the annotation. :func:`load_coco` reads this list, and other tools ignore it. A
    single value of a merged row becomes one copy per instance.

    References
    ----------
    .. [1] https://cocodataset.org/#format-data

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import pandas as pd
    >>> from PIL import Image
    >>> from sklearn_loce.datasets import load_coco, to_coco
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (8, 6)).save(folder / "a.png")
    >>> mask = np.zeros((6, 8), dtype=bool)
    >>> mask[:3, :4] = True
    >>> X = pd.DataFrame({"image": [folder / "a.png"], "mask": [mask], "concept": ["car"]})
    >>> content = to_coco(X, folder / "mended.json")
    >>> content["annotations"][0]["bbox"]
    [0.0, 0.0, 4.0, 3.0]
    >>> load_coco(folder / "mended.json", folder).data[["concept", "annotation_id", "area"]]
      concept annotation_id  area
    0     car          (1,)  0.25
    """
    samples, keep = as_samples(X), list(keep)
    _check_columns(samples, keep)
    names = _file_names(samples, image_dir)
    masks = [_encode_mask(samples, i) for i in range(len(samples))]
    images, image_ids = _image_entries(samples, names, masks)
    concepts = _order_concepts(image_ids, samples["concept"])
    categories = {concept: i for i, concept in enumerate(concepts, start=1)}
    content = {
        "images": images,
        "categories": [{"id": i, "name": concept} for concept, i in categories.items()],
        "annotations": _annotation_entries(samples, image_ids, masks, categories, keep),
    }
    if path is not None:
        _write(content, path)
    return content
