"""The objectives with a bias and a ridge, and their minima."""

import numpy as np
import pytest
import torch
from skimage.transform import resize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from sklearn_loce import LoCETransformer, TorchModel, optimize_loces, project_loces

from .conftest import make_small_network

OBJECTIVES = ["logistic", "jaccard", "dice"]
SIZE = (100, 100)


def _planted(n_samples, n_channels, height, width, seed=0):
    """Draw activations that are no less than zero, and noisy blobs as masks."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n_samples, n_channels, 5, 6, generator=generator)
    activations = functional.interpolate(coarse, size=(height, width), mode="bicubic").relu()
    mixture = torch.randn(n_channels, generator=generator)
    field = torch.einsum("c,nchw->nhw", mixture, activations)
    field += torch.randn(field.shape, generator=generator) * field.std()
    masks = functional.interpolate(field[:, None], size=(90, 130), mode="bilinear")[:, 0]
    return activations, (masks > masks.mean()).float()


def _targets(masks):
    return np.stack([resize(mask, SIZE) for mask in masks.numpy()]).astype(np.float32)


def plain_objective(objective, alpha, activations, target, vector, bias):
    """Compute one sample's objective by its definition, in float64."""
    upsampled = functional.interpolate(activations[None], size=target.shape, mode="bilinear")[0]
    z = torch.einsum("c,chw->hw", vector, upsampled) + bias
    t, P = target, torch.sigmoid(z)
    if objective == "logistic":
        concept, background = t / t.mean() ** 0.5, (1 - t) / (1 - t).mean() ** 0.5
        terms = concept * -torch.log(P) + background * -torch.log(1 - P)
        loss = terms.sum() / (concept + background).sum()
    elif objective == "jaccard":
        loss = 1 - (t * P).sum() / (t + P - t * P).sum()
    else:
        loss = 1 - 2 * (t * P).sum() / (t + P).sum()
    s = (activations**2).sum(0).mean()
    return loss + alpha / 2 * s * (vector**2).sum()


def _gradient(objective, alpha, activations, target, vector, bias):
    """Differentiate the plain objective, in units of v sqrt(s); (n_channels + 1,)."""
    v, b = (part.clone().requires_grad_() for part in (vector, bias))
    plain_objective(objective, alpha, activations, target, v, b).backward()
    root = (activations**2).sum(0).mean().sqrt()
    return torch.cat([v.grad / root, b.grad[None]])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 12, 16), (19, 7, 9), (3, 130, 110), (40, 1, 20)])
def test_the_gradient_of_the_plain_objective_vanishes(objective, dtype, shape):
    activations, masks = _planted(3, *shape)
    targets = torch.from_numpy(_targets(masks)).double()
    alpha, tol = {"logistic": 0.02}.get(objective, 1e-3), 1e-5
    vectors, info = optimize_loces(
        activations.to(dtype), masks, objective=objective, alpha=alpha, tol=tol, return_info=True
    )
    for i in range(3):
        sample = objective, alpha, activations[i].double(), targets[i]
        zero = torch.zeros(shape[0], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        unit = _gradient(*sample, *zero).norm()
        norm = _gradient(*sample, vectors[i].double(), info.intercept[i].double()).norm()
        # The solver's centered channels shear the gradient a little.
        assert norm <= 10 * max(unit, 0.01) * tol
        assert vectors[i].abs().max() > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_compiled_and_batched_solvers_agree(objective):
    activations, masks = _planted(4, 10, 9, 11)
    how = {"objective": objective, "alpha": 1e-3, "tol": 1e-6, "return_info": True}
    compiled, batched = (
        optimize_loces(a, masks, **how) for a in (activations, activations.double())
    )
    torch.testing.assert_close(compiled[0].double(), batched[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        compiled[1].intercept.double(), batched[1].intercept, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_starts_give_the_same_optimum(dtype):
    activations, masks = _planted(4, 10, 9, 11)
    how = {"objective": "logistic", "tol": 1e-6}
    first = optimize_loces(activations.to(dtype), masks, **how)
    for init in ("ones", "normal"):
        second = optimize_loces(activations.to(dtype), masks, init=init, random_state=0, **how)
        assert (second - first).norm() < 1e-4 * first.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.1, 1e-3, 1e-4])
@pytest.mark.parametrize("class_weight", ["sqrt", "balanced", None])
def test_logistic_equals_logistic_regression_on_pixels(dtype, alpha, class_weight):
    activations, masks = _planted(2, 8, 9, 11, seed=3)
    targets = _targets(masks).astype(np.float64)
    how = {"objective": "logistic", "alpha": alpha, "class_weight": class_weight, "tol": 1e-6}
    vectors, info = optimize_loces(activations.to(dtype), masks, return_info=True, **how)
    power = {"sqrt": 0.5, "balanced": 1, None: 0}[class_weight]
    for i, target in enumerate(targets):
        grid = activations[[i]].double()
        pixels = functional.interpolate(grid, size=SIZE, mode="bilinear")[0].flatten(1).T.numpy()
        t, q = target.ravel(), target.mean()
        weights = np.concatenate([t / q**power, (1 - t) / (1 - q) ** power])
        s = (grid**2).sum(1).mean().item()
        # The regression minimizes C sum(w loss) + ||v||^2 / 2.
        regression = LogisticRegression(
            C=1 / (alpha * s * weights.sum()), tol=1e-10, max_iter=10_000, solver="newton-cholesky"
        )
        labels = np.repeat([1, 0], len(t))
        regression.fit(np.vstack([pixels, pixels]), labels, sample_weight=weights)
        expected = np.append(regression.coef_, regression.intercept_)
        ours = np.append(vectors[i].numpy(), info.intercept[i].numpy())
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.linalg.norm(expected))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1e-4, 1e25, 1e-25])
def test_the_scale_of_activations_does_not_matter(objective, factor, dtype):
    activations, masks = _planted(3, 10, 9, 11)
    activations = activations.to(dtype)
    drawn = []
    for grids in (activations, activations * factor):
        vectors, info = optimize_loces(
            grids, masks, objective=objective, tol=1e-5, return_info=True
        )
        drawn.append(project_loces(grids, vectors, SIZE, bias=info.intercept))
    torch.testing.assert_close(drawn[0], drawn[1], atol=1e-3, rtol=0)


