"""Engines against their graphs, on a simulated GPU whose engines ONNX Runtime computes."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from runtime.toy import write_bundle, write_staged_bundle

from kernels import hosted
from lpnsr.export.check.verify import ParityError
from lpnsr.export.engines import building, command, store
from lpnsr.export.engines.compare import check_engines
from lpnsr.runtime.backends.tensorrt import TensorRt
from lpnsr.runtime.bundle import Bundle, sha256
from lpnsr.runtime.manifest import MANIFEST, Manifest
from runtime import simulated

trt = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
NAME = "tensorrt-rtx"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return hosted.library("picture", tmp_path_factory.mktemp("host"))


@pytest.fixture(params=["unrolled", "staged"])
def bundle(request, monkeypatch, tmp_path, pictures):
    """A bundle with "engines" that are copies of its graphs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    simulated.install(monkeypatch, simulated.Gpu(seed=0), pictures)
    if request.param == "staged":
        folder = write_staged_bundle(tmp_path / "own")
    else:
        folder = write_bundle(tmp_path / "own", fragile=False, tiles=[(32, 32)], batches=[2])
    opened = Bundle.open(simulated.with_engines(folder, NAME, trt.__version__))
    (graph,) = opened.manifest.graphs
    graph = dataclasses.replace(graph, parity={"fp32": {"sr_psnr": 120.0}})
    manifest = dataclasses.replace(opened.manifest, graphs=(graph,))
    (folder / MANIFEST).write_text(manifest.to_json())
    return Bundle.open(folder)


def spoil(bundle, factor):
    """Let the last engine compute something else: its output times `factor`."""
    engine = bundle.manifest.engines[-1]
    file = bundle.path / engine.file
    model = onnx.load(file)
    last = model.graph.node[-1]
    name, last.output[0] = last.output[0], "right"
    model.graph.initializer.append(numpy_helper.from_array(factor, "factor"))
    model.graph.node.append(helper.make_node("Mul", ["right", "factor"], [name]))
    onnx.save(model, file)
    wrong = dataclasses.replace(engine, sha256=sha256(file))
    return store.write_engines(bundle, (*bundle.manifest.engines[:-1], wrong))


def test_engines_that_compute_their_graphs_are_accepted(bundle):
    figures = check_engines(bundle, bundle.manifest.graphs[0], TensorRt(NAME))
    assert figures["psnr"] >= 100 and figures["worst"] < 1e-5


def test_an_engine_that_computes_something_else_is_taken_out(bundle, capsys):
    wrong = spoil(bundle, np.array(1.01, np.float32))
    wanted = building.Order(NAME, ("sm_89",))
    with pytest.raises(ParityError, match=r"dB from their graph, less than 60\.0 dB"):
        command.build(wrong, wanted)
    opened = Bundle.open(bundle.path)
    assert opened.manifest.engines == ()
    assert not list(opened.path.glob("*.engine"))


def test_good_engines_are_kept_and_the_figures_told(bundle, capsys):
    command.build(bundle, building.Order(NAME, ("sm_89",)))
    told = f"    TensorRT-RTX {trt.__version__} on Simulated GPU against ONNX Runtime: "
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(told) and " dB on equal inputs, " in last
    assert len(Bundle.open(bundle.path).manifest.engines) == len(bundle.manifest.graphs[0].files)


def test_engines_are_verified_again(bundle, capsys):
    command.verify(bundle)
    assert "on Simulated GPU against ONNX Runtime: " in capsys.readouterr().out
    with pytest.raises(ParityError, match="dB from their graph"):
        command.verify(spoil(bundle, np.array(1.01, np.float32)))


def test_engines_for_another_gpu_are_not_compared_and_it_is_said(bundle, capsys):
    other = [dataclasses.replace(e, gpus=("sm_120",)) for e in bundle.manifest.engines]
    command.verify(store.write_engines(bundle, other))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"  engines of {NAME} are not compared: the {NAME} engine is for sm_120")


def test_engines_of_what_no_gpu_runs_yet_are_kept_and_not_compared(bundle, monkeypatch, capsys):
    monkeypatch.setattr(Manifest, "looks_ahead", True)
    command.build(bundle, building.Order(NAME, ("sm_89",)))
    command.verify(bundle)
    *_, built, verified = capsys.readouterr().out.splitlines()
    assert built.startswith("    not compared: TensorRT-RTX does not run models yet that look at")
    assert verified.startswith(f"  engines of {NAME} are not compared: TensorRT-RTX does not run")
    assert Bundle.open(bundle.path).manifest.engines
