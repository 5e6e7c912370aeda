"""The transforms of ``preprocess="paper"`` and ``preprocess="auto"``."""

import math
import os

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from .adapters import is_detector, is_detr, is_transformers, only_size
from .handle import TorchModel, as_module
from .processors import ProcessorTransform

_PAPER_SIZE = (640, 480)  # (width, height), as Pillow counts


class PaperTransform:
    """Resize an image as the paper's published code does, with Pillow's bicubic filter.

    All images are squashed to 640 x 480, and then to the only size that a network accepts, if there
    is one. DETR's processor, with its defaults, resizes and normalizes the images of 640 x 480.

    Parameters
    ----------
    module : torch.nn.Module, default=None
        The network.
    noise : callable, default=None
        Function that is applied to the images of 640 x 480.
    """

    def __init__(self, module=None, noise=None):
        own = None if module is None else only_size(module)
        # Resize twice, as the published code does: the first resize rounds to whole levels.
        self.own_size = None if own is None else own[::-1]
        self.noise = noise
        self.processor = None
        if module is not None and is_detr(module):
            from transformers import DetrImageProcessor

            self.processor = ProcessorTransform(DetrImageProcessor())

    def __repr__(self):
        return repr("paper") if self.noise is None else f"PaperTransform(noise={self.noise!r})"

    def __call__(self, image):
        """Resize an image (3, height, width), uint8."""
        pixels = _resize(image, _PAPER_SIZE)
        if self.noise is not None:
            pixels = self.noise(pixels)
        if self.own_size is not None:
            pixels = _resize(pixels, self.own_size)
        return pixels if self.processor is None else self.processor.process(pixels)


def _resize(image, size):
    """Resize an image (3, height, width), uint8, to (width, height)."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def find_training_preprocess(model):
    """Return the preprocessing of a network's training, as a value for ``preprocess``.

    Nothing is downloaded: Hugging Face's processors are looked up on this machine.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel

    Returns
    -------
    WeightsEnum, callable or None
        ``None`` if it is unknown.
    """
    if isinstance(model, TorchModel) and model.preprocess is not None:
        return model.preprocess
    module = as_module(model)
    if is_detector(module):
        return v2.ToDtype(torch.float32, scale=True)  # the network normalizes images itself
    config = getattr(module, "pretrained_cfg", None)
    if isinstance(config, dict) and {"mean", "std", "input_size"} <= config.keys():
        return _read_timm(config)
    return _find_processor(module) if is_transformers(module) else None


def _read_timm(config):
    """Return timm's evaluation transform for a network's ``pretrained_cfg``."""
    size = [math.floor(n / (config.get("crop_pct") or 1)) for n in config["input_size"][-2:]]
    if config.get("crop_mode") != "squash" and size[0] == size[1]:
        size = size[0]  # size of the shorter side
    filter_ = transforms.InterpolationMode(config.get("interpolation") or "bilinear")
    steps = [transforms.Resize(size, filter_), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(config["mean"], config["std"])])


def _find_processor(module):
    """Load the processor in the folder of a Hugging Face network; ``None`` if there is none."""
    folder = _folder_of(getattr(module, "config", None))
    if folder is None:
        return None
    from transformers import AutoImageProcessor

    try:
        how = {"local_files_only": True, "trust_remote_code": False}
        return AutoImageProcessor.from_pretrained(folder, **how)
    except (OSError, ValueError, KeyError, ImportError):
        return None


def _folder_of(config):
    """Find the folder from which a network was loaded; ``None`` if it is unknown."""
    name = getattr(config, "name_or_path", None)
    if not name or os.path.isdir(name):
        return name or None
    from huggingface_hub import try_to_load_from_cache

    # Do not load by name: even with local_files_only=True, this sends requests to the hub.
    try:
        revision = getattr(config, "_commit_hash", None)
        found = try_to_load_from_cache(name, "preprocessor_config.json", revision=revision)
    except ValueError:
        return None  # the folder does not exist any more
    return os.path.dirname(found) if isinstance(found, str) else None
