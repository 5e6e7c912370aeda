"""What is known about families of networks: all that is looked up, and not measured."""

import inspect
from dataclasses import dataclass
from operator import attrgetter

from torch import nn
from torchvision.models import MaxVit, VisionTransformer
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import Permute

# Tokens in front of those of the grid, where a network does not tell: class token, distillation
# token, and up to four registers.
PREFIXES = (0, 1, 2, 3, 4, 5)


class Grid(nn.Identity):
    """Marks what passes through it as (n_images, n_channels, height, width)."""


# What torch defines about the axes of the outputs of its own layers. Subclasses of the latter may
# do otherwise, as torchvision's LayerNorm2d does.
CHANNELS_FIRST = (
    Grid,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm)

_NO_FRAME = {
    "RoIHeads": "it describes regions of interest one by one, which share no grid with the image"
}
_NO_FRAME_INSIDE = {
    "PartitionAttentionLayer": "it is inside a partition of the image into windows, which the "
    "block around it undoes"
}
_NO_FRAME_TOKENS = {
    "Hiera": "its tokens are in the order of mask units, not in rows",
    "HieraModel": "its tokens are in the order of mask units, not in rows",
    "ViTMAEModel": "its tokens are a random choice in random order",
}
_OVER_PLACES = dict.fromkeys(
    ("mlp_tokens", "linear_tokens"),
    "it mixes over places: the axis of its channels is that of the tokens",
)

_SIZE_ATTRIBUTES = (
    "image_size",
    "patch_embed.img_size",
    "stem.img_size",
    "config.image_size",
    "config.vision_config.image_size",
)


def is_detector(module):
    """Say whether a network is one of torchvision's detectors."""
    return isinstance(getattr(module, "transform", None), GeneralizedRCNNTransform)


def is_transformers(module):
    """Say whether a network is a vision model of Hugging Face."""
    return getattr(module, "main_input_name", None) == "pixel_values"


@dataclass(frozen=True)
class LayerFacts:
    """What is known about a layer before it runs.

    Parameters
    ----------
    name : str
    is_leaf : bool
        Whether there are no layers in it.
    axes : frozenset of {"first", "last"}
        Where torch's own layers in it, or in the closest module around it, put the channels.
    in_attention : bool
        Whether it is a part of an attention.
    others : tuple of (int, int)
        How many tokens may be in front of those of the grid and behind them.
    without_frame : str or None
        Why its output can't be laid on the image.
    without_order : str or None
        Why its tokens can't.
    """

    name: str
    is_leaf: bool
    axes: frozenset
    in_attention: bool
    others: tuple
    without_frame: str | None
    without_order: str | None


def layer_facts(module, name):
    """Look up what is known about a layer from its place in the network."""
    parts = name.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), -1, -1)]
    around = [module.get_submodule(path) for path in names]
    return LayerFacts(
        name,
        is_leaf=not any(True for _ in around[0].children()),
        axes=next((found for child in around if (found := _axes_in(child))), frozenset()),
        in_attention=any(map(_is_attention, around[1:], parts[-2::-1])),
        others=_other_tokens(around),
        without_frame=_look_up(_NO_FRAME, around)
        or _look_up(_NO_FRAME_INSIDE, around[1:])
        or next((_OVER_PLACES[part] for part in parts if part in _OVER_PLACES), None),
        without_order=_look_up(_NO_FRAME_TOKENS, around),
    )


def _look_up(reasons, modules):
    found = (reasons.get(type(module).__name__) for module in modules)
    return next(filter(None, found), None)


def axes_of(layer):
    """Tell where one of torch's own layers puts the channels; ``None`` for other modules."""
    if isinstance(layer, CHANNELS_FIRST):
        return "first"
    if type(layer) in CHANNELS_LAST:
        return "last"
    if isinstance(layer, Permute):
        return {(0, 3, 1, 2): "first", (0, 2, 3, 1): "last"}.get(tuple(layer.dims))
    return None


def _axes_in(module):
    return frozenset(filter(None, map(axes_of, module.modules())))


def _is_attention(module, name=""):
    words = f"{type(module).__name__} {name}".lower()
    return "attention" in words or "attn" in words


def _attribute(module, path):
    """Follow dotted attributes; ``None`` where one is missing."""
    try:
        return attrgetter(path)(module)
    except AttributeError:
        return None


def _other_tokens(around):
    """Read how many tokens that are no places a network adds, where it says so."""
    for module in around:
        if (behind := _attribute(module, "config.num_detection_tokens")) is not None:
            return (0, 0), (1, behind)  # YOLOS
        if (registers := _attribute(module, "config.num_register_tokens")) is not None:
            return (0, 0), (1 + registers, 0)  # DINOv2 and DINOv3 of Hugging Face
        if isinstance(front := _attribute(module, "num_prefix_tokens"), int):
            return tuple(sorted({(0, 0), (front, 0)}))  # timm
    return tuple((front, 0) for front in PREFIXES)


def decoders(module):
    """Give the decoders of a network: what has tokens behind them are queries, not places."""
    return [
        child
        for name, child in module.named_modules()
        if child is not module and _is_decoder(type(child).__name__, name.rpartition(".")[2])
    ]


def _is_decoder(*names):
    words = [name.lower() for name in names]
    return any("decoder" in w for w in words) and not any("encoder" in w for w in words)


def trained_size(module):
    """Read the input size that a network names as its own; ``None`` where it names none."""
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
    """Give the one input size that a network takes; ``None`` where it takes others."""
    if isinstance(module, VisionTransformer | MaxVit) or _has_fixed_positions(module):
        return trained_size(module)
    return None


def _has_fixed_positions(module):
    """Say whether positions were learned for one size, and no others are made by default."""
    if is_transformers(module):
        asks = "interpolate_pos_encoding" in inspect.signature(module.forward).parameters
        return asks and any("position_embedding" in name for name, _ in module.named_parameters())
    return _attribute(module, "patch_embed.strict_img_size") is True  # timm


def explain_size(module, size):
    """Say what sizes a network takes, and what to do, if ``size`` may be why it failed.

    Returns
    -------
    str or None
        ``None`` where the size is the network's own, or it names none.
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
        other = "the model's own image processor, which normalises too"
    else:
        other = "weights of torchvision, which normalise too"
    return (
        f"was built for images of {own[0]} x {own[1]} {got}. Resize them without a crop, as the "
        f"paper does: preprocess=torchvision.transforms.v2.Resize({own}), or {other}"
    )
