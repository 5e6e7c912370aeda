"""Repeat the paper's experiments: ``python -m sklearn_loce.paper``."""

import argparse
from functools import partial
from pathlib import Path

from ..datasets import fetch_coco_val2017, load_coco, load_scene_model, make_scenes
from ._networks import CONCEPTS, NETWORKS, Network, build_torchvision
from ._reproduce import reproduce

_SCENES = {"scenes": Network(load_scene_model, ("features.2", "features.3", "features.5"))}


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m sklearn_loce.paper", description=__doc__)
    data = parser.add_mutually_exclusive_group()
    add = data.add_argument
    add(
        "--scenes",
        type=_positive,
        default=24,
        metavar="N",
        help="number of drawn scenes; 24 by default",
    )
    add(
        "--coco",
        metavar="DIR",
        help="folder of COCO's validation set of 2017, which is downloaded if missing",
    )
    add("--annotations", metavar="FILE", help="any file in COCO's format; needs --images")
    add = parser.add_argument
    add("--images", metavar="DIR", help="folder of the images of --annotations")
    add(
        "--concepts",
        nargs="+",
        help="names of categories; by default the paper's 19 for --coco, otherwise all",
    )
    add("--max-images", type=_positive, metavar="N", help="use the first N images only")
    add("--networks", nargs="+", metavar="NAME", help=f"{', '.join(NETWORKS)}, or torchvision's")
    add("--layers", nargs="+", metavar="LAYER", help="layers of a network that is not in the paper")
    add(
        "--draws",
        type=_positive,
        default=50,
        metavar="N",
        help="number of draws in the comparison of layers; 50 by default",
    )
    add(
        "--rows",
        type=_positive,
        metavar="N",
        help="maximum rows of a concept in a draw; by default 100, or 20 for scenes",
    )
    add("--device", help="device such as cuda; by default the device of the network")
    add("--jobs", type=int, metavar="N", help="number of worker processes")
    add("--out", type=Path, default=Path("paper"), metavar="DIR", help="folder to write to")
    options = parser.parse_args(arguments)
    if (options.annotations is None) != (options.images is None):
        parser.error("--annotations and --images go together")
    if options.layers and len(options.networks or []) != 1:
        parser.error("--layers goes with one name in --networks")
    if options.rows is None:
        options.rows = 100 if options.coco or options.annotations else 20
    return parser, options


def _positive(text):
    """Read a number above 0."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def load_samples(parser, options):
    """Load the table of samples."""
    if options.coco:
        concepts = options.concepts or list(CONCEPTS)
        X = fetch_coco_val2017(data_home=options.coco, categories=concepts).data
    elif options.annotations:
        X = load_coco(options.annotations, options.images, categories=options.concepts).data
    else:
        X = make_scenes(options.scenes, random_state=0).data
        if unknown := sorted({*(options.concepts or ())} - {*X["concept"]}):
            parser.error(f"{unknown} are not in the scenes, {sorted(X['concept'].unique())}")
        X = X[X["concept"].isin(options.concepts or X["concept"])]
    kept = X["image_id"].drop_duplicates()[: options.max_images]
    return X[X["image_id"].isin(kept)]


def find_networks(parser, options):
    """Return the networks by name."""
    names = options.networks
    if names is None:
        return NETWORKS if options.coco or options.annotations else _SCENES
    if options.layers:
        return {names[0]: _name_layers(names[0], tuple(options.layers))}
    if unknown := [name for name in names if name not in NETWORKS]:
        parser.error(
            f"{unknown} are not among the paper's networks {list(NETWORKS)}; pass their --layers"
        )
    return {name: NETWORKS[name] for name in names}


def _name_layers(name, layers):
    source = NETWORKS[name].source if name in NETWORKS else partial(build_torchvision, name)
    return Network(source, layers)


def main(arguments=None):
    """Run the experiments of the command line."""
    parser, options = parse(arguments)
    networks = find_networks(parser, options)
    how = {"n_draws": options.draws, "rows_per_concept": options.rows}
    how |= {"device": options.device, "n_jobs": options.jobs}
    reproduce(load_samples(parser, options), networks, options.out, **how)


if __name__ == "__main__":
    main()
