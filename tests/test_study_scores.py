"""The study's scores and choice of a setting, compared with loops and planted answers."""

import numpy as np
import pandas as pd
import pytest
from pycocotools.mask import encode
from scipy.stats import spearmanr

from benchmarks import study_choice, study_parts, study_scores
from sklearn_loce.metrics import precision_at_k


@pytest.fixture
def rows():
    """Values of 60 rows in 6 frames, some of them NaN, of two concepts."""
    rng = np.random.default_rng(0)
    values = rng.random(60)
    values[rng.random(60) < 0.2] = np.nan
    return values, rng.integers(0, 6, 60), rng.choice(["car", "sky"], 60)


def test_means_of_draws_equal_those_of_repeated_frames(rows):
    values, frames, concepts = rows
    counts = study_scores.draw_frames(6, n_draws=5)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 6).all()
    plain = study_scores.mean_by_draw(values, frames, counts)
    macro = study_scores.macro_by_draw(values, concepts, frames, counts)
    for k, count in enumerate(counts):
        drawn = np.concatenate(
            [np.tile(np.flatnonzero(frames == f), n) for f, n in enumerate(count)]
        )
        table = pd.DataFrame({"value": values[drawn], "concept": concepts[drawn]})
        assert plain[k] == pytest.approx(table["value"].mean())
        assert macro[k] == pytest.approx(table.groupby("concept")["value"].mean().mean())


def test_the_interval_contains_the_estimate_and_95_percent_of_the_draws():
    draws = np.concatenate([[7.0], np.arange(1001)])
    assert study_scores.interval(draws) == pytest.approx([7, 25, 975])


def test_rank_correlation_equals_that_of_scipy():
    first, second = np.random.default_rng(0).integers(0, 5, (2, 8, 12))  # with ties
    found = study_scores.rank_correlation(first, second)
    for row, a, b in zip(found, first, second, strict=True):
        assert row == pytest.approx(spearmanr(a, b).statistic)


def _score_rows(n_frames=8):
    """Rows whose held-out IoU follows precision, while the plain IoU is as high at random."""
    rng, tables = np.random.default_rng(0), []
    for network, worth in {"trained": 0.4, "random 0": 0.0}.items():
        for setting in study_scores.SETTINGS:
            for k, layer in enumerate(["a", "b", "a+b"]):
                level = worth + k / 10 + rng.normal(0, 0.01, (4 * n_frames))
                values = dict.fromkeys((study_scores.PRECISION, *study_scores.SCORES), level)
                values["IoU, best"] = 1 - level
                about = {"network": network, "setting": setting, "layer": layer}
                image, concept = np.repeat(np.arange(n_frames), 4), ["car", "sky"] * 2 * n_frames
                tables.append(pd.DataFrame(values).assign(image=image, concept=concept, **about))
    return pd.concat(tables)


def test_planted_ranks_are_found():
    found = study_scores.describe_scores(_score_rows(), n_draws=50)
    assert found["frames"] == 8
    assert len(found["places"]) == 2 * 3 * 3
    for ranks in found["correlation"].values():
        assert ranks["held-out IoU"] == pytest.approx([1, 1, 1])
        assert ranks["IoU, best"][0] < -0.9
    for others in found["default above"].values():
        for other, worth in {"random 0": 0.4, "paper": 0}.items():
            value, low, high = others[other]["held-out IoU, best"]
            assert low <= value <= high
            assert value == pytest.approx(worth, abs=0.01)
    for among, best in {"single": "b", "joined, too": "a+b"}.items():
        for found_best in (p for p in found["picks"] if p["among"] == among):
            layer, precision = found_best["picks"]["held-out IoU"]
            assert (layer, precision) == (best, found_best["best"])
            assert found_best["picks"]["IoU, best"][0] == "a"


def test_random_networks_differ_by_seed_and_are_repeatable():
    first, again, other = (study_scores.random_network(seed).module for seed in (0, 0, 1))
    weights = [net.backbone["0"][0].weight for net in (first, again, other)]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


def test_every_sequence_is_split_in_two_by_time():
    names = [f"s{s}_{t:03d}.png" for t in range(5) for s in (1, 2)]
    samples = pd.DataFrame({"image": np.repeat(names, 3)})
    later = study_choice.halve(samples)
    for name, is_later in zip(samples["image"], later, strict=True):
        assert is_later == (int(name[3:6]) >= 2)


