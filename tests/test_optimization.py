import numpy as np
import pytest
import torch
from numba.core import config
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.transform import resize
from torch.nn import functional

from benchmarks.measure import threads
from benchmarks.plain import plain_loces
from sklearn_loce import ActivationExtractor, optimize_loces, project_loces
from sklearn_loce._solvers.objectives import make_objective

OBJECTIVES = ["net2vec", "mse", "mae"]


def _planted(n_samples, n_channels, height, width, seed=0):
    """Draw smooth activations, and masks that threshold one mixture of them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n_samples, n_channels, 5, 6, generator=generator)
    activations = functional.interpolate(coarse, size=(height, width), mode="bicubic")
    mixture = torch.randn(n_channels, generator=generator)
    field = torch.einsum("c,nchw->nhw", mixture, activations)
    masks = functional.interpolate(field[:, None], size=(90, 130), mode="bilinear")[:, 0] > 0
    return activations, masks.float()


def _targets(masks):
    return torch.from_numpy(np.stack([resize(mask, (100, 100)) for mask in masks.numpy()])).float()


@pytest.mark.parametrize("objective", ["net2vec", "mse", "mae"])
@pytest.mark.parametrize("shape", [(5, 12, 16), (7, 1, 9), (3, 130, 110), (20, 100, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loces_equal_the_plain_formulation_on_planted_data(objective, shape, dtype):
    activations, masks = _planted(3, *shape)
    expected = torch.cat(
        [
            plain_loces(
                activations[[i]].double(), _targets(masks)[[i]].double(), objective=objective
            )
            for i in range(3)
        ]
    )
    embeddings = optimize_loces(activations.to(dtype), masks, objective=objective)
    torch.testing.assert_close(embeddings.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("init", ["ones", "uniform", "normal"])
def test_the_start_is_random_and_the_same_for_all_rows(init):
    activations, masks = _planted(2, 6, 8, 9)
    rng = np.random.RandomState(3)
    start = {"ones": np.ones(6), "uniform": None, "normal": None}[init]
    if start is None:
        start = rng.random_sample(6) if init == "uniform" else rng.standard_normal(6)
    expected = plain_loces(activations.double(), _targets(masks).double(), start=start)
    how = {"objective": "net2vec", "init": init, "random_state": 3}
    embeddings = optimize_loces(activations, masks, **how)
    torch.testing.assert_close(embeddings.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def camvid_activations(camvid_network, camvid):
    """Activations of two layers on two frames for all concepts, and the masks."""
    per_layer, masks = {"backbone.9": [], "backbone.13": []}, []
    with ActivationExtractor(camvid_network, list(per_layer)) as extract:
        for group in np.unique(camvid.groups)[[0, 60]]:
            rows = camvid.data[camvid.groups == group]
            image = torch.tensor(np.array(Image.open(rows["image"].iloc[0]).convert("RGB")))
            for layer, grid in extract(image.movedim(-1, 0)[None] / 255).items():
                per_layer[layer].append(grid.expand(len(rows), -1, -1, -1))
            masks.append(np.stack([coco_mask.decode(mask) for mask in rows["mask"]]))
    masks = torch.from_numpy(np.concatenate(masks)).float()
    return {layer: torch.cat(grids) for layer, grids in per_layer.items()}, masks


@pytest.mark.parametrize("objective", ["net2vec", "mse", "mae"])
@pytest.mark.parametrize("layer", ["backbone.9", "backbone.13"])
def test_loces_equal_the_plain_formulation_on_camvid(camvid_activations, layer, objective):
    per_layer, masks = camvid_activations
    activations, targets = per_layer[layer][::3], _targets(masks[::3])
    embeddings = optimize_loces(activations, masks[::3], objective=objective).double()
    for i in range(len(targets)):
        expected = plain_loces(
            activations[[i]].double(), targets[[i]].double(), objective=objective
        )
        least = 0.9999
        if objective == "mae":  # its slope jumps, so that float32 alone may lead elsewhere
            single = plain_loces(activations[[i]], targets[[i]], objective=objective).double()
            least = min(least, functional.cosine_similarity(single, expected).item() - 1e-4)
        assert functional.cosine_similarity(embeddings[[i]], expected).item() >= least


@pytest.mark.parametrize("objective", ["net2vec", "logistic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_with_other_sizes_and_strides_do_not_matter(dtype, objective):
    """Only batches on a GPU hold rows of several images, so this test needs a private function."""
    (grid,), _ = _planted(1, 4, 6, 6)
    targets = np.random.default_rng(0).random((4, 100, 100)).astype(np.float32)
    grid, (small,) = grid.to(dtype), _planted(1, 4, 3, 5)[0].to(dtype)
    rows = [grid, small, grid.mT, grid[:, :3]]
    together = make_objective(objective).solve(rows, targets, np.zeros(4)).vectors
    for row, target, vector in zip(rows, targets, together, strict=True):
        alone = optimize_loces(row[None], target[None], objective=objective)
        np.testing.assert_array_equal(alone[0], vector)


@pytest.mark.parametrize("objective", [*OBJECTIVES, "logistic", "jaccard", "dice"])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_rows_that_share_activations_equal_single_rows_bit_for_bit(objective, n_threads):
    (sample,), _ = _planted(1, 19, 9, 11)
    _, masks = _planted(20, 19, 9, 11, seed=1)
    how = {"objective": objective, "init": "normal", "random_state": 0}
    alone = [optimize_loces(sample[None].clone(), masks[[i]], **how) for i in range(20)]
    with threads(n_threads):
        together = optimize_loces(sample.expand(20, -1, -1, -1), masks, **how)
    assert torch.equal(together, torch.cat(alone))
    assert len(torch.unique(together, dim=0)) == 20


@pytest.mark.parametrize("mask_size", [(1, 1), (37, 53), (7, 130), (150, 8)])
@pytest.mark.parametrize("shape", [(9, 12, 17), (2, 1, 1), (3, 40, 60)])
def test_loces_equal_the_plain_formulation_for_all_mask_and_grid_sizes(shape, mask_size):
    activations, _ = _planted(2, *shape)
    targets = torch.rand(2, *mask_size, generator=torch.Generator().manual_seed(0))
    expected = plain_loces(activations.double(), targets.double(), objective="mse")
    embeddings = optimize_loces(activations, targets, objective="mse", mask_size=mask_size)
    torch.testing.assert_close(embeddings.double(), expected, atol=2e-5, rtol=1e-5)


def test_small_gradients_count_beside_epsilon():
    """The step of AdamW is proportional to gradients below epsilon, 1e-8."""
    activations, masks = _planted(2, 8, 10, 12)
    activations *= 1e-6
    expected = plain_loces(activations.double(), _targets(masks).double())
    embeddings = optimize_loces(activations, masks, objective="net2vec").double()
    torch.testing.assert_close(embeddings, expected, atol=0, rtol=2e-4)


def test_a_solver_without_compilation_raises_an_error(monkeypatch):
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    activations, masks = _planted(1, 2, 3, 4)
    with pytest.raises(RuntimeError, match=r"NUMBA_DISABLE_JIT is set.*float64"):
        optimize_loces(activations, masks)
    assert optimize_loces(activations.double(), masks).shape == (1, 2)


def test_masks_may_have_any_dtype_and_different_sizes():
    activations, masks = _planted(2, 4, 6, 7)
    expected = optimize_loces(activations, masks)
    for kind in (torch.uint8, torch.bool, torch.bfloat16, torch.float64):
        assert torch.equal(optimize_loces(activations, masks.to(kind)), expected)
    for kind in ("f2", ">f4", ">i2", "i8", "longdouble"):
        arrays = list(masks.numpy().astype(kind))
        assert torch.equal(optimize_loces(activations, arrays), expected)
    other = masks[1].repeat_interleave(2, 0)
    mixed = optimize_loces(activations, [masks[0].numpy(), other])
    assert torch.equal(mixed[0], expected[0])


def test_a_mask_made_of_channels_gives_an_iou_of_one_and_its_direction():
    mask = torch.zeros(1, 100, 100)
    mask[:, 20:60, 30:80] = 1
    stripes = (torch.arange(100) % 2).float()
    activations = torch.zeros(1, 8, 100, 100)
    activations[:, 2], activations[:, 5] = mask * stripes, mask * (1 - stripes)
    activations[:, 7] = 1 - mask
    embedding = optimize_loces(activations, mask, objective="net2vec")
    assert torch.equal(project_loces(activations, embedding) > 0.5, mask > 0)
    mixture = torch.zeros(1, 8)
    mixture[:, [2, 5]], mixture[:, 7] = 1, -1
    assert functional.cosine_similarity(embedding, mixture).item() > 0.999


def test_the_planted_direction_is_found_with_an_iou_of_one():
    """A mask that thresholds one mixture at full resolution: IoU 1 and the mixture's direction."""
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(6, 100, 100, generator=generator)
    waves = torch.linalg.qr(waves.flatten(1).T)[0].T.reshape(6, 100, 100) * 100
    mixture = functional.normalize(torch.tensor([2.0, -1, 0.5, 0, 1, -2]), dim=0)
    mask = torch.einsum("c,chw->hw", mixture, waves) > 0
    embedding = optimize_loces(waves[None], mask[None].float(), max_iter=500)
    projection = project_loces(waves[None], embedding)[0] > 0.5
    iou = (projection & mask).sum() / (projection | mask).sum()
    assert iou > 0.98
    assert functional.cosine_similarity(embedding[0], mixture, dim=0) > 0.98


