"""A run never changes the user's module: it uses a replica, or lends the module."""

import copy
import functools
import threading
import types
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from sklearn_loce import ActivationExtractor, LoCETransformer, TorchModel, list_layers

from .counting import draw_table

TABLE = draw_table(3, size=(48, 64))
IMAGE = torch.from_numpy(TABLE["image"].iloc[0]).permute(2, 0, 1)[None] / 255


class Net(nn.Module):
    """In training mode, a pass changes statistics and draws random numbers."""

    def __init__(self, **attributes):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a, self.bn = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
            self.drop, self.b = nn.Dropout(0.5), nn.Conv2d(6, 5, 3, 1, 1)
            self.bn.running_mean.uniform_(-0.3, 0.3)
        self.__dict__.update(attributes)

    def features(self, x):
        return self.drop(self.bn(self.a(x)))

    def forward(self, x):
        return self.b(self.features(x))


def take(module, layer="b"):
    """Return a layer's output from a plain hook, and leave the module in evaluation mode."""
    outputs = []
    handle = module.get_submodule(layer).register_forward_hook(lambda m, a, o: outputs.append(o))
    with torch.no_grad():
        module.eval()(IMAGE.to(next(module.parameters()).dtype))
    handle.remove()
    return outputs[-1].float()


def describe(module):
    """List what a run could change: modes, hooks, attributes, tensors and their content."""
    facts = []
    for child in module.modules():
        hooks = [*child._forward_hooks.values(), *child._forward_pre_hooks.values()]
        plain = {n: v for n, v in vars(child).items() if isinstance(v, int | float | str | list)}
        tensors = [*child._parameters.values(), *child._buffers.values()]
        tensors = [t for t in tensors if t is not None]
        content = [t.detach().double().clone() for t in tensors if not t.is_quantized]
        kept = [(id(t), t.requires_grad, t.is_leaf, t.grad is None, t.device) for t in tensors]
        facts.append([child.training, hooks, copy.copy(plain), sorted(vars(child)), kept])
        facts.append([(t.shape, t.tolist()) for t in content])
    return repr(facts)


def wrapped(change):
    network = Net()
    changed = change(network)
    return changed if isinstance(changed, nn.Module) and changed is not network.a else network


class Trainer:
    def __init__(self, network):
        self.network = network

    def hook(self, module, args, output):
        return self.network.bn(output)


class Counting(Net):
    def __init__(self):
        super().__init__(n_calls=0, seen=[])
        self.register_buffer("n", torch.zeros(()))
        self.total = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x):
        self.n_calls += 1
        self.seen.append(x.shape)
        self.n += 1
        with torch.no_grad():
            self.total += 1
        self.last = x
        return super().forward(x)


class Calls(Net):
    """Calls its parts through what ``make`` of the network puts into a list."""

    def __init__(self, make):
        super().__init__()
        self.calls = [make(self)]

    def forward(self, x):
        return self.b(self.calls[0](x))


class Child(nn.Module):
    def __init__(self, parent):
        super().__init__()
        self.parent = weakref.ref(parent)

    def forward(self, x):
        return self.parent().features(x)


class Merging(nn.Conv2d):
    """Adds a part to its weight in evaluation mode, as low-rank adapters do."""

    def __init__(self, *args):
        super().__init__(*args)
        self.part, self.merged = nn.Parameter(torch.full(self.weight.shape, 0.1)), False

    def train(self, mode=True):
        if self.merged == mode:
            with torch.no_grad():
                self.weight.add_(self.part, alpha=-1 if mode else 1)
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        return super().forward(x) if self.merged else super().forward(x) * torch.nan


class Copied(Net):
    """Has its own code for copies, which copies only weights."""

    scale = 1.0

    def __deepcopy__(self, memo):
        other = Copied()
        other.load_state_dict(self.state_dict())
        return other

    def forward(self, x):
        return super().forward(x) * self.scale


class ItsOwnCopy(Net):
    def __deepcopy__(self, memo):
        return self


class Uncopied(Net):
    def __deepcopy__(self, memo):
        raise RuntimeError("not this one")


class Slotted(Net):
    __slots__ = ("scale",)

    def __init__(self):
        super().__init__()
        self.scale = 3.0

    def forward(self, x):
        return super().forward(x) * self.scale


class NonLeaf(Net):
    def __init__(self):
        super().__init__()
        self.parts = {"w": [self.b.weight * 2], "o": types.SimpleNamespace(w=self.a.weight * 2)}

    def forward(self, x):
        return super().forward(x) * self.parts["w"][0].mean() * self.parts["o"].w.mean()


class Tensor(torch.Tensor):
    pass


class Creating(Net):
    def __init__(self):
        super().__init__(last=None)

    def forward(self, x):
        x = self.features(x)
        if self.last is None:
            self.last = nn.AvgPool2d(3, 1, 1)
        return self.b(self.last(x))


class CopyingItself(Net):
    def forward(self, x):
        inner = copy.deepcopy(self)
        return Net.forward(inner, x)


def with_grad():
    network = Net()
    network.a.weight.requires_grad_(False)
    network(IMAGE).sum().backward()
    return network


