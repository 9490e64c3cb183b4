"""`python -m lpnsr.benchmarks.convolutions`."""

import sys

import pytest

from lpnsr.benchmarks import convolutions
from lpnsr.kernels import operators


@pytest.mark.skipif(operators.library() is None, reason="built without vector types")
def test_both_give_the_same(monkeypatch, capsys):
    monkeypatch.setattr(convolutions, "LAYERS", [(16, 16), (32, 20)])
    monkeypatch.setattr(sys, "argv", ["convolutions", "--rounds", "1"])
    convolutions.main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:2] for row in cells] == [["16", "16"], ["32", "20"]]
    assert all(0 < float(row[-1]) < 1e-5 for row in cells), "the same method, or another result"
