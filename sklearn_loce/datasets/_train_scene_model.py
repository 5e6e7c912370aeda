"""Train the network of ``load_scene_model``.

Run ``python -m sklearn_loce.datasets._train_scene_model`` to write the file of weights again. Every
batch has new scenes, so no scene occurs twice. The network learns the concepts only, without labels
of sub-concepts.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.metrics import confusion_matrix
from torch.nn import functional

from ._drawing import LABELS
from ._scene_model import WEIGHTS_FILE
from ._scene_net import SceneNet
from ._scenes import draw_scene

IMAGE_SIZE = (120, 160)
BATCH_SIZE = 16
# The first number of the seed of a scene. make_scenes uses seeds below 2 ** 31, so training has
# none of its scenes.
TRAINING, VALIDATION = 2**32, 2**32 + 1

logger = logging.getLogger(__name__)


def draw_batch(seed, numbers):
    """Return images (B, 3, H, W) float32 in [0, 1] and labels (B, H, W) int64 of scenes."""
    scenes = [draw_scene(np.random.default_rng([seed, number]), IMAGE_SIZE) for number in numbers]
    images = torch.from_numpy(np.stack([image for image, _, _ in scenes]))
    labels = torch.from_numpy(np.stack([labels for _, labels, _ in scenes]))
    return images.permute(0, 3, 1, 2) / 255, labels.long()


def class_weights(labels):
    """Return weights (n_classes,) by the inverse square root of the share of pixels."""
    share = torch.bincount(labels.flatten(), minlength=len(LABELS)) / labels.numel()
    weights = share.clamp(min=1e-3).rsqrt()
    return weights / weights.mean()


def train(n_steps, seed):
    """Train a network on ``n_steps`` batches of new scenes."""
    # The global generator of torch draws the initial weights. Its state is restored afterward.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SceneNet(n_classes=len(LABELS))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=n_steps)
    weights = class_weights(draw_batch(VALIDATION, range(64))[1])
    for step in range(n_steps):
        first = (seed * n_steps + step) * BATCH_SIZE
        images, labels = draw_batch(TRAINING, range(first, first + BATCH_SIZE))
        loss = functional.cross_entropy(model(images), labels, weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            logger.info("step %4d of %d: loss %.4f", step, n_steps, loss.item())
    return model.eval()


@torch.no_grad()
def validate(model, n_scenes):
    """Return the IoU per class over the pixels of all validation scenes."""
    counts = np.zeros((len(LABELS), len(LABELS)), dtype=np.int64)
    for first in range(0, n_scenes, BATCH_SIZE):
        images, labels = draw_batch(VALIDATION, range(first, min(first + BATCH_SIZE, n_scenes)))
        predicted = model(images).argmax(dim=1)
        counts += confusion_matrix(
            labels.flatten().numpy(), predicted.flatten().numpy(), labels=range(len(LABELS))
        )
    hits = counts.diagonal()
    iou = hits / (counts.sum(axis=0) + counts.sum(axis=1) - hits)
    return dict(zip(LABELS, iou.tolist(), strict=True))


def main(arguments=None):
    """Train, validate the stored float16 weights, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data" / WEIGHTS_FILE)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation-scenes", type=int, default=200)
    options = parser.parse_args(arguments)
    model = train(options.steps, options.seed)
    stored = {
        name: values.half() if values.is_floating_point() else values
        for name, values in model.state_dict().items()
    }
    model.load_state_dict(stored)
    iou = validate(model, options.validation_scenes)
    mean = sum(iou.values()) / len(iou)
    logger.info("IoU %s", ", ".join(f"{name} {value:.3f}" for name, value in iou.items()))
    logger.info("mean IoU on %d new scenes: %.3f", options.validation_scenes, mean)
    metadata = {"steps": options.steps, "seed": options.seed, "mean_iou": f"{mean:.3f}"}
    metadata = {key: str(value) for key, value in metadata.items()}
    save_file(stored, options.out, metadata=metadata | {"classes": ",".join(LABELS)})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
