import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lpnsr.runtime import backends
from lpnsr.runtime.backends import BackendError
from lpnsr.runtime.bundle import Bundle, BundleError

from .toy import CHANNELS, DRAWS, SCALE


def inputs(graph):
    height, width = graph.tile
    lr = np.zeros((graph.batch, 3, height, width), np.float32)
    return lr, np.zeros((DRAWS, graph.batch, CHANNELS, height, width), np.float32)


def test_runs_every_graph_of_a_bundle(bundle):
    opened = Bundle.open(bundle)
    backend = backends.create(threads=1)
    for graph in opened.manifest.graphs:
        backend.load(opened, graph)
        sr = backend.run(*inputs(graph))
        assert sr.shape == (graph.batch, 3, SCALE * graph.tile[0], SCALE * graph.tile[1])
        assert sr.dtype == np.float32


def test_describes_itself():
    assert backends.create("onnxruntime").describe().startswith("ONNX Runtime 1")


def test_an_unknown_backend_is_refused():
    with pytest.raises(BackendError, match=r"no backend abacus; choose from auto, onnxruntime"):
        backends.create("abacus")


def test_a_missing_engine_names_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r'pip install "lpnsr\[cpu\]"'):
        backends.create()


def test_a_corrupted_graph_is_refused_quietly(own_bundle, capfd):
    opened = Bundle.open(own_bundle())
    graph = opened.manifest.graphs[0]
    opened.graph_path(graph).write_bytes(b"no protobuf")
    with pytest.raises(BackendError, match=f"cannot load .*{graph.file}"):
        backends.create().load(opened, graph)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "changes", [{"draws": 4}, {"latent_channels": 3}, {"scale": 2}, {"inputs": ("x", "noise")}]
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(own_bundle, changes):
    opened = Bundle.open(own_bundle(**changes))
    with pytest.raises(BundleError, match="manifest"):
        backends.create().load(opened, opened.manifest.graphs[0])


def test_a_failing_run_is_a_backend_error(bundle):
    opened = Bundle.open(bundle)
    backend = backends.create()
    backend.load(opened, opened.manifest.graphs[0])
    lr, noise = inputs(opened.manifest.graphs[0])
    with pytest.raises(BackendError, match="ONNX Runtime fails"):
        backend.run(lr[:, :2], noise)


def test_exhausted_memory_is_a_memory_error(own_bundle):
    """The graph asks for more memory than any machine has."""
    opened = Bundle.open(own_bundle())
    graph = opened.manifest.graphs[0]
    model = onnx.load(opened.graph_path(graph))
    shape = numpy_helper.from_array(np.array([2**31, 2**14], np.int64), "shape")
    model.graph.initializer.append(shape)
    last = model.graph.node[-1]
    last.output[0] = "small"
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["noise"], ["one"], keepdims=0),
            helper.make_node("Expand", ["one", "shape"], ["wide"]),
            helper.make_node("ReduceMax", ["wide"], ["most"], keepdims=0),
            helper.make_node("Add", ["small", "most"], ["sr"]),
        ]
    )
    model.graph.node[-4].output[0] = model.graph.node[-3].input[0] = "mean"
    onnx.save(model, opened.graph_path(graph))
    backend = backends.create()
    backend.load(opened, graph)
    with pytest.raises(MemoryError):
        backend.run(*inputs(graph))
