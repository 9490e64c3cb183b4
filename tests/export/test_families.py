"""Families other than LPNSR on small networks: the same export, other parts."""

import collections
import re
from functools import partial
from operator import attrgetter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from selection import slow_but
from small import AUTOENCODER, UNET, UPSR, random_model

from lpnsr.export import pack
from lpnsr.export.check.verify import ParityError, check
from lpnsr.models.codecs import VQCodec
from lpnsr.models.presets import PRESETS, Network, Preset, Tolerance
from lpnsr.models.roles import ROLES
from lpnsr.models.schedule import Schedule
from lpnsr.models.swin_unet import SwinUNet

SHAPE = (2, (16, 24))
RESSHIFT = Preset(
    name="micro-resshift",
    schedule=Schedule(steps=3),
    networks={
        "autoencoder": Network(partial(VQCodec, AUTOENCODER), ("autoencoder.safetensors",)),
        "denoiser": Network(partial(SwinUNet, UNET(6, 3)), ("denoiser.safetensors",)),
    },
    latent_channels=3,
    multiple=8,
)
CALLS = {
    "micro-resshift": {
        "pre_upsampler": 1,
        "encoder": 1,
        "denoiser": 3,
        "quantizer": 1,
        "decoder": 1,
    },
    "micro-upsr": {"pre_upsampler": 1, "encoder": 1, "auxiliary": 1, "denoiser": 5, "decoder": 1},
}


@pytest.fixture(scope="module", params=slow_but([UPSR], [RESSHIFT, UPSR]), ids=attrgetter("name"))
def model(request, tmp_path_factory):
    return random_model(request.param, tmp_path_factory.mktemp(request.param.name))


@pytest.fixture(scope="module")
def bundle(model):
    return pack.pack(model.chain, model.preset, [SHAPE], model.weights / "bundle")


@pytest.fixture(scope="module")
def file(bundle):
    return bundle.graph_path(bundle.manifest.graphs[0])


def test_every_preset_keeps_to_the_roles():
    for preset in PRESETS.values():
        assert set(preset.networks) <= set(ROLES)


def test_the_manifest_says_what_the_chain_draws(model, bundle):
    assert bundle.manifest.draws == {"micro-resshift": 3, "micro-upsr": 1}[model.preset.name]
    assert set(bundle.manifest.precision) == set(CALLS[model.preset.name])


def test_every_stage_is_called_as_often_as_needed(model, file):
    nodes = onnx.load(file, load_external_data=False).graph.node
    matches = (re.match(r"(\w+)_(\d+)/", node.name) for node in nodes)
    calls = {match.groups() for match in matches if match and match[1] != "chain"}
    counts = collections.Counter(stage for stage, _ in calls)
    assert counts == CALLS[model.preset.name]


def test_it_is_plain(file):
    """Operators that engines compute alike: none that sorts, loops or makes shapes of values."""
    onnx.checker.check_model(file, full_check=True)
    graph = onnx.load(file, load_external_data=False).graph
    assert [value.name for value in graph.output] == ["sr"]
    refused = {"TopK", "CumSum", "NonZero", "Unique", "Loop", "If", "Scan", "Shape", "Resize"}
    used = {node.op_type for node in graph.node if "denoiser" not in node.name}
    assert not used & (refused - {"Resize"} if "micro-resshift" in file.name else refused)


def test_it_computes_what_the_chain_computes(model, file):
    (batch, tile), preset = SHAPE, model.preset
    rng = np.random.default_rng(1)
    lr = rng.uniform(-1, 1, (batch, 3, *tile)).astype(np.float32)
    shape = (preset.draws, batch, preset.latent_channels, *tile)
    noise = rng.standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(["sr"], {"lr": lr, "noise": noise})
    expected = model.chain(torch.from_numpy(lr), torch.from_numpy(noise)).numpy()
    assert (np.abs(found - expected) <= 2 / 255).mean() >= 0.99


def test_categories_are_compared(bundle):
    parity = bundle.manifest.graphs[0].parity["fp32"]
    if "category_share" in parity:
        with pytest.raises(ParityError, match="categories of eager PyTorch"):
            check({**parity, "category_share": 0.99}, Tolerance())
    else:
        assert bundle.manifest.preset == "micro-resshift"
