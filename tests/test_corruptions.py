"""Noise compared with its definition, and its dependence on image and seed only."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib import Parallel, delayed
from PIL import Image
from scipy import stats
from sklearn.base import clone
from torchvision import tv_tensors
from torchvision.transforms import v2

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.corruptions import GaussianNoise, SaltAndPepperNoise

from .conftest import make_small_network

BOTH = [GaussianNoise, SaltAndPepperNoise]


def _image(seed=0, size=(40, 56)):
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, *size), np.uint8))
    return tv_tensors.Image(pixels)


def _gray(value, dtype=torch.float32, size=(300, 400)):
    return torch.full((3, *size), value, dtype=dtype)


@pytest.mark.parametrize("percent", [2, 10])
def test_gaussian_noise_is_gaussian(percent):
    noise = (GaussianNoise(percent)(_gray(0.5)) - 0.5).double().numpy() / (percent / 100)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    # Channels and neighbors are independent: correlations are of the order n ** -0.5.
    n = noise[0].size
    for first, second in (
        (noise[0], noise[1]),
        (noise[:, :, 1:], noise[:, :, :-1]),
        (noise[:, 1:], noise[:, :-1]),
    ):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / n**0.5


@pytest.mark.parametrize("percent", [0.2, 1, 5])
def test_gaussian_noise_on_bytes_is_rounded(percent):
    image = _gray(128, torch.uint8)
    noise = GaussianNoise(percent)(image).double().numpy() - 128
    sigma = percent / 100 * 255
    # Exact probabilities of the rounded normal distribution, compared with observed frequencies.
    for value in range(-2, 3):
        expected = stats.norm.cdf(value + 0.5, scale=sigma) - stats.norm.cdf(
            value - 0.5, scale=sigma
        )
        spread = (expected * (1 - expected) / noise.size) ** 0.5
        assert abs((noise == value).mean() - expected) < 5 * spread + 1e-12


@pytest.mark.parametrize("percent", [1, 20, 100])
@pytest.mark.parametrize(
    ("gray", "dtype", "white"), [(0.5, torch.float32, 1), (77, torch.uint8, 255)]
)
def test_salt_and_pepper_have_equal_shares(percent, gray, dtype, white):
    image = _gray(gray, dtype)
    noisy = SaltAndPepperNoise(percent)(image)
    assert (noisy == noisy[:1]).all()
    n, share = noisy[0].numel(), percent / 100
    for value, expected in ((white, share / 2), (0, share / 2), (gray, 1 - share)):
        spread = (expected * (1 - expected) / n) ** 0.5
        assert abs((noisy[0] == value).double().mean().item() - expected) <= 5 * spread


def test_salt_and_pepper_grows_with_percent():
    image = _gray(0.5)
    low, high = (SaltAndPepperNoise(percent)(image) for percent in (5, 30))
    changed = low != image
    assert changed.any()
    assert (high[changed] == low[changed]).all()


def test_gaussian_pattern_grows_with_percent():
    image = _gray(0.5)
    low, high = (GaussianNoise(percent)(image) - image for percent in (1, 5))
    torch.testing.assert_close(5 * low, high, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("noise", BOTH)
def test_zero_percent_changes_nothing(noise):
    image = _image()
    assert torch.equal(noise(0)(image), image)
    assert torch.equal(noise(0)(image / 255.0), image / 255.0)


@pytest.mark.parametrize("noise", BOTH)
def test_masks_boxes_and_the_input_stay_unchanged(noise):
    image = _image()
    before = image.clone()
    others = [
        tv_tensors.Mask(torch.arange(40 * 56.0).reshape(1, 40, 56)),
        tv_tensors.Mask(torch.ones(2, 40, 56, dtype=torch.uint8)),
        tv_tensors.BoundingBoxes(torch.tensor([[1, 2, 3, 4]]), format="XYXY", canvas_size=(40, 56)),
        torch.rand(3, 40, 56),
    ]
    noisy, *same = noise(30)(image, *others)
    assert isinstance(noisy, tv_tensors.Image)
    assert (noisy.shape, noisy.dtype) == (image.shape, image.dtype)
    assert (noisy != image).any()
    assert torch.equal(image, before)
    for got, given in zip(same, others, strict=True):
        assert type(got) is type(given)
        assert torch.equal(got, given)


@pytest.mark.parametrize("noise", BOTH)
@pytest.mark.parametrize("as_float", [False, True])
def test_noise_depends_only_on_image_and_seed(noise, as_float):
    images = [_image(seed) / 255.0 if as_float else _image(seed) for seed in range(4)]
    transform = noise(20, random_state=3)
    alone = [transform(image) for image in images]
    in_reverse = [transform(image) for image in images[::-1]][::-1]
    in_a_batch = transform(torch.stack(images))
    in_a_video = transform(tv_tensors.Video(torch.stack(images)))
    in_threads = Parallel(n_jobs=4, prefer="threads")(delayed(transform)(i) for i in images)
    elsewhere = pickle.loads(pickle.dumps(transform))
    for i, image in enumerate(images):
        for other in (in_reverse[i], in_a_batch[i], in_a_video[i], in_threads[i], elsewhere(image)):
            assert torch.equal(other, alone[i])
    assert not torch.equal(alone[0] - images[0], alone[1] - images[1])
    assert not torch.equal(noise(20, random_state=4)(images[0]), alone[0])


@pytest.mark.parametrize("noise", BOTH)
def test_different_images_get_independent_patterns(noise):
    first, second = _gray(0.5), _gray(0.5)
    second[0, 0, 0] = 0.51
    patterns = [(noise(20)(image) - image).numpy()[1].ravel() for image in (first, second)]
    assert abs(np.corrcoef(patterns)[0, 1]) < 5 / patterns[0].size ** 0.5


@pytest.mark.parametrize("noise", BOTH)
def test_noise_does_not_depend_on_the_memory_layout(noise):
    image = _image()
    channels_last = image[None].contiguous(memory_format=torch.channels_last)[0]
    assert not channels_last.is_contiguous()
    assert torch.equal(noise(20)(channels_last), noise(20)(image))


@pytest.mark.parametrize("noise", BOTH)
def test_global_generators_stay_unchanged(noise):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - it is the global state that is watched
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    noise(20)(_image())
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("noise", BOTH)
def test_float_dtypes_are_kept(noise, dtype):
    noisy = noise(50)(_gray(0.5, dtype, size=(20, 30)))
    assert noisy.dtype == dtype
    assert 0 <= noisy.min() < noisy.max() <= 1


@pytest.mark.parametrize("noise", BOTH)
def test_repr_clone_and_hash_depend_on_parameters(noise):
    transform = noise(2.5, random_state=np.int64(7))
    assert repr(transform) == f"{noise.__name__}(percent=2.5, random_state=7)"
    copied = clone(transform, safe=False)
    assert copied is not transform
    assert torch.equal(copied(_image()), transform(_image()))
    assert joblib.hash(noise(5)) == joblib.hash(noise(5))
    assert joblib.hash(noise(5)) != joblib.hash(noise(6))


@pytest.mark.parametrize("noise", BOTH)
def test_invalid_input_raises_errors(noise):
    with pytest.raises(ValueError, match=r"values from -0\.5 to -0\.5.*before v2\.Normalize"):
        noise(5)(_gray(-0.5))
    with pytest.raises(ValueError, match="values from nan"):
        noise(5)(_gray(float("nan")))
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        noise(5)(_gray(3, torch.int64))
    with pytest.raises(TypeError, match=r"put v2\.ToImage\(\) before it"):
        noise(5)(Image.new("RGB", (4, 4)))


@pytest.mark.parametrize("noise", BOTH)
@pytest.mark.parametrize(
    "parameters",
    [{"percent": -1}, {"percent": "5"}, {"percent": 5, "random_state": None},
     {"percent": 5, "random_state": -1}],
)  # fmt: skip
def test_parameters_out_of_range_raise_errors(noise, parameters):
    with pytest.raises(ValueError, match="parameter of"):
        noise(**parameters)


def test_more_than_100_percent_raises_an_error():
    with pytest.raises(ValueError, match=r"'percent' .*\[0\.0, 100\.0\]"):
        SaltAndPepperNoise(101)


@pytest.fixture
def samples():
    """Four images, three rows each, in no order."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(4)]
    rows = []
    for image in images:
        for k in range(3):
            mask = np.zeros((24, 32), dtype=bool)
            mask[4 + 3 * k : 12 + 3 * k, 6:20] = True
            rows.append((image, mask))
    table = pd.DataFrame({"image": [i for i, _ in rows], "mask": [m for _, m in rows]})
    return table.iloc[rng.permutation(len(table))]


