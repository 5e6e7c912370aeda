import os
from pathlib import Path

from .compiled import cache_folder

# Set this before SciPy is imported: otherwise, scikit-learn skips one of its checks.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# Set this before numba is imported, because numba reads it at import.
os.environ.setdefault("NUMBA_CACHE_DIR", cache_folder())

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from sklearn_loce import TorchModel
from sklearn_loce.datasets import load_coco

# Use the same examples in every run, so that only changes of the code change the result.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def camvid():
    """99 driving scenes with masks of 11 concepts, from a folder beside the checkout."""
    folder = SHARED / "camvid"
    if not folder.is_dir():
        pytest.skip(f"needs the CamVid scenes in {folder}")
    return load_coco(folder / "annotations.json", folder / "images")


@pytest.fixture(scope="session")
def camvid_network():
    """LR-ASPP MobileNetV3-Large, trained on CamVid."""
    weights = SHARED / "models" / "camvid_lraspp_mobilenet_v3_large.safetensors"
    if not weights.is_file():
        pytest.skip(f"needs the weights {weights}")
    from safetensors.torch import load_file
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11)
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in load_file(weights).items()
    }
    network.load_state_dict(state)
    return TorchModel(network.eval())


@pytest.fixture(scope="session")
def camvid_frames(camvid):
    """The rows of every fourth frame: 25 frames of all sequences."""
    frames = np.unique(camvid.groups)[::4]
    return camvid.data[camvid.data["image_id"].isin(frames)]


def make_small_network():
    """Build three convolutions with fixed random weights, a ReLU in place, and a stride."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.Conv2d(12, 6, 1),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return network.eval()


@pytest.fixture
def no_figure_stays():
    """Close all figures after the test, so that each test begins without one."""
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []
    yield
    plt.close("all")


@pytest.fixture
def small_network():
    return make_small_network()


@pytest.fixture
def boxes():
    """Three images of two sizes, five rows of (image, mask, concept, image_id)."""
    from sklearn_loce.utils.estimator_checks import _default_samples

    return _default_samples()
