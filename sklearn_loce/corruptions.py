"""Add noise to images, to measure how robust embeddings are.

Masks stay unchanged. This recipe measures the cosine between vectors of clean and noisy images:

>>> from sklearn.metrics.pairwise import paired_cosine_distances
>>> from sklearn_loce import LoCETransformer, TorchModel
>>> from sklearn_loce.corruptions import GaussianNoise
>>> from sklearn_loce.datasets import load_scene_model, make_scenes
>>> X = make_scenes(2, random_state=0).data
>>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
>>> clean = loce.fit_transform(X)
>>> noisy = loce.set_params(preprocess=GaussianNoise(10)).fit_transform(X)
>>> bool((1 - paired_cosine_distances(clean, noisy)).mean() > 0.5)
True
"""

from hashlib import blake2b
from numbers import Integral, Real

import numpy as np
import torch
from PIL import Image
from sklearn.utils._param_validation import Interval, validate_params
from torchvision import tv_tensors
from torchvision.transforms import v2

__all__ = ["GaussianNoise", "SaltAndPepperNoise"]

_SEED = [Interval(Integral, 0, None, closed="left")]


def _content_rng(image, kind, random_state):
    """Seed a generator by the pixels, independent of the order of images."""
    pixels = image.detach().cpu().contiguous().view(torch.uint8).numpy()
    digest = blake2b(repr((kind, tuple(image.shape), str(image.dtype))).encode(), digest_size=16)
    digest.update(pixels)
    return np.random.default_rng([random_state, int.from_bytes(digest.digest(), "little")])


def _check_range(image, name):
    """Raise an error unless black is 0 and white is 255 or 1."""
    if image.dtype == torch.uint8:
        return
    if not image.is_floating_point():
        raise ValueError(f"{name} needs an image of uint8 or floats, got {image.dtype}.")
    low, high = image.min().item(), image.max().item()
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"{name} needs floats in [0, 1], got values from {low:.3g} to {high:.3g}. In a "
            "v2.Compose, put it before v2.Normalize."
        )


class _ImageNoise(v2.Transform):
    """Noise that depends on the image and ``random_state`` only."""

    def transform(self, inpt, params):
        """Add noise to images, frames of videos and plain tensors. Return other inputs unchanged.

        Parameters
        ----------
        inpt : Tensor, TVTensor or object
            One part of a sample.
        params : dict
            Ignored; here for torchvision's API.

        Returns
        -------
        Tensor, TVTensor or object
            The noisy input, of the same type.

        See Also
        --------
        sklearn_loce.LoCETransformer : Accepts a transform as ``preprocess``.

        Examples
        --------
        >>> import torch
        >>> from sklearn_loce.corruptions import GaussianNoise
        >>> GaussianNoise(10).transform(torch.full((3, 8, 8), 0.5), {}).shape
        torch.Size([3, 8, 8])
        """
        name = type(self).__name__
        if isinstance(inpt, Image.Image):
            raise TypeError(f"{name} needs a tensor; put v2.ToImage() before it in a v2.Compose.")
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(
            inpt, tv_tensors.Image | tv_tensors.Video
        ):
            return inpt
        pixels = inpt.as_subclass(torch.Tensor)
        _check_range(pixels, name)
        images = pixels.reshape(-1, *pixels.shape[-3:])
        rngs = (_content_rng(image, name, self.random_state) for image in images)
        noisy = [self._corrupt(image, rng) for image, rng in zip(images, rngs, strict=True)]
        return tv_tensors.wrap(torch.stack(noisy).reshape(pixels.shape), like=inpt)

    def extra_repr(self):
        """Return the parameters in the repr.

        Returns
        -------
        str
            The parameters with their values.

        See Also
        --------
        transform : Add the noise.

        Examples
        --------
        >>> from sklearn_loce.corruptions import SaltAndPepperNoise
        >>> SaltAndPepperNoise(5)
        SaltAndPepperNoise(percent=5, random_state=0)
        """
        return f"percent={self.percent}, random_state={self.random_state}"


