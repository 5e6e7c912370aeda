"""make_scenes: the table, the masks and what is planted."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from pycocotools import mask as rle
from scipy import ndimage

from sklearn_loce.datasets import make_scenes

PLANTED = {
    "sky": {"sky/clear", "sky/sunset"},
    "tree": {"tree/broadleaf", "tree/conifer"},
    "house": {"house/brick", "house/plaster"},
    "bus": {"bus/green", "bus/red"},
    "car": {"car/far", "car/near"},
    "taxi": {"taxi/far", "taxi/near"},
    "road": {"road"},
    "grass": {"grass"},
}


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(n_samples=120, random_state=7)


def decode(row):
    return rle.decode(row["mask"]).astype(bool)


def pixels(scenes, sub_concept):
    """Colors of all pixels of a sub-concept, (n, 3) float."""
    rows = scenes.data[scenes.sub_concepts == sub_concept]
    return np.vstack([row["image"][decode(row)] for _, row in rows.iterrows()]).astype(float)


def test_the_table_has_its_columns(scenes):
    data = scenes.data
    assert list(data.columns) == [
        *("image", "mask", "concept", "image_id", "area", "annotation_id")
    ]
    assert data["image_id"].nunique() == 120
    np.testing.assert_array_equal(scenes.target, data["concept"])
    np.testing.assert_array_equal(scenes.groups, data["image_id"])
    assert list(scenes.target_names) == sorted(PLANTED)
    assert scenes.target.dtype == scenes.sub_concepts.dtype == object
    assert not data.duplicated(["image_id", "concept"]).any()
    assert data["annotation_id"].tolist() == [
        f"{image_id}:{concept}"
        for image_id, concept in zip(data["image_id"], data["concept"], strict=True)
    ]
    assert "taxi" in scenes.DESCR


def test_rows_of_a_scene_share_the_image(scenes):
    for _, rows in scenes.data.groupby("image_id"):
        assert len({id(image) for image in rows["image"]}) == 1
        image = rows["image"].iloc[0]
        assert image.shape == (120, 160, 3)
        assert image.dtype == np.uint8


def test_return_x_y_returns_a_pair():
    data, target = make_scenes(n_samples=2, random_state=0, return_X_y=True)
    np.testing.assert_array_equal(target, data["concept"])


def test_a_scene_depends_only_on_seed_and_number(scenes):
    few = make_scenes(n_samples=3, random_state=7)
    first = scenes.data[scenes.groups < 3]
    assert few.data["mask"].tolist() == first["mask"].tolist()
    for ours, theirs in zip(few.data["image"], first["image"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = make_scenes(n_samples=1, random_state=8)
    assert not np.array_equal(other.data["image"][0], few.data["image"][0])
    assert not np.array_equal(few.data["image"].iloc[0], few.data["image"].iloc[-1])


def test_a_random_state_instance_is_advanced():
    generator = np.random.RandomState(3)
    first, second = (make_scenes(1, random_state=generator).data["image"][0] for _ in range(2))
    again = make_scenes(1, random_state=np.random.RandomState(3)).data["image"][0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)


def test_masks_are_valid_and_do_not_overlap(scenes):
    for _, rows in scenes.data.groupby("image_id"):
        covered = np.zeros((120, 160), dtype=int)
        for _, row in rows.iterrows():
            mask = decode(row)
            assert isinstance(row["mask"]["counts"], bytes)
            assert rle.encode(np.asfortranarray(mask.astype(np.uint8))) == row["mask"]
            assert row["area"] == pytest.approx(mask.sum() / (120 * 160))
            assert row["area"] >= 0.004
            covered += mask
        assert covered.max() == 1
        assert covered.mean() > 0.85


def test_a_scene_has_cars_or_taxis_but_never_both(scenes):
    for _, rows in scenes.data.groupby("image_id"):
        assert len({"car", "taxi"} & set(rows["concept"])) <= 1
        assert {"sky", "road", "grass"} <= set(rows["concept"])
        assert 3 <= len(rows) <= 7


def test_sub_concepts_are_planted_evenly_and_independently():
    scenes = make_scenes(n_samples=400, random_state=1)
    kind = {}
    for concept, names in PLANTED.items():
        found = scenes.sub_concepts[scenes.target == concept]
        assert set(found) == names
        if len(names) == 2:
            share = np.mean(found == min(names))
            assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(found))
            kind[concept] = dict(
                zip(scenes.groups[scenes.target == concept], found == min(names), strict=True)
            )
    for first, second in combinations(kind, 2):
        both = sorted(kind[first].keys() & kind[second].keys())
        if {first, second} == {"car", "taxi"}:
            assert not both
            continue
        pair = np.array([[kind[first][g], kind[second][g]] for g in both], dtype=float)
        assert abs(np.corrcoef(pair.T)[0, 1]) < 4 / np.sqrt(len(both))


def test_sub_concepts_differ_in_the_pixels(scenes):
    clear, sunset = pixels(scenes, "sky/clear"), pixels(scenes, "sky/sunset")
    assert np.mean(clear[:, 2] > clear[:, 0] + 10) > 0.85
    assert np.mean(sunset[:, 2] > sunset[:, 0] + 10) < 0.35
    red, green = pixels(scenes, "bus/red"), pixels(scenes, "bus/green")
    assert np.mean(red[:, 0] > 1.8 * red[:, 1]) > 0.35
    assert np.mean(green[:, 0] > 1.8 * green[:, 1]) < 0.08
    brick, plaster = pixels(scenes, "house/brick"), pixels(scenes, "house/plaster")
    assert np.mean(brick[:, 0] > 1.6 * brick[:, 1]) > 0.5
    assert np.mean(plaster[:, 0] > 1.6 * plaster[:, 1]) < 0.05
    leaf, needle = pixels(scenes, "tree/broadleaf"), pixels(scenes, "tree/conifer")
    assert leaf[:, 1].mean() > needle[:, 1].mean() + 40


@pytest.mark.parametrize("concept", ["car", "taxi"])
def test_near_is_several_times_larger_than_far(scenes, concept):
    heights = {"near": [], "far": []}
    for (_, row), name in zip(scenes.data.iterrows(), scenes.sub_concepts, strict=True):
        if name.startswith(f"{concept}/"):
            parts, _ = ndimage.label(decode(row))
            tallest = max(part[0].stop - part[0].start for part in ndimage.find_objects(parts))
            heights[name.partition("/")[2]].append(tallest)
    assert min(heights["near"]) > 1.5 * max(heights["far"])


def test_masks_cover_the_objects(scenes):
    """The paint of the cars, found by its color, fills their masks and is nowhere else."""
    inside = outside = 0
    with_bus = scenes.groups[scenes.target == "bus"]  # its destination board has the same color
    for _, rows in scenes.data[~np.isin(scenes.groups, with_bus)].groupby("image_id"):
        rows = rows.set_index("concept")
        rgb = rows["image"].iloc[0].astype(int)
        paint = (rgb[..., 0] > 170) & (rgb[..., 1] > 130) & (rgb[..., 2] < 90)
        vehicles = rows.index.intersection(["car", "taxi"])
        masks = [decode(rows.loc[name]) for name in vehicles]
        mask = np.any(masks, axis=0) if masks else np.zeros_like(paint)
        inside, outside = inside + (paint & mask).sum(), outside + (paint & ~mask).sum()
    assert inside > 10_000
    assert outside < 0.01 * inside


def test_car_and_taxi_are_the_closest_pair_in_color(scenes):
    histograms = {}
    for concept in PLANTED:
        rows = scenes.data[scenes.target == concept]
        colors = np.vstack([row["image"][decode(row)] for _, row in rows.iterrows()]) // 64
        counts = np.bincount(colors.astype(int) @ [16, 4, 1], minlength=64)
        histograms[concept] = counts / counts.sum()
    distance = {
        pair: np.abs(histograms[pair[0]] - histograms[pair[1]]).sum()
        for pair in combinations(sorted(PLANTED), 2)
    }
    closest, second = sorted(distance, key=distance.get)[:2]
    assert closest == ("car", "taxi")
    assert distance[second] > 3 * distance[closest]


@pytest.mark.parametrize("image_size", [(48, 48), (90, 200), [240, 320]])
def test_other_image_sizes_are_possible(image_size):
    scenes = make_scenes(n_samples=2, image_size=image_size, random_state=0)
    for _, row in scenes.data.iterrows():
        assert row["image"].shape == (*image_size, 3)
        assert row["mask"]["size"] == list(image_size)


@pytest.mark.parametrize("image_size", [(120,), (120, 160, 3), (40, 160), (120.0, 160), (True, 99)])
def test_a_bad_image_size_raises_an_error(image_size):
    with pytest.raises(ValueError, match=r"image_size must be \(height, width\)"):
        make_scenes(n_samples=1, image_size=image_size)


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, "3"])
def test_a_bad_n_samples_raises_an_error(n_samples):
    with pytest.raises(ValueError, match="'n_samples' parameter"):
        make_scenes(n_samples=n_samples)


def test_importing_datasets_does_not_load_torch():
    program = (
        "import sys; from sklearn_loce.datasets import make_scenes, load_scene_model;"
        "make_scenes(1, random_state=0); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
