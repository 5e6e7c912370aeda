import pickle
from functools import partial

import pytest
import torch
from sklearn.base import clone
from torch import nn

from sklearn_loce import ActivationExtractor, TorchModel

from .conftest import make_small_network

MISSING = "cuda" if not torch.cuda.is_available() else "mps"


def build_random_network():
    return nn.Conv2d(3, 4, 1)


def build_nothing():
    return None


def test_clones_share_one_built_module():
    calls = []

    def build():
        calls.append(1)
        return nn.Conv2d(3, 4, 1)

    handle = TorchModel(build)
    copy = clone(handle)
    assert copy is not handle
    assert not calls
    assert copy.module is handle.module
    assert len(calls) == 1
    assert clone(TorchModel(handle.module)).module is handle.module


def test_the_fingerprint_depends_on_the_weights(small_network):
    handle = TorchModel(small_network)
    before = handle.fingerprint()
    assert before == TorchModel(make_small_network()).fingerprint()
    with torch.no_grad():
        small_network[0].weight[0, 0, 0, 0] += 1e-6
    assert handle.fingerprint() != before


def test_a_builder_is_pickled_without_weights():
    handle = TorchModel(make_small_network)
    weights = handle.module
    raw = pickle.dumps(handle)
    assert len(raw) < 500 < sum(p.numel() for p in weights.parameters())
    restored = pickle.loads(raw)
    assert restored.module is not weights
    assert restored.fingerprint() == handle.fingerprint()


def test_a_handle_of_a_module_pickles_the_module(small_network):
    restored = pickle.loads(pickle.dumps(TorchModel(small_network)))
    assert restored.fingerprint() == TorchModel(small_network).fingerprint()


def test_a_builder_that_returns_other_weights_raises_an_error():
    handle = TorchModel(build_random_network)
    _ = handle.module
    restored = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(handle))))
    with pytest.raises(ValueError, match="build_random_network returns another network"):
        _ = restored.module


@pytest.mark.parametrize("source", [3, "resnet18", nn.Conv2d, None])
def test_other_sources_raise_an_error(source):
    with pytest.raises(TypeError, match=r"torch\.nn\.Module or a builder"):
        TorchModel(source)


def test_a_builder_must_return_a_module():
    with pytest.raises(TypeError, match=r"build_nothing must return a torch\.nn\.Module, got None"):
        _ = TorchModel(build_nothing).module


def test_the_repr_is_short(small_network):
    assert repr(TorchModel(small_network)) == "TorchModel(Sequential, 1,202 parameters)"
    assert repr(TorchModel(make_small_network)) == "TorchModel(builder=make_small_network)"
    assert repr(TorchModel(partial(nn.ReLU, inplace=True))) == "TorchModel(builder=ReLU)"


@pytest.mark.parametrize("network", [make_small_network(), nn.Sequential(nn.ReLU())])
def test_a_missing_device_falls_back_to_that_of_the_network(network):
    images = torch.rand(1, 3, 8, 8)
    expected = ActivationExtractor(network, "0")(images)["0"]
    with pytest.warns(UserWarning, match=f"Device '{MISSING}' is not available"):
        extract = ActivationExtractor(network, "0", device=MISSING)
    assert torch.equal(extract(images)["0"], expected)


@pytest.mark.parametrize("device", ["meta", None])
def test_the_meta_device_raises_an_error(small_network, device):
    network = small_network if device else small_network.to("meta")
    with pytest.raises(ValueError, match="meta device has no numbers"):
        ActivationExtractor(network, "0", device=device)
