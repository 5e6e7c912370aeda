"""Tables of samples: one row per image-concept pair, ready for ``LoCETransformer``."""

from ._coco import load_coco
from ._scene_model import load_scene_model
from ._scenes import make_scenes

__all__ = ["load_coco", "load_scene_model", "make_scenes"]
