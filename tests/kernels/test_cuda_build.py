"""What can be said of the CUDA face without a GPU."""

import pytest
from selection import slow_but

from lpnsr.kernels import cuda
from lpnsr.kernels.library import installed

INTEGERS = ("uint8", "uint16")
NAMES = {
    "residual_shift": ["philox4x32_words"]
    + [f"residual_shift_{dtype}{wide}" for dtype in cuda.ITEM_SIZES for wide in ("", "_wide")],
    "picture": ["picture_clear", "picture_blend", "picture_blur"]
    + [f"picture_{name}_{dtype}" for name in ("cut", "difference") for dtype in INTEGERS]
    + [f"picture_finish_{dtype}" for dtype in (*INTEGERS, "float32")],
}


@pytest.mark.parametrize("arch", slow_but(["89"], cuda.ARCHITECTURES))
@pytest.mark.parametrize("source", NAMES)
def test_the_sources_compile(source, arch):
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="needs the extra cuda-kernels")
    try:
        pathfinder.load_nvidia_dynamic_lib("nvrtc")
    except pathfinder.DynamicLibNotFoundError:
        pytest.skip("NVRTC is not installed")
    code = cuda.build(arch, source).code
    assert code[:4] == b"\x7fELF"
    for name in NAMES[source]:
        assert f".text.{name}\0".encode() in code


def test_a_missing_compiler_is_told_in_one_line(monkeypatch):
    core = pytest.importorskip("cuda.core", reason="needs the extra cuda-kernels")
    pathfinder = pytest.importorskip("cuda.pathfinder")

    def program(*_):
        raise pathfinder.DynamicLibNotFoundError("No such file: libnvrtc.so.13\nand more")

    monkeypatch.setattr(core, "Program", program)
    with pytest.raises(cuda.KernelError, match=r"NVRTC is missing; run: pip install .*") as error:
        cuda.build("89")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", NAMES)
def test_the_package_holds_code_for_every_gpu(source):
    fatbin = installed(f"{source}.fatbin")
    if fatbin is None:
        pytest.skip("lpnsr was built without nvcc")
    assert 10_000 < fatbin.stat().st_size < 1_000_000


def test_a_machine_without_a_gpu_is_told_so():
    pytest.importorskip("cuda.core", reason="the extra cuda-kernels is not installed")
    with pytest.raises(cuda.KernelError, match=r"no NVIDIA GPU 99 can be used: .+") as raised:
        cuda.device(99)
    assert "\n" not in str(raised.value)
