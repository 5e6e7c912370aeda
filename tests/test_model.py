import pickle
from functools import partial

import pytest
import torch
from sklearn.base import clone
from torch import nn

from sklearn_loce import TorchModel
from sklearn_loce._network.handle import evaluating, resolve_device

from .conftest import make_small_network


def build_random_network():
    return nn.Conv2d(3, 4, 1)


def build_nothing():
    return None


def test_clone_is_a_new_handle_on_the_same_module(small_network):
    handle = TorchModel(small_network)
    copy = clone(handle)
    assert copy is not handle
    assert copy.module is small_network


def test_clones_share_what_a_builder_built_whoever_came_first():
    calls = []

    def build():
        calls.append(1)
        return nn.Conv2d(3, 4, 1)

    handle = TorchModel(build)
    copy = clone(handle)
    assert not calls
    assert copy.module is handle.module
    assert len(calls) == 1


def test_fingerprint_follows_the_weights(small_network):
    handle = TorchModel(small_network)
    before = handle.fingerprint()
    assert before == TorchModel(make_small_network()).fingerprint()
    with torch.no_grad():
        small_network[0].weight[0, 0, 0, 0] += 1e-6
    assert handle.fingerprint() != before


def test_fingerprint_follows_the_architecture():
    plain, strided = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, stride=2)
    strided.load_state_dict(plain.state_dict())
    assert TorchModel(plain).fingerprint() != TorchModel(strided).fingerprint()


def test_fingerprint_reads_half_precision_and_scalars():
    network = nn.BatchNorm2d(3).to(torch.bfloat16)
    assert len(TorchModel(network).fingerprint()) == 64


def test_a_builder_is_pickled_without_weights():
    handle = TorchModel(make_small_network)
    weights = handle.module
    raw = pickle.dumps(handle)
    assert len(raw) < 500 < sum(p.numel() for p in weights.parameters())
    restored = pickle.loads(raw)
    assert restored.module is not weights
    assert restored.fingerprint() == handle.fingerprint()


def test_a_module_is_pickled_itself(small_network):
    restored = pickle.loads(pickle.dumps(TorchModel(small_network)))
    assert restored.fingerprint() == TorchModel(small_network).fingerprint()


def test_a_builder_that_gives_other_weights_is_found_out():
    handle = TorchModel(build_random_network)
    _ = handle.module
    restored = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(handle))))
    with pytest.raises(ValueError, match="build_random_network gives other weights"):
        _ = restored.module


@pytest.mark.parametrize("source", [3, "resnet18", nn.Conv2d, None])
def test_other_sources_are_refused(source):
    with pytest.raises(TypeError, match=r"torch\.nn\.Module or a builder"):
        TorchModel(source)


def test_a_builder_must_build():
    with pytest.raises(TypeError, match=r"build_nothing must return a torch\.nn\.Module, got None"):
        _ = TorchModel(build_nothing).module


def test_repr_is_short(small_network):
    assert repr(TorchModel(small_network)) == "TorchModel(Sequential, 1,202 parameters)"
    assert repr(TorchModel(make_small_network)) == "TorchModel(builder=make_small_network)"
    assert repr(TorchModel(partial(nn.ReLU, inplace=True))) == "TorchModel(builder=ReLU)"


def test_evaluating_gives_each_submodule_its_own_mode_back(small_network):
    small_network.train()
    small_network[3].eval()
    with evaluating(small_network, torch.device("cpu")):
        assert not any(child.training for child in small_network.modules())
    assert small_network.training
    assert small_network[0].training
    assert not small_network[3].training


def test_missing_device_falls_back_with_a_warning(small_network):
    missing = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.warns(UserWarning, match=f"Device '{missing}' is not available"):
        assert resolve_device(missing, small_network) == torch.device("cpu")


def test_no_device_means_where_the_model_is(small_network):
    assert resolve_device(None, small_network) == torch.device("cpu")
    assert resolve_device(None, nn.ReLU()) == torch.device("cpu")


def test_the_meta_device_is_refused(small_network):
    with pytest.raises(ValueError, match="meta device holds no numbers"):
        resolve_device("meta", small_network)
    with pytest.raises(ValueError, match="meta device holds no numbers"):
        resolve_device(None, small_network.to("meta"))
