"""What can be said of the CUDA face without a GPU."""

import pytest

from lpnsr.kernels import cuda
from lpnsr.kernels.library import installed

NAMES = ["philox4x32_words"] + [
    f"residual_shift_{dtype}{wide}" for dtype in cuda.ITEM_SIZES for wide in ("", "_wide")
]


@pytest.fixture(scope="module", params=cuda.ARCHITECTURES)
def code(request):
    pytest.importorskip("cuda.core", reason="the extra cuda-kernels is not installed")
    return cuda.build(request.param).code


def test_the_source_compiles(code):
    assert code[:4] == b"\x7fELF"
    for name in NAMES:
        assert f".text.{name}\0".encode() in code


def test_the_package_holds_code_for_every_gpu():
    fatbin = installed("residual_shift.fatbin")
    if fatbin is None:
        pytest.skip("lpnsr was built without nvcc")
    assert 10_000 < fatbin.stat().st_size < 1_000_000


def test_a_machine_without_a_gpu_is_told_so():
    pytest.importorskip("cuda.core", reason="the extra cuda-kernels is not installed")
    with pytest.raises(cuda.KernelError, match=r"no NVIDIA GPU 99 can be used: .+") as raised:
        cuda.device(99)
    assert "\n" not in str(raised.value)