def test_rotated_channels_give_a_rotated_vector():
    activations, masks = _planted(3, 10, 9, 11)
    activations = activations.double()
    rotation = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64)).Q
    turned = torch.einsum("dc,nchw->ndhw", rotation, activations)
    how = {"objective": "logistic", "tol": 1e-9}
    expected = optimize_loces(activations, masks, **how) @ rotation.T
    torch.testing.assert_close(optimize_loces(turned, masks, **how), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unconverged_rows_are_counted(dtype):
    activations, masks = _planted(5, 10, 9, 11)
    masks[1] = 1  # has nothing to be balanced against, and is done at zero
    with pytest.warns(ConvergenceWarning, match=r"^4 of 5 rows did not converge") as caught:
        vectors, info = optimize_loces(
            activations.to(dtype), masks, objective="logistic", max_iter=2, return_info=True
        )
    assert caught[0].filename == __file__
    assert (info.n_iter == torch.tensor([2, 0, 2, 2, 2])).all()
    assert ((info.gradient_norm > 1e-4) == (info.n_iter == 2)).all()
    assert (vectors[1] == 0).all()
    assert info.intercept[1] == 0
    assert info.bias[1] > 0  # draws all of it


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activations_without_signal_give_zeros(objective, dtype):
    masks = torch.zeros(2, 30, 40)
    masks[:, :10, :25] = 1
    for value in (0.0, 3.0):
        activations = torch.full((2, 4, 5, 6), value, dtype=dtype)
        vectors = optimize_loces(activations, masks, objective=objective)
        torch.testing.assert_close(vectors, torch.zeros_like(vectors), atol=1e-4, rtol=0)


@pytest.mark.parametrize("class_weight", ["sqrt", "balanced", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 6), (60, 80), (1, 1)])
def test_rows_with_nothing_to_learn_converge(dtype, class_weight, shape):
    """If classes have equal weights, the gradient at zero is rounding, so it is no unit."""
    masks = torch.zeros(3, 100, 100)
    masks[0, 20:50, 20:60] = masks[1, :50] = 1
    masks[2] = 0.5
    activations = torch.full((3, 4, *shape), 0.3, dtype=dtype)
    activations[1] = torch.linspace(0, 1, shape[1])  # the same in both halves
    how = {"objective": "logistic", "class_weight": class_weight, "return_info": True}
    vectors, info = optimize_loces(activations, masks, **how)  # a warning would be an error
    assert (info.n_iter < 20).all()
    torch.testing.assert_close(vectors, torch.zeros_like(vectors), atol=1e-4, rtol=0)
    power = {"sqrt": 0.5, "balanced": 0.0, None: 1.0}[class_weight]
    expected = power * np.log(0.12 / 0.88)
    torch.testing.assert_close(info.intercept[0].item(), expected, atol=0.01, rtol=0)


