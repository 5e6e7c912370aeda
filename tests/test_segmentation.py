"""Segmenters compared with loops over the definitions, autograd, and planted scenes."""

import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.transform import resize
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning, SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import estimator_checks_generator
from torch import nn
from torch.nn import functional
from torchvision.transforms import v2

from benchmarks.measure import threads
from benchmarks.plain import plain_loss
from benchmarks.segmentation import NORMALIZE, sequence_of
from sklearn_loce import ActivationExtractor, LoCETransformer, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes
from sklearn_loce.segmentation import ConceptSegmenter, Net2VecSegmenter
from sklearn_loce.utils.estimator_checks import loce_checks, parametrize_with_loce_checks

from .conftest import make_small_network
from .counting import Counting

MODEL = TorchModel(make_small_network)
LOCE = LoCETransformer(MODEL, "2", append_bias=True)
STEPPED = LoCETransformer(MODEL, "2", objective="net2vec")
LOCES = {ConceptSegmenter: LOCE, Net2VecSegmenter: STEPPED}
OBJECTIVES = {ConceptSegmenter: "logistic", Net2VecSegmenter: "net2vec"}
SEGMENTERS = [
    ConceptSegmenter(LOCE),
    ConceptSegmenter(LOCE, clusterer=KMeans(2, n_init=3, random_state=0), threshold=0.4),
    Net2VecSegmenter(STEPPED, max_iter=3, batch_size=2, random_state=0),
    Net2VecSegmenter(
        LoCETransformer(MODEL, "5", objective="mse", init="normal", random_state=0),
        max_iter=2,
        cache_size=0,
        random_state=0,
    ),
    Net2VecSegmenter(LoCETransformer(MODEL, "2", alpha=0.1, tol=1e-3)),
]
both = pytest.mark.parametrize("kind", [ConceptSegmenter, Net2VecSegmenter])


def _target(mask):
    return torch.from_numpy(resize(mask.astype(float), (100, 100)))[None]


@pytest.mark.slow
@parametrize_with_loce_checks(SEGMENTERS)
def test_segmenters_pass_our_checks(estimator, check):
    check(estimator)


def test_all_our_checks_ran():
    assert len(loce_checks(kind="segmenter")) == 21


@pytest.mark.parametrize("segmenter", SEGMENTERS[::2])
def test_segmenters_pass_the_checks_of_scikit_learn_for_tables(segmenter):
    with pytest.warns(SkipTestWarning, match="Can't test estimator"):
        checks = list(estimator_checks_generator(segmenter))
    assert checks
    for estimator, check in checks:
        check(estimator)


class Enlarging(ConceptSegmenter):
    """Violates one convention: it scores other masks than it predicts."""

    def predict(self, X):
        return [~mask for mask in super().predict(X)]


def test_the_checks_can_fail():
    checks = {check.__name__: check for check in loce_checks(kind="segmenter")}
    with pytest.raises(AssertionError):
        checks["check_score_is_mean_iou"](Enlarging(LOCE))
    with pytest.raises(AssertionError, match="copied the weights"):
        checks["check_clone_shares_weights"](
            ConceptSegmenter(LoCETransformer(make_small_network(), "2"))
        )


# Centroids, against loops over the definition.


def _centroid(vectors):
    """Mean of the L2-normalized vectors, and mean of the norms, one number at a time."""
    mean, norms = [0.0] * len(vectors[0]), []
    for vector in vectors:
        norm = sum(float(v) ** 2 for v in vector) ** 0.5
        norms.append(norm)
        for c, v in enumerate(vector):
            mean[c] += float(v) / norm / len(vectors)
    return np.array(mean), sum(norms) / len(norms)


def test_centroids_are_means_of_normalized_loces(boxes):
    segmenter = ConceptSegmenter(LOCE).fit(boxes)
    embeddings = LOCE.fit_transform(boxes)
    assert segmenter.concepts_.tolist() == ["bar", "box"]
    assert segmenter.labels_.tolist() == [1, 0, 1, 0, 1]
    for k, concept in enumerate(segmenter.concepts_):
        centroid, norm = _centroid(embeddings[boxes["concept"] == concept])
        np.testing.assert_allclose(segmenter.centroids_[k], centroid, rtol=1e-6)
        np.testing.assert_allclose(segmenter.embeddings_[k], norm * centroid, rtol=1e-6)


