"""Vectors in compiled loops, against NumPy, and the solver on processors with other registers."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from numba import njit

from sklearn_loce._solvers.compiled import simd as _simd
from sklearn_loce._solvers.compiled.adamw_steps import _exp_minus_abs, _sign
from sklearn_loce._solvers.compiled.simd import (
    LANES,
    aligned_zeros,
    floor,
    fma,
    load,
    magnitude,
    power_of_two,
    root,
    splat,
    store,
    total,
    where_positive,
)


@njit
def _arithmetic(x, y, out):
    a, b = load(x, 0), load(y, 0)
    store(out, 0, a + b)
    store(out, LANES, a - b)
    store(out, 2 * LANES, a * b)
    store(out, 3 * LANES, a / b)
    store(out, 4 * LANES, magnitude(a))
    store(out, 5 * LANES, floor(a))
    store(out, 6 * LANES, root(magnitude(a)))
    store(out, 7 * LANES, where_positive(a, b, splat(x[1])))


def test_operations_are_numpys():
    x, y = np.random.default_rng(0).normal(size=(2, LANES)).astype(np.float32) * 5
    x[0], y[0] = 0, 2
    out = np.empty((8, LANES), dtype=np.float32)
    _arithmetic(x, y, out.ravel())
    expected = [x + y, x - y, x * y, x / y, np.abs(x), np.floor(x), np.sqrt(np.abs(x))]
    np.testing.assert_array_equal(out, [*expected, np.where(x > 0, y, x[1])])


@njit
def _at_an_offset(x, out):
    store(out, 3, load(x, 5))
    return total(load(x, 1))


def test_arrays_are_read_and_written_at_any_index():
    x = np.arange(LANES + 8, dtype=np.float32)
    out = np.zeros(LANES + 8, dtype=np.float32)
    assert _at_an_offset(x, out) == x[1 : LANES + 1].sum()
    np.testing.assert_array_equal(out, [0, 0, 0, *x[5 : LANES + 5], 0, 0, 0, 0, 0])


@njit
def _fused(a, b, c, out):
    store(out, 0, fma(load(a, 0), load(b, 0), load(c, 0)))


def test_fma_rounds_once():
    factor, addend = np.float32(1 + 2.0**-12), -np.float32(1 + 2.0**-11)
    a, b, c = (np.full(LANES, number, np.float32) for number in (factor, factor, addend))
    out = np.empty(LANES, dtype=np.float32)
    _fused(a, b, c, out)
    assert (a * b + c == 0).all()  # two roundings lose it
    assert (out == (np.float32(2.0**-24) if _simd._FUSES else 0)).all()


@njit
def _functions(x, exponents, out):
    store(out, 0, power_of_two(load(exponents, 0)))
    for i in range(0, len(x), LANES):
        store(out, LANES + i, _exp_minus_abs(load(x, i)))
        store(out, LANES + len(x) + i, _sign(load(x, i)))


def test_exponentials_and_signs():
    x = np.linspace(-59, 59, 64 * LANES).astype(np.float32)
    x[:3] = 0, -1e-30, 1e30
    exponents = np.linspace(-126, 127, LANES).round().astype(np.float32)
    out = np.empty(LANES + 2 * len(x), dtype=np.float32)
    _functions(x, exponents, out)
    np.testing.assert_array_equal(out[:LANES], np.exp2(exponents.astype(float)))
    expected = np.exp(-np.minimum(np.abs(x.astype(float)), 60))
    np.testing.assert_allclose(out[LANES : -len(x)], expected, rtol=3e-7)
    np.testing.assert_array_equal(out[-len(x) :], np.sign(x))


@pytest.mark.parametrize("size", [1, 7, 16, 1000])
def test_aligned_arrays(size):
    array = aligned_zeros(size)
    assert (array.shape, array.dtype) == ((size,), np.float32)
    assert not array.any()
    assert array.ctypes.data % 64 == 0


# Compiled for an older processor, the solver has to say the same but for rounding.
_ON_ANOTHER_PROCESSOR = """
import numpy as np, torch
from benchmarks.plain import plain_loces
from sklearn_loce import optimize_loces
from sklearn_loce._solvers.resize import resize_masks
from sklearn_loce._solvers.compiled.simd import LANES

generator = torch.Generator().manual_seed(0)
activations = torch.randn(2, 21, 9, 13, generator=generator)
masks = (torch.rand(2, 9, 13, generator=generator) > 0.5).float()
targets = torch.from_numpy(resize_masks(masks.numpy(), (100, 100))).double()
expected = plain_loces(activations.double(), targets)
difference = (optimize_loces(activations, masks).double() - expected).abs().max()
print(LANES, float(difference))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86 processors")
@pytest.mark.parametrize(
    ("name", "features"), [("haswell", "+avx,+avx2,+fma"), ("sandybridge", "+avx")]
)
def test_solver_on_an_older_processor(name, features):
    old = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    done = subprocess.run(
        [sys.executable, "-c", _ON_ANOTHER_PROCESSOR],
        env=os.environ | old,
        capture_output=True,
        text=True,
        check=True,
    )
    lanes, difference = done.stdout.split()
    assert int(lanes) == 8
    assert float(difference) < 1e-5


@pytest.mark.parametrize(
    ("features", "expected"), [("+avx2,+avx512f", True), ("+avx2", False), ("+avx512fp16", False)]
)
def test_features_are_those_that_numba_compiles_for(monkeypatch, features, expected):
    monkeypatch.setattr(_simd.config, "CPU_FEATURES", features)
    assert _simd._has("avx512f") is expected
