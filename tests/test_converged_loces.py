"""Converged objectives, standardized channels and masked means, on tables of samples."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional

from sklearn_loce import (
    LoCETransformer,
    MaskedMeanTransformer,
    RowStore,
    TorchModel,
    optimize_loces,
    project_loces,
)
from sklearn_loce.datasets import load_scene_model, make_scenes
from sklearn_loce.segmentation import ConceptSegmenter, Net2VecSegmenter

from .conftest import make_small_network

MODEL = TorchModel(make_small_network)


def _activations(image, layer="2"):
    """Pass an image through the small network by hand; (n_channels, height, width)."""
    pixels = torch.from_numpy(np.asarray(image)).movedim(-1, 0)[None].float() / 255
    with torch.no_grad():
        return make_small_network()[: int(layer) + 1](pixels)[0].double().numpy()


@pytest.mark.parametrize("objective", ["logistic", "jaccard", "dice"])
def test_rows_equal_those_of_optimize_loces(boxes, objective):
    how = {"objective": objective, "alpha": 1e-3}
    loce = LoCETransformer(MODEL, "2", append_bias=True, **how).fit(boxes)
    vectors = loce.transform(boxes)
    assert list(loce.get_feature_names_out()[-2:]) == ["2[11]", "2[bias]"]
    for row, vector in zip(boxes.itertuples(), vectors, strict=True):
        grid = torch.from_numpy(_activations(row.image)).float()[None]
        mask = row.mask[None].astype(float)
        expected, info = optimize_loces(grid, mask, return_info=True, **how)
        np.testing.assert_allclose(vector[:-1], expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(vector[-1], info.intercept[0], rtol=1e-4, atol=1e-4)
    without = clone(loce).set_params(append_bias=False).fit(boxes)
    np.testing.assert_array_equal(without.transform(boxes), vectors[:, :-1])


@pytest.mark.parametrize("objective", ["logistic", "jaccard", "dice"])
def test_evaluate_returns_iterations_and_finds_the_bias(boxes, objective):
    plain = LoCETransformer(MODEL, ["2", "5"], objective=objective, tol=1e-6).fit(boxes)
    facts = plain.evaluate(boxes)
    assert list(facts)[-3:] == ["failed", "n_iter", "gradient_norm"]
    assert facts["n_iter"].between(1, 200).all()
    assert (facts["gradient_norm"] <= 1e-6).all()
    biased = clone(plain).set_params(append_bias=True).fit(boxes)
    # Vectors that are given draw what those draw that were just optimized.
    for loce in (plain, biased):
        given, own = loce.evaluate(boxes, loce.transform(boxes)), loce.evaluate(boxes)
        assert given["n_iter"].isna().all()
        np.testing.assert_allclose(given["loss"], facts["loss"], rtol=1e-5)
        np.testing.assert_allclose(given["iou"], own["iou"], atol=0.01)
    # The bias that matches the mask has a higher IoU than that of the logistic loss. It is not
    # lower than that of a loss that is close to the Jaccard index.
    least = 0.02 if objective == "logistic" else -0.005
    assert facts["iou"].mean() - own["iou"].mean() > least


@pytest.mark.parametrize("objective", ["logistic", "jaccard", "dice"])
def test_n_iter_is_the_maximum_over_rows_also_from_the_store(boxes, tmp_path, objective):
    loce = LoCETransformer(MODEL, ["2", "5"], objective=objective, memory=tmp_path / "rows")
    for _ in range(2):
        loce.fit_transform(boxes)
        rows = clone(loce).set_params(memory=False).fit(boxes).evaluate(boxes)
        assert loce.n_iter_.tolist() == rows.groupby("layer")["n_iter"].max()[["2", "5"]].tolist()
    assert not hasattr(loce.fit(boxes), "n_iter_")


def test_n_iter_is_max_iter_for_adamw_and_0_for_failed_rows(boxes):
    adamw = LoCETransformer(MODEL, ["2", "5"], objective="net2vec", max_iter=3)
    adamw.fit_transform(boxes)
    assert adamw.n_iter_.tolist() == [3, 3]
    empty = boxes.assign(mask=[np.zeros_like(mask) for mask in boxes["mask"]])
    failed = LoCETransformer(MODEL, "2", objective="logistic", on_empty="nan")
    assert np.isnan(failed.fit_transform(empty)).all()
    assert failed.n_iter_.tolist() == [0]
    drawn = failed.project(empty, failed.transform(boxes))  # no bias draws an empty mask
    assert not np.any([mask.any() for mask in drawn])


def test_project_equals_the_plain_projection_with_the_bias(boxes):
    loce = LoCETransformer(MODEL, "0", objective="logistic", append_bias=True).fit(boxes)
    vectors = torch.from_numpy(loce.transform(boxes))
    drawn = loce.project(boxes, threshold=None)
    for i, image in enumerate(boxes["image"]):
        grid = torch.from_numpy(_activations(image, "0")).float()[None]
        (expected,) = project_loces(grid, vectors[[i], :-1], (100, 100), bias=vectors[[i], -1])
        resized = functional.interpolate(expected[None, None], size=drawn[i].shape, mode="bilinear")
        np.testing.assert_allclose(drawn[i], resized[0, 0], atol=1e-4)


def test_unconverged_rows_are_counted_also_from_the_store(boxes, tmp_path):
    loce = LoCETransformer(
        MODEL, ["2", "5"], objective="logistic", max_iter=1, memory=tmp_path / "rows"
    )
    for _ in range(2):
        with pytest.warns(ConvergenceWarning, match="5 of 5 rows did not converge"):
            loce.fit_transform(boxes)


def test_different_settings_do_not_share_rows(boxes, tmp_path):
    store = RowStore(tmp_path / "rows")
    loce = LoCETransformer(MODEL, "2", objective="logistic", memory=store)
    first = loce.fit_transform(boxes)
    assert store.info()["n_keys"] == 1
    for n, changed in enumerate(
        (
            {"alpha": 0.2},
            {"tol": 1e-3},
            {"objective": "dice"},
            {"class_weight": "balanced"},
            {"standardize": True},
        ),
        start=2,
    ):
        other = clone(loce).set_params(**changed).fit_transform(boxes)
        assert not np.array_equal(other, first), changed
        assert store.info()["n_keys"] == n
    for same in ({"alpha": 1e-4}, {"learning_rate": 0.1}, {"max_iter": 500}):
        np.testing.assert_array_equal(clone(loce).set_params(**same).fit_transform(boxes), first)
        assert store.info()["n_keys"] == n
    biased = clone(loce).set_params(append_bias=True).fit_transform(boxes)
    np.testing.assert_array_equal(biased[:, :-1], first)
    assert store.info()["n_keys"] == n


BY_ADAMW, BY_LBFGS = ["net2vec", "mse", "mae"], ["logistic", "jaccard", "dice"]
UNREAD = [
    *(
        ({"objective": name, "learning_rate": 0.5}, "'mae', 'mse' or 'net2vec'")
        for name in BY_LBFGS
    ),
    *(({"objective": name, "alpha": 1e-3}, "'dice', 'jaccard' or 'logistic'") for name in BY_ADAMW),
    *(({"objective": name, "tol": 1e-6}, "'dice', 'jaccard' or 'logistic'") for name in BY_ADAMW),
    *(
        ({"objective": name, "class_weight": None}, "'logistic'")
        for name in [*BY_ADAMW, "jaccard", "dice"]
    ),
]


@pytest.mark.parametrize(("how", "others"), UNREAD)
def test_parameters_that_the_objective_does_not_use_raise_errors(boxes, how, others):
    (objective, (name, value)) = how["objective"], list(how.items())[1]
    message = re.escape(
        f"{name}={value!r} is not used by objective={objective!r}; leave it out, or choose "
        f"{others}."
    )
    loce = LoCETransformer(MODEL, "2", objective=objective).fit(boxes)
    with pytest.raises(ValueError, match=message):
        loce.set_params(**how).fit(boxes)
    with pytest.raises(ValueError, match=message):
        ConceptSegmenter(loce).fit(boxes)
    with pytest.raises(ValueError, match=message):
        optimize_loces(torch.ones(1, 2, 4, 4), torch.eye(4)[None], **how)


def test_logistic_is_the_default(boxes):
    by_name = LoCETransformer(MODEL, "2", objective="logistic", memory=False)
    default = LoCETransformer(MODEL, "2", memory=False)
    np.testing.assert_array_equal(default.fit_transform(boxes), by_name.fit_transform(boxes))
    activations, masks = torch.ones(1, 2, 4, 4), torch.eye(4)[None]
    activations[0, 1] = torch.eye(4)
    expected = optimize_loces(activations, masks, objective="logistic")
    assert torch.equal(optimize_loces(activations, masks), expected)


def test_append_bias_raises_an_error_for_objectives_without_a_bias(boxes):
    with pytest.raises(ValueError, match="append_bias=True is not used by objective='net2vec'"):
        LoCETransformer(MODEL, "2", objective="net2vec", append_bias=True).fit(boxes)


@pytest.mark.slow
def test_a_search_of_an_unused_parameter_raises_an_error(boxes):
    loce = LoCETransformer(MODEL, "2", objective="logistic")
    search = GridSearchCV(loce, {"learning_rate": [0.2, 0.5]}, cv=2, refit=False)
    with pytest.raises(
        ValueError, match=r"(?s)All the 4 fits failed.*learning_rate=0\.2 is not used"
    ):
        search.fit(boxes)
    search.set_params(error_score="raise", param_grid={"learning_rate": [0.1, 0.5]})
    with pytest.raises(ValueError, match=r"learning_rate=0\.5 is not used by objective='logistic'"):
        search.fit(boxes)
    search.set_params(error_score=np.nan)
    with (
        pytest.warns(FitFailedWarning, match=r"learning_rate=0\.5 is not used"),
        pytest.warns(UserWarning, match="scores are non-finite"),
    ):
        search.fit(boxes)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True]


def test_the_net2vec_segmenter_refuses_unused_parameters_of_its_loce(boxes):
    for name, value in {"learning_rate": 0.5, "max_iter": 7}.items():
        loce = LoCETransformer(MODEL, "2", objective="net2vec", **{name: value})
        with pytest.raises(
            ValueError, match=f"{name}={value} of its loce is not used by .* set {name}"
        ):
            Net2VecSegmenter(loce).fit(boxes)


def test_segmenters_project_with_the_mean_bias():
    train, test = make_scenes(8, random_state=0).data, make_scenes(3, random_state=1).data
    loce = LoCETransformer(TorchModel(load_scene_model), "features.5", objective="logistic")
    segmenter = ConceptSegmenter(loce).fit(train)
    assert segmenter.embeddings_.shape[1] == segmenter.loce_.n_channels_[0] + 1
    assert not loce.append_bias
    assert segmenter.score(test) > 0.5


def _moments(samples, layer="2"):
    """Return mean and standard deviation of all cells of all images, in one array."""
    seen = {id(image): image for image in samples["image"]}
    cells = np.hstack([_activations(image, layer).reshape(12, -1) for image in seen.values()])
    return cells.mean(1), cells.std(1)


def test_scales_equal_the_statistics_of_all_cells(boxes):
    loce = LoCETransformer(MODEL, "2", standardize=True).fit(boxes)
    mean, std = _moments(boxes)
    np.testing.assert_allclose(loce.mean_[0], mean, rtol=1e-5)
    np.testing.assert_allclose(loce.scale_[0], std, rtol=1e-5)
    np.testing.assert_allclose(loce.fit(boxes.iloc[:1]).mean_[0], _moments(boxes.iloc[:1])[0], 1e-5)
    assert loce.set_params(standardize=False).fit(boxes).mean_ is None


@pytest.mark.parametrize("objective", ["net2vec", "logistic"])
def test_standardized_rows_equal_rows_of_standardized_activations(boxes, objective):
    loce = LoCETransformer(MODEL, "2", objective=objective, standardize=True)
    vectors = loce.fit_transform(boxes)
    mean, std = (part[:, None, None] for part in _moments(boxes))
    facts, drawn = loce.evaluate(boxes), loce.project(boxes, vectors, threshold=None)
    for i, row in enumerate(boxes.itertuples()):
        grid = torch.from_numpy((_activations(row.image) - mean) / std).float()[None]
        mask = row.mask[None].astype(float)
        expected = optimize_loces(grid, mask, objective=objective)
        np.testing.assert_allclose(vectors[i], expected[0], rtol=1e-3, atol=1e-3)
        shown = drawn[i] > 0.5
        overlap = (shown & mask[0].astype(bool)).sum() / (shown | mask[0].astype(bool)).sum()
        assert facts["iou"].iloc[i] == pytest.approx(overlap, abs=0.02)


def test_standardized_vectors_do_not_depend_on_the_units_of_channels(boxes):
    """Logistic LoCEs of a network with rescaled channels are equal."""
    scaled = make_small_network()
    with torch.no_grad():
        factors = torch.logspace(-2, 2, 12)
        scaled[2].weight *= factors[:, None, None, None]
        scaled[2].bias *= factors
    loce = LoCETransformer(MODEL, "2", objective="logistic", standardize=True, tol=1e-6)
    first = loce.fit_transform(boxes)
    second = clone(loce).set_params(model=TorchModel(scaled)).fit_transform(boxes)
    np.testing.assert_allclose(second, first, atol=1e-3 * np.abs(first).max())


@pytest.mark.parametrize("embedder", [LoCETransformer, MaskedMeanTransformer])
@pytest.mark.parametrize("standardize", [False, True])
def test_a_failed_first_row_does_not_affect_others_of_its_image(boxes, embedder, standardize):
    one_image = boxes[[image is boxes["image"].iloc[0] for image in boxes["image"]]]
    faulty = pd.concat([one_image[:1].assign(mask=[np.ones((3, 3), bool)]), one_image])
    how = {"standardize": standardize, "on_error": "nan"}
    expected = embedder(MODEL, "2", **how).fit_transform(one_image)
    loce = embedder(MODEL, "2", **how).fit(faulty)
    with pytest.warns(UserWarning, match="the mask is 3 x 3"):
        vectors = loce.transform(faulty)
    assert np.isnan(vectors[0]).all()
    np.testing.assert_array_equal(vectors[1:], expected)


def test_warnings_name_the_line_of_the_call(boxes):
    loce = LoCETransformer(MODEL, "2", objective="logistic", max_iter=1, on_error="nan").fit(boxes)
    faulty = boxes.assign(mask=[np.ones((3, 3), bool), *boxes["mask"][1:]])
    for call in (loce.transform, loce.evaluate, loce.project):
        with pytest.warns(ConvergenceWarning) as caught, pytest.warns(UserWarning, match="failed"):
            call(faulty)
        assert {warning.filename for warning in caught} == {__file__}


def test_a_constant_channel_has_a_scale_of_one(boxes):
    network = make_small_network()
    with torch.no_grad():
        network[2].weight[3] = 0
    loce = LoCETransformer(TorchModel(network), "2", standardize=True).fit(boxes)
    assert loce.scale_[0][3] == 1
    assert np.isfinite(loce.transform(boxes)).all()


def _coverage(mask, size):
    """Split pixels so that cells consist of whole parts, and count them."""
    rows, columns = np.lcm(mask.shape[0], size[0]), np.lcm(mask.shape[1], size[1])
    fine = mask.repeat(rows // mask.shape[0], 0).repeat(columns // mask.shape[1], 1)
    return fine.reshape(size[0], rows // size[0], size[1], columns // size[1]).mean((1, 3))


@pytest.mark.parametrize(
    ("shape", "size"),
    [((7, 9), (7, 9)), ((12, 20), (5, 3)), ((5, 4), (7, 9)), ((480, 640), (23, 30))],
)
def test_the_masked_mean_weights_cells_by_coverage(shape, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask = rng.random(shape) > 0.6
    means = MaskedMeanTransformer(
        TorchModel(nn.Sequential(nn.Identity())),
        "0",
        reshape_transform=lambda pixels: functional.adaptive_avg_pool2d(pixels, size),
    )
    (vector,) = means.fit_transform([(image, mask)])
    pixels = torch.from_numpy(image).permute(2, 0, 1).double() / 255
    grid, weights = functional.adaptive_avg_pool2d(pixels, size).numpy(), _coverage(mask, size)
    np.testing.assert_allclose(vector, np.tensordot(grid, weights, 2) / weights.sum(), rtol=1e-5)


def test_the_masked_mean_equals_the_weighted_mean_of_cells(boxes):
    means = MaskedMeanTransformer(MODEL, ["0", "2"]).fit_transform(boxes)
    for row, vector in zip(boxes.itertuples(), means, strict=True):
        parts = []
        for layer in ("0", "2"):
            grid = _activations(row.image, layer)
            weights = _coverage(row.mask, grid.shape[1:])
            parts.append(np.tensordot(grid, weights, 2) / weights.sum())
        np.testing.assert_allclose(vector, np.concatenate(parts), rtol=1e-5, atol=1e-6)


def test_the_mean_under_a_tiny_mask_is_its_cell(boxes):
    row = boxes.iloc[[0]].copy()
    mask = np.zeros(np.asarray(row["image"].iloc[0]).shape[:2], dtype=bool)
    mask[2, 4] = True  # a pixel of cell (1, 2) of a layer with stride 2
    row["mask"] = pd.Series([mask], index=row.index)
    (vector,) = MaskedMeanTransformer(MODEL, "2").fit_transform(row)
    grid = _activations(row["image"].iloc[0])
    np.testing.assert_allclose(vector, grid[:, 1, 2], rtol=1e-5)


def test_masked_means_are_stored_and_empty_masks_raise_errors(boxes, tmp_path):
    store = RowStore(tmp_path / "rows")
    means = MaskedMeanTransformer(MODEL, "2", memory=store)
    first = means.fit_transform(boxes)
    np.testing.assert_array_equal(means.fit_transform(boxes), first)
    assert len(store.to_frame()) == len(boxes)
    assert list(means.get_feature_names_out()[:2]) == ["2[0]", "2[1]"]
    empty = boxes.copy()
    empty["mask"] = [np.zeros_like(mask) for mask in boxes["mask"]]
    with pytest.raises(ValueError, match="no foreground"):
        means.transform(empty)
    assert np.isnan(means.set_params(on_empty="nan").fit_transform(empty)).all()
