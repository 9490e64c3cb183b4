"""A family that is defined in the tests alone goes all the way: preset, bundle, picture."""

import functools
import json

import numpy as np
import onnx
import pytest
import torch
from latent_diffusion import PRESET
from small import random_model

from lpnsr.export import pack
from lpnsr.export.check.parity import verify_bundle
from lpnsr.export.graph import trace
from lpnsr.models import presets
from lpnsr.runtime.bundle import Bundle, shapes
from lpnsr.runtime.manifest import MANIFEST, BundleError
from lpnsr.runtime.upscaler import Upscaler

SMALL, WIDE = (1, (16, 16)), (2, (16, 32))
TOPOLOGIES = ("unrolled", "staged")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_model(PRESET, tmp_path_factory.mktemp("latent_diffusion"))


@pytest.fixture(scope="module")
def export(model):
    """`pack.pack` with traces that are made once."""

    @functools.cache
    def traced(*shape):
        return trace.trace_stage(model.chain, PRESET, *shape)

    def packed(*arguments, **options):
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(pack, "trace_stage", lambda chain, preset, *shape: traced(*shape))
            return pack.pack(model.chain, PRESET, *arguments, **options)

    return packed


@pytest.fixture(scope="module", params=TOPOLOGIES)
def bundle(request, export, tmp_path_factory):
    target = tmp_path_factory.mktemp("bundles") / request.param
    return export([SMALL, WIDE], target, topology=request.param)


def test_all_tiles_share_their_weights(bundle, export, tmp_path):
    one = export([SMALL], tmp_path / "one", topology=bundle.manifest.topology)
    size, more = ((each.path / "weights.bin").stat().st_size for each in (one, bundle))
    assert size <= more < 1.1 * size


def photo(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def signed(picture):
    return torch.from_numpy(picture.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)


def test_the_manifest_describes_it(bundle):
    opened = Bundle.open(bundle.path)
    assert opened.manifest == bundle.manifest
    manifest = opened.manifest
    assert (manifest.draws, manifest.latent_channels, manifest.latent_side) == (0, 4, 0.5)
    for graph in manifest.graphs:
        assert graph.given == {"timestep": (graph.batch,)}
        (stage,) = graph.picture
        assert (stage.name, stage.inputs, stage.outputs) == ("estimator", ("lr",), ("timestep",))
        assert "noise" not in shapes(manifest, graph)
        for file in graph.files:
            onnx.checker.check_model(opened.path / file, full_check=True)


def test_one_tile_is_what_the_eager_chain_makes_of_it(model, bundle):
    picture = photo(16, 16)
    found = Upscaler.from_bundle(bundle.path, backend="onnxruntime").upscale(
        picture, color_fix=False
    )
    with torch.no_grad():
        expected = model.chain(signed(picture), torch.empty(0))
    expected = ((expected[0].permute(1, 2, 0).numpy() + 1) * 127.5).round()
    assert np.abs(found - expected).max() <= 1


def test_all_tiles_are_told_the_same_timestep(model, bundle):
    """The mean over the tiles; left out, they would be told their own."""
    picture = np.concatenate([photo(16, 32), np.full((16, 32, 3), 255, np.uint8)])
    tiles = [
        signed(picture[top : top + 16, left : left + 16]) for top in (0, 16) for left in (0, 16)
    ]
    upscaler = Upscaler.from_bundle(bundle.path, backend="onnxruntime", tile=(16, 16), overlap=0)
    found = upscaler.upscale(picture, color_fix=False)
    chain = model.chain
    with torch.no_grad():
        steps = torch.stack([chain.estimator(tile) for tile in tiles])
        assert steps.std() > 0.1
        told = replace_estimator(chain, steps.mean(0))
        expected = told(tiles[0], torch.empty(0))
    expected = ((expected[0].permute(1, 2, 0).numpy() + 1) * 127.5).round()
    inner = slice(0, 56)
    assert np.abs(found[inner, inner] - expected[inner, inner]).max() <= 1


def replace_estimator(chain, timestep):
    """The chain, told this timestep whatever it sees."""

    class Constant(torch.nn.Module):
        def forward(self, lr):
            return timestep

    return chain.replaced(estimator=Constant())


def test_openvino_gives_the_same(bundle):
    pytest.importorskip("openvino")
    if bundle.manifest.topology == "staged":
        pytest.skip("OpenVINO runs unrolled bundles only")
    picture = photo(40, 56)
    expected, found = (
        Upscaler.from_bundle(bundle.path, backend=backend, precision="fp32").upscale(picture)
        for backend in ("onnxruntime", "openvino")
    )
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_it_is_verified_anew(model, bundle, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, PRESET.name, PRESET)
    found = verify_bundle(bundle, model.weights, {})
    assert found.manifest.graphs[0].parity["fp32"]["x0_relative_l2"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_narrow_stages(export, tmp_path, precision):
    bundle = export([SMALL], tmp_path / "bundle", precision=precision)
    assert set(bundle.manifest.graphs[0].stage_parity) == {s.name for s in PRESET.stages}


def test_a_damaged_description_is_refused(bundle, tmp_path):
    fields = json.loads((bundle.path / MANIFEST).read_text())
    graph = fields["graphs"][0]
    for changes in (
        {"latent_side": 0.3},
        {"latent_side": 0},
        {"color_limit": 0},
        {"color_limit": 3},
        {"draws": -1},
        {"graphs": [graph | {"given": {}}]},
        {"graphs": [graph | {"picture": []}]},
    ):
        (tmp_path / MANIFEST).write_text(json.dumps({**fields, **changes}))
        with pytest.raises(BundleError, match="damaged"):
            Bundle.open(tmp_path)
