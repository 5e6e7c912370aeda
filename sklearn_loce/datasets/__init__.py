"""Tables of samples: one row per image-concept pair, ready for ``LoCETransformer``."""

from ._coco import load_coco
from ._detections import from_detections
from ._fetch import fetch_coco_val2017, fetch_voc2012
from ._index_masks import load_masks
from ._scene_model import load_scene_model
from ._scenes import make_scenes
from ._voc import load_voc

__all__ = [
    "fetch_coco_val2017",
    "fetch_voc2012",
    "from_detections",
    "load_coco",
    "load_masks",
    "load_scene_model",
    "load_voc",
    "make_scenes",
]
