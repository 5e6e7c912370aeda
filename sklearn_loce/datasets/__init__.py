"""Tables of samples: one row per image-concept pair, ready for ``LoCETransformer``.

Names are imported when they are first used, so that drawing scenes does not load torch.
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
