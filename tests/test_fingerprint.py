"""Fingerprints: equal content has equal digests in every process, all else has others."""

import copy
import ctypes
import functools
import json
import os
import re
import subprocess
import sys
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from sklearn_loce._store.fingerprint import (
    digest,
    model_digest,
)
from torch import nn
from torchvision.transforms import v2

from sklearn_loce import TorchModel
from sklearn_loce._store import canonical as _canonical

from . import fingerprinted
from .conftest import make_small_network
from .fingerprinted import Ring, Scaled, adder, hex_digests, make_scaled

FEW = settings(max_examples=60)

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.sampled_from([Path("a"), fingerprinted.Colour.RED, np.float32(1), np.int64(1)])
)
keys = st.integers(-2, 2) | st.text("ab", max_size=2) | st.booleans()
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(keys, max_size=3)
        | st.frozensets(keys, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


def _form(value):
    """Write a value with its types, in a form of which == tells the content."""
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(_form, value))
    if isinstance(value, set | frozenset):
        return type(value).__name__, frozenset(map(_form, value))
    if isinstance(value, dict):
        return "dict", tuple((_form(name), _form(item)) for name, item in value.items())
    return type(value).__name__, repr(value)


def _name(value):
    """Write a value without its address, by which its test couldn't be asked for again."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


@FEW
@given(st.lists(values, min_size=2, max_size=30))
def test_digests_are_equal_where_types_and_content_are(several):
    pairs = [(_form(value), digest(value)) for value in several]
    assert len({form for form, _ in pairs}) == len({key for _, key in pairs})
    assert len(set(pairs)) == len({form for form, _ in pairs})


@FEW
@given(values)
def test_copies_have_the_same_digest(value):
    key = digest(value)
    assert len(key) == 32
    assert digest(copy.deepcopy(value)) == key


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, True),
        (1, 1.0),
        (1, "1"),
        ("1", b"1"),
        (0.0, -0.0),
        ((1, 2), [1, 2]),
        (("ab", "c"), ("a", "bc")),
        ([[1], 2], [[1, 2]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1, 2}, frozenset({1, 2})),
        (Path("a"), "a"),
        (np.float64(1), 1.0),
        (np.zeros(2), np.zeros((1, 2))),
        (np.zeros(2, "f4"), np.zeros(2, "i4")),
        (np.zeros(2, ">f4"), np.zeros(2, "<f4")),
        (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0])),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(2), torch.zeros(2, 1)),
        (fingerprinted.Colour.RED, fingerprinted.Colour.BLUE),
        (fingerprinted.Colour.RED, 1),
        (fingerprinted.Point(1, 2), (1, 2)),
        (fingerprinted.Slotted(1, 2), fingerprinted.Slotted(2, 1)),
        (fingerprinted.Box(1, ()), fingerprinted.Box(2, ())),
        (Ring(1), Ring(2)),
        (v2.Normalize([0.1], [1.0]), v2.Normalize([0.2], [1.0])),
    ],
    ids=_name,
)
def test_what_differs_has_another_digest(first, second):
    assert digest(first) != digest(second)


def test_arguments_are_kept_apart():
    assert len({digest(), digest(None), digest(()), digest([]), digest(1, 2), digest((1, 2))}) == 6


@FEW
@given(npst.arrays(npst.scalar_dtypes(), npst.array_shapes(max_dims=3, max_side=4)))
def test_array_digests_know_content_and_not_layout(array):
    assert digest(np.asfortranarray(array)) == digest(array)
    padded = np.zeros((*array.shape, 2), dtype=array.dtype)
    padded[..., 0] = array
    assert digest(padded[..., 0]) == digest(array)


def _run(statement, **environment):
    """Run a statement in a fresh process and give what it prints."""
    environment = os.environ | environment
    done = subprocess.run(
        [sys.executable, "-c", statement],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=Path(__file__).parents[1],
    )
    return done.stdout


def test_all_kinds_have_distinct_digests_equal_in_every_process():
    here = hex_digests()
    assert len(set(here.values())) == len(here)
    assert here == hex_digests()
    statement = "import json, tests.fingerprinted as f; print(json.dumps(f.hex_digests()))"
    other_seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    assert json.loads(_run(statement, PYTHONHASHSEED=other_seed)) == here


def _compiled(text, **names):
    """Compile a function as a notebook does, with globals of its own."""
    namespace = {"__name__": "notebook", **names}
    exec(text, namespace)
    return namespace["f"]


def test_code_counts_and_its_lines_do_not():
    key = digest(_compiled("f = lambda x: x * 2"))
    assert digest(_compiled("\n\nf = lambda x: (x *\n 2)")) == key
    others = ["x * 3", "x + 2", "x * 2.0", "x.real * 2", "(lambda y: y * 2)(x)", "x * 2 in {1, 2}"]
    digests = {digest(_compiled(f"f = lambda x: {text}")) for text in others}
    assert len({key, *digests}) == len(others) + 1
    nested = [digest(_compiled(f"f = lambda: (lambda: {n})")) for n in (1, 2)]
    assert nested[0] != nested[1]


def test_defaults_closure_and_attributes_of_a_function_count():
    assert digest(adder(1)) == digest(adder(1))
    assert digest(adder(1)) != digest(adder(2))
    assert digest(_compiled("f = lambda x, a=1: x")) != digest(_compiled("f = lambda x, a=2: x"))
    assert digest(_compiled("f = lambda *, a=1: a")) != digest(_compiled("f = lambda *, a=2: a"))
    first, second = adder(1), adder(1)
    second.scale = 2
    assert digest(first) != digest(second)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (2, 3),
        ([1, 2], [1, 3]),
        (np.zeros(2), np.ones(2)),
        (torch.zeros(2), torch.ones(2)),
        (v2.Normalize([0.1], [1.0]), v2.Normalize([0.2], [1.0])),
        (_compiled("f = lambda x: x"), _compiled("f = lambda x: -x")),
        (_compiled("f = lambda x: a", a=1), _compiled("f = lambda x: a", a=2)),
        (type("C", (), {"scale": 1}), type("C", (), {"scale": 2})),
        (type("C", (), {"f": adder(1)}), type("C", (), {"f": adder(2)})),
    ],
    ids=lambda value: type(value).__name__,
)
def test_globals_that_code_names_count(before, after):
    text = "def f(x):\n    return [helper for _ in x]"
    key = digest(_compiled(text, helper=before, other=1))
    assert digest(_compiled(text, helper=before, other=2)) == key
    assert digest(_compiled(text, helper=after, other=1)) != key


def test_globals_in_a_module_of_ones_own_count():
    helpers = types.ModuleType("helpers")
    text = "def f(x):\n    return helpers.scale(x)"
    helpers.scale = _compiled("f = lambda x: 2 * x")
    key = digest(_compiled(text, helpers=helpers))
    helpers.unused = 3
    assert digest(_compiled(text, helpers=helpers)) == key
    helpers.scale = _compiled("f = lambda x: 3 * x")
    assert digest(_compiled(text, helpers=helpers)) != key


def test_a_global_lock_is_no_reason_to_give_up():
    text = "def f(x):\n    return helper"
    lock, other = threading.Lock(), threading.Lock()
    assert digest(_compiled(text, helper=lock)) == digest(_compiled(text, helper=other))
    # Nothing of what was met on the way to the lock passes as written.
    for value in (1, 2):
        part = Ring(value)
        held = types.SimpleNamespace(a=part, lock=lock)
        key = digest(_compiled(text, helper=held), _compiled("f = lambda: a", a=part))
        if value == 1:
            first = key
    assert key != first


@pytest.mark.parametrize(
    "hold",
    [
        lambda scale: types.SimpleNamespace(scale=scale, lock=threading.Lock()),
        lambda scale: {"scale": scale, "lock": threading.Lock()},
        lambda scale: [threading.Lock(), (scale,), {threading.Lock()}],
        lambda scale: {scale, threading.Lock()},
        lambda scale: Ring({"scale": scale, "tensor": nn.LazyLinear(2).weight}),
        lambda scale: _Unreducible(scale, ValueError),
        lambda scale: type("C", (), {"held": {"scale": scale, "lock": threading.Lock()}}),
    ],
)
def test_what_lies_beside_a_lock_in_a_global_counts(hold):
    keys = [
        digest(_compiled("def f(x):\n    return helper", helper=hold(scale))) for scale in (1, 1, 2)
    ]
    assert keys[0] == keys[1] != keys[2]


def test_what_a_global_may_hold_an_argument_may_not():
    lock = threading.Lock()
    named = _compiled("f = lambda: lock", lock=[lock])
    for held in (lock, [lock]):
        with pytest.raises(TypeError, match="lock can't be told"):
            digest(named, adder(named), adder(held))


def test_running_does_not_change_a_function_that_names_a_pool():
    with ThreadPoolExecutor(1) as pool:
        function = _compiled("f = lambda: pool", pool=pool)
        key = digest(function)
        pool.submit(int).result()
        assert digest(function) == key


def test_what_a_named_function_holds_is_no_reason_to_give_up_either():
    text = "def f(x):\n    return helper(x)"
    keys = [digest(_compiled(text, helper=adder(held))) for held in (threading.Lock(), 1, 2)]
    assert len(set(keys)) == 3
    with pytest.raises(TypeError, match="can't be told"):
        digest(adder(threading.Lock()))


def test_drawing_does_not_change_a_function_that_draws():
    generator = np.random.default_rng(0)
    draw = _compiled("def f():\n    return generator.random()", generator=generator)
    key = digest(draw)
    draw()
    assert digest(draw) == key
    assert digest(generator) != digest(np.random.default_rng(0))


def test_monkeypatched_methods_count(monkeypatch):
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    before = model_digest(module), digest(Scaled)
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: -x)
    monkeypatch.setattr(Scaled, "forward", lambda self, x: -x)
    after = model_digest(module), digest(Scaled)
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_methods_of_bases_count():
    def make(n):
        base = type("Base", (), {"__call__": adder(n)})
        return type("Derived", (base,), {})()

    assert digest(make(1)) == digest(make(1))
    assert digest(make(1)) != digest(make(2))


_DEFAULT = v2.Normalize([0.1], [1.0])


class _WithDefault(nn.Module):
    def __init__(self, step=_DEFAULT):
        super().__init__()
        self.step = step


def test_it_makes_no_difference_whether_equal_objects_are_one():
    item, step = [1], fingerprinted.Box(1, ())
    assert digest([item, item]) == digest([[1], [1]])
    assert digest([step, step]) == digest([step, copy.deepcopy(step)])
    # A module's attribute may be a default of its class, but is none in a copy.
    assert model_digest(_WithDefault()) == model_digest(copy.deepcopy(_WithDefault()))
    many = [1]
    for _ in range(100):
        many = [many, many]
    assert digest(many) != digest([many])


def test_cycles_end():
    loop = [1]
    loop.append(loop)
    nested = [1]
    nested.append([nested])
    assert digest(loop) != digest(nested)
    first, second = Ring(1), Ring(1)
    first.next, second.next = second, first
    assert digest(first) != digest(Ring(1))
    assert digest(first) == digest(copy.deepcopy(first))
    ring = Ring(1)
    ring.next = {weakref.ref(ring)}
    assert digest(ring) != digest(Ring(1))


class _Named:
    def __init__(self, name):
        self.handle, self.name = threading.Lock(), name

    def fingerprint(self):
        return self.name


def test_a_fingerprint_is_taken_at_its_word():
    assert digest(_Named("a")) == digest(_Named("a"))
    assert digest(_Named("a")) != digest(_Named("b"))
    with pytest.raises(TypeError, match=r"must return a str, got 3"):
        digest(_Named(3))


def _check_named(value):
    way_out = r"fingerprint\(\) that returns a str.*memory=False"
    for holder in (value, [value], {"a": value}, types.SimpleNamespace(a=value), adder(value)):
        with pytest.raises(
            TypeError, match=rf"{type(value).__qualname__} can't be told.*{way_out}"
        ):
            digest(holder)


def test_what_has_no_content_is_named_with_the_way_out():
    _check_named(threading.Lock())
    _check_named(i for i in ())
    with Path(__file__).open() as file:
        _check_named(file)


class _Unreducible:
    def __init__(self, scale, error):
        self.scale, self.error = scale, error

    def __reduce_ex__(self, protocol):
        raise self.error("no")


@pytest.mark.parametrize("error", [KeyError, ValueError, OSError, RuntimeError])
def test_whatever_reducing_raises_the_object_is_named(error):
    with pytest.raises(TypeError, match="_Unreducible can't be told") as caught:
        digest([_Unreducible(1, error)])
    assert isinstance(caught.value.__cause__, error)


def test_pointers_are_named():
    _check_named(ctypes.pointer(ctypes.c_int(1)))


def test_what_is_nested_too_deeply_is_named():
    many = [1]
    for _ in range(2000):
        many = [many]
    for value in (many, [_compiled("f = lambda: many", many=many)], {(1, adder(many))}):
        with pytest.raises(TypeError, match=r"can't be told .* nested too deeply.*memory=False"):
            digest(value)


class _Shy(_Unreducible):
    def __repr__(self):
        raise KeyError("no")


def test_what_has_no_repr_is_named_too():
    with pytest.raises(TypeError, match=r"^<.*_Shy object at .*_Shy can't be told"):
        digest(_Shy(1, ValueError))


def test_the_digests_of_code_are_bounded(monkeypatch):
    monkeypatch.setattr(_canonical, "_CODES", {})
    monkeypatch.setattr(_canonical, "_MAX_CODES", 10)
    keys = [digest(_compiled(f"f = lambda: {n % 20}")) for n in range(40)]
    assert keys[:20] == keys[20:]
    assert len(set(keys)) == 20
    assert len(_canonical._CODES) <= 10


def test_unreadable_tensors_are_named():
    lazy = nn.LazyLinear(2).weight
    for tensor in (torch.zeros(2, device="meta"), torch.eye(2).to_sparse(), lazy):
        with pytest.raises(TypeError, match=r"(Tensor|UninitializedParameter) can't be told"):
            digest(tensor)


# Models


def _changed(change):
    network = make_scaled()
    change(network)
    return model_digest(network)


def test_equal_models_have_equal_digests():
    key = model_digest(make_scaled())
    assert model_digest(copy.deepcopy(make_scaled())) == key
    assert model_digest(TorchModel(make_scaled)) == key
    assert model_digest(TorchModel(make_scaled())) == key


def test_whatever_changes_the_activations_changes_the_digest():
    def in_place(network):
        network.convolution.weight.data[0] += 1e-6

    def forward(network):
        network.forward = types.MethodType(adder(1), network)

    changes = [
        lambda network: None,
        in_place,
        forward,
        lambda network: network.offset.add_(1),
        lambda network: setattr(network, "scale", 3),
        lambda network: network.convolution.__setattr__("stride", (2, 2)),
        lambda network: network.double(),
        lambda network: network.add_module("further", nn.ReLU()),
        lambda network: network.register_buffer("other", torch.zeros(1)),
    ]
    assert len({_changed(change) for change in changes}) == len(changes)


def test_a_compiled_model_is_the_model():
    network = make_scaled()
    key = model_digest(network)
    assert model_digest(torch.compile(network)) == key == model_digest(network)


def test_order_of_children_counts():
    def make(*names):
        network = nn.Sequential()
        for name in names:
            network.add_module(name, nn.ReLU() if name == "a" else nn.Tanh())
        return network

    assert model_digest(make("a", "b")) != model_digest(make("b", "a"))


def test_forward_of_a_handle_counts():
    module = make_scaled()
    handles = [TorchModel(module, forward=forward) for forward in (None, adder(1), adder(2))]
    assert len({model_digest(handle) for handle in handles}) == 3
    # Within other values too, where fingerprint() alone would not tell them apart.
    assert len({digest([handle]) for handle in handles}) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.train(),
        lambda network: network.eval(),
        lambda network: network.requires_grad_(False),
        lambda network: network.to(memory_format=torch.channels_last),
        lambda network: network.register_full_backward_hook(lambda *_: None),
        lambda network: network.register_forward_hook(lambda *_: None).remove(),
        lambda network: network(torch.zeros(1, 3, 4, 4)).sum().backward(),
    ],
)
def test_modes_hooks_and_layout_do_not_count(change):
    assert _changed(change) == model_digest(make_scaled())


def _double(module, args, output):
    return output * 2


def _hooked(*hooks, before=(), **options):
    def change(network):
        for hook in hooks:
            network.convolution.register_forward_hook(hook, **options)
        for hook in before:
            network.convolution.register_forward_pre_hook(hook, **options)

    return _changed(change)


def test_forward_hooks_count_in_their_order():
    def by(factor):
        return lambda module, args, output: output * factor

    keys = [
        _hooked(),
        _hooked(by(2)),
        _hooked(by(3)),
        _hooked(by(2), by(3)),
        _hooked(by(3), by(2)),
        _hooked(_double),
        _hooked(functools.partial(by(2), module=None)),
        _hooked(by(2), with_kwargs=True),
        _hooked(by(2), always_call=True),
        _hooked(before=[by(2)]),
        _hooked(before=[by(2)], with_kwargs=True),
        _changed(lambda network: network.register_forward_hook(by(2))),
    ]
    assert len(set(keys)) == len(keys)
    assert _hooked(by(2), by(3)) == keys[3]


def test_a_hook_counts_without_its_handle():
    network = make_scaled()
    network.register_forward_hook(adder(1)).remove()
    network.convolution.register_forward_hook(_double, with_kwargs=True)
    assert model_digest(network) == _hooked(_double, with_kwargs=True)
    assert model_digest(copy.deepcopy(network)) == model_digest(network)


def test_hooks_of_all_modules_count():
    network = make_scaled()
    key = model_digest(network)
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
    ):
        handle = register(_double)
        try:
            assert model_digest(network) != key
        finally:
            handle.remove()
    assert model_digest(network) == key


def test_a_hook_without_content_is_named():
    with pytest.raises(TypeError, match=r"lock can't be told.*memory=False"):
        _hooked(functools.partial(_double, threading.Lock()))


class _Cached(nn.Module):
    @functools.cached_property
    def scale(self):
        return torch.ones(1)

    @functools.cached_property
    def lock(self):
        return threading.Lock()

    def forward(self, x):
        return x * self.scale


def test_what_is_set_over_a_cached_property_counts():
    networks = [_Cached() for _ in range(4)]
    for network, scale in zip(networks[1:], (2.0, 3.0, 2.0), strict=True):
        network.scale = scale
    keys = [model_digest(network) for network in networks]
    assert len(set(keys)) == 3
    assert keys[1] == keys[3]
    networks[0].scale, networks[0].lock
    assert len({*keys, model_digest(networks[0])}) == 4


def test_a_forward_pass_does_not_change_the_digest():
    network = make_small_network()
    key = model_digest(network)
    network(torch.zeros(1, 3, 8, 8))
    assert model_digest(network) == key


def test_hugging_face_processors_count_by_their_settings():
    transformers = pytest.importorskip("transformers")
    processor = transformers.ViTImageProcessor()
    key = digest(processor)
    processor(Image.new("RGB", (20, 10)))
    assert digest(processor) == key == digest(transformers.ViTImageProcessor())
    assert digest(transformers.ViTImageProcessor(image_mean=[0.4, 0.5, 0.5])) != key
