"""Narrow weights, float32 islands, ranges, and a check that computes as narrowly as an engine."""

import collections
import copy

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from selection import slow_but
from torch._subclasses.fake_tensor import FakeTensor

from lpnsr.export import pack
from lpnsr.export.check import calls, parity, ranges
from lpnsr.export.check.emulate import emulate, emulate_bf16
from lpnsr.export.check.run_onnx import computes_bf16, run_onnxruntime
from lpnsr.export.check.verify import ParityError, check_narrow, random_input
from lpnsr.export.graph import trace
from lpnsr.export.graph.precision import DTYPES, MixedPrecision, assign
from lpnsr.models.presets import Tolerance, get_preset
from lpnsr.runtime import backends
from lpnsr.runtime.backends.base import BackendError

from .conftest import SMALL

ELEMENTS = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}
TYPES = {"fp16": {"fp16"}, "bf16": {"bf16"}, "mixed": {"fp16", "bf16"}}
NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
ISLANDS = {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "Softmax", "ArgMin"}
PRODUCTS = {"Conv", "MatMul", "Gemm"}


@pytest.fixture(params=slow_but(["fp16", "mixed"], list(TYPES)))
def narrow(request, micro_bundles):
    """A precision and a bundle in it."""
    return request.param, micro_bundles[request.param]


def load(bundle):
    return onnx.load(bundle.graph_path(bundle.manifest.graphs[0]))


def kinds(model):
    """Value name -> element type, of everything in a graph."""
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = model.graph
    values = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input)}
    return values | {value.name: value.data_type for value in graph.initializer}


def test_every_stage_has_its_type(narrow):
    precision, bundle = narrow
    types = dict(bundle.manifest.precision)
    assert types.pop("quantizer") == "fp32"
    assert set(types.values()) == TYPES[precision]
    assert (types["pre_upsampler"] == "bf16") == (precision != "fp16")
    (graph,) = bundle.manifest.graphs
    assert list(graph.parity) == [precision] and graph.precisions == ("fp32",)
    assert list(graph.stage_parity) == list(bundle.manifest.precision)


def test_tracing_computes_nothing_in_the_narrow_type(micro, monkeypatch):
    """Processors take minutes over the float16 convolutions of the full-size model."""
    seen = []
    monkeypatch.setattr(trace, "MixedPrecision", lambda dtype: MixedPrecision(dtype, seen.append))
    trace.trace_stage(micro.chain, micro.preset, "encoder", *SMALL, "fp16")
    assert seen
    assert all(isinstance(tensor, FakeTensor) for tensor in seen)


def test_products_are_narrow_and_islands_are_not(narrow):
    _, bundle = narrow
    model = load(bundle)
    onnx.checker.check_model(bundle.graph_path(bundle.manifest.graphs[0]), full_check=True)
    assert model.opset_import[0].version in (20, 22)
    types, seen = kinds(model), collections.Counter()
    for node in model.graph.node:
        inputs = {types[name] for name in node.input if name} - {TensorProto.INT64}
        stage = node.name.rpartition("/")[0].rpartition("_")[0]
        if node.op_type in PRODUCTS and stage not in ("quantizer", ""):
            wanted = ELEMENTS[bundle.manifest.precision[stage]]
            assert inputs == {wanted}, node.name
        if node.op_type in ISLANDS or node.name.startswith(("chain/", "quantizer")):
            assert inputs <= {TensorProto.FLOAT}, node.name
        seen[node.op_type] += 1
    assert seen["Softmax"] and seen["LayerNormalization"] and seen["InstanceNormalization"]
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {TensorProto.FLOAT}
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_weights_are_stored_once_in_half_the_space(narrow, micro_bundles):
    """All but what is in float32: window tables and the constants of norms and codes."""
    _, bundle = narrow
    stored = [i for i in load(bundle).graph.initializer if i.data_type in NARROW]
    kernels = collections.Counter(i.raw_data for i in stored if len(i.dims) == 4)
    assert len(kernels) > 30 and set(kernels.values()) == {1}
    size, before = (
        sum(len(i.raw_data) for i in load(b).graph.initializer if len(i.dims) in (2, 4))
        for b in (bundle, micro_bundles["fp32"])
    )
    assert size < 0.75 * before