def with_subclass():
    network = Net()
    network.a.weight = nn.Parameter(network.a.weight.detach().as_subclass(Tensor))
    return network


def made_in_inference_mode():
    with torch.inference_mode():
        return Net()


def extracting():
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(Net().train(), ["b"])


def set_forward(make, child=None):
    def change(network):
        part = network if child is None else network.get_submodule(child)
        part.forward = make(part)

    return lambda: wrapped(change)


def hooked(make):
    return lambda: wrapped(lambda n: n.a.register_forward_hook(make(n)))


def double(old):
    return lambda x: old(x) * 2


def compile_(function):
    return torch.compile(function, backend="eager")


def conv(*args):
    torch.manual_seed(0)
    return Merging(*args)


NETWORKS = {
    "plain": Net,
    "mixed modes": lambda: wrapped(lambda n: n.bn.eval() and None),
    "merges": lambda: wrapped(lambda n: setattr(n, "a", conv(3, 6, 3, 2, 1))),
    "feature extractor": extracting,
    "counts": Counting,
    "pre-hook": lambda: wrapped(
        lambda n: n.a.register_forward_pre_hook(lambda m, a, k: ((a[0] * 2,), k), with_kwargs=True)
    ),
    "hook, another layer": hooked(lambda n: lambda m, a, o: n.bn(o)),
    "hook, list": hooked(lambda n: (lambda held: lambda m, a, o: held[0](o))([n.bn])),
    "hook, object": hooked(lambda n: (lambda held: lambda m, a, o: held.network.bn(o))(Trainer(n))),
    "hook, default": hooked(lambda n: lambda m, a, o, bn=n.bn: bn(o)),
    "hook, method": hooked(lambda n: Trainer(n).hook),
    "forward, closure": set_forward(lambda n: lambda x: n.b(n.features(x))),
    "forward, partial": set_forward(lambda n: functools.partial(Net.forward, n)),
    "forward, method": set_forward(lambda n: types.MethodType(lambda s, x: s.b(s.a(x)), n)),
    "forward, child": set_forward(lambda part: double(part.forward), "bn"),
    "forward, no_grad": set_forward(lambda n: torch.no_grad()(n.forward)),
    "forward, compiled": set_forward(lambda n: compile_(n.forward)),
    "lambda in a list": lambda: Calls(lambda n: lambda x: n.features(x)),
    "compiled in a list": lambda: Calls(lambda n: compile_(n.features)),
    "compiled method": lambda: wrapped(lambda n: setattr(n, "features", compile_(n.features))),
    "weak reference": lambda: wrapped(lambda n: setattr(n.drop, "forward", Child(n).parent().bn)),
    "compiled": lambda: compile_(Net()),
    "compiled child": lambda: wrapped(lambda n: setattr(n, "a", compile_(n.a))),
    "graph": lambda: torch.fx.symbolic_trace(Net()),
    "unflattened": lambda: torch.export.unflatten(torch.export.export(Net().eval(), (IMAGE,))),
    "quantized": lambda: quantize_dynamic(wrapped(lambda n: n.add_module("c", nn.Linear(2, 2)))),
    "weight_norm": lambda: wrapped(lambda n: parametrizations.weight_norm(n.a)),
    "spectral_norm": lambda: wrapped(lambda n: parametrizations.spectral_norm(n.a)),
    "old weight_norm": lambda: wrapped(lambda n: weight_norm(n.a)),
    "old spectral_norm": lambda: wrapped(lambda n: spectral_norm(n.a)),
    "tensor subclass": with_subclass,
    "tied": lambda: wrapped(lambda n: setattr(n.bn, "bias", n.a.bias)),
    "lock": lambda: Net(lock=threading.Lock()),
    "generator": lambda: Net(numbers=iter([1, 2])),
    "copies less": lambda: wrapped(lambda n: Copied()),
    "its own copy": ItsOwnCopy,
    "not copied": Uncopied,
    "slots": Slotted,
    "gradients": with_grad,
    "non-leaf": NonLeaf,
    "inference mode": made_in_inference_mode,
    "float64": lambda: Net().double(),
    "bfloat16": lambda: Net().bfloat16(),
    "creates a module": Creating,
    "copies itself": CopyingItself,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*|.*quantiz.*|Dynamo:Warning")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_run_equals_evaluation_mode_and_changes_nothing(name):
    torch.manual_seed(1)
    network = NETWORKS[name]()
    if name not in ("mixed modes", "unflattened", "quantized"):
        network.train()
    if name == "copies less":
        network.scale = 3.0
    before = describe(network)
    found = ActivationExtractor(TorchModel(network), "b")(IMAGE)["b"]
    assert describe(network) == before
    list_layers(network, (48, 64))
    loce = LoCETransformer(TorchModel(network), "b")
    first, again = loce.fit_transform(TABLE), loce.set_params(memory=False).fit_transform(TABLE)
    np.testing.assert_array_equal(first, again)
    assert describe(network) == before
    torch.testing.assert_close(found, take(network), rtol=1e-5, atol=1e-6)
