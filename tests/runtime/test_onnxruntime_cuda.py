"""ONNX Runtime's backend for GPUs: its bindings on a CPU, its errors anywhere."""

import dataclasses

import numpy as np
import onnxruntime
import pytest

from lpnsr.runtime import backends
from lpnsr.runtime.backends import onnxruntime_cuda
from lpnsr.runtime.backends.base import BackendError, PrecisionError
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.upscaler import Upscaler

from .toy import photo

PROVIDER = onnxruntime_cuda.PROVIDER


@pytest.fixture
def provider(monkeypatch):
    """Lets ONNX Runtime have the provider for GPUs, which computes on the CPU; lists settings."""
    settings, real = [], onnxruntime.InferenceSession

    class Session(real):
        def __init__(self, path, options, providers):
            settings.append(dict(providers[0][1]) if len(providers) > 1 else None)
            super().__init__(path, options, providers=["CPUExecutionProvider"])
            self.names = [PROVIDER] if len(providers) > 1 else ["CPUExecutionProvider"]

        def get_providers(self):
            return self.names

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDER])
    monkeypatch.setattr(onnxruntime_cuda, "_DEVICE", "cpu")
    return settings


def test_bound_tensors_carry_every_batch(provider, bundle):
    opened = Bundle.open(bundle)
    engine, _ = backends.create("onnxruntime-cuda")
    reference, _ = backends.create("onnxruntime")
    rng = np.random.default_rng(0)
    for graph in opened.manifest.graphs[:2]:
        session, expect = engine.load(opened, graph), reference.load(opened, graph)
        found, expected = [], []
        for _ in range(3):
            lr = rng.uniform(-0.9, 0.9, (graph.batch, 3, *graph.tile)).astype(np.float32)
            noise = rng.standard_normal((3, graph.batch, 5, *graph.tile)).astype(np.float32)
            found.append(session.run(lr, noise).copy())  # on a CPU it is the tensor itself
            expected.append(expect.run(lr, noise))
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(session.run_precisely(lr, noise), expected[-1])
    assert provider[0] == {"device_id": "0", "enable_cuda_graph": "1", "use_tf32": "0"}
    with pytest.raises(BackendError, match=r"ONNX Runtime fails: lr has the shape"):
        session.run(lr[:, :2], noise)


def test_a_gpu_has_no_threads_to_divide(provider, bundle):
    model = Upscaler.from_bundle(bundle, backend="onnxruntime-cuda", batch=1)
    assert model.parallel == 1
    assert model.backend.divided(2) is model.backend
    assert len(provider) == 0  # nothing is loaded before a picture is there


def test_auto_takes_it_and_says_so(provider, bundle):
    model = Upscaler.from_bundle(bundle)
    assert model.choice.endswith("on the GPU (the fastest here)")
    assert model.upscale(photo(20, 20)).shape == (80, 80, 3)


def test_a_graph_that_cannot_be_captured_runs_without(provider, bundle, monkeypatch):
    opened = Bundle.open(bundle)
    working = onnxruntime.InferenceSession
    refusal = onnxruntime.capi.onnxruntime_pybind11_state.Fail

    def session(path, options, providers):
        if providers[0][1]["enable_cuda_graph"] == "1":
            raise refusal("This session cannot use the graph capture feature as requested")
        return working(path, options, providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    engine, _ = backends.create("onnxruntime-cuda")
    engine.load(opened, opened.manifest.graphs[0])
    assert engine.describe().endswith("on the GPU without CUDA graph")


def test_a_session_that_fell_back_to_the_cpu_is_refused(provider, bundle, monkeypatch):
    opened = Bundle.open(bundle)
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "get_providers", lambda self: ["CPUExecutionProvider"]
    )
    engine, _ = backends.create("onnxruntime-cuda")
    with pytest.raises(BackendError, match="cannot start on the GPU; see that CUDA and cuDNN"):
        engine.load(opened, opened.manifest.graphs[0])


def test_numbers_out_of_range_name_the_export_that_helps(provider, bundle):
    opened = Bundle.open(bundle)
    narrow = dataclasses.replace(opened.manifest, precision={"denoiser": "fp16"})
    engine, _ = backends.create("onnxruntime-cuda")
    session = engine.load(Bundle(opened.path, narrow), narrow.graphs[0])
    with pytest.raises(PrecisionError, match="lpnsr-export --precision fp32"):
        session.run_precisely(None, None)


def test_the_onnx_runtime_for_cpus_is_refused(monkeypatch):
    names = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    with pytest.raises(BackendError, match=r"pip uninstall onnxruntime && pip install \"lpnsr\["):
        backends.create("onnxruntime-cuda")


def test_a_machine_without_a_gpu_is_told_so(monkeypatch, bundle):
    if PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("there may be a GPU")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDER])
    with pytest.raises(BackendError, match=r"finds no NVIDIA GPU 0: .+") as raised:
        backends.create("onnxruntime-cuda")
    assert "\n" not in str(raised.value)
    choice = Upscaler.from_bundle(bundle).choice
    assert "on the CPU" in choice and "; not onnxruntime-cuda: ONNX Runtime finds no" in choice
