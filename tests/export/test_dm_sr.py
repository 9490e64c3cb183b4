"""DM-SR in miniature, from checkpoints to pictures."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from dm_sr import AUTOENCODER, UNET
from dm_sr import PRESET as MICRO
from small import random_model

from lpnsr.export import pack
from lpnsr.export.check.parity import verify_bundle
from lpnsr.models import presets
from lpnsr.models.autoencoder_kl import KLDecoder, KLEncoder
from lpnsr.models.diffusion_unet import DiffusionUNet
from lpnsr.models.variants import vary
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import MANIFEST
from lpnsr.runtime.tiles import tiling
from lpnsr.runtime.upscaler import Upscaler

SMALL = (1, (16, 16))
# One block a level: all else is repetition, of which tracing takes long.
BUILDERS = {
    "encoder": partial(KLEncoder, replace(AUTOENCODER, blocks=1)),
    "denoiser": partial(DiffusionUNet, replace(UNET, blocks=1)),
    "decoder": partial(KLDecoder, replace(AUTOENCODER, blocks=1)),
}
PRESET = replace(
    MICRO,
    networks={
        role: replace(network, build=BUILDERS.get(role, network.build))
        for role, network in MICRO.networks.items()
    },
)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, PRESET.name, PRESET)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_model(PRESET, tmp_path_factory.mktemp("dm_sr"))


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    return pack.pack(model.chain, PRESET, [SMALL], tmp_path_factory.mktemp("b") / "bundle")


def photo(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def signed(picture):
    return torch.from_numpy(picture.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)


def eager(chain, picture):
    with torch.no_grad():
        sr = chain(signed(picture), torch.empty(0))
    return ((sr[0].permute(1, 2, 0).numpy() + 1) * 127.5).round()


def test_the_graph_has_neither_noise_nor_text(bundle):
    graph = bundle.manifest.graphs[0]
    model = onnx.load(bundle.path / graph.file, load_external_data=False)
    assert [value.name for value in model.graph.input] == ["lr", "timestep"]
    assert graph.parity["fp32"]["x0_relative_l2"] < 1e-4
    cross = [value for value in model.graph.initializer if 12 in value.dims]
    assert not cross, "what takes the prompt's embedding, 12 wide, is left"


def test_a_picture_of_one_tile(model, bundle):
    picture = photo(16, 16)
    upscaler = Upscaler.from_bundle(bundle.path, backend="onnxruntime")
    found = upscaler.upscale(picture, color_fix=False)
    assert np.abs(found - eager(model.chain, picture)).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (17, 16), (40, 23), (33, 50)])
def test_a_picture_of_any_size(model, bundle, size):
    """Tiles start at multiples of 8, their sides are multiples of 16; the rest is a mirror."""
    picture = photo(*size)
    upscaler = Upscaler.from_bundle(bundle.path, backend="onnxruntime")
    found = upscaler.upscale(picture, color_fix=False)
    layout = upscaler.layout(size)
    tiles = tiling.plan(size, layout.graph.tile, layout.overlaps, 4)
    expected = np.zeros((4 * size[0], 4 * size[1], 3), np.float32)
    with torch.no_grad():
        timesteps = [model.chain.estimate(signed(t.cut(picture)))["timestep"] for t in tiles]
        told = torch.stack(timesteps).mean(0)
        for tile in tiles:
            lr = signed(tile.cut(picture))
            sr = model.chain(lr, torch.empty(0), timestep=told)[0].permute(1, 2, 0).numpy()
            tile.blend(sr, expected[4 * tile.rows.start :], 4)
    assert np.abs(found - ((expected + 1) * 127.5).round()).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("variant", [{"steps": 2}, {"timestep": 250}, {"steps": 3, "timestep": 77}])
@pytest.mark.parametrize("topology", ["unrolled", "staged"])
def test_variants(variant, topology, tmp_path):
    preset = vary(PRESET, **variant)
    model = random_model(preset, tmp_path)
    bundle = pack.pack(model.chain, preset, [SMALL], tmp_path / "bundle", topology=topology)
    for name, value in variant.items():
        assert bundle.manifest.variant[name] == value
    assert bool(bundle.manifest.graphs[0].picture) == ("timestep" not in variant)
    picture = photo(16, 16)
    upscaler = Upscaler.from_bundle(bundle.path, backend="onnxruntime")
    found = upscaler.upscale(picture, color_fix=False)
    assert np.abs(found - eager(model.chain, picture)).max() <= 1
    verify_bundle(Bundle.open(bundle.path), model.weights, {})


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16", "mixed"])
def test_narrow_stages(model, tmp_path, precision):
    bundle = pack.pack(model.chain, PRESET, [SMALL], tmp_path / "bundle", precision=precision)
    types = bundle.manifest.precision
    assert types["estimator"] == types["upsampler"] == "fp32"
    assert types["denoiser"] == ("bf16" if precision == "bf16" else "fp16")


def test_the_manifest_can_be_read_again(bundle):
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    kept = json.loads((bundle.path / MANIFEST).read_text())
    assert kept["schedule"] == {"steps": 1, "timestep": None}
