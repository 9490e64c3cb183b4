import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lpnsr.kernels import operators
from lpnsr.runtime import backends
from lpnsr.runtime.backends import engine_files, onnxruntime_winograd
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import BundleError

from .toy import CHANNELS, DRAWS, SCALE

PACKAGES = ("onnxruntime", "openvino")
ENGINES = (*PACKAGES, *(["onnxruntime-winograd"] if operators.library() else []))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=ENGINES)
def backend(request):
    return create(request.param)


def create(*arguments, **options):
    return backends.create(*arguments, **options)[0]


def inputs(graph):
    height, width = graph.tile
    lr = np.zeros((graph.batch, 3, height, width), np.float32)
    return lr, np.zeros((DRAWS, graph.batch, CHANNELS, height, width), np.float32)


def test_runs_every_graph_of_a_bundle(bundle, backend):
    opened = Bundle.open(bundle)
    for graph in opened.manifest.graphs:
        sr = backend.load(opened, graph).run(*inputs(graph))
        assert sr.shape == (graph.batch, 3, SCALE * graph.tile[0], SCALE * graph.tile[1])
        assert sr.dtype == np.float32


def test_engines_agree(bundle):
    opened = Bundle.open(bundle)
    graph = opened.manifest.graphs[-1]
    rng = np.random.default_rng(0)
    lr, noise = (rng.uniform(-1, 1, array.shape).astype(np.float32) for array in inputs(graph))
    found = []
    for name in ENGINES:
        session = create(name, precision="fp32").load(opened, graph)
        found.append(session.run(lr, noise))
        np.testing.assert_array_equal(session.run_precisely(lr, noise), found[-1])
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, atol=1e-5)


def test_a_result_is_not_overwritten_by_the_next(bundle, backend):
    opened = Bundle.open(bundle)
    graph = opened.manifest.graphs[0]
    session = backend.load(opened, graph)
    lr, noise = inputs(graph)
    first = session.run(lr, noise)
    kept = first.copy()
    session.run(lr + 0.5, noise)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "name, label", [("onnxruntime", "ONNX Runtime 1"), ("openvino", "OpenVINO 20")]
)
def test_describes_itself(name, label):
    described = create(name, precision="fp32").describe()
    assert described.startswith(label)
    assert described.endswith("on the CPU in fp32")


def test_an_unknown_backend_is_refused():
    with pytest.raises(BackendError, match=r"no backend abacus; choose from auto, .*onnxruntime"):
        create("abacus")
    with pytest.raises(BackendError, match=r"no precision f8; it is auto, fp32, bf16"):
        create(precision="f8")


@pytest.fixture
def processor(monkeypatch):
    """Lets OpenVINO find a processor with or without bf16."""
    openvino = pytest.importorskip("openvino")

    def pretend(*capabilities):
        class Core(openvino.Core):
            def get_property(self, device, name):
                assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
                return ["FP32", *capabilities]

        monkeypatch.setattr(openvino, "Core", Core)

    return pretend


@pytest.mark.parametrize(
    "capabilities, asked, accurate, label, why",
    [
        (["BF16"], "auto", {"fp32", "bf16"}, "OpenVINO.* bf16", "computes in bf16"),
        (["BF16"], "auto", {"fp32"}, "ONNX Runtime", "not accurate in bf16"),
        (["BF16"], "bf16", {"fp32"}, "OpenVINO.* bf16", "as asked"),
        (["BF16"], "fp32", {"fp32", "bf16"}, "ONNX Runtime", "bf16 is not wanted"),
        ([], "auto", {"fp32", "bf16"}, "ONNX Runtime", "does not compute in bf16"),
    ],
)
def test_auto_is_the_fastest_accurate_engine(
    processor, monkeypatch, capabilities, asked, accurate, label, why
):
    """Without our own convolutions, which leave others nothing to win."""
    monkeypatch.setattr(onnxruntime_winograd, "library", lambda: None)
    processor(*capabilities)
    engine, reason = backends.create("auto", None, asked, accurate)
    assert re.match(label, engine.describe())
    assert why in reason


@pytest.mark.parametrize(("frugal", "gain"), [(True, "1.5 times"), (False, "twice")])
def test_what_bf16_would_gain_and_cost_is_said(bundle, monkeypatch, frugal, gain):
    monkeypatch.setattr(onnxruntime_winograd, "is_installed", lambda: frugal)
    opened = Bundle.open(bundle)
    fine, worse = {"sr_psnr": 39.6, "sr_near_share": 0.94}, {"sr_psnr": 31.2, "sr_near_share": 0.4}
    parities = ({"bf16": fine}, {"bf16": worse}, {})
    graphs = [replace(opened.manifest.graphs[0], parity=parity) for parity in parities]
    _, why = backends.create("auto", bundle=opened, graphs=graphs)
    told = "(31 dB from fp32, 40% of values within 2/255; --precision bf16 would be "
    told += f"up to {gain} as fast)"
    assert told in why
    _, why = backends.create("auto", bundle=opened, graphs=graphs[2:])
    assert "dB" not in why


