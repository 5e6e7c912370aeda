"""Procedurally drawn driving scenes with planted sub-concepts."""

from importlib import resources
from numbers import Integral

import numpy as np
import pandas as pd
from pycocotools import mask as rle
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from . import _drawing
from ._drawing import CONCEPTS, LABELS, SUB_CONCEPTS

LANES = (-0.47, 0.0, 0.47)
DEPTHS = {"near": (0.74, 0.88), "far": (0.33, 0.40), "bus": (0.46, 0.58)}
PLOTS = (0.22, 0.34, 0.52)
MIN_AREA = 0.004
MIN_SIDE = 48
NOISE = 6


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "image_size": [tuple, list],
        "random_state": ["random_state"],
        "return_X_y": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def make_scenes(n_samples=100, *, image_size=(120, 160), random_state=None, return_X_y=False):
    """Draw driving scenes of eight concepts with planted sub-concepts.

    Every scene shows a road through a meadow under the sky. On the road are one or two cars, or one
    or two taxis, and sometimes a bus. Trees and houses stand beside the road at random. Six of the
    concepts have two planted sub-concepts, one per scene:

    ===========  ===================  ========================================
    concept      sub-concepts         difference
    ===========  ===================  ========================================
    sky          clear, sunset        colors, and the sun in a sunset
    tree         broadleaf, conifer   shape and color of the crown
    house        brick, plaster       color, roof and number of stories
    bus          green, red           livery
    car          far, near            distance, and so the size in the image
    taxi         far, near            the same as for car
    road, grass  none
    ===========  ===================  ========================================

    **Car and taxi are designed to be confused.** They have the same shape, colors and distances. A
    taxi only has an additional small sign on its roof.

    Hills, pavement and shadows beside the road belong to no concept. Masks contain visible pixels
    only. If a concept covers less than 0.4 % of the image, it has no row in this scene.

    Parameters
    ----------
    n_samples : int, default=100
        Number of scenes. Each has three to seven rows, one per visible concept.

    image_size : (int, int), default=(120, 160)
        Height and width of the images in pixels, at least 48 each.

    random_state : int, RandomState instance or None, default=None
        Seed for the scenes. With an int, every call draws the same scenes. Scene `i` depends on
        the seed and on `i` only, not on `n_samples`.

    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the following attributes.

        data : DataFrame of n_rows rows
            One row per image-concept pair, with the columns `image` (array (H, W, 3) of uint8; the
            rows of a scene share one array), `mask` (compressed COCO RLE), `concept`, `image_id`
            (number of the scene), `area` (share of the image, in [0, 1]) and `annotation_id`
            ("IMAGE_ID:CONCEPT").
        target : ndarray of shape (n_rows,), dtype object
            Concept of every row.
        sub_concepts : ndarray of shape (n_rows,), dtype object
            Planted sub-concept of every row, such as ``"car/near"``, or the name of a concept
            without sub-concepts.
        groups : ndarray of shape (n_rows,), dtype int64
            Scene of every row, for :class:`~sklearn.model_selection.GroupKFold`.
        target_names : ndarray of shape (8,), dtype object
            The concepts, sorted.
        DESCR : str
            Description of the data.

    (data, target) : tuple if ``return_X_y`` is True
        The table and the concepts.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    See Also
    --------
    load_scene_model : Load a small network trained on such scenes.

    Examples
    --------
    >>> from sklearn_loce.datasets import make_scenes
    >>> scenes = make_scenes(n_samples=3, random_state=0)
    >>> scenes.data.loc[scenes.groups == 0, ["concept", "area"]].round(2)
      concept  area
    0     sky  0.32
    1    road  0.26
    2   grass  0.08
    3    tree  0.09
    4   house  0.08
    5     bus  0.08
    6     car  0.02
    >>> sorted(set(scenes.sub_concepts[scenes.target == "tree"]))
    ['tree/broadleaf', 'tree/conifer']
    """
    height, width = _check_image_size(image_size)
    seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
    rows = []
    for image_id in range(n_samples):
        scene = draw_scene(np.random.default_rng([seed, image_id]), (height, width))
        rows += _scene_rows(image_id, *scene)
    columns = ["image", "mask", "concept", "image_id", "area", "annotation_id", "sub_concept"]
    data = pd.DataFrame(rows, columns=columns)
    sub_concepts = data.pop("sub_concept").to_numpy(dtype=object)
    target = data["concept"].to_numpy(dtype=object)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        sub_concepts=sub_concepts,
        groups=data["image_id"].to_numpy(),
        target_names=np.array(sorted(CONCEPTS), dtype=object),
        DESCR=resources.files(__package__).joinpath("descr", "scenes.rst").read_text("utf-8"),
    )


