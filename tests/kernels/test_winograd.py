"""The convolution on every width of vectors, against PyTorch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lpnsr.export.graph.passes.upsample_phases import phase_kernels
from lpnsr.kernels import operators

pytestmark = pytest.mark.skipif(operators.library() is None, reason="built without vector types")
# (in channels, out channels, height, width): whole tiles, parts of tiles, less than one tile, more
# tiles than a panel has, more channels than a group has, and enough of them for several panels.
SHAPES = [
    (1, 1, 1, 1),
    (3, 5, 7, 9),
    (4, 9, 2, 3),
    (16, 8, 16, 64),
    (8, 70, 13, 31),
    (5, 12, 5, 142),
    (7, 3, 33, 4),
    (32, 130, 24, 24),
    (200, 196, 30, 26),
]


def case(shape, seed=0):
    made, (channels, out, height, width) = np.random.default_rng(seed), shape
    x, weights, bias, residual = (
        made.standard_normal(size, np.float32)
        for size in ((channels, height, width), (out, channels, 3, 3), out, (out, height, width))
    )
    return x, weights / np.float32(3 * channels**0.5), bias, residual


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("has_residual", "slope"), [(False, 1.0), (True, 0.2), (True, 1.0)])
def test_is_a_convolution(lanes, shape, has_residual, slope):
    if not operators.has_lanes(lanes):
        pytest.skip(f"no vectors of {lanes} floats here")
    x, weights, bias, residual = case(shape)
    added = residual if has_residual else None
    found = operators.convolve(x, weights, bias, added, slope, lanes)
    exact = torch.conv2d(*(torch.from_numpy(a).double() for a in (x, weights, bias)), padding=1)
    exact = exact + torch.from_numpy(residual) if has_residual else exact
    exact = torch.nn.functional.leaky_relu(exact, slope).numpy()
    assert np.linalg.norm(found - exact) < 2e-6 * np.linalg.norm(exact)
    assert np.abs(found - exact).max() < 4e-5


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("slope", [1.0, 0.2])
def test_is_a_convolution_behind_an_upsampling(lanes, shape, slope):
    if not operators.has_lanes(lanes):
        pytest.skip(f"no vectors of {lanes} floats here")
    x, weights, bias, _ = case(shape)
    phases = np.stack([kernel for kernel, _ in phase_kernels(weights)])
    found = operators.convolve(x, phases, bias, slope=slope, lanes=lanes)
    doubled = torch.from_numpy(x).double().repeat_interleave(2, 1).repeat_interleave(2, 2)
    exact = F.conv2d(doubled, *(torch.from_numpy(a).double() for a in (weights, bias)), padding=1)
    exact = F.leaky_relu(exact, slope).numpy()
    assert np.linalg.norm(found - exact) < 2e-6 * np.linalg.norm(exact)
    assert np.abs(found - exact).max() < 4e-5
    divided = operators.convolve(x, phases, bias, slope=slope, lanes=lanes, threads=3)
    assert np.array_equal(divided, found)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threads", [2, 3, 64])
def test_division_changes_no_bit(shape, threads):
    x, weights, bias, residual = case(shape)
    alone = operators.convolve(x, weights, bias, residual, 0.1)
    assert np.array_equal(
        operators.convolve(x, weights, bias, residual, 0.1, threads=threads), alone
    )


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_values_that_are_not_finite_stay_near(lanes):
    if not operators.has_lanes(lanes):
        pytest.skip(f"no vectors of {lanes} floats here")
    x, weights, bias, _ = case((4, 4, 20, 20))
    x[1, 5, 9] = np.inf
    found = operators.convolve(x, weights, bias, lanes=lanes)
    assert not np.isfinite(found[:, 4:7, 8:11]).any()
    clean = found[:, 12:, :]
    assert np.isfinite(clean).all()


def test_unknown_width_is_refused():
    x, weights, bias, _ = case((1, 1, 4, 4))
    with pytest.raises(ValueError, match="no vectors of 5 floats"):
        operators.convolve(x, weights, bias, lanes=5)