class GaussianNoise(_ImageNoise):
    """Add Gaussian noise to images, but not to masks.

    ``torchvision.transforms.v2.GaussianNoise`` uses the global generator, so its noise depends on
    earlier images. Here, the noise depends on the pixels of the image and on ``random_state``, not
    on the order of rows, the batch or the thread. An image has the same pattern of noise at every
    ``percent``, so curves over ``percent`` are smooth.

    Parameters
    ----------
    percent : float
        Standard deviation in percent of the range from black to white, at least 0. The value 10
        equals ``sigma=0.1`` of torchvision.
    random_state : int, default=0
        Seed of the pattern.

    Raises
    ------
    ValueError, TypeError
        If the input has floats outside [0, 1] or other integers than uint8, or is a PIL image.

    See Also
    --------
    SaltAndPepperNoise : Noise that replaces pixels.
    sklearn_loce.LoCETransformer : Accepts both as ``preprocess``.

    Notes
    -----
    The input is a tv_tensor or a plain tensor of shape (..., n_channels, height, width), with uint8
    values or floats in [0, 1]. Dtype and device do not change. Values are clipped to the range, and
    uint8 values are rounded. Each pixel and channel has its own noise. Identical images have
    identical noise.

    References
    ----------
    .. [1] G. Mikriukov, G. Schwalbe and K. Bade, "Local Concept Embeddings for Analysis of Concept
       Distributions in Vision DNN Feature Spaces", IJCV, 2025.

    Examples
    --------
    >>> import torch
    >>> from torchvision import tv_tensors
    >>> from sklearn_loce.corruptions import GaussianNoise
    >>> image = tv_tensors.Image(torch.full((3, 64, 64), 128, dtype=torch.uint8))
    >>> mask = tv_tensors.Mask(torch.ones(1, 64, 64, dtype=torch.uint8))
    >>> noisy, same_mask = GaussianNoise(10)(image, mask)
    >>> bool((noisy != image).any()), bool((same_mask == mask).all())
    (True, True)

    If the network needs normalized images, add the noise first::

        LoCETransformer(model, layer, preprocess=v2.Compose([GaussianNoise(10), v2.ToDtype(
            torch.float32, scale=True), v2.Normalize(mean, std)]))
    """

    @validate_params(
        {"percent": [Interval(Real, 0, None, closed="left")], "random_state": _SEED},
        prefer_skip_nested_validation=True,
    )
    def __init__(self, percent, random_state=0):
        super().__init__()
        self.percent = percent
        self.random_state = random_state

    def _corrupt(self, image, rng):
        pattern = rng.standard_normal(tuple(image.shape), dtype=np.float32)
        white = 255 if image.dtype == torch.uint8 else 1
        noise = torch.from_numpy(pattern).to(image.device) * (self.percent / 100 * white)
        noisy = (image + noise).clamp(0, white)
        # torchvision truncates, which changes the noise by up to one gray level.
        return (noisy.round() if image.dtype == torch.uint8 else noisy).to(image.dtype)


class SaltAndPepperNoise(_ImageNoise):
    """Turn a share of the pixels of an image white or black, but not of masks.

    A pixel changes in all channels. The choice of pixels depends on the image and on
    ``random_state``, not on the order of rows, the batch or the thread. Pixels that change at a low
    ``percent`` change in the same way at a higher ``percent``.

    Parameters
    ----------
    percent : float
        Expected share of changed pixels, in [0, 100]. Half of them become white and half black.
    random_state : int, default=0
        Seed of the pattern.

    Raises
    ------
    ValueError, TypeError
        If the input has floats outside [0, 1] or other integers than uint8, or is a PIL image.

    See Also
    --------
    GaussianNoise : Noise that is added.
    sklearn_loce.LoCETransformer : Accepts both as ``preprocess``.

    Notes
    -----
    The input is a tv_tensor or a plain tensor of shape (..., n_channels, height, width), with uint8
    values or floats in [0, 1]. Dtype and device do not change. Identical images have identical
    noise.

    References
    ----------
    .. [1] G. Mikriukov, G. Schwalbe and K. Bade, "Local Concept Embeddings for Analysis of Concept
       Distributions in Vision DNN Feature Spaces", IJCV, 2025.

    Examples
    --------
    >>> import torch
    >>> from sklearn_loce.corruptions import SaltAndPepperNoise
    >>> image = torch.full((3, 100, 100), 0.5)
    >>> noisy = SaltAndPepperNoise(20)(image)
    >>> sorted(noisy.unique().tolist())
    [0.0, 0.5, 1.0]
    >>> round((noisy != image).float().mean().item(), 1)
    0.2
    """

    @validate_params(
        {"percent": [Interval(Real, 0, 100, closed="both")], "random_state": _SEED},
        prefer_skip_nested_validation=True,
    )
    def __init__(self, percent, random_state=0):
        super().__init__()
        self.percent = percent
        self.random_state = random_state

    def _corrupt(self, image, rng):
        # Two random numbers per pixel decide at which percent it changes, and to which color.
        rank, side = torch.from_numpy(rng.random((2, *image.shape[-2:]), dtype=np.float32)).to(
            image.device
        )
        white = 255 if image.dtype == torch.uint8 else 1
        replaced = rank < self.percent / 100
        noisy = image.masked_fill(replaced & (side < 0.5), white)
        return noisy.masked_fill(replaced & (side >= 0.5), 0)