def _check_image_size(image_size):
    sides = tuple(image_size)
    whole = all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not whole or min(sides) < MIN_SIDE:
        raise ValueError(
            f"image_size must be (height, width), two integers of at least {MIN_SIDE}; "
            f"got {image_size!r}."
        )
    return sides


def draw_scene(rng, image_size):
    """Draw one scene.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of all random choices.

    image_size : (int, int)
        Height and width in pixels.

    Returns
    -------
    image : ndarray of shape (H, W, 3), dtype uint8

    labels : ndarray of shape (H, W), dtype uint8
        0 without a concept, and otherwise 1 + the position of the concept in ``CONCEPTS``.

    kinds : dict of str to str
        Sub-concept of every concept with sub-concepts, visible or not.
    """
    kinds = {concept: names[rng.integers(len(names))] for concept, names in SUB_CONCEPTS.items()}
    horizon, vanishing = rng.uniform(0.42, 0.46), rng.uniform(-0.08, 0.08)
    canvas = _drawing.Canvas(image_size, horizon, vanishing)
    _drawing.draw_sky(canvas, rng, kinds["sky"])
    _drawing.draw_ground(canvas, rng)
    objects = [*_place_vehicles(rng, kinds), *_place_roadside(rng, kinds)]
    # Painter's algorithm: `s` grows toward the camera, so near objects are drawn over far ones.
    for s, draw, x, look in sorted(objects, key=_depth):
        draw(canvas, rng, x, s, **look)
    image, labels = canvas.read()
    grain = rng.integers(-NOISE, NOISE + 1, size=image.shape, dtype=np.int16)
    return np.clip(image + grain, 0, 255).astype(np.uint8), labels, kinds


def _depth(placed):
    return placed[0]


def _place_vehicles(rng, kinds):
    """Place each vehicle of the scene in its own lane, as (s, draw, x, look)."""
    lanes = list(rng.permutation(LANES))
    if rng.uniform() < 0.6:
        yield rng.uniform(*DEPTHS["bus"]), _drawing.draw_bus, lanes.pop(), {"kind": kinds["bus"]}
    concept = ("car", "taxi")[rng.integers(2)]
    for _ in range(rng.integers(1, 3)):
        s = rng.uniform(*DEPTHS[kinds[concept]])
        yield s, _drawing.draw_car, lanes.pop(), {"sign": concept == "taxi"}


def _place_roadside(rng, kinds):
    """Place houses and trees on both sides, trees closer to the road, as (s, draw, x, look)."""
    for side in (-1, 1):
        for plot in PLOTS:
            if rng.uniform() < 0.6:
                x, s = side * rng.uniform(1.35, 1.6), plot * rng.uniform(0.9, 1.1)
                yield s, _drawing.draw_house, x, {"kind": kinds["house"]}
            if rng.uniform() < 0.6:
                x, s = side * rng.uniform(1.0, 1.2), plot * rng.uniform(0.95, 1.35)
                yield s, _drawing.draw_tree, x, {"kind": kinds["tree"]}


def _scene_rows(image_id, image, labels, kinds):
    """Return the rows of the visible concepts, in the order of the columns."""
    rows = []
    for concept in CONCEPTS:
        mask = labels == LABELS[concept]
        area = float(mask.mean())
        if area < MIN_AREA:
            continue
        sub_concept = f"{concept}/{kinds[concept]}" if concept in kinds else concept
        encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
        annotation_id = f"{image_id}:{concept}"
        rows.append((image, encoded, concept, image_id, area, annotation_id, sub_concept))
    return rows
