"""The CUDA face: `residual_shift.cu`, and what all CUDA sources are loaded with.

Where nvcc was there at installation, the package holds machine code for all GPUs, one file for each
source. Elsewhere NVRTC compiles the source for the GPU that is there, in about a second.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lpnsr.kernels.library import installed

if TYPE_CHECKING:
    from cuda.core import Device, Kernel, ObjectCode, Stream
    from cuda.core.graph import GraphBuilder

    from lpnsr.kernels.recurrence import Step

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
"""Compute capabilities, without the dot, that the kernel is built for."""

ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Types that the state can have, with their size in bytes."""

_INSTALL = "run: pip install 'lpnsr[cuda-kernels]'"

_ACCESS = 16
_THREADS = 128


class KernelError(RuntimeError):
    """The kernel cannot be used on this machine."""


def device(index: int = 0) -> Device:
    """A GPU, made the current one of this thread.

    Raises:
        KernelError: `cuda.core` is not installed, or there is no GPU or no driver.
    """
    try:
        from cuda.core import Device
    except ImportError as error:
        raise KernelError(f"cuda.core is missing; {_INSTALL}") from error
    # Without a driver this is the only call that fails cleanly; others fail or hang later.
    try:
        found = Device(index)
        found.set_current()
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise KernelError(f"no NVIDIA GPU {index} can be used: {reason}") from error
    return found


def build(arch: str, name: str = "residual_shift") -> ObjectCode:
    """Compile a source of this folder for one of `ARCHITECTURES`; needs NVRTC, but no GPU.

    Raises:
        KernelError: CUDA's headers or its compiler are missing.
    """
    from cuda.core import Program, ProgramOptions
    from cuda.pathfinder import DynamicLibNotFoundError, find_nvidia_header_directory

    # Not the headers that newer versions of NVRTC bring along: PyTorch pins older ones.
    headers = find_nvidia_header_directory("cudart")
    if headers is None:
        raise KernelError(f"CUDA's headers are missing; {_INSTALL}")
    source = Path(__file__).with_name(f"{name}.cu")
    options = ProgramOptions(
        name=source.name,
        arch=f"sm_{arch}",
        std="c++17",
        fma=False,  # sums as on a CPU
        include_path=[str(source.parent), headers],
    )
    try:
        return Program(source.read_text(encoding="utf-8"), "c++", options).compile("cubin")
    except DynamicLibNotFoundError as error:
        raise KernelError(f"CUDA's compiler NVRTC is missing; {_INSTALL}") from error


class Kernels:
    """The kernels of one source, loaded from the package or else compiled.

    Args:
        arch: the GPU's compute capability, without the dot.
        name: of the source, without its suffix.
    """

    def __init__(self, arch: str, name: str) -> None:
        self._code = _code(arch, name)
        self._kernels: dict[str, Kernel] = {}

    def __getitem__(self, name: str) -> Kernel:
        if name not in self._kernels:
            self._kernels[name] = self._code.get_kernel(name)
        return self._kernels[name]


@functools.cache
def _code(arch: str, name: str) -> ObjectCode:
    from cuda.core import ObjectCode

    fatbin = installed(f"{name}.fatbin")
    return ObjectCode.from_fatbin(fatbin.read_bytes()) if fatbin else build(arch, name)


class ResidualShift:
    """The fused reverse step on one GPU.

    Args:
        device: the GPU, as `device` returns it.
    """

    def __init__(self, device: Device) -> None:
        self.kernels = Kernels(device.arch, "residual_shift")

    def launch(
        self,
        stream: Stream | GraphBuilder,
        step: Step,
        dtype: str,
        shape: tuple[int, int, int, int],
        *,
        out: int,
        scaled: int = 0,
        x: int = 0,
        x0: int = 0,
        y: int = 0,
        mean: int = 0,
        logvar: int = 0,
        weight: int = 0,
        eps: int = 0,
        draw: int = 0,
        origins: int = 0,
    ) -> None:
        """Queue one step; arguments are those of `lpnsr.kernels.residual_shift`.

        Tensors are device addresses, 0 where left out. The GPU reads `origins` when the step runs,
        so a captured graph can be replayed for another place, picture and seed.

        Args:
            stream: where to queue it, or a graph under capture.
            step: the factors. Those of tensors that are left out should be 0.
            dtype: one of `ITEM_SIZES`, the type of all tensors; sums are in float32.
            shape: (B, C, h, w) of all tensors, contiguous.
            out: receives the new state; may be equal to `x`.
            scaled: receives the same times the next scale, if asked for.
            x: state.
            x0: the denoiser's prediction.
            y: where the chain started.
            mean: mean of the noise.
            logvar: its log-variance.
            weight: the noise's weight.
            eps: standard normal noise; not read if there are `origins`.
            draw: which of the picture's noise draws to make.
            origins: uint32 (B, 4), as `lpnsr.kernels.origins` returns it.
        """
        from cuda.core import LaunchConfig, launch

        batch, channels, height, width = shape
        tensors = (x, x0, y, mean, logvar, weight, eps, out, scaled)
        columns = _ACCESS // ITEM_SIZES[dtype]
        wide = width % columns == 0 and all(address % _ACCESS == 0 for address in tensors)
        values = _THREADS * (columns if wide else 1)
        config = LaunchConfig(
            grid=(-(-height * width // values), -(-channels // 4), batch), block=_THREADS
        )
        factors = (step.state, step.prediction, step.start, step.noise, step.next_scale)
        sizes = (draw, channels, height, width)
        launch(
            stream,
            config,
            self.kernels[f"residual_shift_{dtype}{'_wide' if wide else ''}"],
            *map(np.float32, factors),
            *map(np.uint32, sizes),
            origins,
            *tensors,
        )
