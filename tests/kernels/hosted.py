"""CUDA sources as CPU libraries, whose kernels run one GPU thread after the other."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lpnsr.kernels import cuda

COMPILER = shutil.which("g++")
FLAGS = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"]


def library(name, folder):
    """The source `host/NAME.cpp`, compiled in `folder`."""
    if COMPILER is None or _version() < 12:
        pytest.skip("there is no g++ 12 or later, which knows float16")
    built = folder / f"{name}.so"
    host, sources = Path(__file__).with_name("host"), Path(cuda.__file__).parent
    command = [COMPILER, *FLAGS, f"-I{host}", f"-I{sources}", str(host / f"{name}.cpp")]
    subprocess.run([*command, "-o", str(built)], check=True)
    return ctypes.CDLL(str(built))


def _version():
    command = [COMPILER, "-dumpversion"]
    return int(subprocess.run(command, capture_output=True, text=True).stdout.split(".")[0])


def install(monkeypatch, compiled, queue=lambda stream, work: work()):
    """Let launchers run the kernels of `compiled` on the CPU; `queue` decides when.

    A launch with other arguments than its kernel is declared with fails.
    """
    import cuda.core

    import lpnsr.kernels.picture

    class Kernels:
        def __init__(self, arch, source):
            self.taken = []

        def __getitem__(self, name):
            self.taken.append(name)
            return name

    def launch(stream, config, name, *arguments):
        values = [_value(argument) for argument in arguments]
        given, declared = "".join(value._type_ for value in values), parameters(compiled, name)
        assert given == declared, f"{name} takes {declared}, is launched with {given}"

        def work():
            pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
            grid = (ctypes.c_uint32 * 3)(*config.grid)
            getattr(compiled, f"launch_{name}")(grid, config.block, pointers)

        queue(stream, work)

    for module in (lpnsr.kernels.cuda, lpnsr.kernels.picture):
        monkeypatch.setattr(module, "Kernels", Kernels)
    monkeypatch.setattr(cuda.core, "launch", launch)
    monkeypatch.setattr(cuda.core, "LaunchConfig", SimpleNamespace)


def parameters(compiled, name):
    """The parameters that a kernel is declared with, each as ctypes calls its type."""
    function = getattr(compiled, f"parameters_{name}")
    function.restype = ctypes.c_char_p
    return function().decode()


def _value(argument):
    if isinstance(argument, np.float32):
        return ctypes.c_float(argument)
    if isinstance(argument, np.uint32):
        return ctypes.c_uint32(argument)
    assert isinstance(argument, int)
    return ctypes.c_void_p(argument)