def test_the_projection_of_a_tiny_mask_is_not_empty():
    """The soft overlaps' gradients at zero are as small as the mask."""
    activations, _ = _planted(1, 6, 20, 20)
    activations[0, 3] = 0
    activations[0, 3, 7, 9] = 5
    masks = torch.zeros(1, 200, 200)
    masks[0, 70:80, 90:100] = 1
    for objective in OBJECTIVES:
        vectors, info = optimize_loces(activations, masks, objective=objective, return_info=True)
        drawn = project_loces(activations, vectors, (20, 20), bias=info.bias)[0] > 0.5
        assert drawn[7, 9]
        assert drawn.sum() <= 9, objective


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_follow_their_definitions_and_are_smallest_at_their_intercept(objective, boxes):
    model, how = TorchModel(make_small_network), {"objective": objective, "tol": 1e-6}
    biased = LoCETransformer(model, "2", append_bias=True, **how).fit(boxes)
    vectors = biased.transform(boxes)
    own = biased.evaluate(boxes, vectors)["loss"]
    least = LoCETransformer(model, "2", **how).fit(boxes).evaluate(boxes, vectors[:, :-1])["loss"]
    for i, (image, mask) in enumerate(zip(boxes["image"], boxes["mask"], strict=True)):
        with torch.no_grad():
            grid = make_small_network()[:3](torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
        target = torch.from_numpy(resize(mask.astype(float), SIZE))
        v, b = torch.from_numpy(vectors[i, :-1]).double(), float(vectors[i, -1])
        expected = plain_objective(objective, 1e-4, grid[0].double(), target, v, b).item()
        assert own.iloc[i] == pytest.approx(expected, rel=1e-5)
        assert least.iloc[i] == pytest.approx(expected, rel=1e-5)


def _jaccard(drawn, target):
    shared = target[drawn].sum()
    return shared / (drawn.sum() + target.sum() - shared)


@pytest.mark.parametrize("n_levels", [3, 10_000])
def test_no_other_threshold_has_a_higher_iou(n_levels):
    rng = np.random.default_rng(n_levels)
    levels = rng.integers(n_levels, size=(20, 30)).astype(np.float32)  # with ties
    target = (rng.random((20, 30)) + levels / n_levels - 0.8).clip(0, 1)
    grid, how = (
        torch.from_numpy(levels)[None, None],
        {"objective": "logistic", "mask_size": (20, 30)},
    )
    vectors, info = optimize_loces(grid, target[None], return_info=True, **how)
    logits = levels * vectors.item()
    found = _jaccard(logits + info.bias.item() > 0, target)
    every = [_jaccard(logits >= threshold, target) for threshold in np.unique(logits)]
    assert found == pytest.approx(max(every), abs=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8, 9, 11), (4, 130, 110)])
def test_no_other_bias_has_a_higher_iou(objective, dtype, shape):
    activations, masks = _planted(3, *shape)
    how = {"objective": objective, "return_info": True}
    vectors, info = optimize_loces(activations.to(dtype), masks, **how)
    drawn = project_loces(activations.double(), vectors.double(), SIZE).logit().numpy()
    for i, target in enumerate(_targets(masks)):
        ours = _jaccard(drawn[i] + info.bias[i].item() > 0, target)
        others = [_jaccard(drawn[i] + b > 0, target) for b in np.linspace(-20, 20, 2001)]
        assert ours >= max(others) - 1e-3
        assert ours >= _jaccard(drawn[i] + info.intercept[i].item() > 0, target) - 1e-3


def test_return_info_raises_an_error_for_objectives_without_a_bias():
    activations, masks = _planted(1, 4, 5, 6)
    with pytest.raises(ValueError, match="return_info=True needs an objective with a bias"):
        optimize_loces(activations, masks, objective="net2vec", return_info=True)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["backbone.9", "backbone.13", "backbone.16"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_all_rows_of_real_scenes_converge(camvid, camvid_network, layer, objective):
    rows = camvid.data[np.isin(camvid.groups, np.unique(camvid.groups)[[0, 60]])]
    loce = LoCETransformer(camvid_network, layer, objective=objective, on_empty="nan").fit(rows)
    facts = loce.evaluate(rows)  # a ConvergenceWarning would be an error
    assert facts["n_iter"].max() < 200
    assert (facts["gradient_norm"] <= 1e-4).all()
