"""Tables of samples: one row per image-concept pair, ready for ``LoCETransformer``."""

from sklearn_loce.datasets._scene_model import load_scene_model
from sklearn_loce.datasets._scenes import make_scenes

__all__ = ["load_scene_model", "make_scenes"]