def test_vectors_and_averages_are_weighted_by_their_cosines():
    rng = np.random.default_rng(0)
    X, means = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    both = study_choice.put_beside(X, means, 0.5)

    def cosine(A):
        return A[0] @ A[1] / np.linalg.norm(A[0]) / np.linalg.norm(A[1])

    assert cosine(both) == pytest.approx((cosine(X) + 0.25 * cosine(means)) / 1.25)


def _draws(iou, precision):
    return {"IoU": np.array([iou, iou]), "P@10": np.array([precision, precision])}


def test_the_most_precise_candidate_above_the_bar_is_chosen():
    single, other = (1e-4, "a", "none", 0.0), (1e-4, "b", "none", 0.0)
    precise, both = (1e-3, "a+b", "none", 0.0), (1e-4, "a+b", "none", 0.0)
    draws = {
        single: _draws(0.5, 0.6),
        other: _draws(0.4, 0.7),
        precise: _draws(0.53, 0.9),  # draws too little
        both: _draws(0.56, 0.8),
        (1e-4, "a+b", "keep", 0.7): _draws(0.56, 0.85),  # has an average, which projects nothing
    }
    assert study_choice.choose(draws) == both
    above = study_choice.compare_with_single(draws, both)
    assert above["IoU"] == pytest.approx([0.06] * 3)
    assert above["P@10"] == pytest.approx([0.1] * 3)  # of the layer that is best by precision


def test_precision_uses_neighbors_of_the_same_half_and_other_sequences():
    rng = np.random.default_rng(0)
    names = [f"s{s}_{t:03d}.png" for s in (1, 2) for t in range(10)]
    samples = pd.DataFrame({"image": np.repeat(names, 4), "concept": ["car", "sky"] * 40})
    X, iou = rng.normal(size=(80, 5)), rng.random(80)
    found = study_choice.measure_halves(samples, [("one", X, iou)])
    draws = study_choice.draw_half(samples, found, study_choice.halve(samples))
    later = study_choice.halve(samples)
    sequences = samples["image"].str[:2]
    expected = precision_at_k(X[later], samples["concept"][later], 10, groups=sequences[later])
    assert draws["one"]["P@10"][0] == pytest.approx(expected)
    assert draws["one"]["IoU"][0] == pytest.approx(iou[later].mean())


def _draw_masks(columns):
    masks = []
    for column in columns:
        mask = np.zeros((6, 40), dtype=np.uint8, order="F")
        mask[2:4, column - 1 : column + 2] = 1
        masks.append(encode(mask))
    return masks


def test_sides_of_a_concept_follow_its_rows():
    columns = np.r_[5:14, 15:24, 25:34]
    names = [f"s{k % 3}_{k:03d}.png" for k in range(27)]
    samples = pd.DataFrame({"image": names, "concept": "car", "mask": _draw_masks(columns)})
    samples["area"] = np.arange(27)[::-1]
    tasks = {kind: (rows, side) for kind, rows, side in study_parts.list_tasks(samples)}
    assert list(tasks) == list(study_parts.KINDS)
    assert tasks["sequence"][1].tolist() == [0, 1, 2] * 9
    for kind, left in {"left and right": 0, "near and far": 1}.items():
        rows, side = tasks[kind]
        assert set(rows) <= {*range(9), *range(18, 27)}
        assert (side == np.where(rows < 9, left, 1 - left)).all()
    assert study_parts.center(samples["mask"][0]) == pytest.approx(5 / 40)
    assert not list(study_parts.list_tasks(samples[:5]))  # too few rows of each side


def test_sides_in_the_vectors_are_recovered():
    rng, side = np.random.default_rng(0), np.repeat([0.0, 1.0], 20)
    X = np.eye(5)[side.astype(int)] + 0.01 * rng.normal(size=(40, 5))
    tasks = [("near and far", np.arange(40), side)]
    assert study_parts.recover(X, tasks)["near and far, Ward"] == 1
    assert study_parts.recover(3 * X, tasks)["mean, HDBSCAN"] > 0.8
    noise = study_parts.recover(rng.normal(size=(40, 5)), tasks)
    assert abs(noise["mean, Ward"]) < 0.2
