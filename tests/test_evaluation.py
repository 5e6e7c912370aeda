"""The held-out IoU, the gain and the biases, compared with plain versions of their definitions."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from skimage.transform import resize
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional
from torchvision import models

from sklearn_loce import Joined, LoCETransformer, MaskedMeanTransformer, TorchModel

from .planted import NORMALIZE

SIZE = (24, 36)  # of images, masks and targets: nothing is resized but the grid
CELLS = (12, 18)  # blocks of 2 cells, 4 pixels


class Colors(nn.Module):
    """Returns the three colors and their products, at half the size."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.out = nn.Identity()

    def forward(self, x):
        x = self.pool(x)
        return self.out(torch.cat([x, x * x.roll(1, 1)], 1))


MODEL = TorchModel(Colors().eval())
HOW = {"mask_size": SIZE, "mask_resize": "nearest", "memory": False}


def draw_samples(n=4, seed=0):
    """Draw noisy images, and rectangles where the first color is stronger."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        image = rng.integers(0, 200, (*SIZE, 3), dtype=np.uint8)
        mask = np.zeros(SIZE, bool)
        top, left = rng.integers(1, 7), rng.integers(1, 12)
        mask[top : top + rng.integers(9, 14), left : left + rng.integers(9, 20)] = True
        image[mask, 0] += 55
        rows.append((image, mask))
    return pd.DataFrame(rows, columns=["image", "mask"])


def features_of(image):
    """Return the activations of every pixel, (n_pixels, n_channels), float64."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    with torch.no_grad():
        grid = Colors()(pixels)
    wide = functional.interpolate(grid, size=SIZE, mode="bilinear")[0]
    return grid[0], wide.flatten(1).T.numpy()


