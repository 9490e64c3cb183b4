"""One graph for each network: the loop between them computes what the one graph computes."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from selection import slow_but
from small import UPSR, random_model

from lpnsr.export import pack
from lpnsr.export.check.verify import ParityError
from lpnsr.models.variants import vary
from lpnsr.runtime import backends
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import MANIFEST, BundleError

from .conftest import SMALL
from .test_families import RESSHIFT

WIDE = (2, (16, 24))


@pytest.fixture
def quick_pack(micro, micro_traces, monkeypatch, tmp_path):
    """Exports variants of the micro model whose traces are there."""
    monkeypatch.setattr(pack, "trace_stage", lambda chain, preset, *shape: micro_traces(*shape))

    def export(preset, topology, shapes=(SMALL,), **options):
        chain = micro.chain.replaced(schedule=preset.schedule)
        if "noise_predictor" not in preset.networks:
            chain = chain.replaced(noise_predictor=None)
        target = tmp_path / f"{topology}_{len(list(tmp_path.iterdir()))}"
        return pack.pack(chain, preset, shapes, target, topology=topology, **options)

    return export


def run(bundle, graph=0, seed=3):
    """What the runtime makes of random input with one of the bundle's graphs."""
    graph, manifest = bundle.manifest.graphs[graph], bundle.manifest
    rng = np.random.default_rng(seed)
    lr = rng.uniform(-1, 1, (graph.batch, 3, *graph.tile)).astype(np.float32)
    shape = (manifest.draws, graph.batch, manifest.latent_channels, *graph.tile)
    backend, _ = backends.create("onnxruntime")
    session = backend.load(bundle, graph)
    return session.run(lr, rng.standard_normal(shape, np.float32))


def test_staged_and_unrolled_agree(micro_bundles, assert_share):
    # A near-tie among the codes may fall differently.
    unrolled, staged = (run(micro_bundles[name]) for name in ("fp32", "staged fp32"))
    assert_share(staged, unrolled, 0.99, within=1e-3)


VARIANTS = [{"noise": ["gaussian"]}, {"noise": ["zero"]}, {"steps": 1}]


@pytest.mark.parametrize("options", slow_but(VARIANTS[1:2], VARIANTS), ids=str)
def test_variants_agree(micro, quick_pack, assert_share, options):
    preset = vary(micro.preset, **options)
    unrolled, staged = (quick_pack(preset, topology) for topology in ("unrolled", "staged"))
    assert staged.manifest.draws == unrolled.manifest.draws
    # A near-tie among the codes may fall differently.
    assert_share(run(staged), run(unrolled), 0.99, within=1e-3)


@pytest.mark.parametrize("precision", ["fp16", "mixed"])
def test_narrow_stages_are_verified_one_by_one(micro_bundles, precision):
    bundle = micro_bundles[f"staged {precision}"]
    (graph,) = bundle.manifest.graphs
    assert list(graph.parity) == [precision]
    assert list(graph.stage_parity) == list(bundle.manifest.precision)
    narrow = {stage for stage, computed in bundle.manifest.precision.items() if computed != "fp32"}
    for stage in narrow:
        assert 40 < graph.stage_parity[stage]["psnr"] < 100
    if precision == "fp16":
        assert np.isfinite(run(bundle)).all()


@pytest.mark.slow
@pytest.mark.parametrize("preset", [RESSHIFT, UPSR], ids=lambda preset: preset.name)
def test_other_families(preset, tmp_path, assert_share):
    model = random_model(preset, tmp_path)
    bundles = [
        pack.pack(model.chain, preset, [WIDE], tmp_path / topology, topology=topology)
        for topology in ("unrolled", "staged")
    ]
    unrolled, staged = map(run, bundles)
    assert_share(staged, unrolled, 0.99, within=1e-3)
    names = [stage.name for stage in bundles[1].manifest.graphs[0].stages]
    assert ("auxiliary" in names) == (preset is UPSR)


def test_the_bundle(micro_bundles):
    bundle = micro_bundles["staged fp32"]
    opened = Bundle.open(bundle.path)
    assert opened.manifest == bundle.manifest
    assert (opened.manifest.topology, len(opened.manifest.steps)) == ("staged", 3)
    for graph in opened.manifest.graphs:
        names = [stage.name for stage in graph.stages]
        assert names == ["pre_upsampler", "encoder", "denoiser", "noise_predictor", "decoder"]
        for stage in graph.stages:
            model = onnx.load(opened.stage_path(stage))
            onnx.checker.check_model(opened.stage_path(stage), full_check=True)
            assert tuple(value.name for value in model.graph.input) == stage.inputs
            assert tuple(value.name for value in model.graph.output) == stage.outputs
            kinds = {value.type.tensor_type.elem_type for value in model.graph.output}
            assert kinds == {TensorProto.FLOAT}


@pytest.mark.slow
def test_all_tiles_share_their_weights(micro, quick_pack):
    one = quick_pack(micro.preset, "staged")
    two = quick_pack(micro.preset, "staged", shapes=[SMALL, WIDE])
    size, more = ((bundle.path / "weights.bin").stat().st_size for bundle in (one, two))
    assert more < 1.1 * size


def test_a_wrong_stage_is_not_written(micro, quick_pack, monkeypatch, tmp_path):
    original = pack.stage_graphs

    def wrongly(*arguments):
        graphs = original(*arguments)
        model = next(model for stage, model in graphs.items() if stage.name == "denoiser")
        table = model.graph.initializers["denoiser/timesteps"]
        values = table.const_value.numpy()[::-1].copy()
        table.const_value = pack.ir.tensor(values, name=table.name)
        return graphs

    monkeypatch.setattr(pack, "stage_graphs", wrongly)
    with pytest.raises(ParityError, match="no bundle was written"):
        quick_pack(micro.preset, "staged")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_description_is_refused(micro_bundles, tmp_path):
    path = shutil.copytree(micro_bundles["staged fp32"].path, tmp_path / "staged")
    fields = json.loads((path / MANIFEST).read_text())
    stages = fields["graphs"][0]["stages"]
    for changes in (
        {"topology": "circular"},
        {"topology": "unrolled"},
        {"steps": []},
        {"steps": [{"state": 1}]},
        {"graphs": [fields["graphs"][0] | {"stages": stages[1:]}]},
        {"graphs": [fields["graphs"][0] | {"stages": [*stages, {"name": "denoiser"}]}]},
    ):
        (path / MANIFEST).write_text(json.dumps({**fields, **changes}))
        with pytest.raises(BundleError, match="damaged"):
            Bundle.open(path)


def test_what_runs_it(micro_bundles):
    bundle = micro_bundles["staged fp32"]
    with pytest.raises(BackendError, match=r"use --backend onnxruntime.*, .* --topology unrolled"):
        backends.create("openvino", precision="fp32", bundle=bundle)
    backend, why = backends.create(accurate=("fp32", "bf16"), bundle=bundle)
    assert backend.describe().startswith("ONNX Runtime")
    assert why == "OpenVINO runs unrolled bundles only"