@pytest.mark.parametrize(
    "missing, label", [("openvino", "ONNX Runtime"), ("onnxruntime", "OpenVINO")]
)
def test_auto_takes_what_is_installed(monkeypatch, missing, label):
    monkeypatch.setattr(onnxruntime_winograd, "library", lambda: None)
    monkeypatch.setitem(sys.modules, missing, None)
    engine, why = backends.create()
    assert engine.describe().startswith(label)
    assert why == "no other engine is installed"


def test_openvino_is_not_loaded_to_ask_what_is_known():
    """Where bf16 is not wanted or not accurate, it does not matter what the processor has."""
    script = """
import sys
from lpnsr.kernels import operators
from lpnsr.runtime import backends
for options in ({}, {"precision": "fp32", "accurate": ("fp32", "bf16")}):
    backend, why = backends.create("auto", **options)
    print(backend.describe(), "|", why)
assert "openvino" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert re.findall(r"here in fp32; (.+)", run.stdout) == [
        "this model is not accurate in bf16",
        "bf16 is not wanted",
    ]


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("onnxruntime", "cuda:1", "ONNX Runtime has no device cuda:1; it runs on cpu"),
        ("tensorrt", "cpu", "TensorRT has no device cpu; it runs on cuda"),
        ("auto", "gpu", "there is no device gpu; it is cpu, cuda, or cuda:1"),
        ("auto", "cuda:٣", "there is no device cuda:٣"),
        ("auto", "cuda", "the bundle cannot be run on a GPU: it holds no engine"),
    ],
)
def test_a_device_that_is_not_there_is_refused(bundle, name, device, message):
    with pytest.raises(BackendError, match=message) as raised:
        create(name, bundle=Bundle.open(bundle), device=device)
    assert "\n" not in str(raised.value)


def test_a_cpu_can_be_asked_for(bundle):
    backend, why = backends.create(bundle=Bundle.open(bundle), device="cpu")
    assert "on the CPU" in backend.describe() and "not " not in why.split(";")[0]


def test_bf16_is_refused_where_nothing_computes_in_it(processor):
    processor()
    with pytest.raises(BackendError, match="this processor does not compute in bf16"):
        create("openvino", precision="bf16")
    with pytest.raises(BackendError, match="does not compute in bf16"):
        create("auto", precision="bf16")
    with pytest.raises(BackendError, match="ONNX Runtime does not compute in bf16; use --backend"):
        create("onnxruntime", precision="bf16")


@pytest.mark.parametrize(
    "name, extra", [("auto", "cpu"), ("onnxruntime", "cpu"), ("openvino", "openvino")]
)
def test_a_missing_engine_names_the_extra_to_install(monkeypatch, name, extra):
    for module in PACKAGES:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf'pip install "lpnsr\[{extra}\]"'):
        create(name)


def test_a_corrupted_graph_is_refused_quietly(own_bundle, capfd, backend):
    opened = Bundle.open(own_bundle())
    graph = opened.manifest.graphs[0]
    opened.graph_path(graph).write_bytes(b"no protobuf")
    with pytest.raises(BackendError, match=f"cannot load .*{graph.file}"):
        backend.load(opened, graph)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "changes", [{"draws": 4}, {"latent_channels": 3}, {"scale": 2}, {"inputs": ("x", "noise")}]
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(own_bundle, changes, backend):
    opened = Bundle.open(own_bundle(**changes))
    with pytest.raises(BundleError, match="manifest"):
        backend.load(opened, opened.manifest.graphs[0])


def test_a_failing_run_is_a_backend_error(bundle, backend):
    opened = Bundle.open(bundle)
    session = backend.load(opened, opened.manifest.graphs[0])
    lr, noise = inputs(opened.manifest.graphs[0])
    with pytest.raises(BackendError, match=r"(ONNX Runtime|OpenVINO) fails: .+"):
        session.run(lr[:, :2], noise)


def test_compiled_graphs_are_kept_and_a_damaged_one_is_made_again(bundle, tmp_path):
    opened = Bundle.open(bundle)
    graph = opened.manifest.graphs[0]

    def run():
        engine = create("openvino", precision="fp32")
        return engine.load(opened, graph).run(*inputs(graph))

    expected = run()
    (kept,) = (tmp_path / "cache" / "lpnsr" / "compiled").glob("*.blob")
    np.testing.assert_array_equal(run(), expected)
    for content in (b"", b"no blob", kept.read_bytes()[: kept.stat().st_size // 2]):
        kept.write_bytes(content)
        np.testing.assert_array_equal(run(), expected)


def test_a_cache_that_cannot_be_written_does_no_harm(bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    opened = Bundle.open(bundle)
    engine = create("openvino", precision="fp32")
    session = engine.load(opened, opened.manifest.graphs[0])
    assert np.isfinite(session.run(*inputs(opened.manifest.graphs[0]))).all()


def test_exhausted_memory_is_a_memory_error(own_bundle, backend):
    """The graph asks for more memory than any machine has."""
    opened = Bundle.open(own_bundle())
    graph = opened.manifest.graphs[0]
    model = onnx.load(opened.graph_path(graph))
    shape = numpy_helper.from_array(np.array([2**17, 2**20], np.int64), "shape")
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
    with pytest.raises(MemoryError):
        backend.load(opened, graph).run(*inputs(graph))


def test_the_builders_are_known_to_the_command_line():
    assert set(engine_files.BUILDERS) < set(backends.NAMES)