def all_boards():
    """Return the checkerboards of 2 x 2 cells in every position, by cell."""
    rows, columns = np.arange(CELLS[0]), np.arange(CELLS[1])
    for i in range(4):
        for j in range(4):
            yield ((rows + i) // 2 % 2)[:, None] ^ ((columns + j) // 2 % 2)


def centers(size):
    """Return the rows and columns of the cells in which pixels have their centers."""
    pairs = zip(size, CELLS, strict=True)
    return [((np.arange(n) + 0.5) * n_cells / n).astype(int) for n, n_cells in pairs]


def find_board(target):
    """Return the first checkerboard that divides the pixels of a target most evenly."""
    rows, columns = centers(target.shape)
    cells = np.zeros(CELLS)
    np.add.at(cells, (rows[:, None], columns), target > 0)
    return min(all_boards(), key=lambda b: max(cells[b == 0].sum(), cells[b == 1].sum()))


def pixels_that_read_only(cells, size):
    cells = torch.from_numpy(cells).double()[None, None]
    return functional.interpolate(cells, size=size, mode="bilinear")[0, 0].numpy() == 1


def fit_logistic(grid, wide, mask, pixels, alpha):
    """Fit the logistic objective to some pixels by scikit-learn; return vector and intercept."""
    t = mask.ravel()[pixels]
    weights = np.where(t, t.mean() ** -0.5, (1 - t).mean() ** -0.5)
    s = float((grid**2).sum(0).mean())
    X = wide[pixels]
    model = LogisticRegression(C=1 / (alpha * s * weights.sum()), tol=1e-10, max_iter=10_000)
    model.fit(X, t, sample_weight=weights)
    return model.coef_[0], model.intercept_[0]


def best_threshold(logits, mask):
    """Try every threshold; return the bias of the largest Jaccard index, halfway to the next."""
    values = np.unique(logits)[::-1]
    ious = [(mask & (logits >= v)).sum() / (mask | (logits >= v)).sum() for v in values]
    k = int(np.argmax(ious))
    below = values[k + 1] if k + 1 < len(values) else values[-1] - 1
    return -(values[k] + below) / 2


def iou_of(drawn, mask):
    return (drawn & mask).sum() / (drawn | mask).sum()


def plain_heldout(image, mask, alpha, rule):
    """Fit each half of a checkerboard, project onto the other; return the IoU."""
    grid, wide = features_of(image)
    board, drawn = find_board(mask), np.zeros(mask.size, bool)
    for fold in (0, 1):
        inside = pixels_that_read_only(board != fold, SIZE).ravel()
        there = np.kron(board == fold, np.ones((2, 2), bool)).ravel()
        vector, intercept = fit_logistic(grid, wide, mask, inside, alpha)
        logits = wide @ vector
        bias = {"own": intercept, "none": 0.0}.get(rule)
        if rule == "best":
            bias = best_threshold(logits[inside], mask.ravel()[inside])
        drawn[there] = (logits + bias > 0)[there]
    return iou_of(drawn.reshape(SIZE), mask)


@pytest.mark.parametrize("rule", ["best", "own", "none"])
def test_heldout_iou_equals_that_of_a_logistic_regression_on_the_other_half(rule):
    X = draw_samples()
    loce = LoCETransformer(MODEL, "out", objective="logistic", alpha=1e-3, tol=1e-7, **HOW).fit(X)
    found = loce.evaluate(X, cv=2, bias=rule)["heldout_iou"].to_numpy()
    expected = [plain_heldout(*row, 1e-3, rule) for row in X.itertuples(index=False)]
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert loce.score(X) == pytest.approx(loce.evaluate(X, cv=2)["heldout_iou"].mean())


@pytest.mark.parametrize("objective", ["net2vec", "mse", "mae", "logistic", "jaccard", "dice"])
@pytest.mark.parametrize("double", [False, True])
def test_the_gain_is_relative_to_the_mask_upside_down(objective, double):
    model = TorchModel(Colors().eval().double(), forward=call_in_double) if double else MODEL
    X = draw_samples()
    loce = LoCETransformer(model, "out", objective=objective, **HOW).fit(X)
    flipped = X.assign(mask=[mask[::-1] for mask in X["mask"]])
    frame = loce.evaluate(X, cv=2, bias="best")
    gain = frame["iou"] - loce.evaluate(flipped, bias="best")["iou"]
    shared = [(m & m[::-1]).sum() / m.sum() for m in X["mask"]]
    np.testing.assert_allclose(frame["gain"], np.where(np.array(shared) > 0.5, np.nan, gain))
    pd.testing.assert_series_equal(frame["iou"], loce.evaluate(X, bias="best")["iou"])


def call_in_double(module, images):
    return module(images.double())


@pytest.mark.parametrize("objective", ["net2vec", "mse", "mae", "logistic", "jaccard", "dice"])
def test_folds_give_the_same_in_float64(objective):
    X, how = draw_samples(), {"objective": objective, **HOW}
    double = TorchModel(Colors().eval().double(), forward=call_in_double)
    found = [
        LoCETransformer(model, "out", **how).fit(X).evaluate(X, cv=3, bias="best")["heldout_iou"]
        for model in (MODEL, double)
    ]
    np.testing.assert_allclose(*found, atol=0.02)


@pytest.mark.parametrize("layer", ["out", ["out", "pool"], Joined("pool", "out")])
def test_evaluate_accepts_several_layers_and_given_embeddings(layer):
    X = draw_samples()
    loce = LoCETransformer(MODEL, layer, **HOW).fit(X)
    frame = loce.evaluate(X, cv=2)
    pd.testing.assert_frame_equal(
        loce.evaluate(X, loce.transform(X), cv=2)[["iou", "heldout_iou", "gain"]],
        frame[["iou", "heldout_iou", "gain"]],
    )
    assert (frame["heldout_iou"] < frame["iou"]).mean() > 0.5


class Noisy(Colors):
    """Has a layer of constant noise with nearly as many channels as cells."""

    def __init__(self):
        super().__init__()
        noise = np.random.default_rng(0).standard_normal((1, 200, *CELLS))
        self.register_buffer("noise", torch.from_numpy(noise).float())
        self.noisy = nn.Identity()

    def forward(self, x):
        self.noisy(self.noise + 0 * self.pool(x)[:, :1])
        return super().forward(x)


def test_noise_has_a_high_iou_but_a_low_heldout_iou():
    X = draw_samples(4)
    loce = LoCETransformer(TorchModel(Noisy().eval()), "noisy", alpha=1e-5, **HOW)
    frame = loce.fit(X).evaluate(X, cv=2)
    assert frame["iou"].min() > 0.9
    chance = np.mean([m.mean() for m in X["mask"]])
    assert loce.score(X) < chance + 0.15
    search = GridSearchCV(loce, {"layer": ["noisy", "out"]}, cv=2).fit(X)
    assert search.best_params_ == {"layer": "out"}
    out = loce.set_params(layer="out").fit(X).evaluate(X)
    assert out["iou"].mean() < frame["iou"].mean()


def spread_frames(camvid, step):
    """Return the rows of every ``step``-th image."""
    images = camvid.data["image"].unique()[::step]
    return camvid.data[camvid.data["image"].isin(images)]


@pytest.mark.slow
def test_random_weights_score_lower_than_trained_ones(camvid, camvid_network):
    """The scores differ by more than 0.1 at every layer, and the most precise layer scores best."""
    X, layers = spread_frames(camvid, 12), [f"backbone.{i}" for i in (4, 9, 13, 16)]
    torch.manual_seed(0)
    build = models.segmentation.lraspp_mobilenet_v3_large
    random = TorchModel(build(weights=None, weights_backbone=None, num_classes=11).eval())
    found = {}
    for name, model in (("trained", camvid_network), ("random", random)):
        loce = LoCETransformer(model, layers, preprocess=NORMALIZE, on_empty="nan", memory=False)
        with pytest.warns(UserWarning, match="values of heldout_iou are NaN"):
            frame = loce.fit(X).evaluate(X, cv=2, flip=False)
        found[name] = frame.groupby("layer", sort=False)[["iou", "heldout_iou"]].mean()
    above = found["trained"] - found["random"]
    assert (above["heldout_iou"] > 0.1).all()
    assert above["iou"].min() < 0.1  # which random weights nearly earn
    assert found["trained"]["heldout_iou"].idxmax() == "backbone.16"


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mse", "mae"])
def test_most_rows_of_the_papers_other_losses_fail(objective, camvid, camvid_network):
    """The page on the published code states this."""
    X, layers = spread_frames(camvid, 12), ["backbone.9", "backbone.13"]
    how = {"objective": objective, "on_empty": "nan", "memory": False}
    frame = LoCETransformer(camvid_network, layers, **how).fit(X).evaluate(X)
    assert (frame.groupby("layer")["failed"].mean() > 0.5).all()


# Averages


def test_averages_are_projected_with_the_best_bias():
    X = draw_samples()
    mean = MaskedMeanTransformer(MODEL, "out", memory=False).fit(X)
    vectors = mean.transform(X)
    drawn = mean.project(X, vectors)
    frame = mean.evaluate(X, vectors, cv=2)
    assert "loss" not in frame
    for i, mask in enumerate(X["mask"]):
        assert iou_of(drawn[i], mask) == pytest.approx(frame["iou"].iloc[i])
        _, wide = features_of(X["image"].iloc[i])
        logits = wide @ vectors[i].astype(float)
        plain = iou_of((logits + best_threshold(logits, mask.ravel()) > 0).reshape(SIZE), mask)
        # Projections are compared with soft masks at 100 x 100 pixels.
        assert frame["iou"].iloc[i] == pytest.approx(plain, abs=0.08)
    assert mean.score(X) == pytest.approx(frame["heldout_iou"].mean())


@pytest.mark.parametrize("background", ["keep", "subtract"])
def test_heldout_iou_of_averages_equals_a_plain_computation(background):
    X, size = draw_samples(), (100, 100)  # at which averages are drawn
    mean = MaskedMeanTransformer(MODEL, "out", background=background, memory=False).fit(X)
    found = mean.evaluate(X, cv=2)["heldout_iou"]
    for value, (image, mask) in zip(found, X.itertuples(index=False), strict=True):
        grid, target = features_of(image)[0], resize(mask.astype(float), size)
        covered = mask.reshape(CELLS[0], 2, CELLS[1], 2).mean((1, 3))
        board, mosaic = find_board(target), np.zeros(size)
        for fold in (0, 1):
            m, rest = (part * (board != fold) for part in (covered, 1 - covered))
            vector = (grid.numpy() * m).sum((1, 2)) / m.sum()
            if background == "subtract":
                vector -= (grid.numpy() * rest).sum((1, 2)) / rest.sum()
            logits = torch.einsum("c,chw->hw", torch.from_numpy(vector), grid)[None, None]
            logits = functional.interpolate(logits, size=size, mode="bilinear")[0, 0].numpy()
            inside = pixels_that_read_only(board != fold, size)
            logits += soft_threshold(logits[inside], target[inside])
            there = pixels_of(board == fold, size)
            mosaic[there] = expit(logits)[there]
        wide = functional.interpolate(torch.from_numpy(mosaic)[None, None], SIZE, mode="bilinear")
        assert value == pytest.approx(iou_of(wide[0, 0].numpy() > 0.5, mask), abs=0.02)


def pixels_of(cells, size):
    rows, columns = centers(size)
    return cells[rows[:, None], columns]


def soft_threshold(logits, target):
    """Like ``best_threshold``, for a soft mask."""
    values = np.unique(logits)[::-1]
    drawn = [logits >= v for v in values]
    ious = [target[d].sum() / (target.sum() + (1 - target[d]).sum()) for d in drawn]
    k = int(np.argmax(ious))
    return -(values[k] + (values[k + 1] if k + 1 < len(values) else values[-1] - 1)) / 2


def test_the_background_is_subtracted():
    X = draw_samples()
    found = MaskedMeanTransformer(MODEL, "out", background="subtract").fit_transform(X)
    for vector, (image, mask) in zip(found, X.itertuples(index=False), strict=True):
        cells = features_of(image)[0].flatten(1).numpy()
        m = mask.reshape(CELLS[0], 2, CELLS[1], 2).mean((1, 3)).ravel()
        expected = cells @ m / m.sum() - cells @ (1 - m) / (1 - m).sum()
        np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_a_mask_of_the_whole_image_leaves_no_background():
    X = draw_samples()
    X["mask"] = [np.ones(SIZE, bool) if i == 1 else m for i, m in enumerate(X["mask"])]
    mean = MaskedMeanTransformer(MODEL, "out", background="subtract", memory=False)
    with pytest.raises(ValueError, match=r"row 1.*whole image"):
        mean.fit_transform(X)
    with pytest.warns(UserWarning, match="whole image"):
        vectors = mean.set_params(on_error="nan").fit_transform(X)
    np.testing.assert_array_equal(np.isnan(vectors).all(1), [False, True, False, False])


# Bad input


def test_measures_without_a_control_are_nan_with_a_warning():
    X = draw_samples(3)
    dot = np.zeros(SIZE, bool)
    dot[4:6, 6:8] = True  # one cell, which can't be divided
    X["mask"] = [np.ones(SIZE, bool), dot, X["mask"][2]]
    loce = LoCETransformer(MODEL, "out", **HOW).fit(X)
    with (
        pytest.warns(UserWarning, match="1 of 3 values of heldout_iou are NaN"),
        pytest.warns(UserWarning, match="1 of 3 values of gain are NaN"),
    ):
        frame = loce.evaluate(X, cv=2)
    assert frame["heldout_iou"].isna().tolist() == [False, True, False]
    assert frame["gain"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize("cv", [0, 1, -2, 2.5, "checkerboard"])
def test_fewer_than_two_folds_raise_an_error(cv):
    X = draw_samples(2)
    loce = LoCETransformer(MODEL, "out", **HOW).fit(X)
    with pytest.raises(ValueError, match=r"'cv' parameter of evaluate.*\[2, inf\)"):
        loce.evaluate(X, cv=cv)


def test_a_missing_bias_raises_an_error():
    X = draw_samples(2)
    loce = LoCETransformer(MODEL, "out", objective="net2vec", **HOW).fit(X)
    for method in (loce.evaluate, loce.project):
        with pytest.raises(ValueError, match=r"bias='own' needs an objective with a bias.*net2vec"):
            method(X, bias="own")
        with pytest.raises(ValueError, match=r"'bias' parameter"):
            method(X, bias="better")


def test_biases_may_be_those_of_the_paper_and_of_the_optimum():
    X = draw_samples()
    paper = LoCETransformer(MODEL, "out", objective="net2vec", **HOW).fit(X)
    vectors = paper.transform(X)
    rows = zip(vectors, X["image"], X["mask"], strict=True)
    for i, (vector, image, mask) in enumerate(rows):
        logits = features_of(image)[1] @ vector.astype(float)
        for rule, bias in [("none", 0), ("best", best_threshold(logits, mask.ravel()))]:
            found = paper.project(X, vectors, bias=rule, threshold=None)[i]
            np.testing.assert_allclose(found.ravel(), expit(logits + bias), atol=1e-5)
    assert paper.evaluate(X)["iou"].equals(paper.evaluate(X, bias="none")["iou"])
    own = LoCETransformer(MODEL, "out", append_bias=True, **HOW).fit(X)
    free = LoCETransformer(MODEL, "out", **HOW).fit(X)
    for embeddings in (None, free.transform(X)):
        np.testing.assert_allclose(
            free.evaluate(X, embeddings, bias="own")["iou"], own.evaluate(X)["iou"], atol=0.01
        )


@pytest.mark.slow
def test_workers_measure_the_same():
    X = draw_samples()
    frames = [
        LoCETransformer(MODEL, "out", n_jobs=n, **HOW).fit(X).evaluate(X, cv=2) for n in (None, 2)
    ]
    pd.testing.assert_frame_equal(*frames)


# Failures in fit_transform


@pytest.mark.parametrize("method", ["fit_transform", "transform", "precompute"])
def test_more_than_half_failed_rows_cause_a_warning(method):
    X = draw_samples(5)
    blank = [np.zeros_like(image) if i < 3 else image for i, image in enumerate(X["image"])]
    X["image"] = blank  # black images activate nothing, and a projection of 0.5 draws nothing
    how = HOW | {"objective": "net2vec", "memory": None}
    loce = LoCETransformer(TorchModel(Colors().eval()), ["pool", "out"], **how).fit(X)
    arguments = [["pool", "out"]] if method == "precompute" else []
    with pytest.warns(UserWarning, match=r"failed, 3 of 5 at 'pool', 3 of 5 at 'out': their proj"):
        getattr(loce, method)(X, *arguments)
    vectors = loce.transform(X)  # from the store, where nobody knows any more
    failed = loce.evaluate(X, vectors)["failed"].to_numpy().reshape(5, 2)
    np.testing.assert_array_equal(failed, np.repeat([[True], [False]], [3, 2], axis=0).repeat(2, 1))
    loce.set_params(memory=False).fit_transform(X[1:])  # two of four are no more than half


def test_rows_fail_by_the_bias_that_evaluate_uses():
    X = draw_samples(3)
    X["mask"] = [np.ones(SIZE, bool)] * 3  # whose logistic LoCE is zero, with the bias 0
    loce = LoCETransformer(MODEL, "out", **HOW)
    assert not loce.fit(X).evaluate(X, loce.fit_transform(X))["failed"].any()
    with pytest.warns(UserWarning, match="3 of 3 at 'out'"):
        vectors = loce.set_params(append_bias=True).fit_transform(X)
    assert loce.evaluate(X, vectors)["failed"].all()


@pytest.mark.slow
def test_workers_report_failed_rows():
    X = draw_samples(2).assign(image=[np.zeros((*SIZE, 3), np.uint8)] * 2)
    loce = LoCETransformer(MODEL, "out", objective="mse", n_jobs=2, **HOW)
    with pytest.warns(UserWarning, match="2 of 2 at 'out'"):
        loce.fit_transform(X)
