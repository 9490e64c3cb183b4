"""Our own convolutions in ONNX graphs: which are replaced, and that results stay what they are."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from lpnsr.kernels import operators
from lpnsr.runtime import backends
from lpnsr.runtime.backends import onnxruntime_winograd
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.winograd_graph import with_winograd
from lpnsr.runtime.bundle import BUILTIN, Bundle, shapes
from lpnsr.runtime.onnxfile import DamagedError

from .graphs import built, graph_model, kinds, node, run, tensor
from .toy import CHANNELS, DRAWS, write_staged_bundle

NAME = "onnxruntime-winograd"
CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def model(*nodes, outputs=("y",), side=18, channels=16, batch=1, kernel=3, groups=1, kind="f4"):
    """A graph from `x` and `r`, both (batch, channels, side, side), with weights `w` and `b`."""
    made = np.random.default_rng(0)
    weights = made.standard_normal((channels, channels // groups, kernel, kernel)) / 12
    constants = {"w": weights.astype(kind), "b": made.standard_normal(channels).astype(kind)}
    constants["shift"] = made.standard_normal((1, channels, 1, 1)).astype(kind)
    shape = (batch, channels, side, side)
    names = {name for n in nodes for name in n.output} - set(outputs)
    between, given = (dict.fromkeys(each, shape) for each in (sorted(names), outputs))
    return graph_model(nodes, {"x": shape, "r": shape}, given, between, constants)


ALIKE = {
    "alone": [node("Conv", ["x", "w", "b"], ["y"], **CONV)],
    "by default": [node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])],
    "relu": [node("Conv", ["x", "w", "b"], ["c"], **CONV), node("Relu", ["c"], ["y"])],
    "leaky": [
        node("Conv", ["x", "w", "b"], ["c"], **CONV),
        node("LeakyRelu", ["c"], ["y"], alpha=0.2),
    ],
    "its slope": [node("Conv", ["x", "w", "b"], ["c"], **CONV), node("LeakyRelu", ["c"], ["y"])],
    "sum": [node("Conv", ["x", "w", "b"], ["c"], **CONV), node("Add", ["r", "c"], ["y"])],
    "sum and slope": [
        node("Conv", ["x", "w", "b"], ["c"], **CONV),
        node("Add", ["c", "x"], ["s"]),
        node("LeakyRelu", ["s"], ["y"], alpha=0.5),
    ],
}  # fmt: skip


@built
@pytest.mark.parametrize("name", ALIKE)
def test_what_follows_becomes_part_of_it(name):
    content = model(*ALIKE[name])
    changed = with_winograd(content)
    assert kinds(changed) == [operators.CONV]
    (found,), (expected,) = run(changed), run(content, custom=False)
    np.testing.assert_allclose(found, expected, atol=2e-5)


CONVOLUTION = node("Conv", ["x", "w", "b"], ["c"], **CONV)
SECOND = node("Conv", ["c", "w", "b"], ["d"], **CONV)
# Nodes, outputs, and how many nodes become part of another one.
APART = {
    "both wanted": ([CONVOLUTION, node("Relu", ["c"], ["y"])], ("c", "y"), 0),
    "read twice": (
        [CONVOLUTION, node("Relu", ["c"], ["d"]), node("Add", ["c", "d"], ["y"])], ("y",), 0,
    ),
    "twice itself": ([CONVOLUTION, node("Add", ["c", "c"], ["y"])], ("y",), 0),
    "a constant": ([CONVOLUTION, node("Add", ["c", "shift"], ["y"])], ("y",), 0),
    "made later": (
        [CONVOLUTION, node("Sigmoid", ["r"], ["d"]), node("Add", ["c", "d"], ["y"])], ("y",), 1,
    ),
    "chained": ([CONVOLUTION, SECOND, node("Add", ["d", "c"], ["y"])], ("y",), 1),
}  # fmt: skip


@built
@pytest.mark.parametrize("name", APART)
def test_what_others_read_is_still_made(name):
    nodes, outputs, fused = APART[name]
    content = model(*nodes, outputs=outputs)
    changed = with_winograd(content)
    assert operators.CONV in kinds(changed) and "Conv" not in kinds(changed)
    assert len(kinds(changed)) == len(nodes) - fused
    for found, expected in zip(run(changed), run(content, custom=False), strict=True):
        np.testing.assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize(
    ("attributes", "options"),
    [
        ({**CONV, "strides": [2, 2]}, {}),
        ({**CONV, "dilations": [2, 2]}, {}),
        ({"kernel_shape": [3, 3], "pads": [0, 0, 0, 0]}, {}),
        ({"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}, {}),
        ({**CONV, "group": 2}, {"groups": 2}),
        ({}, {"kernel": 1}),
        (CONV, {"side": 8}),
        (CONV, {"channels": 8}),
        (CONV, {"kind": "f2"}),
    ],
)
def test_other_convolutions_stay(attributes, options):
    content = model(node("Conv", ["x", "w", "b"], ["y"], **attributes), **options)
    assert with_winograd(content) == content


def test_weights_that_are_computed_stay():
    nodes = [node("Abs", ["w"], ["v"]), node("Conv", ["x", "v", "b"], ["y"], **CONV)]
    assert with_winograd(model(*nodes)) == model(*nodes)
    content = model(node("Conv", ["x", "w"], ["y"], **CONV))
    assert with_winograd(content) == content


def test_a_graph_with_graphs_in_it_stays():
    inner = helper.make_graph([node("Identity", ["c"], ["i"])], "inner", [], [tensor("i")])
    condition = node("Constant", [], ["true"], value=numpy_helper.from_array(np.array(True)))
    branch = node("If", ["true"], ["y"], then_branch=inner, else_branch=inner)
    content = model(CONVOLUTION, condition, branch)
    assert with_winograd(content) == content


def test_damage_is_said_or_survived():
    content = bytearray(model(*ALIKE["sum and slope"]))
    made = np.random.default_rng(0)
    for cut in range(0, 700, 3):
        with contextlib.suppress(DamagedError):
            with_winograd(bytes(content[:cut]))
    for _ in range(300):
        flipped = bytearray(content)
        flipped[made.integers(400)] ^= int(made.integers(1, 256))
        with contextlib.suppress(DamagedError):
            with_winograd(bytes(flipped))


@built
@pytest.mark.parametrize(("side", "channels"), [(19, 16), (40, 176)])
def test_threads_and_batch_change_no_bit(side, channels):
    """Small and large layers."""
    content = {
        batch: with_winograd(model(*ALIKE["sum"], side=side, channels=channels, batch=batch))
        for batch in (1, 3)
    }
    made = np.random.default_rng(2)
    x, r = made.standard_normal((2, 3, channels, side, side), np.float32)
    (together,) = run(content[3], x=x, r=r)
    (parallel,) = run(content[3], threads=2, x=x, r=r)
    np.testing.assert_array_equal(parallel, together)
    for number in range(3):
        part = slice(number, number + 1)
        np.testing.assert_array_equal(run(content[1], x=x[part], r=r[part])[0], together[part])


def sample(bundle, graph):
    made, promised = np.random.default_rng(0), shapes(bundle.manifest, graph)
    lr, noise = (promised[name] for name in bundle.manifest.inputs)
    return made.uniform(-1, 1, lr).astype(np.float32), made.standard_normal(noise, np.float32)


@built
def test_the_built_in_model_keeps_its_picture():
    bundle = Bundle.open(BUILTIN)
    graph = bundle.manifest.graphs[0]
    assert kinds(with_winograd(bundle.graph_path(graph).read_bytes())).count(operators.CONV) > 20
    lr, noise = sample(bundle, graph)
    plain, ours = (
        backends.create(name)[0].load(bundle, graph).run(lr, noise)
        for name in ("onnxruntime", NAME)
    )
    error = np.abs(plain - ours).max()
    assert 0 < error < 2e-5, "the same arithmetic, or another picture"


@built
def test_a_staged_bundle_runs_quietly(tmp_path, capfd):
    bundle = Bundle.open(write_staged_bundle(tmp_path / "staged"))
    (graph,) = bundle.manifest.graphs
    batch, (height, width) = graph.batch, graph.tile
    lr = np.zeros((batch, 3, height, width), np.float32)
    noise = np.ones((DRAWS + 1, batch, CHANNELS, height, width), np.float32)
    plain, ours = (
        backends.create(name)[0].load(bundle, graph).run(lr, noise)
        for name in ("onnxruntime", NAME)
    )
    np.testing.assert_allclose(plain, ours, atol=1e-5)
    assert capfd.readouterr() == ("", "")


@built
def test_auto_takes_it_and_says_so():
    for accurate in ("fp32",), ("fp32", "bf16"):
        engine, why = backends.create(accurate=accurate)
        assert engine.describe().endswith("on the CPU in fp32 with Winograd convolutions")
        assert why.startswith("the fastest here in fp32; ")


def test_without_the_library_there_is_still_onnx_runtime(monkeypatch):
    monkeypatch.setattr(onnxruntime_winograd, "library", lambda: None)
    assert not onnxruntime_winograd.is_installed()
    with pytest.raises(BackendError, match="without its compiled convolutions; use --backend onnx"):
        backends.create(NAME)
    engine, _ = backends.create()
    assert engine.describe().endswith("on the CPU in fp32")


def test_a_library_that_is_no_library_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "liboperators.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime_winograd, "library", lambda: Path(tmp_path / "liboperators.so"))
    bundle = Bundle.open(BUILTIN)
    with pytest.raises(BackendError, match="ONNX Runtime cannot load"):
        backends.create(NAME)[0].load(bundle, bundle.manifest.graphs[0])