@pytest.mark.parametrize("objective", ["net2vec", "mae", "logistic", "dice"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_does_not_depend_on_its_batch(dtype, objective):
    activations, masks = _planted(9, 33, 13, 17)
    activations = activations.to(dtype)
    together = optimize_loces(activations, masks, objective=objective)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = optimize_loces(activations[order], masks[order], objective=objective)
    assert torch.equal(shuffled, together[order])
    for i in range(9):
        alone = optimize_loces(activations[[i]], masks[[i]], objective=objective)
        assert torch.equal(alone[0], together[i])


# At 1000, every sigmoid is saturated, and float32 differs from float64 in the plain formulation
# as well.
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e2])
def test_the_scale_of_activations_causes_no_overflow(scale):
    activations, masks = _planted(2, 8, 10, 12)
    embeddings = optimize_loces(activations * scale, masks, objective="net2vec").double()
    expected = plain_loces(activations.double() * scale, _targets(masks).double())
    assert functional.cosine_similarity(embeddings, expected).min() > 0.9999


@pytest.mark.parametrize(
    ("activations", "embeddings", "match"),
    [
        (torch.ones(1, 3, 2), torch.ones(1, 3), r"got \(1, 3, 2\)"),
        (torch.ones(1, 3, 2, 2), torch.ones(1, 2), r"must be of shape \(1, 3\)"),
        (torch.full((1, 3, 2, 2), torch.nan), torch.ones(1, 3), "NaN"),
    ],
)
def test_bad_input_of_project_loces_raises_errors(activations, embeddings, match):
    with pytest.raises(ValueError, match=match):
        project_loces(activations, embeddings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    activations, masks = _planted(2, 8, 10, 12)
    embeddings = optimize_loces(activations.to(dtype), masks)
    assert embeddings.dtype == torch.float32
    assert torch.equal(embeddings, optimize_loces(activations.to(dtype).float(), masks))


def test_the_input_stays_unchanged():
    activations, masks = _planted(2, 8, 10, 12)
    before = activations.clone(), masks.clone()
    optimize_loces(activations.requires_grad_(), masks)
    assert torch.equal(activations, before[0])
    assert torch.equal(masks, before[1])
    assert activations.grad is None


def test_memory_layouts_do_not_matter():
    activations, masks = _planted(2, 8, 10, 12)
    strided = activations.to(memory_format=torch.channels_last)
    assert torch.equal(optimize_loces(strided, masks), optimize_loces(activations, masks))


@pytest.mark.parametrize("size_in", [1, 2, 7, 100, 131])
def test_upsampling_equals_that_of_torch(size_in):
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(1, 1, size_in, 3, dtype=torch.float64, generator=generator)
    expected = functional.interpolate(grid, size=(100, 50), mode="bilinear")[0]
    drawn = project_loces(grid, torch.ones(1, 1, dtype=torch.float64), (100, 50))
    torch.testing.assert_close(drawn.logit(), expected, atol=1e-10, rtol=0)


def test_a_mask_without_background_stays_at_the_start():
    activations, _ = _planted(1, 4, 6, 6)
    embedding = optimize_loces(activations, torch.ones(1, 20, 20))
    assert torch.equal(embedding, torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"activations": torch.zeros(2, 3, 4)}, r"got \(2, 3, 4\)"),
        ({"activations": torch.zeros(2, 0, 4, 4)}, "empty"),
        ({"activations": torch.zeros(3, 1, 4, 4)}, "3 activations but 2 masks"),
        (
            {
                "activations": torch.tensor([0.0, torch.nan])
                .expand(1, 1, 2)
                .repeat(2, 1, 1)[:, None]
            },
            r"samples \[0, 1\]",
        ),
        ({"activations": torch.full((2, 1, 4, 4), torch.inf)}, "NaN or infinity"),
        ({"masks": torch.full((2, 8, 8), 2.0)}, r"in \[0, 1\]"),
        ({"masks": torch.full((2, 8, 8), torch.nan)}, "finite"),
        ({"masks": torch.zeros(2, 8, 8)}, r"samples \[0, 1\] have no foreground"),
        ({"activations": torch.zeros(2, 3, 4, 4, dtype=torch.complex64)}, "real numbers"),
        ({"masks": torch.ones(2, 1, 8, 8)}, r"Mask 0 must be a 2-D array .* \(1, 8, 8\)"),
        ({"masks": [{"size": [8, 8]}] * 2}, "Mask 0 must be a 2-D array .* got dict"),
        ({"masks": torch.ones(2, 0, 8)}, r"Mask 0 .* \(0, 8\)"),
        (
            {"activations": torch.full((2, 3, 4, 4), 1e38), "masks": torch.eye(8).repeat(2, 1, 1)},
            "did not stay finite; bring",
        ),
        (
            {
                "activations": torch.full((2, 3, 4, 4), 1e38),
                "masks": torch.eye(8).repeat(2, 1, 1),
                "objective": "net2vec",
            },
            "did not stay finite; learning_rate=0.1 may be too high",
        ),
        ({"mask_size": (10,)}, "two positive integers"),
        ({"mask_size": (0, 10)}, "two positive integers"),
        ({"objective": "net2vec", "learning_rate": 0}, "'learning_rate'"),
        ({"alpha": 0}, "'alpha'"),
        ({"max_iter": 0}, "'max_iter'"),
        ({"objective": "bce"}, "'objective'"),
        ({"init": "ones_"}, "'init'"),
        ({"mask_resize": "cubic"}, "'mask_resize'"),
    ],
)
def test_bad_input_raises_errors(change, match):
    arguments = {"activations": torch.ones(2, 3, 4, 4), "masks": torch.ones(2, 8, 8), **change}
    with pytest.raises(ValueError, match=match):
        optimize_loces(**arguments)
