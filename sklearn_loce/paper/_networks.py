"""The paper's concepts, networks and layers."""

from dataclasses import dataclass
from functools import partial

# One person, eight vehicles and ten animals of COCO.
CONCEPTS = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
)
# Neighbors of a query in retrieval.
K = (1, 5, 10, 20, 30, 40)

_PEELED = ("AutoShape", "DetectMultiBackend")


@dataclass(frozen=True)
class Network:
    """A network and the layers to compare.

    Parameters
    ----------
    source : torch.nn.Module, TorchModel or callable
        The network, or a builder: a function without arguments that returns it.
    layers : tuple of str
        Dotted names of its layers.

    See Also
    --------
    reproduce : Run the experiments on networks by name.
    sklearn_loce.list_layers : The layers of a network.

    Examples
    --------
    >>> from sklearn_loce.datasets import load_scene_model
    >>> from sklearn_loce.paper import Network
    >>> Network(load_scene_model, ("features.2", "features.5")).layers
    ('features.2', 'features.5')
    """

    source: object
    layers: tuple

    def open(self, name):
        """Build the network.

        Parameters
        ----------
        name : str
            Name of the network in error messages.

        Returns
        -------
        TorchModel
            A handle on the network.

        Raises
        ------
        RuntimeError
            If a package is missing, or weights cannot be downloaded.

        See Also
        --------
        reproduce : Opens each network in turn.

        Examples
        --------
        >>> from sklearn_loce.datasets import load_scene_model
        >>> from sklearn_loce.paper import Network
        >>> model = Network(load_scene_model, ("features.2",)).open("scenes")
        >>> type(model).__name__
        'TorchModel'
        """
        from .. import TorchModel

        model = self.source if isinstance(self.source, TorchModel) else TorchModel(self.source)
        try:
            _ = model.module
        except Exception as error:
            raise RuntimeError(
                f"The network {name!r} can't be built: {type(error).__name__}: {error} Install "
                "missing packages, connect to the internet for weights, or choose other networks."
            ) from error
        return model


def build_torchvision(name, weights="DEFAULT"):
    """Build a network of torchvision by its name. Its weights are downloaded once."""
    from torchvision.models import get_model

    return get_model(name, weights=weights).eval()


def build_detr():
    """Build Hugging Face's DETR with a ResNet-50."""
    from transformers import DetrForObjectDetection

    return DetrForObjectDetection.from_pretrained("facebook/detr-resnet-50").eval()


def build_yolo():
    """Build YOLOv5s from its repository. torch asks for confirmation."""
    from torch import hub

    # Load AutoShape, as in the published code, because it merges batch norms into convolutions. The
    # outputs of these convolutions are the paper's layers.
    network = hub.load("ultralytics/yolov5", "yolov5s", trust_repo="check", device="cpu")
    while type(network).__name__ in _PEELED:
        network = network.model
    return network.float().eval()


def _of_imagenet(name):
    return partial(build_torchvision, name, "IMAGENET1K_V1")


NETWORKS = {
    "yolov5s": Network(build_yolo, ("model.6.cv3.conv", "model.14.conv", "model.20.cv3.conv")),
    "mobilenet_v3_large": Network(
        _of_imagenet("mobilenet_v3_large"), ("features.9", "features.11", "features.14")
    ),
    "efficientnet_b0": Network(
        _of_imagenet("efficientnet_b0"), ("features.5.2", "features.6.2", "features.7.0")
    ),
    "detr_resnet50": Network(
        build_detr,
        ("model.backbone.model.layer3", "model.encoder.layers.1", "model.encoder.layers.5"),
    ),
    "vit_b_16": Network(
        _of_imagenet("vit_b_16"),
        tuple(f"encoder.layers.encoder_layer_{i}" for i in (3, 7, 11)),
    ),
    "swin_t": Network(_of_imagenet("swin_t"), ("features.3", "features.5", "features.7")),
}
