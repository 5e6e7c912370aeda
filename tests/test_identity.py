"""Changes of a network lead to a new key, and irrelevant changes keep the key."""

import contextlib
import contextvars
import copy
import enum
import functools
import pickle
import random
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torch.nn import functional
from torchvision.models import VisionTransformer
from torchvision.transforms import v2

from sklearn_loce import LoCETransformer, TorchModel

from .counting import Counter, draw_table

TABLE = draw_table(2, n_concepts=1, size=(48, 64))
SETTINGS = types.ModuleType("settings")
SETTINGS.scale = 1.0
CONTEXT = contextvars.ContextVar("scale", default=1.0)
LARGEST = 600  # pixels on a side, more than the probe has


class Mode(enum.Enum):
    PLAIN = 1.0
    TWICE = 2.0


class Net(nn.Module):
    """Scales its images by ``scale(network)``, and counts those of the table."""

    def __init__(self, scale=None, **attributes):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a, self.bn = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.register_buffer("gain", torch.ones(()), persistent=False)
        self.counter, self.scale = Counter(), scale
        self.__dict__.update(attributes)

    def forward(self, x):
        self.counter.n += x.shape[-2:] == (48, 64)
        scale = 1.0 if self.scale is None else self.scale(self)
        return self.bn(self.a(x * scale * self.gain))


class Runner:
    scale = 1.0

    def __call__(self, module, images):
        return module(images * self.scale)


def build_net():
    return Net().eval()


def n_passed(handle, memory=None, table=TABLE, **parameters):
    """Embed a table, and return the number of images that passed the network."""
    before = handle.module.counter.n
    LoCETransformer(handle, "bn", memory=memory, **parameters).fit_transform(table)
    return handle.module.counter.n - before


def write_ulp(network):
    with torch.no_grad():
        network.a.weight[0, 0, 0, 0] = torch.nextafter(network.a.weight[0, 0, 0, 0], torch.ones(()))


def other_class(network):
    network.__class__ = type("Net", (Net,), {"forward": lambda s, x: Net.forward(s, x * 3)})


@contextlib.contextmanager
def changed(holder, name, value):
    before = getattr(holder, name)
    setattr(holder, name, value)
    yield
    setattr(holder, name, before)


@contextlib.contextmanager
def in_context(value):
    token = CONTEXT.set(value)
    yield
    CONTEXT.reset(token)


def by_closure(holder):
    return lambda network: holder["scale"]


def by_size(network):
    return 1.0 if LARGEST > 500 else network.nothing


def attribute(value, other):
    """Make a network with an unused attribute, and a function that changes the attribute."""
    return (lambda: Net(own=value)), lambda n: setattr(n, "own", other)


def doubling(old):
    return lambda self, x: old(self, x) * 2


