"""A chain without steps, from the network to a picture."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import random_model

from lpnsr.export import pack
from lpnsr.models.presets import Network, get_preset
from lpnsr.models.rrdbnet import RRDBNet
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.upscaler import Upscaler

NETWORK = Network(functools.partial(RRDBNet, 1), ("upsampler.safetensors",))
PRESET = replace(get_preset("real-esrgan"), networks={"pre_upsampler": NETWORK})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The network, each of whose stages is traced once."""
    model = random_model(PRESET, tmp_path_factory.mktemp("weights"))
    traced = functools.cache(functools.partial(pack.trace_stage, model.chain, PRESET))
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(pack, "trace_stage", lambda chain, preset, *shape: traced(*shape))
        yield model


@pytest.mark.parametrize("topology", ["unrolled", "staged"])
def test_a_picture(model, topology, tmp_path):
    target = tmp_path / "bundle"
    bundle = pack.pack(model.chain, PRESET, [(1, (16, 16))], target, topology=topology)
    assert Bundle.open(target).manifest == bundle.manifest
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    found = Upscaler.from_bundle(target, backend="onnxruntime").upscale(picture, color_fix=False)
    lr = torch.from_numpy(picture.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)
    with torch.no_grad():
        expected = model.chain(lr, torch.empty(0))[0].permute(1, 2, 0).numpy()
    assert np.abs(found - (expected + 1) * 127.5).max() <= 1