def test_clusters_have_centroids_and_outliers_do_not(boxes):
    embeddings = LOCE.fit_transform(boxes)
    segmenter = ConceptSegmenter(LOCE).fit(boxes, cluster_labels=[7, 0, 3, -1, 7])
    assert segmenter.embedding_concepts_.tolist() == ["bar", "box", "box"]
    assert segmenter.labels_.tolist() == [2, 0, 1, -1, 2]
    np.testing.assert_allclose(segmenter.weights_, [1, 1 / 3, 2 / 3], rtol=1e-6)
    for k, rows in enumerate([[1], [2], [0, 4]]):
        centroid, norm = _centroid(embeddings[rows])
        np.testing.assert_allclose(segmenter.centroids_[k], centroid, rtol=1e-6)
        np.testing.assert_allclose(segmenter.embeddings_[k], norm * centroid, rtol=1e-6)


def test_a_clusterer_is_fitted_to_each_concept(boxes):
    clusterer = KMeans(2, n_init=3, random_state=0)
    segmenter = ConceptSegmenter(LOCE, clusterer=clusterer).fit(boxes)
    embeddings = LOCE.fit_transform(boxes)
    labels = np.empty(5, dtype=int)
    for concept in ("bar", "box"):
        rows = (boxes["concept"] == concept).to_numpy()
        labels[rows] = clone(clusterer).fit_predict(embeddings[rows])
    by_hand = ConceptSegmenter(LOCE).fit(boxes, cluster_labels=labels)
    np.testing.assert_array_equal(segmenter.embeddings_, by_hand.embeddings_)
    assert len(segmenter.embeddings_) == 4
    assert not hasattr(clusterer, "labels_")


def test_given_embeddings_are_not_computed_again(boxes):
    network = Counting().eval()
    loce = LoCETransformer(TorchModel(network), "body.2", append_bias=True, memory=False)
    embeddings, n_images = loce.fit_transform(boxes), network.n_images
    given = ConceptSegmenter(loce).fit(boxes, embeddings=embeddings)
    assert network.n_images == n_images
    computed = ConceptSegmenter(loce).fit(boxes)
    np.testing.assert_array_equal(given.embeddings_, computed.embeddings_)


def test_given_embeddings_are_split_with_the_rows(boxes):
    samples = pd.concat([boxes, boxes], ignore_index=True)
    embeddings, segmenter = LOCE.fit_transform(samples), ConceptSegmenter(LOCE)
    scores = cross_val_score(segmenter, samples, cv=2, params={"embeddings": embeddings})
    np.testing.assert_array_equal(scores, cross_val_score(segmenter, samples, cv=2))


def test_transformers_may_return_tables(boxes):
    tables = ConceptSegmenter(clone(LOCE).set_output(transform="pandas")).fit(boxes)
    np.testing.assert_array_equal(tables.embeddings_, ConceptSegmenter(LOCE).fit(boxes).embeddings_)


def test_the_centroid_of_one_loce_equals_it(boxes):
    segmenter = ConceptSegmenter(LOCE).fit(boxes, y=list("abcde"))
    loces = LOCE.fit(boxes)
    np.testing.assert_allclose(segmenter.embeddings_, loces.transform(boxes), rtol=1e-6)
    expected = loces.evaluate(boxes)["iou"].mean()
    assert segmenter.score(boxes, list("abcde")) == pytest.approx(expected, abs=1e-3)


# Predictions, against the definition.


def _probabilities(image, vector):
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        grid = make_small_network()[:3](pixels)
        channels = functional.interpolate(grid, size=(100, 100), mode="bilinear")[0]
        weights, bias = vector[: len(channels)], vector[len(channels) :].sum()
        field = sum(float(v) * channel for v, channel in zip(weights, channels, strict=True))
        maps = (field + float(bias)).sigmoid()[None, None]
        return functional.interpolate(maps, size=image.shape[:2], mode="bilinear")[0, 0].numpy()


@pytest.mark.parametrize("segmenter", SEGMENTERS[:3])
def test_probabilities_are_weighted_projections(boxes, segmenter):
    segmenter = clone(segmenter).fit(boxes)
    weights = getattr(segmenter, "weights_", np.ones(2))
    owners = getattr(segmenter, "embedding_concepts_", segmenter.concepts_)
    soft = segmenter.predict_proba(boxes)
    for image, concept, ours in zip(boxes["image"], boxes["concept"], soft, strict=True):
        expected = sum(
            weight * _probabilities(image, vector)
            for owner, weight, vector in zip(owners, weights, segmenter.embeddings_, strict=True)
            if owner == concept
        )
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@both
def test_predictions_are_mapped_back_through_preprocessing(boxes, kind):
    """The network gets mirrored images; masks equal the projections of the transformer."""
    loce = clone(LOCES[kind]).set_params(preprocess=v2.RandomHorizontalFlip(1.0))
    segmenter = kind(loce).fit(boxes)
    vectors = segmenter.embeddings_[[1, 0, 1, 0, 1]]
    expected = loce.fit(boxes).project(boxes, vectors)
    for ours, mask in zip(segmenter.predict(boxes), expected, strict=True):
        np.testing.assert_array_equal(ours, mask)
    assert not np.array_equal(kind(LOCES[kind]).fit(boxes).predict(boxes)[0], expected[0])


