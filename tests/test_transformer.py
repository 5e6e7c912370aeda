import numpy as np
import pandas as pd
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.transform import resize
from sklearn.base import clone
from sklearn.cluster import AgglomerativeClustering
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from torch.nn import functional
from torchvision.transforms import v2

from benchmarks.measure import threads
from benchmarks.plain import plain_loces, plain_loss
from sklearn_loce import ActivationExtractor, LoCETransformer, TorchModel, optimize_loces
from sklearn_loce.exceptions import FailedRowsError, LayoutError

from .conftest import make_small_network
from .counting import Counter, Counting, draw_table
from .planted import NORMALIZE

MODEL = TorchModel(make_small_network)


def _activations(image, depth):
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        for child in list(make_small_network())[:depth]:
            pixels = child(pixels)
    return pixels


def test_embeddings_equal_the_plain_formulation(boxes):
    embeddings = LoCETransformer(MODEL, ["2", "5"], objective="net2vec").fit_transform(boxes)
    assert embeddings.shape == (5, 18)
    assert embeddings.dtype == np.float32
    for i, (image, mask) in enumerate(zip(boxes["image"], boxes["mask"], strict=True)):
        target = torch.from_numpy(resize(mask.astype(float), (100, 100)))[None]
        parts = [plain_loces(_activations(image, d).double(), target)[0] for d in (3, 6)]
        np.testing.assert_allclose(embeddings[i], torch.cat(parts), atol=2e-4)


class Watcher(Counting):
    """Also counts the images that reach its end."""

    def __init__(self):
        super().__init__()
        self.finished = Counter()

    def forward(self, x):
        x = super().forward(x)
        self.finished.n += len(x)
        return x


def test_one_truncated_pass_per_image_serves_all_rows_and_layers():
    network, X = Watcher().eval(), draw_table(4)
    model = TorchModel(network)
    loce = LoCETransformer(model, ["body.0", "body.2"], memory=False).fit(X)
    assert network.n_images == 0  # of the table
    network.finished.n = 0
    with threads(1):
        loce.transform(pd.concat([X, X.iloc[::-1]]))
    assert network.n_images == 4
    # The probe and the first image pass the whole network. The worker knows the probe's size.
    assert network.finished.n == 2


def test_threads_share_how_to_read_each_size():
    network = Watcher().eval()
    X = pd.concat([draw_table(8), draw_table(8, size=(32, 40), seed=1)])
    loce = LoCETransformer(TorchModel(network), ["body.0", "body.2"], memory=False).fit(X)
    with threads(1):
        expected = loce.transform(X)
    network.finished.n = 0
    with threads(2):
        np.testing.assert_array_equal(loce.transform(X), expected)
    assert network.finished.n <= 1 + 2 * 2  # both threads may begin with the same size


def test_evaluate_measures_the_result_of_project(boxes):
    loce = LoCETransformer(MODEL, ["2", "5"], objective="net2vec").fit(boxes)
    embeddings = loce.transform(boxes)
    frame = loce.evaluate(boxes, embeddings)
    assert list(frame.columns) == ["layer", "iou", "loss", "foreground_cells", "failed"]
    assert frame["layer"].tolist() == ["2", "5"] * 5
    pd.testing.assert_index_equal(frame.index, boxes.index.repeat(2))
    for layer in ("2", "5"):
        drawn = loce.project(boxes, embeddings, layer=layer)
        ious = [(p & m).sum() / (p | m).sum() for p, m in zip(drawn, boxes["mask"], strict=True)]
        np.testing.assert_allclose(frame.loc[frame["layer"] == layer, "iou"], ious)
    assert (frame["failed"] == (frame["iou"] == 0)).all()
    pd.testing.assert_frame_equal(loce.evaluate(boxes), frame)
    assert loce.score(boxes) == pytest.approx(
        loce.evaluate(boxes, cv=2, flip=False)["heldout_iou"].mean()
    )


def test_the_projection_is_the_sigmoid_of_the_upsampled_sum_at_image_size(boxes):
    loce = LoCETransformer(MODEL, "2", objective="net2vec").fit(boxes)
    embeddings = loce.transform(boxes)
    soft = loce.project(boxes, embeddings, threshold=None)
    for i, image in enumerate(boxes["image"]):
        field = torch.einsum("c,nchw->nhw", torch.from_numpy(embeddings[i]), _activations(image, 3))
        maps = functional.interpolate(field[None], size=(100, 100), mode="bilinear").sigmoid()
        expected = functional.interpolate(maps, size=image.shape[:2], mode="bilinear")[0, 0]
        assert soft[i].shape == image.shape[:2]
        np.testing.assert_allclose(soft[i], expected, atol=1e-5)


