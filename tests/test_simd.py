"""Vectors in compiled loops compared with NumPy, and the solver with other registers.

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
    fma,
    load,
    power_of_two,
    store,
)


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


def test_exponentials_and_signs_equal_those_of_numpy():
    x = np.linspace(-59, 59, 64 * LANES).astype(np.float32)
    x[:3] = 0, -1e-30, 1e30
    exponents = np.linspace(-126, 127, LANES).round().astype(np.float32)
    powers, exponentials, signs = (np.empty_like(like) for like in (exponents, x, x))
    _functions(x, exponents, powers, exponentials, signs)
    np.testing.assert_array_equal(powers, np.exp2(exponents.astype(float)))
    expected = np.exp(-np.minimum(np.abs(x.astype(float)), 60))
    np.testing.assert_allclose(exponentials, expected, rtol=3e-7)
    np.testing.assert_array_equal(signs, np.sign(x))


# Compiled for an older processor, the solver must return the same except for rounding.
_ON_ANOTHER_PROCESSOR = """
import numpy as np, torch
from benchmarks.plain import plain_loces
from sklearn_loce import optimize_loces
from sklearn_loce._solvers.compiled.simd import LANES

generator = torch.Generator().manual_seed(0)
activations = torch.randn(2, 21, 9, 13, generator=generator)
masks = (torch.rand(2, 100, 100, generator=generator) > 0.5).float()
expected = plain_loces(activations.double(), masks.double())
found = optimize_loces(activations, masks, objective="net2vec").double()
difference = (found - expected).abs().max()
# The rows of one image are solved in pairs.
image = activations[:1].expand(3, -1, -1, -1), masks[[0, 1, 0]]
for objective in ("net2vec", "logistic"):
    together = optimize_loces(*image, objective=objective)
    alone = [optimize_loces(activations[:1], mask[None], objective=objective) for mask in image[1]]
    assert torch.equal(together, torch.cat(alone))
print(LANES, float(difference))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86 processors")
@pytest.mark.parametrize(
    ("name", "features"), [("haswell", "+avx,+avx2,+fma"), ("sandybridge", "+avx")]
)
def test_the_solver_runs_on_an_older_processor(name, features):
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
def test_features_equal_those_that_numba_compiles_for(monkeypatch, features, expected):
    monkeypatch.setattr(_simd.config, "CPU_FEATURES", features)
    assert _simd._has("avx512f") is expected