def test_segment_returns_a_mask_of_every_concept(boxes, tmp_path):
    segmenter = ConceptSegmenter(LOCE).fit(boxes)
    image = boxes["image"].iloc[4]
    file = tmp_path / "scene.png"
    Image.fromarray(image).save(file)
    expected = segmenter.predict(pd.DataFrame({"image": [image, image], "concept": ["bar", "box"]}))
    for source in (image, Image.fromarray(image), file):
        masks = segmenter.segment(source)
        assert list(masks) == ["bar", "box"]
        np.testing.assert_array_equal(list(masks.values()), list(expected))


def test_several_images_are_segmented_in_their_order(boxes):
    segmenter = ConceptSegmenter(LOCE).fit(boxes)
    images = boxes["image"].iloc[[4, 2, 0]]
    assert len({image.shape for image in images}) == 2
    for several in (images, tuple(images), images.tolist()):
        for drawn, image in zip(segmenter.segment(several), images, strict=True):
            expected = segmenter.segment(image)
            assert list(drawn) == list(expected)
            np.testing.assert_array_equal([*drawn.values()], [*expected.values()])
    with pytest.raises(ValueError, match="0 sample"):
        segmenter.segment([])


@both
@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_held_out_images_of_any_size_are_predicted(boxes, kind, method):
    samples = pd.concat([boxes, boxes.assign(image_id=boxes["image_id"] + 3)])
    assert len({image.shape for image in samples["image"]}) == 2
    folds = [(np.arange(5), np.arange(5, 10)), (np.arange(5, 10), np.arange(5))]
    segmenter = kind(LOCES[kind])
    if kind is Net2VecSegmenter:
        segmenter.set_params(max_iter=2, shuffle=False)
    drawn = cross_val_predict(segmenter, samples, cv=folds, method=method)
    for train, test in folds:
        expected = getattr(segmenter.fit(samples.iloc[train]), method)(samples.iloc[test])
        for ours, one in zip(drawn[test], expected, strict=True):
            np.testing.assert_array_equal(ours, one)
    same = samples[[image.shape == boxes["image"].iloc[0].shape for image in samples["image"]]]
    assert len(cross_val_predict(segmenter, same, cv=KFold(2), method=method)) == len(same)


def test_labels_numbered_by_cross_validation_raise_an_error(boxes):
    samples, how = pd.concat([boxes, boxes]), {"cv": KFold(2), "method": "predict_proba"}
    match = "numbers y: leave y out, so that the column 'concept' counts"
    with pytest.raises(ValueError, match=match):
        cross_val_predict(ConceptSegmenter(LOCE), samples, samples["concept"], **how)
    numbers = samples.assign(concept=(samples["concept"] == "box").astype(int))
    with pytest.raises(AttributeError, match=match):
        cross_val_predict(ConceptSegmenter(LOCE), numbers, numbers["concept"], **how)
    drawn = cross_val_predict(ConceptSegmenter(LOCE), samples, samples["concept"], cv=KFold(2))
    expected = cross_val_predict(ConceptSegmenter(LOCE), samples, cv=KFold(2))
    for one, other in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_concepts_may_be_numbers(boxes):
    segmenter = ConceptSegmenter(LOCE).fit(boxes, [1, 0, 1, 0, 1])
    assert list(segmenter.segment(boxes["image"].iloc[0])) == [0, 1]
    by_name = ConceptSegmenter(LOCE).fit(boxes)
    np.testing.assert_array_equal(segmenter.embeddings_, by_name.embeddings_)


def test_the_score_excludes_empty_masks(boxes):
    masks = [*boxes["mask"].iloc[:4], np.zeros((48, 64), dtype=bool)]
    segmenter = ConceptSegmenter(LOCE).fit(boxes)
    frame = segmenter.evaluate(boxes.assign(mask=masks))
    assert np.isnan(frame["iou"].iloc[4])
    assert frame["failed"].iloc[4]
    expected = segmenter.evaluate(boxes)["iou"].iloc[:4].mean()
    assert segmenter.score(boxes.assign(mask=masks)) == pytest.approx(expected)


def test_the_threshold_moves_the_border(boxes):
    low, high = (
        clone(SEGMENTERS[0]).set_params(threshold=t).fit(boxes).predict(boxes) for t in (0.2, 0.8)
    )
    assert all((small <= large).all() for small, large in zip(high, low, strict=True))
    assert sum(m.sum() for m in high) < sum(m.sum() for m in low)


# Net2Vec, against autograd.


