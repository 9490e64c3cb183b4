"""The CUDA source and its launcher, with the GPU's threads run one after the other on the CPU."""

from types import SimpleNamespace

import numpy as np
import pytest

from lpnsr import kernels
from lpnsr.kernels import Step, cuda

from . import hosted
from .types import TOLERANCES, narrowed, rounded, widened

STEP = Step(state=0.9, prediction=0.15, start=-0.05, noise=0.7, next_scale=0.3)
SHAPES = [(1, 3, 16, 24), (2, 5, 5, 7), (2, 4, 3, 1032), (1, 6, 33, 8)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The CUDA source as a CPU library."""
    return hosted.library("kernel", tmp_path_factory.mktemp("host"))


@pytest.fixture
def run(compiled, monkeypatch):
    """`run(dtype, shape, tensors)`: the new state, the scaled one, and the kernel's name."""
    pytest.importorskip("cuda.core", reason="the extra cuda-kernels is not installed")
    hosted.install(monkeypatch, compiled)
    kernel = cuda.ResidualShift(SimpleNamespace(arch="89"))

    def step(dtype, shape, tensors, origins=None, shift=0):
        held = {name: aligned(narrowed(tensor, dtype), shift) for name, tensor in tensors.items()}
        outputs = [aligned(np.zeros_like(held["x"]), shift) for _ in range(2)]
        kernel.launch(
            None,
            STEP,
            dtype,
            shape,
            **{name: array.ctypes.data for name, array in held.items()},
            out=outputs[0].ctypes.data,
            scaled=outputs[1].ctypes.data,
            draw=2,
            origins=0 if origins is None else origins.ctypes.data,
        )
        return *(widened(array, dtype) for array in outputs), kernel.kernels.taken[-1]

    return step


def aligned(array, shift):
    """A copy whose address is `shift` items past a multiple of 16 bytes."""
    room = np.empty(array.size + 16, array.dtype)
    first = -room.ctypes.data % 16 // room.itemsize + shift
    copy = room[first : first + array.size].reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", cuda.ITEM_SIZES)
@pytest.mark.parametrize("shift", [0, 1])
def test_noise_is_read(run, tensors, expected, dtype, shape, shift):
    every = rounded(tensors(shape), dtype)
    *found, name = run(dtype, shape, every, shift=shift)
    assert name.endswith("_wide") == (shift == 0 and shape[3] % 8 == 0)
    for ours, theirs in zip(found, expected(STEP, every), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", cuda.ITEM_SIZES)
def test_noise_is_made(run, tensors, dtype, shape):
    every = rounded(tensors(shape), dtype)
    del every["eps"], every["y"]
    origins = kernels.origins(2**40 + 7, [(40 * item, 2**20) for item in range(shape[0])])
    expected = kernels.residual_shift(STEP, **every, draw=2, origins=origins)
    *found, _ = run(dtype, shape, every, origins=origins)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
