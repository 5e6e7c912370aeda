"""The small network of the package."""

from importlib import resources

from ._drawing import LABELS

WEIGHTS_FILE = "scene_model.safetensors"


def load_scene_model():
    """Load a small segmentation network trained on drawn scenes.

    The network labels every pixel with one of the eight concepts of :func:`make_scenes`, or as
    background. It was trained on the concepts, without the labels of sub-concepts. It is fully
    convolutional, and accepts images of at least 16 pixels in height and width. Pixels are RGB in
    [0, 1] without normalization, so ``preprocess=None`` is the right setting of a transformer.

    Returns
    -------
    torch.nn.Module
        The network in evaluation mode on the CPU, float32. Its layers are:

        ==============  ========  ======================
        layer           channels  resolution
        ==============  ========  ======================
        ``features.0``  24        1/2 of the image
        ``features.1``  48        1/4
        ``features.2``  48        1/4
        ``features.3``  64        1/8
        ``features.4``  96        1/8
        ``features.5``  96        1/8
        ==============  ========  ======================

        It maps images (B, 3, H, W) to class scores (B, 9, H, W). The classes are background,
        sky, road, grass, tree, house, bus, car and taxi, in this order.

    See Also
    --------
    make_scenes : Draw the scenes.
    sklearn_loce.list_layers : The layers of a network.

    Examples
    --------
    >>> import torch
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> model = load_scene_model()
    >>> image = make_scenes(n_samples=1, random_state=0).data["image"][0]
    >>> pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    >>> with torch.no_grad():
    ...     scores = model(pixels)
    >>> scores.shape
    torch.Size([1, 9, 120, 160])
    """
    # A local import, because make_scenes and load_coco need no torch.
    from safetensors.torch import load

    from ._scene_net import SceneNet

    weights = load(resources.files(__package__).joinpath("data", WEIGHTS_FILE).read_bytes())
    model = SceneNet(n_classes=len(LABELS))
    model.load_state_dict(weights)  # copies into float32 and int64
    return model.eval().requires_grad_(False)