def test_figures_are_those_of_the_type(narrow):
    """Better than the limits, and worse than float32 could ever be."""
    precision, bundle = narrow
    (graph,) = bundle.manifest.graphs
    for stage, computed in bundle.manifest.precision.items():
        low, high = {"fp16": (55, 100), "bf16": (40, 80), "fp32": (100, 200)}[computed]
        figures = graph.stage_parity[stage]
        assert low < figures["psnr"] <= high, stage
        assert figures["mean"] <= figures["worst"]
        considered = precision in ("fp16", "mixed") and computed == "fp16"
        assert ("largest" in figures) == considered
    assert graph.parity[precision]["decoder_psnr"] == graph.stage_parity["decoder"]["psnr"]


def test_the_check_computes_what_eager_pytorch_computes_in_this_type(micro, narrow):
    """As far from float32 as it, and nearer to it, as both round at the same places."""
    _, bundle = narrow
    model = ir.load(bundle.graph_path(bundle.manifest.graphs[0]))
    values = random_input(micro.preset, *SMALL, seed=5)
    lr, noise = (torch.from_numpy(values[name]) for name in ("lr", "noise"))
    call = next(c for c in calls.record(micro.chain, lr, noise))
    assert call.stage.name == "pre_upsampler"
    dtype = getattr(torch, DTYPES[bundle.manifest.precision[call.stage.name]])
    with torch.no_grad(), MixedPrecision(dtype):
        expected = call.function(*call.arguments)[0].float().numpy()
    part = ir.Model(ir.convenience.extract(model.graph, ["lr"], ["picture"]), ir_version=10)
    found = run_onnxruntime(emulate(part), bundle.path)({"lr": values["lr"]})["picture"]
    precise = call.outputs[0].numpy()
    distance = np.abs(expected - precise).mean()
    assert 0.8 < np.abs(found - precise).mean() / distance < 1.25
    assert np.abs(found - expected).mean() < 0.9 * distance


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_emulation_rounds_after_every_operation(kind):
    """x³ in a narrow type, in which ONNX Runtime either does not compute or does not round."""
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=kind),
        helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("Mul", ["b", "a"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1000]) for n in "xy")
    inner = [helper.make_tensor_value_info(n, kind, [1000]) for n in "abc"]
    graph = helper.make_graph(nodes, "cube", [x], [y], value_info=inner)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    values = np.random.default_rng(0).uniform(1, 9, 1000).astype(np.float32)
    run = run_onnxruntime(emulate(ir.from_proto(proto)))
    dtype = {TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}[kind]
    a = torch.from_numpy(values).to(dtype)
    expected = ((a * a) * a).float().numpy()
    np.testing.assert_array_equal(run({"x": values})["y"], expected)
    if kind == TensorProto.FLOAT16:
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        assert (session.run(None, {"x": values})[0] != expected).mean() > 0.5


def test_emulation_of_an_engine_that_reduces_rounds_products_alone():
    random = np.random.default_rng(0)
    x, weights = (random.standard_normal((8, 8), dtype=np.float32) for _ in range(2))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["x", "a"], ["b"]),
        helper.make_node("Add", ["b", "x"], ["y"]),
    ]
    ends = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [8, 8]) for n in "xy")
    inner = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [8, 8]) for n in "ab"]
    constants = [onnx.numpy_helper.from_array(weights, "w")]
    graph = helper.make_graph(nodes, "g", *([end] for end in ends), constants, value_info=inner)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    found = run_onnxruntime(emulate_bf16(ir.from_proto(proto)))({"x": x})["y"]
    narrow, w = (torch.from_numpy(a).bfloat16().float() for a in (x, weights))
    product = narrow @ (narrow @ w).bfloat16().float()
    expected = product.bfloat16().float().numpy() + x
    # Sums of another order round to neighbours here and there.
    assert (found == expected).mean() > 0.9 and np.abs(found - expected).max() < 0.1
    assert (found == (x @ (x @ weights) + x)).mean() < 0.1


@pytest.mark.skipif(computes_bf16(), reason="this processor has bf16 itself")
def test_bf16_is_emulated_where_the_processor_has_none(micro, tmp_path):
    bundle = pack.pack(micro.chain, micro.preset, [SMALL], tmp_path / "bundle", emulates_bf16=True)
    (graph,) = bundle.manifest.graphs
    precise, reduced = graph.parity["fp32"], graph.parity["bf16"]
    assert reduced["emulated"] and "openvino" not in bundle.manifest.versions
    assert 10 * precise["x0_relative_l2"] < reduced["x0_relative_l2"] < 0.5
    assert 10 < reduced["sr_psnr"] < precise["sr_psnr"]  # codes of this small model change easily


