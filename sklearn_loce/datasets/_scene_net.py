"""The network behind ``load_scene_model``; imports torch."""

from torch import nn
from torch.nn import functional
from torchvision.ops import Conv2dNormActivation


class SceneNet(nn.Module):
    """Small fully convolutional network that labels the pixels of drawn scenes.

    ``features.0`` has half the resolution of the image, ``features.1`` and ``features.2`` have a
    quarter, and ``features.3`` to ``features.5`` have an eighth.

    Parameters
    ----------
    n_classes : int
        Number of classes, including the background.

    References
    ----------
    The head sums class scores of a fine and a coarse layer, as in Long, Shelhamer and Darrell,
    "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.
    """

    def __init__(self, n_classes):
        super().__init__()
        self.features = nn.Sequential(
            Conv2dNormActivation(3, 24, stride=2),
            Conv2dNormActivation(24, 48, stride=2),
            _Residual(48, 48),
            Conv2dNormActivation(48, 64, stride=2),
            Conv2dNormActivation(64, 96, dilation=2),
            _Residual(96, 96, dilation=4),
        )
        self.score_fine = nn.Conv2d(48, n_classes, 1)
        self.score_coarse = nn.Conv2d(96, n_classes, 1)

    def forward(self, images):
        """Compute class scores (B, n_classes, H, W) of RGB images (B, 3, H, W) in [0, 1]."""
        fine = self.features[:3](images)
        coarse = self.score_coarse(self.features[3:](fine))
        scores = self.score_fine(fine) + _resize(coarse, fine.shape[-2:])
        return _resize(scores, images.shape[-2:])


class _Residual(Conv2dNormActivation):
    """Adds its input to its output."""

    def forward(self, maps):
        return maps + super().forward(maps)


def _resize(maps, size):
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
