"""The bundle appears whole and verified, or not at all."""

import copy
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from selection import slow_but

from lpnsr.export import pack
from lpnsr.export.check import parity, run_onnx, verify
from lpnsr.export.check.verify import ParityError, check
from lpnsr.export.pack import stages
from lpnsr.models.presets import Tolerance
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import MANIFEST, BundleError

from .conftest import SMALL

SHAPES = [SMALL]
NAME = "micro_16x16_b1.onnx"


@pytest.fixture
def export(quick, tmp_path):
    """Exports the micro model to a folder in `tmp_path`."""

    def export(target="bundle", **options):
        return pack.pack(quick.chain, quick.preset, SHAPES, tmp_path / target, **options)

    return export


@pytest.fixture
def exported(micro_bundles, tmp_path):
    """A bundle that is there already."""
    return shutil.copytree(micro_bundles["fp32"].path, tmp_path / "bundle")


def everything(folder):
    """Relative path and content of all that is in a folder, hidden or not."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def another_schedule(unroll):
    def unroll_wrongly(chain, *arguments):
        chain = copy.copy(chain)
        chain.schedule = replace(chain.schedule, kappa=chain.schedule.kappa * 1.1)
        return unroll(chain, *arguments)

    return unroll_wrongly


def another_weight(unroll):
    def unroll_wrongly(*arguments):
        model = unroll(*arguments)
        kernels = (
            value
            for value in model.graph.initializers.values()
            if value.name.startswith("decoder") and len(value.const_value.shape) == 4
        )
        weight = next(kernels)
        name = weight.const_value.name
        weight.const_value = pack.ir.tensor(weight.const_value.numpy() * 1.5, name=name)
        return model

    return unroll_wrongly


def not_a_number(unroll):
    def unroll_wrongly(*arguments):
        model = unroll(*arguments)
        name = next(name for name in model.graph.initializers if name.startswith("chain/0."))
        factor = model.graph.initializers[name]
        factor.const_value = pack.ir.tensor(np.array(np.nan, np.float32), name=name)
        return model

    return unroll_wrongly


def test_a_bundle(export, tmp_path, micro):
    seen = []
    bundle = export("new/bundle", progress=seen.append)
    assert seen == stages(micro.preset, SHAPES)
    assert set(everything(tmp_path)) == {
        "new",
        "new/bundle",
        *(f"new/bundle/{name}" for name in (MANIFEST, NAME, "weights.bin")),
    }
    opened = Bundle.open(tmp_path / "new" / "bundle")
    assert opened.manifest == bundle.manifest
    graph = onnx.load(bundle.path / NAME, load_external_data=False).graph
    assert [value.name for value in graph.output] == ["sr"]
    calls = {node.name.split("/")[0] for node in graph.node}
    assert {"denoiser_1", "denoiser_2", "noise_predictor_1"} <= calls
    assert not calls & {"denoiser_3", "noise_predictor_2"}


def test_stages_are_told_apart(micro):
    names = stages(micro.preset, [SMALL, (1, (16, 24)), (2, (16, 16))])
    assert len(set(names)) == len(names) == 3 * 6 + 2 + 3
    assert "trace denoiser 16x24, batch 1" in names


MISTAKES = [
    (mistake, precision)
    for mistake in (another_schedule, another_weight, not_a_number)
    for precision in ("fp32", "fp16")
]
QUICK = [(another_schedule, "fp32"), (another_weight, "fp16"), (not_a_number, "fp32")]


@pytest.mark.parametrize(("mistake", "precision"), slow_but(QUICK, MISTAKES))
def test_a_wrong_graph_is_not_written(export, tmp_path, monkeypatch, mistake, precision):
    monkeypatch.setattr(pack, "unroll", mistake(pack.unroll))
    with pytest.raises(ParityError, match="no bundle was written"):
        export(precision=precision)
    assert everything(tmp_path) == {}


def test_a_failure_leaves_the_old_bundle(export, exported, tmp_path, monkeypatch):
    before = everything(tmp_path)
    monkeypatch.setattr(pack, "unroll", another_schedule(pack.unroll))
    with pytest.raises(ParityError):
        export(force=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_stop_leaves_nothing(export, tmp_path, monkeypatch, error):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(parity, "measure", stop)
    with pytest.raises(type(error)):
        export()
    assert everything(tmp_path) == {}


def test_force_replaces_a_bundle(export, exported, tmp_path):
    (exported / "notes.txt").write_text("of the old bundle")
    with pytest.raises(BundleError, match="add --force"):
        export()
    assert (exported / "notes.txt").exists()
    export(force=True)
    assert set(everything(tmp_path / "bundle")) == {MANIFEST, NAME, "weights.bin"}
    Bundle.open(tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_bundle_is_never_touched(export, tmp_path, force):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("miaow")
    (tmp_path / "file").write_text("hello")
    before = everything(tmp_path)
    for target in ("photos", "file"):
        with pytest.raises(BundleError, match="is not a bundle; name another folder"):
            export(target, force=force)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("figures", "complaint"),
    [
        ({"x0_relative_l2": 1.1e-4}, "more than 1.0e-04"),
        ({"x0_relative_l2": float("nan")}, "x_0 of the exported graph is nan"),
        ({"sr_close_share": 0.9899}, "only 98.99% .* less than 99.00%"),
        ({"sr_close_share": float("nan")}, "only nan%"),
        ({"code_share": 0.9899}, "only 98.99% of the codes"),
    ],
)
def test_figures_out_of_tolerance(figures, complaint):
    good = {"x0_relative_l2": 1e-4, "sr_close_share": 0.99, "code_share": 0.99}
    check(good, Tolerance())
    with pytest.raises(ParityError, match=complaint):
        check({**good, **figures}, Tolerance())


def test_a_code_that_falls_differently(micro):
    """It counts as one code; the picture is compared on the codes that the graph has chosen."""
    chain, values = micro.chain, verify.random_input(micro.preset, *SMALL, seed=3)
    book = chain.network("autoencoder").quantize["embedding"].weight

    def run(given):
        found = chain.run(*verify.tensors(given))
        codes = found["quantized"].clone()
        codes[0, :, 5, 7] = book[(book[:, 0] == codes[0, 0, 5, 7]).int().argmin()]
        sr = chain.compute(chain.stages[-1], chain.updates()[-1], codes)[0]
        return {"x_0": found["state"].numpy(), "quantized": codes.numpy(), "sr": sr.numpy()}

    parity = verify.measure(chain, run, values, same_codes=True)
    assert parity["code_share"] == pytest.approx(1 - 1 / 256)
    assert (parity["sr_close_share"], parity["sr_psnr"]) == (1, 200)
    assert verify.measure(chain, run, values)["sr_psnr"] < 60


def test_verification_needs_an_engine(export, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(run_onnx.EngineMissingError, match=r"lpnsr\[cpu\]"):
        export()
    assert everything(tmp_path) == {}
