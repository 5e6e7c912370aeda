"""Small dataset trees with known content."""

import json

import numpy as np
from PIL import Image

VOID = 255
PERSON, DOG = 15, 12


def save_palette_png(array, path):
    """Save ids as VOC does: as a palette image whose colors are not the ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array.astype(np.uint8))
    image.putpalette([(37 * i) % 256 for i in range(768)])
    image.save(path)


def planted_voc_image():
    """Return class ids and object numbers: two persons and a dog, each with a rim of void."""
    classes = np.zeros((20, 30), dtype=np.uint8)
    objects = np.zeros_like(classes)
    boxes = [(PERSON, (2, 9), (3, 10)), (PERSON, (2, 9), (12, 20)), (DOG, (11, 18), (4, 28))]
    for number, (label, rows, columns) in enumerate(boxes, start=1):
        outer = np.s_[rows[0] - 1 : rows[1] + 1, columns[0] - 1 : columns[1] + 1]
        classes[outer] = objects[outer] = VOID
        inner = np.s_[slice(*rows), slice(*columns)]
        classes[inner], objects[inner] = label, number
    return classes, objects


def make_voc_tree(tree, images, splits):
    """Write a VOC tree.

    Parameters
    ----------
    tree : Path
        The folder ``VOC2012``.
    images : dict
        {name: (class ids, object numbers)}.
    splits : dict
        {split: names}.
    """
    for name, (classes, objects) in images.items():
        save_palette_png(classes, tree / "SegmentationClass" / f"{name}.png")
        save_palette_png(objects, tree / "SegmentationObject" / f"{name}.png")
        jpeg = tree / "JPEGImages" / f"{name}.jpg"
        jpeg.parent.mkdir(exist_ok=True)
        Image.fromarray(classes).convert("RGB").save(jpeg)
    lists = tree / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in splits.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def coco_content():
    """Return a COCO file's content: a car and a person on the first image, a car on the second."""
    box = [[1, 1, 5, 1, 5, 4, 1, 4]]
    return {
        "images": [
            {"id": 1, "file_name": "000001.jpg", "height": 6, "width": 8},
            {"id": 2, "file_name": "000002.jpg", "height": 6, "width": 8},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 11, "image_id": 1, "category_id": 3, "segmentation": box, "iscrowd": 0},
            {"id": 12, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]},
            {"id": 13, "image_id": 2, "category_id": 3, "segmentation": box},
        ],
    }


def make_coco_tree(folder, content=None):
    """Write the images and the annotation file; return the path of the file."""
    content = coco_content() if content is None else content
    for image in content["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / image["file_name"])
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def files_of(folder):
    """Return {path in the folder: content} of all files."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
