"""Vectors in compiled loops, against NumPy, and the solver on processors with other registers.

No public function shows one operation, so that these are tested by their private names.
"""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from numba import njit

from sklearn_loce._solvers.compiled import simd as _simd
from sklearn_loce._solvers.compiled.kernels import exp_minus_abs, sign
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
    a, b = load(x, (0,)), load(y, (0,))
    store(out, (0, 0), a + b)
    store(out, (1, 0), a - b)
    store(out, (2, 0), a * b)
    store(out, (3, 0), a / b)
    store(out, (4, 0), magnitude(a))
    store(out, (5, 0), floor(a))
    store(out, (6, 0), root(magnitude(a)))
    store(out, (7, 0), where_positive(a, b, splat(x[1])))


def test_operations_are_numpys():
    x, y = np.random.default_rng(0).normal(size=(2, LANES)).astype(np.float32) * 5
    x[0], y[0] = 0, 2
    out = np.empty((8, LANES), dtype=np.float32)
    _arithmetic(x, y, out)
    expected = [x + y, x - y, x * y, x / y, np.abs(x), np.floor(x), np.sqrt(np.abs(x))]
    np.testing.assert_array_equal(out, [*expected, np.where(x > 0, y, x[1])])


@njit
def _at_an_offset(x, out):
    store(out, (0, 1, 3), load(x, (1, 5)))
    return total(load(x, (0, 1)))


def test_arrays_of_any_number_of_axes_are_read_and_written_at_any_index():
    x = np.arange(2 * (LANES + 8), dtype=np.float32).reshape(2, -1)
    out = np.zeros((1, 2, LANES + 8), dtype=np.float32)
    assert _at_an_offset(x, out) == x[0, 1 : LANES + 1].sum()
    assert not out[0, 0].any()
    np.testing.assert_array_equal(out[0, 1], [0, 0, 0, *x[1, 5 : LANES + 5], 0, 0, 0, 0, 0])


@njit
def _fused(a, b, c, out):
    store(out, (0,), fma(load(a, (0,)), load(b, (0,)), load(c, (0,))))


def test_fma_rounds_once():
    factor, addend = np.float32(1 + 2.0**-12), -np.float32(1 + 2.0**-11)
    a, b, c = (np.full(LANES, number, np.float32) for number in (factor, factor, addend))
    out = np.empty(LANES, dtype=np.float32)
    _fused(a, b, c, out)
    assert (a * b + c == 0).all()  # two roundings lose it
    assert (out == (np.float32(2.0**-24) if _simd._FUSES else 0)).all()


@njit
def _functions(x, exponents, powers, exponentials, signs):
    store(powers, (0,), power_of_two(load(exponents, (0,))))
    for i in range(0, len(x), LANES):
        store(exponentials, (i,), exp_minus_abs(load(x, (i,))))
        store(signs, (i,), sign(load(x, (i,))))


def test_exponentials_and_signs():
    x = np.linspace(-59, 59, 64 * LANES).astype(np.float32)
    x[:3] = 0, -1e-30, 1e30
    exponents = np.linspace(-126, 127, LANES).round().astype(np.float32)
    powers, exponentials, signs = (np.empty_like(like) for like in (exponents, x, x))
    _functions(x, exponents, powers, exponentials, signs)
    np.testing.assert_array_equal(powers, np.exp2(exponents.astype(float)))
    expected = np.exp(-np.minimum(np.abs(x.astype(float)), 60))
    np.testing.assert_allclose(exponentials, expected, rtol=3e-7)
    np.testing.assert_array_equal(signs, np.sign(x))


@pytest.mark.parametrize("shape", [(1,), (7, 3), (16,), (2, 5, 100)])
def test_aligned_arrays(shape):
    array = aligned_zeros(shape)
    assert (array.shape, array.dtype) == (shape, np.float32)
    assert not array.any()
    assert array.ctypes.data % 64 == 0


# Compiled for an older processor, the solver has to say the same but for rounding.
_ON_ANOTHER_PROCESSOR = """
import numpy as np, torch
from benchmarks.plain import plain_loces
from sklearn_loce import optimize_loces
from sklearn_loce._solvers.compiled.simd import LANES

generator = torch.Generator().manual_seed(0)
activations = torch.randn(2, 21, 9, 13, generator=generator)
masks = (torch.rand(2, 100, 100, generator=generator) > 0.5).float()
expected = plain_loces(activations.double(), masks.double())
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
