"""Constant images with one textured patch, and checks of their projections."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torchvision.transforms import v2

from sklearn_loce import LoCETransformer, TorchModel

NORMALIZE = v2.Compose(
    [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


@dataclass(frozen=True)
class Planted:
    """The masks of patches and the projections of their LoCEs.

    Parameters
    ----------
    masks, projections : list of ndarray of shape (height, width), bool
    cells : list of tuple of float
        (height, width) of a cell of the layer in pixels of each image.
    """

    masks: list
    projections: list
    cells: list


# (image height, image width, top, left, patch height, patch width): wide, tall, in a corner, small,
# large at an edge; the first two differ by where the patch is. No side is a multiple of a usual
# stride.
PLACES = (
    (90, 142, 12, 10, 42, 38),
    (90, 142, 38, 88, 42, 38),
    (131, 97, 91, 53, 40, 44),
    (90, 142, 30, 50, 24, 22),
    (131, 97, 36, 0, 70, 62),
)


_GRAY = (124, 116, 104)  # ImageNet's mean, which the networks' normalization makes zero


def plant(height, width, top, left, patch_height, patch_width):
    """Draw noise in blocks of two pixels on gray; return image and mask."""
    image = np.tile(np.array(_GRAY, dtype=np.uint8), (height, width, 1))
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + patch_height, left : left + patch_width] = True
    noise = np.random.default_rng(0).integers(0, 256, (height // 2 + 1, width // 2 + 1, 3))
    blocks = noise.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    image[mask] = blocks[mask]
    return image, mask


def centroid(mask):
    return np.argwhere(mask).mean(axis=0) + 0.5


def iou(first, second):
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


def look_for_patches(network, layer, cell, places=PLACES, **parameters):
    """Project LoCEs of planted patches.

    ``cell`` is the side of the layer's cell in pixels of the image, or a function of its size that
    gives (height, width).
    """
    samples = [plant(*place) for place in places]
    model = network if isinstance(network, TorchModel) else TorchModel(network)
    # A logistic LoCE matches a patch on a wrong grid nearly as well, so it would notice less.
    loce = LoCETransformer(model, layer, objective="net2vec", **parameters).fit(samples)
    projections = loce.project(samples)
    cells = [cell(place[:2]) if callable(cell) else (cell, cell) for place in places]
    return Planted([mask for _, mask in samples], projections, cells)


def has_resolution(mask, cell):
    """Return whether a patch is large enough to compare its shape, and not only its position.

    Cells limit that, and of convolutions the field of view, which blurs what is smaller.
    """
    sides = np.ptp(np.argwhere(mask), axis=0) + 1
    return (sides >= 2.5 * np.array(cell)).all() and sides.min() >= 32


def tolerance(mask, cell, max_cells):
    """Return the tolerance of a centroid in pixels along each axis."""
    sides = np.ptp(np.argwhere(mask), axis=0) + 1
    at_edge = mask[[0, -1]].any() or mask[:, [0, -1]].any()
    # The zeros beyond an edge of the image change a patch that touches the edge.
    return np.maximum(max_cells * np.array(cell), sides / 8 if at_edge else 0)


def check(found, max_cells=1.0, *, shape=True):
    """Check location, overlap, and that moving the patch moves the projection.

    ``shape=False`` leaves the overlap out, for layers with few cells and wide fields of view.
    """
    for mask, projection, cell in zip(found.masks, found.projections, found.cells, strict=True):
        assert projection.any(), "the projection is empty"
        offset = centroid(projection) - centroid(mask)
        assert (np.abs(offset) <= tolerance(mask, cell, max_cells)).all(), (
            f"off by {offset / cell} cells"
        )
        if shape and has_resolution(mask, cell):
            assert iou(mask, projection) > 0.5, f"IoU {iou(mask, projection):.2f}"
    moved = [centroid(found.projections[k]) for k in (0, 1)]
    planted = [centroid(found.masks[k]) for k in (0, 1)]
    error = (moved[1] - moved[0]) - (planted[1] - planted[0])
    assert (np.abs(error) <= max_cells * np.array(found.cells[0])).all()


def seeded(build, **how):
    """Build a network with its initial weights, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(**how).eval()


def forget_positions(network):
    """Zero learned positions: with them, a projection could match any mask on any grid."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "pos" in name.rpartition(".")[2]:
                parameter.zero_()
    return network


def _standardise(conv, args, output):
    """Scale the weights of a convolution so that its channels have mean 0 and variance 1."""
    mean, std = output.mean((0, 2, 3)), output.std((0, 2, 3)) + 1e-3
    conv.weight.div_(std[:, None, None, None])
    conv.bias.sub_(mean).div_(std)
    return (output - mean[:, None, None]) / std[:, None, None]


def _take_statistics(norm, args):
    variance, mean = torch.var_mean(args[0], (0, 2, 3))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def calibrate(network):
    """Scale random weights by the planted images; otherwise activations vanish with depth."""
    images = [torch.from_numpy(plant(*place)[0]).permute(2, 0, 1) for place in PLACES[:2]]
    handles = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = None
            module.reset_running_stats()
        elif hasattr(module, "running_mean"):  # a frozen batch normalization
            handles.append(module.register_forward_pre_hook(_take_statistics))
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            handles.append(module.register_forward_hook(_standardise))
    with torch.no_grad():
        network(NORMALIZE(torch.stack(images)))
    for handle in handles:
        handle.remove()
    return network.eval()