def test_foreground_cells_equal_the_mask_area_in_cells(boxes):
    frame = LoCETransformer(MODEL, "2").fit(boxes).evaluate(boxes)
    cells = [mask.mean() * (mask.shape[0] // 2) * (mask.shape[1] // 2) for mask in boxes["mask"]]
    np.testing.assert_allclose(frame["foreground_cells"], cells)


@pytest.mark.parametrize("objective", ["net2vec", "mse", "mae"])
def test_losses_follow_their_definitions(boxes, objective):
    loce = LoCETransformer(MODEL, "2", objective=objective).fit(boxes)
    embeddings = loce.transform(boxes)
    losses = loce.evaluate(boxes, embeddings)["loss"]
    for i, (image, mask) in enumerate(zip(boxes["image"], boxes["mask"], strict=True)):
        upsampled = functional.interpolate(_activations(image, 3), size=(100, 100), mode="bilinear")
        target = torch.from_numpy(resize(mask.astype(float), (100, 100)))[None]
        vector = torch.from_numpy(embeddings[[i]]).double()
        expected = plain_loss(vector, upsampled.double(), target, objective)
        assert losses.iloc[i] == pytest.approx(expected.item(), rel=1e-5)


def test_projections_are_mapped_back_through_transforms(boxes):
    """A flip changes the input of the network, and neither projections nor scores."""
    flip = v2.RandomHorizontalFlip(1.0)
    loce = LoCETransformer(MODEL, "0", preprocess=flip).fit(boxes)
    mirrored = boxes.assign(
        image=[np.ascontiguousarray(image[:, ::-1]) for image in boxes["image"]],
        mask=[mask[:, ::-1] for mask in boxes["mask"]],
    )
    plain = LoCETransformer(MODEL, "0").fit(boxes)
    np.testing.assert_allclose(loce.transform(boxes), plain.transform(mirrored), atol=1e-4)
    ours, theirs = loce.evaluate(boxes), plain.evaluate(mirrored)
    np.testing.assert_allclose(ours["iou"], theirs["iou"], atol=0.02)


def test_set_output_and_feature_names_work(boxes):
    frame = LoCETransformer(MODEL, ["5", "0"]).set_output(transform="pandas").fit_transform(boxes)
    assert list(frame.columns[:2]) == ["5[0]", "5[1]"]
    assert frame.columns[-1] == "0[7]"
    assert list(frame.index) == list(boxes.index)


def test_random_starts_depend_on_random_state(boxes):
    def embed(seed):
        how = {"objective": "net2vec", "init": "normal", "random_state": seed, "max_iter": 2}
        return LoCETransformer(MODEL, "2", memory=False, **how).fit_transform(boxes)

    np.testing.assert_array_equal(embed(0), embed(0))
    assert not np.allclose(embed(0), embed(1))
    assert np.allclose(embed(0) - embed(1), (embed(0) - embed(1))[0], atol=0.9)


def _with_mask(boxes, row, mask):
    masks = list(boxes["mask"])
    masks[row] = mask
    return boxes.assign(mask=masks)


def test_the_error_names_empty_masks(boxes):
    broken = _with_mask(boxes, 3, np.zeros((64, 48), bool))
    loce = LoCETransformer(MODEL, "2").fit(broken)
    for method in (loce.transform, loce.evaluate, loce.score, loce.project):
        with pytest.raises(ValueError, match=r"row 3 \(index 'r3'\) have no foreground.*on_empty"):
            method(broken)


def test_empty_masks_become_nan_with_on_empty(boxes):
    broken = _with_mask(boxes, 3, np.zeros((64, 48), bool))
    loce = LoCETransformer(MODEL, "2", on_empty="nan").fit(broken)
    embeddings = loce.transform(broken)
    assert np.isnan(embeddings[3]).all()
    others = [0, 1, 2, 4]
    np.testing.assert_array_equal(embeddings[others], loce.transform(boxes)[others])
    frame = loce.evaluate(broken)
    assert np.isnan(frame["iou"].iloc[3])
    assert frame["failed"].iloc[3]
    whole = loce.evaluate(boxes, cv=2, flip=False)["heldout_iou"].iloc[others].mean()
    assert loce.score(broken) == pytest.approx(whole)
    assert not loce.project(broken)[3].any()


def test_masks_that_vanish_at_mask_size_are_empty(boxes):
    dot = np.zeros((64, 48), bool)
    dot[0, 0] = True
    broken = _with_mask(boxes, 3, dot)
    settings = {"mask_resize": "nearest", "mask_size": (5, 5)}
    with pytest.raises(ValueError, match=r"row 3 .* loses its foreground at mask_size=\(5, 5\)"):
        LoCETransformer(MODEL, "2", **settings).fit_transform(broken)
    nan = LoCETransformer(MODEL, "2", on_empty="nan", **settings).fit_transform(broken)
    assert np.isnan(nan).all(1).tolist() == [False, False, False, True, False]
    assert np.isfinite(LoCETransformer(MODEL, "2").fit_transform(broken)).all()


def test_project_needs_no_masks_for_given_embeddings(boxes):
    loce = LoCETransformer(MODEL, "2", append_bias=True).fit(boxes)
    embeddings = loce.transform(boxes)
    blank = boxes.assign(mask=[np.zeros_like(mask) for mask in boxes["mask"]])
    for one, other in zip(
        loce.project(blank, embeddings), loce.project(boxes, embeddings), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_the_error_names_activations_that_overflow(boxes):
    network = make_small_network()
    with torch.no_grad():
        network[0].weight *= 1e30
        network[2].weight *= 1e30
    loce = LoCETransformer(TorchModel(network), "2").fit(boxes)
    with pytest.raises(ValueError, match=r"row 0 .*layer '2' contain NaN or infinity"):
        loce.transform(boxes)


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"layer": "6"}, ValueError, "no layer '6'"),
        ({"layer": []}, ValueError, "one or more different layers"),
        ({"model": "resnet50"}, ValueError, "'model'"),
        ({"batch_size": 0}, ValueError, "'batch_size'"),
        ({"learning_rate": 0}, ValueError, "'learning_rate'"),
        ({"alpha": 0}, ValueError, "'alpha'"),
        ({"max_iter": 0}, ValueError, "'max_iter'"),
        ({"mask_size": (100, 0)}, ValueError, "mask_size"),
        ({"mask_size": 100}, ValueError, "'mask_size'"),
        ({"on_empty": "drop"}, ValueError, "'on_empty'"),
        ({"objective": "bce"}, ValueError, "'objective'"),
        ({"init": 0}, ValueError, "'init'"),
        ({"preprocess": "imagenet"}, ValueError, "'preprocess'"),
        ({"reshape_transform": torch.flatten}, LayoutError, "reshape_transform made"),
        ({"device": "gpu"}, ValueError, r"device=.gpu. is not a device of torch\. Pass None"),
    ],
)
def test_bad_parameters_raise_errors_in_fit(boxes, change, kind, match):
    loce = LoCETransformer(**{"model": MODEL, "layer": "2", **change})
    with pytest.raises(kind, match=match):
        loce.fit(boxes)