def _autograd_net2vec(samples, concept, *, max_iter, batch_size, seed, objective="net2vec"):
    """One concept's vector: every channel upsampled, float64, a DataLoader's plain loop."""
    vector = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([vector], lr=0.1, weight_decay=0.01)
    rng = np.random.RandomState(seed)
    names = samples["image_id"].unique()
    network = make_small_network()[:3].double()
    for _ in range(max_iter):
        order = [names[i] for i in rng.permutation(len(names))]
        rows = [
            samples[(samples["image_id"] == i) & (samples["concept"] == concept)] for i in order
        ]
        rows = [frame for frame in rows if len(frame)]
        for start in range(0, len(rows), batch_size):
            batch = pd.concat(rows[start : start + batch_size])
            terms = []
            for image, mask in zip(batch["image"], batch["mask"], strict=True):
                pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
                with torch.no_grad():
                    channels = functional.interpolate(network(pixels), (100, 100), mode="bilinear")
                terms.append(plain_loss(vector[None], channels, _target(mask), objective))
            optimizer.zero_grad()
            torch.cat(terms).mean().backward()
            optimizer.step()
    return vector.detach()


@pytest.fixture
def many_boxes(boxes):
    """Seven images of two sizes; one holds two rows of one concept."""
    frames = []
    for k in range(3):
        images = [np.roll(image, 7 * k, axis=1) for image in boxes["image"]]
        masks = [np.roll(mask, 7 * k, axis=1) for mask in boxes["mask"]]
        shifted = boxes.assign(image=images, mask=masks, image_id=boxes["image_id"] + 3 * k)
        frames.append(shifted)
    samples = pd.concat(frames, ignore_index=True).iloc[:-3]
    samples.loc[0, "concept"] = "bar"
    return samples


@pytest.mark.parametrize(("objective", "batch_size"), [("net2vec", 1), ("net2vec", 3), ("mse", 16)])
def test_net2vec_equals_an_autograd_loop(many_boxes, objective, batch_size):
    loce = LoCETransformer(MODEL, "2", objective=objective)
    how = {"max_iter": 4, "batch_size": batch_size}
    segmenter = Net2VecSegmenter(loce, random_state=3, **how).fit(many_boxes)
    for concept, vector in zip(segmenter.concepts_, segmenter.embeddings_, strict=True):
        expected = _autograd_net2vec(many_boxes, concept, seed=3, objective=objective, **how)
        np.testing.assert_allclose(vector, expected, atol=2e-4)


def test_the_loss_curve_equals_the_mean_loss(boxes):
    segmenter = Net2VecSegmenter(STEPPED, max_iter=30, random_state=0).fit(boxes)
    assert segmenter.loss_curve_.shape == (30, 2)
    zeros = torch.zeros(1, 12, dtype=torch.float64)
    for k, concept in enumerate(segmenter.concepts_):
        masks = boxes["mask"][boxes["concept"] == concept]
        channels = torch.zeros(1, 12, 100, 100, dtype=torch.float64)
        terms = [plain_loss(zeros, channels, _target(mask)) for mask in masks]
        assert segmenter.loss_curve_[0, k] == pytest.approx(torch.cat(terms).mean().item())
    assert (segmenter.loss_curve_[-1] < segmenter.loss_curve_[0]).all()


def test_the_cache_saves_passes_and_changes_nothing(boxes):
    # An image of 48 x 64 has 6 channels of 24 x 32 cells, and at most two masks of 100 x 100.
    one_image = 4 * (6 * 24 * 32 + 2 * 100 * 100) / 2**20
    vectors = []
    for cache_size, n_passes in ((0, 3 * 4), (one_image, 3 + 3 * 2), (200, 3)):
        network = Counting().eval()
        loce = LoCETransformer(TorchModel(network), "body.2", objective="net2vec")
        segmenter = Net2VecSegmenter(loce, max_iter=4, cache_size=cache_size, random_state=0)
        vectors.append(segmenter.fit(boxes).embeddings_)
        assert network.n_images == n_passes
        np.testing.assert_array_equal(vectors[0], vectors[-1])


def test_shuffling_is_seeded(many_boxes):
    def fit(**how):
        segmenter = Net2VecSegmenter(STEPPED, max_iter=2, batch_size=1, **how)
        return segmenter.fit(many_boxes).embeddings_

    np.testing.assert_array_equal(fit(random_state=0), fit(random_state=0))
    assert not np.allclose(fit(random_state=0), fit(random_state=1))
    np.testing.assert_array_equal(fit(shuffle=False), fit(shuffle=False))


