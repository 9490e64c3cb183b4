"""What Python launches kernels with, against what their CUDA sources declare."""

from types import SimpleNamespace

import numpy as np
import pytest

from lpnsr.kernels import Step, cuda, picture

from . import hosted
from .test_cuda_build import NAMES

pytest.importorskip("cuda.core", reason="the extra cuda-kernels is not installed")

SOURCES = {"residual_shift": "kernel", "picture": "picture"}
VALUES = {"f": np.float32(1), "I": np.uint32(1), "P": 256}
GPU = SimpleNamespace(arch="89")


@pytest.fixture(scope="module", params=SOURCES)
def source(request):
    return request.param


@pytest.fixture(scope="module")
def compiled(source, tmp_path_factory):
    return hosted.library(SOURCES[source], tmp_path_factory.mktemp("host"))


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch, compiled):
    hosted.install(monkeypatch, compiled, lambda stream, work: None)


def launch_residual_shift():
    kernels = cuda.ResidualShift(GPU)
    for dtype in cuda.ITEM_SIZES:
        for width in (8, 7):
            kernels.launch(None, Step(1, 0), dtype, (1, 3, 8, width), out=256)
    return kernels.kernels.taken


def launch_picture():
    kernels, sheet = picture.PictureKernels(GPU), picture.Sheet(256, 8, 8, 8)
    kernels.clear(None, sheet, 0, 8)
    kernels.blend(None, sheet, 256, (8, 8), 0, (256, 256), (0, 0), 256)
    kernels.blur(None, 256, (8, 8), 1, 256)
    for dtype in (np.dtype(np.uint8), np.dtype(np.uint16)):
        small = picture.Small(256, 2, 2, dtype)
        kernels.cut(None, small, 256, (1, 3, 2, 2), 256)
        kernels.difference(None, small, sheet, (0, 8), 0.125, 256)
        kernels.finish(None, sheet, (0, 8), 256, dtype, 256)
    kernels.finish(None, sheet, (0, 8), 0, np.dtype(np.float32), 256)
    return kernels.kernels.taken


LAUNCHES = {"residual_shift": launch_residual_shift, "picture": launch_picture}


def test_every_kernel_is_launched_with_what_it_is_declared_with(source):
    only_tests_launch = {"philox4x32_words"}
    assert set(LAUNCHES[source]()) == set(NAMES[source]) - only_tests_launch


def test_an_argument_too_few_too_many_or_of_another_kind_is_noticed(source, compiled):
    from cuda.core import launch

    for name in NAMES[source]:
        right = [VALUES[kind] for kind in hosted.parameters(compiled, name)]
        launch(None, None, name, *right)
        for index, value in enumerate(right):
            other = VALUES["P" if isinstance(value, np.float32) else "f"]
            before, after = right[:index], right[index + 1 :]
            for wrong in ([], [value, value], [other]):
                with pytest.raises(AssertionError, match=f"{name} takes .* is launched with"):
                    launch(None, None, name, *before, *wrong, *after)