@pytest.mark.parametrize(
    "change",
    [
        {"layer": "2"},
        {"objective": "mse"},
        {"alpha": 1e-3},
        {"standardize": True},
        {"mask_size": (20, 20)},
        {"init": "ones"},
    ],
)
def test_changed_parameters_have_an_effect_after_the_next_fit(boxes, change):
    loce = LoCETransformer(MODEL, "5").fit(boxes)
    before = loce.transform(boxes)
    np.testing.assert_array_equal(loce.set_params(**change).transform(boxes), before)
    assert not np.array_equal(loce.fit(boxes).transform(boxes), before)


def test_a_layer_whose_channels_depend_on_the_image_raises_an_error(boxes):
    how = {"reshape_transform": lambda grid: grid.permute(0, 2, 3, 1)}
    loce = LoCETransformer(MODEL, "2", **how).fit(boxes)
    match = r"row 2 .*'2' has 32 channels here, but had 48"
    with pytest.raises(FailedRowsError, match=match) as caught:
        loce.transform(boxes)
    assert isinstance(caught.value.__cause__, LayoutError)


def test_fit_checks_the_first_row(boxes):
    broken = _with_mask(boxes, 0, np.ones((5, 5), bool))
    with pytest.raises(ValueError, match=r"row 0 .* the mask is 5 x 5"):
        LoCETransformer(MODEL, "2").fit(broken)


def test_threads_may_share_a_module(boxes):
    loce = LoCETransformer(MODEL, ["2", "5"], memory=False).fit(boxes)
    expected = loce.transform(boxes)
    with parallel_config("threading"):
        results = Parallel(4)(delayed(clone(loce).fit_transform)(boxes) for _ in range(8))
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_random_preprocessing_depends_only_on_the_row(boxes):
    how = {"preprocess": v2.RandomAffine(30), "random_state": 0, "memory": False}
    loce = LoCETransformer(MODEL, "2", **how).fit(boxes)
    first = loce.transform(boxes)
    np.testing.assert_array_equal(loce.transform(boxes.iloc[::-1])[::-1], first)
    other = clone(loce).set_params(random_state=1).fit(boxes)
    assert not np.allclose(other.transform(boxes), first)