CELL = {"scale": 1.0}
CHANGES = {
    "weight by one ulp": (Net, write_ulp),
    "buffer": (Net, lambda n: n.bn.running_mean.add_(0.1)),
    "buffer that is not saved": (Net, lambda n: n.gain.mul_(2)),
    "class of the same name": (Net, other_class),
    "number": attribute(1.0, 1.5),
    "string": attribute("a", "b"),
    "type of a number": attribute(1, 1.0),
    "tuple": attribute((1, (2, 3)), (1, (2, 4))),
    "nested dict": attribute({"a": {"b": [1]}}, {"a": {"b": [2]}}),
    "set": attribute({1, 2}, {1, 3}),
    "enumeration": attribute(Mode.PLAIN, Mode.TWICE),
    "array": attribute(np.zeros(3), np.ones(3)),
    "dtype": attribute(torch.float32, torch.float16),
    "object": attribute(types.SimpleNamespace(x=1), types.SimpleNamespace(x=2)),
    "partial": attribute(functools.partial(max, 1), functools.partial(max, 2)),
    "setting of a module": (
        lambda: Net(lambda n: SETTINGS.scale),
        lambda n: changed(SETTINGS, "scale", 2.0),
    ),
    "context variable": (lambda: Net(lambda n: CONTEXT.get()), lambda n: in_context(2.0)),
    "what a closure holds": (
        lambda: Net(by_closure(CELL)),
        lambda n: CELL.update(scale=CELL["scale"] * 2),
    ),
    "global for large images": (
        lambda: Net(by_size),
        lambda n: changed(sys.modules[__name__], "LARGEST", 700),
    ),
    "hook": (Net, lambda n: n.a.register_forward_hook(lambda m, a, o: o * 2) and None),
    "pre-hook": (Net, lambda n: n.a.register_forward_pre_hook(lambda m, a: (a[0] + 1,)) and None),
    "library class": (
        Net,
        lambda n: changed(nn.BatchNorm2d, "forward", doubling(nn.BatchNorm2d.forward)),
    ),
    "autocast": (Net, lambda n: torch.autocast("cpu", dtype=torch.bfloat16)),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("folder", [False, True], ids=["memory", "folder"])
def test_a_changed_network_is_computed_again(name, folder, tmp_path):
    build, change = CHANGES[name]
    handle, memory = TorchModel(build()), tmp_path if folder else None
    assert n_passed(handle, memory) == 2
    assert n_passed(handle, memory) == 0
    what = change(handle.module)
    with what if hasattr(what, "__enter__") else contextlib.nullcontext():
        assert n_passed(handle, memory) == 2
        assert n_passed(handle, memory) == 0


SAME = {
    "training mode": lambda n: n.train(),
    "requires_grad": lambda n: n.requires_grad_(False),
    "device move": lambda n: n.to("cpu"),
    "memory format": lambda n: n.to(memory_format=torch.channels_last),
    "order of attributes": lambda n: n.__dict__.update(own=n.__dict__.pop("own")),
    "deep copy": copy.deepcopy,
    "pickling": lambda n: pickle.loads(pickle.dumps(n)),
    "compiled": lambda n: torch.compile(n, backend="eager"),
    "what it counts": lambda n: setattr(n.counter, "n", 7),
}


@pytest.mark.parametrize("name", SAME)
def test_irrelevant_changes_keep_stored_rows(name, tmp_path):
    handle = TorchModel(Net(own=1))
    assert n_passed(handle, tmp_path) == 2
    other = SAME[name](handle.module)
    other = TorchModel(other if isinstance(other, nn.Module) else handle.module)
    assert n_passed(other, tmp_path) == 0


def test_the_number_of_threads_changes_nothing(tmp_path):
    before = torch.get_num_threads()
    try:
        for n_threads, n in ((1, 2), (2, 0)):
            torch.set_num_threads(n_threads)
            assert n_passed(TorchModel(build_net()), tmp_path) == n
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_another_process_has_the_same_fingerprint():
    statement = "from tests.test_identity import *; print(TorchModel(build_all()).fingerprint())"
    done = subprocess.run(
        [sys.executable, "-c", statement],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )  # with another hash seed
    assert done.stdout.split()[-1] == TorchModel(build_all()).fingerprint()


def build_all():
    network = Net(lambda n: SETTINGS.scale)
    for k, (build, _) in enumerate(v for v in CHANGES.values() if v[0] is not Net):
        network.__dict__[f"own_{k}"] = vars(build()).get("own")
    network.own_set = {"a", "b", "c", Mode.PLAIN}
    return network


def test_quantized_weights_and_subclasses_count():
    class Own(torch.Tensor):
        pass

    def quantized(factor):
        plain = nn.Sequential(nn.Linear(8, 8, bias=False))
        with torch.no_grad():
            plain[0].weight.copy_(torch.eye(8) * factor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return quantize_dynamic(plain, {nn.Linear})

    def subclassed(value):
        network = build_net()
        network.a.bias = nn.Parameter(torch.full((6,), value).as_subclass(Own))
        return network

    for make in (quantized, subclassed):
        first, same, other = (TorchModel(make(x)).fingerprint() for x in (1.0, 1.0, 2.0))
        assert first == same != other


class Scale:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, image, masks):
        return image.float() * self.factor, masks


HOWS = {
    "reshape": ("reshape_transform", lambda o: o * 1, lambda o: o * 2),
    "slots": ("preprocess", Scale(0.1), Scale(0.2)),
    "lambdas": ("preprocess", lambda i, m: (i / 255, m), lambda i, m: (i / 128, m)),
}


@pytest.mark.parametrize("name", HOWS)
def test_preprocess_and_reshape_are_part_of_the_key(name, tmp_path):
    what, first, second = HOWS[name]
    keys = []
    for how in (first, second, first):
        loce = LoCETransformer(TorchModel(build_net()), "bn", memory=tmp_path)
        loce.set_params(**{what: how}).fit_transform(TABLE)
        keys.append(loce.model.module.counter.n)
    assert keys == [2, 2, 0]


def test_forward_is_part_of_the_key():
    handle = TorchModel(build_net(), forward=Runner())
    assert [n_passed(handle), n_passed(handle)] == [2, 0]
    handle.forward.scale = 2.0
    assert [n_passed(handle), n_passed(handle)] == [2, 0]


RANDOM = {
    "dropout": lambda n: float(functional.dropout(torch.ones(1), 0.3, training=True)),
    "torch": lambda n: float(1 + torch.rand(())),
    "numpy": lambda n: 1 + np.random.rand(),  # noqa: NPY002
    "own generator": lambda n: 1 + n.own.random(),
    "seldom, torch": lambda n: 1.0 if torch.rand(()) > 1e-3 else 0.0,
    "seldom, Python": lambda n: 1.0 if random.random() > 1e-3 else 0.0,
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_network_causes_a_warning_and_stores_nothing(name, tmp_path):
    handle = TorchModel(Net(RANDOM[name], own=np.random.default_rng(0)))
    loce = LoCETransformer(handle, "bn", memory=tmp_path)
    for call in ("fit", "transform", "fit_transform", "precompute"):
        before = handle.module.counter.n
        with pytest.warns(UserWarning, match="random numbers"):
            loce.precompute(TABLE, "bn") if call == "precompute" else getattr(loce, call)(TABLE)
        assert handle.module.counter.n - before == (0 if call == "fit" else 2)


def test_randomness_after_the_layer_does_not_matter(tmp_path):
    class Noisy(Net):
        def forward(self, x):
            x = super().forward(x)
            return x + torch.rand_like(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert n_passed(TorchModel(Noisy()), tmp_path) == 2
        assert n_passed(TorchModel(Noisy()), tmp_path) == 0


@pytest.mark.parametrize("n_images", [1, 3])
def test_a_thread_local_value_raises_an_error(n_images):
    own = threading.local()
    own.scale = 3.0
    network = Net(lambda n: getattr(own, "scale", 1.0))
    with pytest.raises(RuntimeError, match="belongs to one thread"):
        LoCETransformer(network, "bn").fit_transform(draw_table(n_images))


def test_weights_that_change_during_a_run_raise_an_error(tmp_path):
    class Changing(v2.Identity):
        n = 0

        def __call__(self, image, masks):
            self.n += tuple(image.shape[-2:]) == (48, 64)  # not the probe
            if self.n == self.when:
                with torch.no_grad():
                    network.a.weight.add_(1.0)
            return image, masks

    network, table = build_net(), draw_table(12, n_concepts=1, size=(48, 64))
    loce = LoCETransformer(TorchModel(network), "bn", memory=tmp_path)
    preprocess = Changing()
    preprocess.when = -1
    loce.set_params(preprocess=preprocess).fit(table)
    loce.preprocess.when = loce.preprocess.n + 6
    with pytest.raises(RuntimeError, match="weights of Net changed while"):
        loce.transform(table)


def test_a_builder_that_returns_another_network_raises_an_error():
    handle = TorchModel(build_net)
    same = pickle.loads(pickle.dumps(handle))
    assert n_passed(same) == 2
    for name, value in (("own", 1), ("a", nn.Conv2d(3, 6, 3, 2, 1))):
        handle = TorchModel(build_net)
        setattr(handle.module, name, value)
        with pytest.raises(ValueError, match="builder build_net returns another network"):
            pickle.loads(pickle.dumps(handle)).module  # noqa: B018


def test_attention_and_dropout_in_evaluation_mode_are_not_random():
    vit = VisionTransformer(32, 16, 1, 2, 16, 32, dropout=0.1, attention_dropout=0.1)
    loce = LoCETransformer(TorchModel(vit), "encoder.layers.encoder_layer_0")
    table = draw_table(1, size=(32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = loce.fit_transform(table)
    np.testing.assert_array_equal(loce.transform(table), first)


def test_random_numbers_of_another_thread_do_not_count():
    n_calls = Counter()

    def scale(network):
        n_calls.n += 1
        if n_calls.n <= 2:
            np.random.random()  # noqa: NPY002
        return 1.0

    loce = LoCETransformer(TorchModel(Net(scale)), "bn", memory=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loce.fit(TABLE)
    assert n_calls.n == 3
