"""Facts about families of networks that are looked up, not measured."""

import inspect
from operator import attrgetter

from torchvision.models import MaxVit, VisionTransformer
from torchvision.models.detection.transform import GeneralizedRCNNTransform

_SIZE_ATTRIBUTES = (
    "image_size",
    "patch_embed.img_size",
    "stem.img_size",
    "config.image_size",
    "config.vision_config.image_size",
)


def is_detector(module):
    """Return whether a network is one of torchvision's detectors."""
    return isinstance(getattr(module, "transform", None), GeneralizedRCNNTransform)


def is_transformers(module):
    """Return whether a network is a vision model of Hugging Face."""
    return getattr(module, "main_input_name", None) == "pixel_values"


def is_detr(module):
    """Return whether a network is Hugging Face's DETR, the original one."""
    return any(kind.__name__ == "DetrPreTrainedModel" for kind in type(module).__mro__)


def _attribute(module, path):
    """Follow dotted attributes; ``None`` if one is missing."""
    try:
        return attrgetter(path)(module)
    except AttributeError:
        return None


def trained_size(module):
    """Read the input size that a network declares; ``None`` if it declares none."""
    if isinstance(module, MaxVit):
        return tuple(4 * n for n in module.blocks[0].grid_size)
    found = (_as_size(_attribute(module, path)) for path in _SIZE_ATTRIBUTES)
    return next(filter(None, found), None)


def _as_size(value):
    if isinstance(value, int):
        return value, value
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    return tuple(value) if is_pair and all(isinstance(n, int) for n in value) else None


def only_size(module):
    """Return the only input size that a network accepts; ``None`` if it accepts others."""
    if isinstance(module, VisionTransformer | MaxVit) or _has_fixed_positions(module):
        return trained_size(module)
    return None


def _has_fixed_positions(module):
    """Return whether positions were learned for one size and are not interpolated by default."""
    if is_transformers(module):
        asks = "interpolate_pos_encoding" in inspect.signature(module.forward).parameters
        return asks and any("position_embedding" in name for name, _ in module.named_parameters())
    return _attribute(module, "patch_embed.strict_img_size") is True  # timm


def explain_size(module, size):
    """Explain which sizes a network accepts and the remedy, if ``size`` may be the problem.

    Returns
    -------
    str or None
        ``None`` if the network declares this size or none.
    """
    own, size = trained_size(module), tuple(size)
    if own is None or own == size:
        return None
    got = f"and got {size[0]} x {size[1]}"
    patch = _as_size(_attribute(module, "patch_embed.patch_size"))
    if patch is not None and _attribute(module, "patch_embed.strict_img_size") is False:
        return (
            f"takes images whose sides are multiples of its patches of {patch[0]} x {patch[1]}, "
            f"{got}. Resize them, as in preprocess=torchvision.transforms.v2.Resize({own})"
        )
    if is_transformers(module):
        other = "the model's own image processor, which normalizes too"
    else:
        other = "weights of torchvision, which normalize too"
    return (
        f"was built for images of {own[0]} x {own[1]} {got}. Resize them without a crop: "
        f"preprocess='paper' or torchvision.transforms.v2.Resize({own}), or {other}"
    )
