"""Load tables of samples, with one row per pair of image and concept.

A table is a DataFrame with at least the columns ``image``, ``mask`` and ``concept``. Every loader
returns the same columns, so all estimators accept every table. You can also build a table yourself:

>>> import numpy as np
>>> import pandas as pd
>>> image = np.zeros((60, 80, 3), dtype=np.uint8)
>>> mask = np.zeros((60, 80), dtype=bool)
>>> mask[10:30, 20:50] = True
>>> X = pd.DataFrame({"image": [image], "mask": [mask], "concept": ["box"]})

Use ordinary pandas code to select rows. This example keeps large masks of two concepts:

>>> from sklearn_loce.datasets import make_scenes
>>> X = make_scenes(4, random_state=0).data
>>> X = X[X["concept"].isin(["road", "sky"]) & (X["area"] > 0.1)]
>>> sorted(X["concept"].unique())
['road', 'sky']
"""

from importlib import import_module

_HOMES = {
    "crop_samples": "_crops",
    "fetch_coco_val2017": "_fetch",
    "fetch_voc2012": "_fetch",
    "from_detections": "_detections",
    "load_coco": "_coco",
    "load_coco_panoptic": "_coco_panoptic",
    "load_labelme": "_labelme",
    "load_masks": "_index_masks",
    "load_scene_model": "_scene_model",
    "load_voc": "_voc",
    "load_yolo": "_yolo",
    "make_scenes": "_scenes",
    "paste_crops": "_crops",
    "to_coco": "_to_coco",
}

__all__ = [*_HOMES]


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
