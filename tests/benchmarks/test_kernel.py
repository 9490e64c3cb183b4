"""`python -m lpnsr.benchmarks.kernel`."""

import sys

import pytest

from lpnsr.benchmarks import kernel
from lpnsr.kernels import cuda, library


@pytest.mark.skipif(library.LIBRARY is None, reason="lpnsr was built without a C++ compiler")
def test_numpy_and_the_kernel_on_the_cpu(monkeypatch, capsys):
    def no_gpu():
        raise cuda.KernelError("there is none")

    monkeypatch.setattr(kernel, "SHAPES", [(1, 3, 8, 8), (2, 3, 8, 8)])
    monkeypatch.setattr(kernel.cuda, "device", no_gpu)
    monkeypatch.setattr(sys, "argv", ["kernel", "--rounds", "1"])
    kernel.main()
    *table, told = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[:2] for row in table[2:]] == [
        [f"| {shape}", noise] for shape in ("1x3x8x8", "2x3x8x8") for noise in ("read", "made")
    ]
    assert told == "GPU: there is none"
