"""Exported bundles in every engine of the runtime."""

import numpy as np
import pytest
import torch

from lpnsr.export.check.run_onnx import computes_bf16
from lpnsr.runtime import backends
from lpnsr.runtime.bundle import Bundle

needs_bf16 = pytest.mark.skipif(not computes_bf16(), reason="this processor has no bf16")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def quantizing(micro_bundles) -> Bundle:
    return micro_bundles["fp32"]


@pytest.fixture
def loaded():
    def load(bundle, name, precision):
        backend, _ = backends.create(name, None, precision)
        return backend.load(bundle, bundle.manifest.graphs[0])

    return load


def inputs(bundle):
    manifest, graph = bundle.manifest, bundle.manifest.graphs[0]
    rng = np.random.default_rng(1)
    lr = rng.uniform(-1, 1, (graph.batch, 3, *graph.tile)).astype(np.float32)
    shape = (manifest.draws, graph.batch, manifest.latent_channels, *graph.tile)
    return lr, rng.standard_normal(shape, np.float32)


def psnr(found, expected):
    return 10 * np.log10(4 / np.square(found - expected).mean())


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_compute_the_eager_chain(micro, quantizing, loaded, name):
    lr, noise = inputs(quantizing)
    expected = micro.chain(torch.from_numpy(lr), torch.from_numpy(noise)).numpy()
    assert psnr(loaded(quantizing, name, "fp32").run(lr, noise), expected) > 90


@needs_bf16
def test_in_bf16_codes_are_searched_in_fp32(micro, quantizing, loaded):
    session = loaded(quantizing, "openvino", "bf16")
    chain, search, decoder = session._parts
    rng = np.random.default_rng(2)
    latent = rng.standard_normal(tuple(search.input(0).shape), np.float32)
    expected = micro.chain.codec.nearest_codes(torch.from_numpy(latent)).numpy()
    np.testing.assert_array_equal(search({0: latent})[0], expected)
    decoded = micro.chain.codec.decode_quantized(torch.from_numpy(expected)).numpy()
    assert 30 < psnr(decoder({0: expected})[0], decoded.clip(-1, 1)) < 80
    assert [port.any_name for port in chain.inputs] == ["lr", "noise"]


@needs_bf16
def test_bf16_is_reduced_and_runs_precisely_when_asked(quantizing, loaded):
    values = inputs(quantizing)
    reduced = loaded(quantizing, "openvino", "bf16")
    precise = loaded(quantizing, "openvino", "fp32").run(*values)
    assert psnr(reduced.run(*values), precise) < 80
    np.testing.assert_array_equal(reduced.run_precisely(*values), precise)