def test_net2vec_excludes_empty_masks(boxes):
    loce = LoCETransformer(MODEL, "2", objective="net2vec", on_empty="nan")
    blank = boxes.assign(mask=[np.zeros((48, 64), dtype=bool), *boxes["mask"].iloc[1:]])
    segmenter = Net2VecSegmenter(loce, max_iter=3, shuffle=False)
    without = segmenter.fit(boxes.iloc[1:]).embeddings_
    np.testing.assert_array_equal(segmenter.fit(blank).embeddings_, without)
    with pytest.raises(ValueError, match=r"row 0 \(index 'r0'\) have no foreground"):
        segmenter.set_params(loce__on_empty="raise").fit(blank)


# Objectives with a bias, against scikit-learn, autograd and the LoCEs of single rows.


def _pixels(boxes, concept):
    """Return the pixels (n_pixels, n_channels) of each image of a concept, and its mask."""
    for image, mask in boxes[boxes["concept"] == concept][["image", "mask"]].to_numpy():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
        with torch.no_grad():
            grid = make_small_network().double()[:3](pixels)
            channels = functional.interpolate(grid, size=(100, 100), mode="bilinear")[0]
        scale = (grid**2).sum(1).mean().item()
        yield channels.flatten(1).T.numpy(), _target(mask).numpy().ravel(), scale


