"""Tables of samples: one row per image-concept pair, ready for ``LoCETransformer``."""

from ._coco import load_coco

__all__ = ["load_coco"]
