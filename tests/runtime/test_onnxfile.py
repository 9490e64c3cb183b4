import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import MANIFEST, BundleError, Manifest
from lpnsr.runtime.onnxfile import DamagedError, references

from .toy import digest


def external(name, location):
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return tensor


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])


def everywhere():
    """A model that refers to a file at every place where ONNX allows it."""
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=external("c", "in-attribute"))],
        "inner",
        [],
        [value("c")],
        [external("d", "in-subgraph")],
    )
    sparse = onnx.SparseTensorProto(
        values=external("s", "in-sparse"), indices=external("i", "in-indices"), dims=[4]
    )
    nodes = [
        helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["z"], sparse_value=sparse),
        helper.make_node("Many", [], [], "n", domain="d", many=[external("m", "in-list")]),
    ]
    graph = helper.make_graph(nodes, "outer", [], [value("y")], [external("w", "sub/in-graph")])
    function = helper.make_function(
        "d", "F", [], ["o"],
        [helper.make_node("Constant", [], ["o"], value=external("f", "in-function"))],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    return helper.make_model(graph, functions=[function])


def test_finds_references_everywhere(tmp_path):
    (tmp_path / "a.onnx").write_bytes(everywhere().SerializeToString())
    assert references(tmp_path / "a.onnx") == {
        "in-attribute",
        "in-subgraph",
        "in-sparse",
        "in-indices",
        "in-list",
        "in-function",
        "sub/in-graph",
    }


def test_a_graph_of_its_own_has_none(bundle):
    for path in bundle.glob("*.onnx"):
        assert references(path) == set()


def test_damage_is_said_or_survived(tmp_path):
    content, path = everywhere().SerializeToString(), tmp_path / "a.onnx"
    rng = np.random.default_rng(0)
    for cut in range(0, len(content), 7):
        path.write_bytes(content[:cut])
        with contextlib.suppress(DamagedError):
            assert isinstance(references(path), set)
    for _ in range(200):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        with contextlib.suppress(DamagedError):
            assert isinstance(references(path), set)


def with_weights(path, location):
    """Point one graph of a bundle to a file of weights, with hashes that match."""
    manifest = Manifest.from_json((path / MANIFEST).read_text())
    file = path / manifest.graphs[0].file
    model = onnx.load(file)
    model.graph.initializer.append(external("extra", location))
    file.write_bytes(model.SerializeToString())
    fields = {**vars(manifest), "files": {**manifest.files, file.name: digest(file)}}
    if (path / "weights").exists():
        fields["files"]["weights"] = digest(path / "weights")
    (path / MANIFEST).write_text(Manifest(**fields).to_json())


def test_weights_of_the_bundle_are_read(own_bundle):
    path = own_bundle()
    (path / "weights").write_bytes(bytes(16))
    with_weights(path, "weights")
    assert "weights" in Bundle.open(path).manifest.files


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "unlisted", "", "a/../../b"])
def test_weights_elsewhere_are_refused(own_bundle, location):
    path = own_bundle()
    with_weights(path, location)
    with pytest.raises(BundleError, match="does not list"):
        Bundle.open(path)