@pytest.mark.parametrize("class_weight", ["balanced", None])
def test_logistic_equals_a_regression_on_all_pixels(boxes, class_weight):
    how = {"alpha": 0.01, "tol": 1e-6, "class_weight": class_weight}
    segmenter = Net2VecSegmenter(LoCETransformer(MODEL, "2", **how)).fit(boxes)
    for k, concept in enumerate(segmenter.concepts_):
        images, targets, scales = zip(*_pixels(boxes, concept), strict=True)
        X, n_rows = np.concatenate([*images, *images]), len(images)
        # A pixel of a soft mask belongs to both classes, with a share of each.
        y, weights = np.repeat([1, 0], len(X) // 2), []
        for value in (1, 0):
            for target in targets:
                shares = target if value else 1 - target
                total = 2 * shares.sum() if class_weight else target.size
                weights.append(shares / total / n_rows)
        regression = LogisticRegression(C=1 / (0.01 * np.mean(scales)), tol=1e-10, max_iter=5000)
        regression.fit(X, y, sample_weight=np.concatenate(weights))
        vector = segmenter.embeddings_[k]
        np.testing.assert_allclose(vector[:-1], regression.coef_[0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(vector[-1], regression.intercept_[0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("objective", ["jaccard", "dice"])
def test_overlaps_are_stationary_by_autograd(boxes, objective):
    loce = LoCETransformer(MODEL, "2", objective=objective, alpha=1e-3, tol=1e-5)
    segmenter = Net2VecSegmenter(loce).fit(boxes)
    assert (segmenter.loss_curve_[-1] < segmenter.loss_curve_[0] - 0.1).all()
    for k, concept in enumerate(segmenter.concepts_):
        vector = torch.tensor(segmenter.embeddings_[k], dtype=torch.float64, requires_grad=True)
        losses, scales = [], []
        for pixels, target, scale in _pixels(boxes, concept):
            drawn = (torch.from_numpy(pixels) @ vector[:-1] + vector[-1]).sigmoid()
            shared, whole = (drawn * torch.from_numpy(target)).sum(), drawn.sum() + target.sum()
            ratio = 2 * shared / whole if objective == "dice" else shared / (whole - shared)
            losses.append(1 - ratio)
            scales.append(scale)
        loss = sum(losses) / len(losses)
        loss = loss + 1e-3 / 2 * np.mean(scales) * (vector[:-1] ** 2).sum()
        loss.backward()
        assert loss.item() == pytest.approx(segmenter.loss_curve_[-1, k], abs=1e-4)
        slopes = vector.grad.numpy()
        assert np.abs(slopes[:-1]).max() < 1e-3 * np.sqrt(np.mean(scales))
        assert abs(slopes[-1]) < 1e-3


@pytest.mark.parametrize("objective", ["logistic", "jaccard", "dice"])
def test_the_vector_of_one_row_equals_its_loce(boxes, objective):
    loce = LoCETransformer(MODEL, "2", objective=objective, alpha=1e-3, tol=1e-6)
    segmenter = Net2VecSegmenter(loce).fit(boxes, list("abcde"))
    expected = clone(loce).set_params(append_bias=True).fit_transform(boxes)
    np.testing.assert_allclose(segmenter.embeddings_, expected, rtol=1e-3, atol=2e-3)
    assert segmenter.n_iter_.shape == (5,)
    assert segmenter.loss_curve_.shape == (segmenter.n_iter_.max(), 5)


def test_optima_depend_only_on_the_rows_of_the_concept(boxes):
    loce = LoCETransformer(MODEL, "2", alpha=0.01)
    both = Net2VecSegmenter(loce).fit(boxes)
    for k, concept in enumerate(both.concepts_):
        alone = Net2VecSegmenter(loce, cache_size=0).fit(boxes[boxes["concept"] == concept])
        np.testing.assert_allclose(both.embeddings_[k], alone.embeddings_[0], rtol=1e-4, atol=1e-4)
        assert both.n_iter_[k] == alone.n_iter_[0]


def test_unconverged_optima_cause_a_warning(boxes):
    loce = LoCETransformer(MODEL, "2")
    with pytest.warns(ConvergenceWarning, match=r"\['bar', 'box'\] did not converge.*max_iter=2"):
        segmenter = Net2VecSegmenter(loce, max_iter=2).fit(boxes)
    assert segmenter.n_iter_.tolist() == [2, 2]
    stepped = Net2VecSegmenter(STEPPED, max_iter=2).fit(boxes)
    assert stepped.n_iter_.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("loce", "how", "match"),
    [
        ({}, {"batch_size": 4}, "batch_size=4 is not used with objective='logistic'"),
        ({"objective": "dice"}, {"shuffle": False}, "shuffle=False is not used with .*'dice'"),
        ({}, {"learning_rate": 0.2}, "learning_rate=0.2 is not used with"),
        ({"learning_rate": 0.2}, {}, "learning_rate=0.2 is not used by objective='logistic'"),
        ({"max_iter": 9}, {}, "max_iter=9 of its loce is not used"),
        ({"objective": "net2vec", "max_iter": 9}, {}, "max_iter=9 of its loce is not used"),
        ({"objective": "mse", "learning_rate": 0.2}, {}, "learning_rate=0.2 of its loce is not"),
        ({"objective": "net2vec", "alpha": 0.1}, {}, "alpha=0.1 is not used by"),
        ({"objective": "jaccard", "class_weight": None}, {}, "class_weight=None is not used by"),
    ],
)
def test_unused_parameters_raise_errors(boxes, loce, how, match):
    with pytest.raises(ValueError, match=match):
        Net2VecSegmenter(LoCETransformer(MODEL, "2", **loce), **how).fit(boxes)


# Memory: how many images' activations live at once.


@pytest.mark.parametrize("n_threads", [1, 2])
@both
def test_memory_is_limited_to_a_few_images(kind, n_threads, monkeypatch):
    alive, most, plain = [], [0], ActivationExtractor.__call__

    def count(self, images, shown=None):
        activations = plain(self, images, shown)
        alive[:] = [ref for ref in alive if ref() is not None]
        alive.extend(weakref.ref(grid) for grid in activations.values())
        most[0] = max(most[0], len(alive))
        return activations

    monkeypatch.setattr(ActivationExtractor, "__call__", count)
    scenes = make_scenes(24, image_size=(48, 64), random_state=0)
    how = {"objective": OBJECTIVES[kind], "batch_size": 4}
    loce = LoCETransformer(TorchModel(load_scene_model()), "features.3", **how)
    cache = {"max_iter": 2, "cache_size": 0} if kind is Net2VecSegmenter else {}
    with threads(n_threads):
        segmenter = kind(loce, **cache).fit(scenes.data)
        segmenter.score(scenes.data)
        segmenter.predict(scenes.data)
    assert most[0] <= 4 * n_threads + 2


# Errors.


@both
def test_the_error_names_unknown_concepts(boxes, kind):
    segmenter = kind(LOCES[kind]).fit(boxes)
    other = boxes.assign(concept=["box", "bar", "cube", "bar", "ball"])
    match = r"'cube' of row 2 \(index 'r2'\), 'ball' of row 4 .*known ones are 'bar', 'box'"
    for method in (segmenter.predict, segmenter.predict_proba, segmenter.score):
        with pytest.raises(ValueError, match=match):
            method(other)
    with pytest.raises(ValueError, match=r"'z' of row 0.*and of 1 more rows was not in fit"):
        segmenter.evaluate(pd.concat([boxes] * 2).iloc[:6], ["z"] * 6)


@both
def test_incomplete_tables_raise_errors(boxes, kind):
    segmenter = kind(LOCES[kind])
    with pytest.raises(ValueError, match=r"no concepts.*\['image', 'mask'\].*or pass y"):
        segmenter.fit(boxes[["image", "mask"]])
    with pytest.raises(ValueError, match=r"concept is missing in 1 row\(s\): row 1 \(index 'r1'\)"):
        segmenter.fit(boxes, ["box", None, "box", "box", "box"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        segmenter.fit(boxes, ["box"])
    segmenter.fit(boxes)
    with pytest.raises(TypeError, match=r"got list\. For all concepts.*segment"):
        segmenter.predict([(boxes["image"].iloc[0], "box")])
    with pytest.raises(ValueError, match="lacks the column 'image'"):
        segmenter.predict(boxes[["concept"]])
    with pytest.raises(FileNotFoundError, match=r"row 1: the image 'gone.png' does not exist"):
        segmenter.predict(
            pd.DataFrame({"image": [boxes["image"].iloc[0], "gone.png"], "concept": "box"})
        )
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        segmenter.segment("gone.png")


@both
def test_several_layers_raise_an_error(boxes, kind):
    with pytest.raises(ValueError, match=r"one layer, but its loce has layer=\['2', '5'\]"):
        kind(clone(LOCES[kind]).set_params(layer=["2", "5"])).fit(boxes)


@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        (ConceptSegmenter, {"loce": MODEL}, "'loce'"),
        (ConceptSegmenter, {"clusterer": 3}, "'clusterer'"),
        (ConceptSegmenter, {"threshold": 1}, "'threshold'"),
        (ConceptSegmenter, {"loce": LoCETransformer(MODEL, "2", max_iter=0)}, "'max_iter'"),
        (Net2VecSegmenter, {"loce": None}, "'loce'"),
        (Net2VecSegmenter, {"learning_rate": 0}, "'learning_rate'"),
        (Net2VecSegmenter, {"max_iter": 0}, "'max_iter'"),
        (Net2VecSegmenter, {"batch_size": 0}, "'batch_size'"),
        (Net2VecSegmenter, {"shuffle": "no"}, "'shuffle'"),
        (Net2VecSegmenter, {"cache_size": -1}, "'cache_size'"),
        (Net2VecSegmenter, {"random_state": "seed"}, "'random_state'"),
    ],
)
def test_bad_parameters_raise_errors_in_fit(boxes, kind, change, match):
    with pytest.raises(ValueError, match=match):
        kind(**{"loce": LOCES[kind], **change}).fit(boxes)


def test_the_error_names_concepts_without_loces(boxes):
    embeddings = LOCE.fit_transform(boxes)
    segmenter = ConceptSegmenter(LOCE)
    with pytest.raises(ValueError, match=r"No LoCE is left of the concepts \['bar'\]"):
        segmenter.fit(boxes, cluster_labels=[0, -1, 0, -1, 0])
    embeddings[[1, 3]] = np.nan
    with pytest.raises(ValueError, match=r"No LoCE is left of the concepts \['bar'\]"):
        segmenter.fit(boxes, embeddings=embeddings)
    with pytest.raises(
        ValueError,
        match=r"\(5, 13\), got \(5, 3\)\. With append_bias=True, the bias is the last feature",
    ):
        segmenter.fit(boxes, embeddings=embeddings[:, :3])
    blank = [np.zeros_like(m) for m in boxes["mask"]]
    for loce in (STEPPED, LoCETransformer(MODEL, "2")):
        net2vec = Net2VecSegmenter(clone(loce).set_params(on_empty="nan"))
        match = r"All masks of the concepts \['bar', 'box'\] are empty"
        with pytest.raises(ValueError, match=match):
            net2vec.fit(boxes.assign(mask=blank))


def test_the_error_of_a_clusterer_names_the_concept(boxes):
    with pytest.raises(ValueError, match=r"KMeans.* failed on the 2 LoCEs of the concept 'bar'"):
        ConceptSegmenter(LOCE, clusterer=KMeans(3)).fit(boxes)
    with pytest.raises(ValueError, match="not both"):
        ConceptSegmenter(LOCE, clusterer=KMeans(2)).fit(boxes, cluster_labels=[0] * 5)


def test_a_failing_epoch_leaves_no_hooks(boxes):
    """The second image overflows after the first has passed; no hook stays on the network."""
    network = make_small_network()
    with torch.no_grad():
        network[0].weight *= 1e38
    dark = boxes.assign(
        image=[np.zeros_like(i) for i in boxes["image"].iloc[:4]]
        + [255 - i for i in boxes["image"].iloc[4:]]
    )
    loce = LoCETransformer(TorchModel(network), "2", objective="net2vec")
    segmenter = Net2VecSegmenter(loce, shuffle=False)
    with pytest.raises(ValueError, match="contain NaN or infinity"):
        segmenter.fit(dark)
    assert not any(child._forward_hooks for child in network.modules())


# Planted scenes.


@pytest.fixture(scope="module")
def scene_loce():
    return LoCETransformer(TorchModel(load_scene_model()), "features.5", append_bias=True)


def _for_net2vec(loce):
    return clone(loce).set_params(objective="net2vec", append_bias=False)


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(30, random_state=0).data, make_scenes(12, random_state=1).data


@pytest.fixture(scope="module")
def scene_embeddings(scene_loce, scenes):
    return scene_loce.fit_transform(scenes[0])


class Primaries(nn.Module):
    """Four channels at a quarter of the image's resolution: red, green, blue and a constant."""

    def forward(self, x):
        return functional.avg_pool2d(torch.cat([x, torch.ones_like(x[:, :1])], dim=1), 4)


def _colored(n_images, seed):
    """A red and a green rectangle of random sizes and positions on a blue background."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(n_images):
        image = np.full((80, 80, 3), (0, 0, 200), dtype=np.uint8)
        for half, concept in enumerate(("red", "green")):
            top, left = rng.integers(0, 40), 40 * half + rng.integers(0, 12)
            mask = np.zeros((80, 80), dtype=bool)
            mask[top : top + rng.integers(20, 40), left : left + rng.integers(20, 28)] = True
            image[mask] = np.roll((255, 0, 0), half)
            rows.append((image, mask, concept))
    return pd.DataFrame(rows, columns=["image", "mask", "concept"])


@both
def test_planted_colors_are_segmented(kind):
    how = {"objective": OBJECTIVES[kind]}
    loce = LoCETransformer(TorchModel(nn.Sequential(Primaries())), "0", **how)
    segmenter = kind(loce).fit(_colored(8, seed=0))
    frame = segmenter.evaluate(_colored(8, seed=1))
    assert frame["iou"].min() > 0.75  # a cell is 4 pixels wide
    assert segmenter.concepts_.tolist() == ["green", "red"]
    green, red = segmenter.embeddings_[:, :4]
    assert red[0] > 0 > red[1]
    assert green[1] > 0 > green[0]


@pytest.mark.slow
def test_unseen_scenes_are_segmented(scene_loce, scenes, scene_embeddings):
    """With random labels, the score is low."""
    train, test = scenes
    shuffled = np.random.default_rng(0).permutation(train["concept"])
    gloce = ConceptSegmenter(scene_loce)
    assert gloce.fit(train, embeddings=scene_embeddings).score(test) > 0.7
    assert gloce.fit(train, shuffled, embeddings=scene_embeddings).score(test) < 0.35
    net2vec = Net2VecSegmenter(_for_net2vec(scene_loce), max_iter=10, random_state=0)
    assert net2vec.fit(train).score(test) > 0.7
    assert net2vec.fit(train, shuffled).score(test) < 0.35


def test_planted_sub_concepts_get_a_centroid_each():
    """One concept in two colors: the clusters of its LoCEs are the colors."""
    loce = LoCETransformer(TorchModel(nn.Sequential(Primaries())), "0")
    samples = _colored(8, seed=0)
    clusterer = make_pipeline(Normalizer(), KMeans(2, n_init=3, random_state=0))
    segmenter = ConceptSegmenter(loce, clusterer=clusterer).fit(samples, ["box"] * 16)
    assert adjusted_rand_score(samples["concept"], segmenter.labels_) == 1
    np.testing.assert_array_equal(segmenter.weights_, [0.5, 0.5])
    for color, channel in (("red", 0), ("green", 1)):
        vector = segmenter.embeddings_[segmenter.labels_[samples["concept"] == color][0]]
        assert vector[:3].argmax() == channel


@both
def test_segmenters_work_in_model_selection(kind, scene_loce):
    scenes = make_scenes(18, image_size=(60, 80), random_state=0)
    rows = np.isin(scenes.target, ["sky", "road", "grass"])
    X, y, groups = scenes.data[rows], scenes.target[rows], scenes.groups[rows]
    if kind is Net2VecSegmenter:
        segmenter = kind(_for_net2vec(scene_loce), max_iter=3)
    else:
        segmenter = kind(scene_loce)
    scores = cross_val_score(segmenter, X.assign(concept=y), groups=groups, cv=GroupKFold(3))
    assert scores.min() > 0.5
    search = GridSearchCV(
        segmenter, {"loce__layer": ["features.0", "features.5"]}, cv=GroupKFold(3)
    )
    search.fit(X.drop(columns="concept"), y, groups=groups)
    assert search.best_params_ == {"loce__layer": "features.5"}
    assert search.best_estimator_.loce_.model.module is scene_loce.model.module


# Real scenes with a network that was trained on them.


@pytest.mark.slow
def test_held_out_camvid_sequences_are_segmented(camvid_network, camvid_frames):
    samples = camvid_frames[camvid_frames["concept"].isin(["sky", "road", "building"])]
    train = sequence_of(samples) == "Seq05VD"
    loce = LoCETransformer(camvid_network, "backbone.16", preprocess=NORMALIZE)
    net2vec = Net2VecSegmenter(_for_net2vec(loce), random_state=0)
    optimal = Net2VecSegmenter(clone(loce).set_params(alpha=1e-2, tol=1e-3))
    for segmenter in (ConceptSegmenter(loce), net2vec, optimal):
        frame = segmenter.fit(samples[train]).evaluate(samples[~train])
        assert frame.groupby("concept")["iou"].mean().min() > 0.5
