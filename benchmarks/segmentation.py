"""The paper's comparison: LoCE, GloCE and Net2Vec, by IoU per concept on held-out images.

Run ``python -m benchmarks.segmentation``. It needs the CamVid scenes and the network trained on
CamVid's training frames, and writes a Markdown table. Each of the three driving sequences is held
out once: vectors are fitted on the other two, and no frame of the scored one was seen.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from sklearn.cluster import KMeans
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from torchvision.transforms import v2

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_coco
from sklearn_loce.segmentation import ConceptSegmenter, Net2VecSegmenter

SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = SHARED / "models" / "camvid_lraspp_mobilenet_v3_large.safetensors"
NORMALIZE = v2.Compose(
    [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)
METHODS = ("LoCE (own mask)", "GloCE", "GloCE, 3 clusters", "Net2Vec")


def load_network(weights):
    """LR-ASPP MobileNetV3-Large, whose weights are stored as float16."""
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11)
    state = load_file(weights)
    network.load_state_dict(
        {name: v.float() if v.is_floating_point() else v for name, v in state.items()}
    )
    return TorchModel(network.eval())


def sequence_of(samples):
    """Name the driving sequence of each row: the file name up to its first underscore."""
    return samples["image"].map(lambda path: Path(path).stem.split("_")[0])


def timed_fit(segmenter, samples):
    """Fit, and return the processor's seconds, which other work does not change."""
    start = time.process_time()
    segmenter.fit(samples)
    return time.process_time() - start


def compare_fold(loce, samples, train, test, embeddings):
    """Return the IoU of each test row by each method, and the seconds that fitting took."""
    seen, unseen = samples.iloc[train], samples.iloc[test]
    clusterer = make_pipeline(Normalizer(), KMeans(3, n_init=10, random_state=0))
    gloce, net2vec = ConceptSegmenter(loce), Net2VecSegmenter(loce, random_state=0)
    seconds = {"GloCE": timed_fit(gloce, seen), "Net2Vec": timed_fit(net2vec, seen)}
    parts = ConceptSegmenter(loce, clusterer=clusterer).fit(seen, embeddings=embeddings[train])
    iou = [loce.evaluate(unseen, embeddings[test])["iou"]]
    iou += [segmenter.evaluate(unseen)["iou"] for segmenter in (gloce, parts, net2vec)]
    return pd.concat(iou, axis=1, keys=METHODS).assign(concept=unseen["concept"]), seconds


def compare(loce, samples):
    """Hold out each sequence once; return the IoU of all rows and the mean seconds of a fit."""
    embeddings = loce.fit_transform(samples)
    folds = [
        compare_fold(loce, samples, train, test, embeddings)
        for train, test in LeaveOneGroupOut().split(samples, groups=sequence_of(samples))
    ]
    rows, seconds = zip(*folds, strict=True)
    return pd.concat(rows), pd.DataFrame(seconds).mean()


def as_lines(layer, rows, seconds):
    """Write one layer's table."""
    means = rows.groupby("concept")[list(METHODS)].mean()
    means = means.sort_values(METHODS[0], ascending=False)
    counts = rows["concept"].value_counts()
    lines = [
        f"## `{layer}`",
        "",
        "| concept | rows | " + " | ".join(METHODS) + " |",
        "|---|---:|" + "---:|" * len(METHODS),
    ]
    for concept, values in means.iterrows():
        lines.append(_line(f"{concept} | {counts[concept]}", values))
    lines.append(_line(f"**mean of concepts** | {len(rows)}", means.mean()))
    lines.append(_line(f"**mean of rows** | {len(rows)}", rows[list(METHODS)].mean()))
    took = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
    return [*lines, "", f"Processor seconds of a fit, mean of three: {took}.", ""]


def _line(head, values):
    return f"| {head} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camvid", type=Path, default=SHARED / "camvid")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--layers", nargs="+", default=["backbone.9", "backbone.13", "backbone.16"])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    model = load_network(options.weights)
    samples = load_coco(options.camvid / "annotations.json", options.camvid / "images").data
    lines = [
        "# Concept segmentation of held-out images",
        "",
        "The figures are IoUs on CamVid, with an LR-ASPP MobileNetV3-Large. Each of the three",
        "sequences is held out once, and the vectors are fitted on the other two. The LoCE of a",
        "row is a yardstick and no competitor: it was optimized on the mask itself. All vectors",
        'minimize `objective="net2vec"`. `python -m benchmarks.segmentation` writes this page.',
        "",
    ]
    for layer in options.layers:
        loce = LoCETransformer(model, layer, preprocess=NORMALIZE, objective="net2vec")
        lines += as_lines(layer, *compare(loce, samples))
    options.output.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