def test_wrong_embeddings_and_layers_raise_errors(boxes):
    loce = LoCETransformer(MODEL, ["2", "5"]).fit(boxes)
    with pytest.raises(ValueError, match=r"\(5, 18\), got \(5, 3\)"):
        loce.evaluate(boxes, np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"\(5, 18\), got \(4, 18\)"):
        loce.project(boxes, np.zeros((4, 18)), layer="2")
    with pytest.raises(ValueError, match=r"layer must be one of \['2', '5'\], got None"):
        loce.project(boxes)


def test_verbose_shows_progress(boxes, capsys):
    loce = LoCETransformer(MODEL, "2", memory=False).fit(boxes)
    loce.transform(boxes)
    assert capsys.readouterr().err == ""
    loce.set_params(verbose=1).transform(boxes)
    assert "3/3" in capsys.readouterr().err


def test_cross_validation_splits_lists_of_rows(boxes):
    pairs = list(zip(boxes["image"], boxes["mask"], strict=True))
    scores = cross_val_score(LoCETransformer(MODEL, "2"), pairs, cv=2)
    assert np.isfinite(scores).all()


# Real scenes with a network that was trained on them.

LAYERS = ["backbone.9", "backbone.13"]


@pytest.fixture(scope="module")
def camvid_loces(camvid_network, camvid_frames):
    loce = LoCETransformer(camvid_network, LAYERS, preprocess=NORMALIZE, objective="net2vec")
    return loce, loce.fit_transform(camvid_frames)


def test_camvid_rows_equal_optimize_loces(camvid_loces, camvid_frames, camvid_network):
    _, embeddings = camvid_loces
    assert embeddings.shape == (len(camvid_frames), 80 + 160)
    assert camvid_frames["concept"].nunique() == 11
    assert camvid_frames["image_id"].nunique() == 25
    row = camvid_frames.iloc[100]
    pixels = torch.tensor(np.array(Image.open(row["image"]))).permute(2, 0, 1)
    activations = ActivationExtractor(camvid_network, LAYERS)(NORMALIZE(pixels)[None])
    mask = coco_mask.decode(row["mask"])
    how = {"objective": "net2vec"}
    parts = [optimize_loces(grid, [mask], **how)[0] for grid in activations.values()]
    np.testing.assert_allclose(embeddings[100], torch.cat(parts), atol=1e-5)


def test_projections_match_camvid_masks(camvid_loces, camvid_frames):
    loce, embeddings = camvid_loces
    frame = loce.evaluate(camvid_frames, embeddings)
    frame["concept"] = camvid_frames["concept"].loc[frame.index]
    mean = frame.groupby(["layer", "concept"])["iou"].mean()["backbone.13"]
    assert mean[["sky", "road", "building", "tree"]].min() > 0.5
    assert mean[["pole", "sign"]].max() < 0.3  # objects of a few cells: the paper's weak spot


def test_pipelines_work_on_camvid(camvid_network, camvid_frames):
    y = camvid_frames["concept"].to_numpy()
    loce = LoCETransformer(camvid_network, LAYERS, preprocess=NORMALIZE)
    how = {"covariance_type": "diag", "reg_covar": 1e-3, "random_state": 0}
    labels = make_pipeline(loce, GaussianMixture(11, **how)).fit_predict(camvid_frames)
    assert len(set(labels)) > 5

    ward = make_pipeline(loce, Normalizer(), AgglomerativeClustering(11))
    table = pd.crosstab(ward.fit_predict(camvid_frames), y)
    assert table.max(axis=1).sum() / len(y) > 0.4


def test_nearest_neighbors_work_on_other_camvid_frames(camvid_network, camvid_frames):
    frames = camvid_frames["image_id"].unique()
    train = camvid_frames[camvid_frames["image_id"].isin(frames[:20])]
    test = camvid_frames[camvid_frames["image_id"].isin(frames[20:])]
    loce = LoCETransformer(camvid_network, "backbone.13", preprocess=NORMALIZE)
    retrieval = make_pipeline(loce, Normalizer(), KNeighborsClassifier(5))
    retrieval.fit(train, train["concept"])
    assert retrieval.score(test, test["concept"]) > 0.6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*values of heldout_iou are NaN")
def test_a_grid_search_compares_layers_on_camvid(camvid_network, camvid_frames):
    search = GridSearchCV(
        LoCETransformer(camvid_network, "backbone.1", preprocess=NORMALIZE),
        {"layer": ["backbone.4", "backbone.13", LAYERS]},
        cv=GroupKFold(3),
    )
    search.fit(camvid_frames.iloc[::3], groups=camvid_frames["image_id"].iloc[::3])
    assert search.best_params_ == {"layer": "backbone.13"}
    scores = search.cv_results_["mean_test_score"]
    assert (scores > 0.2).all()
    assert clone(search.best_estimator_).model.module is camvid_network.module