def _loce(preprocess, **parameters):
    parameters = {"mask_size": (24, 32), **parameters}
    return LoCETransformer(
        TorchModel(make_small_network()), "0", preprocess=preprocess, **parameters
    )


@pytest.mark.parametrize("noise", BOTH)
def test_a_row_does_not_depend_on_other_rows(samples, noise):
    loce = _loce(noise(20)).fit(samples)
    together = loce.transform(samples)
    reverse = loce.transform(samples.iloc[::-1])[::-1]
    apart = np.vstack([loce.transform(samples.iloc[[i]]) for i in range(len(samples))])
    np.testing.assert_array_equal(reverse, together)
    np.testing.assert_array_equal(
        clone(loce).set_params(batch_size=2).fit_transform(samples), together
    )
    np.testing.assert_array_equal(apart, together)
    assert not np.allclose(together, _loce(None).fit_transform(samples))


@pytest.mark.parametrize("noise", BOTH)
def test_noise_changes_the_image_and_not_the_mask(samples, noise):
    expected = samples.assign(
        image=[
            noise(20)(tv_tensors.Image(torch.from_numpy(i).permute(2, 0, 1)))
            .permute(1, 2, 0)
            .numpy()
            for i in samples["image"]
        ]
    )
    got = _loce(noise(20)).fit_transform(samples)
    np.testing.assert_array_equal(got, _loce(None).fit_transform(expected))


@pytest.mark.parametrize("noise", BOTH)
def test_noise_works_in_a_compose_with_geometry(samples, noise):
    steps = [
        noise(10),
        v2.Resize((48, 64)),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.25] * 3),
    ]
    loce = _loce(v2.Compose(steps)).fit(samples)
    embeddings = loce.transform(samples)
    assert np.isfinite(embeddings).all()
    projections = loce.project(samples, embeddings)
    assert {p.shape for p in projections} == {(24, 32)}
    plain = _loce(v2.Compose(steps[1:])).fit_transform(samples)
    assert not np.allclose(embeddings, plain)