def overflowing(micro, stage):
    """The micro model with one stage whose activations are beyond float16, in two ways."""
    chain = copy.deepcopy(micro.chain)
    if stage == "decoder":  # a product whose result the next norm makes small again
        with torch.no_grad():
            chain.codec.decoder.conv_in.weight *= 1e6
    else:  # a weight itself
        with torch.no_grad():
            chain.denoiser.out[2].weight[0, 0, 0, 0] = 7e4
    return chain


@pytest.mark.parametrize("stage", ["decoder", "denoiser"])
def test_what_float16_cannot_hold_is_refused(micro, tmp_path, stage):
    chain = overflowing(micro, stage)
    with pytest.raises(ranges.RangeError, match=rf"the {stage} reaches .*--precision mixed"):
        pack.pack(chain, micro.preset, [SMALL], tmp_path / "bundle", precision="fp16")
    assert list(tmp_path.iterdir()) == []
    types, largest = ranges.settle(chain, micro.preset, "mixed", (16, 16))
    found = [name for name, precision in types.items() if precision == "bf16"]
    assert {"pre_upsampler", stage} <= set(found)
    assert largest[stage] > ranges.LIMIT
    assert ranges.settle(chain, micro.preset, "bf16", (16, 16))[1] == {}


def test_stages_that_decide_or_only_move_values_stay_float32():
    for name, fixed in {
        "lpnsr": {"quantizer"},
        "resshift": {"quantizer", "pre_upsampler"},
        "upsr": {"pre_upsampler", "auxiliary", "encoder", "decoder"},
        "lpnsr-tiny": {"encoder", "decoder"},
    }.items():
        preset = get_preset(name)
        types = assign(preset, "fp16")
        assert {stage for stage, precision in types.items() if precision == "fp32"} == fixed
        assert set(assign(preset, "fp32").values()) == {"fp32"}


@pytest.mark.parametrize(
    ("types", "figures", "complaint"),
    [
        ({"decoder": "fp16"}, {"x0_relative_l2": 5.1e-3}, "x_0 in fp16 .* more than 5.0e-03"),
        ({"decoder": "bf16"}, {"x0_relative_l2": 3.1e-2}, "x_0 in bf16"),
        ({"decoder": "fp16"}, {"x0_relative_l2": float("nan")}, "is nan"),
        ({"decoder": "fp16"}, {"decoder_psnr": 59.9}, "decoder on equal codes in fp16"),
        ({"decoder": "bf16"}, {"decoder_psnr": 44.9}, "less than 45.0 dB"),
        ({"a": "bf16", "decoder": "fp16"}, {"decoder_psnr": 59.9}, "less than 60.0 dB"),
        ({"a": "bf16", "decoder": "fp32"}, {"sr_psnr": 44.9}, "the picture in bf16"),
        ({"decoder": "fp16"}, {"category_share": 0.5}, "categories"),
    ],
)
def test_figures_out_of_tolerance(types, figures, complaint):
    good = {"x0_relative_l2": 4e-3, "sr_psnr": 61.0}
    if types["decoder"] != "fp32":
        good["decoder_psnr"] = 61.0
    check_narrow(good, types, Tolerance())
    with pytest.raises(ParityError, match=complaint):
        check_narrow({**good, **figures}, types, Tolerance())


@pytest.mark.parametrize("other", slow_but(["mixed"], ["bf16", "mixed"]))
def test_onnx_runtime_runs_fp16_and_says_what_runs_bf16(micro, micro_bundles, other):
    values = random_input(micro.preset, *SMALL, seed=7)
    pictures = {}
    for precision in ("fp32", "fp16"):
        bundle = micro_bundles[precision]
        backend, _ = backends.create("onnxruntime", bundle=bundle)
        session = backend.load(bundle, bundle.manifest.graphs[0])
        pictures[precision] = session.run(values["lr"], values["noise"])
    # Near-ties among the codes fall differently.
    assert 0 < np.abs(pictures["fp16"] - pictures["fp32"]).mean() < 0.05
    with pytest.raises(BackendError, match="--backend openvino, or export"):
        backends.create("onnxruntime", bundle=micro_bundles[other])


def test_labels():
    assert parity.label({"a": "fp32"}) == "fp32"
    assert parity.label({"a": "fp32", "b": "fp16"}) == "fp16"
    assert parity.label({"a": "bf16", "b": "fp16"}) == "mixed"
