"""The networks' parameters are those of the official checkpoints."""

import json
from pathlib import Path

import pytest
import torch

from lpnsr.models.presets import get_preset
from lpnsr.models.windows import WindowAttention

KEYS = Path(__file__).parents[1] / "reference" / "keys"
ROLES = ["pre_upsampler", "autoencoder", "denoiser", "noise_predictor"]


def build_without_memory(role):
    with torch.device("meta"):
        return get_preset("lpnsr").networks[role].build()


@pytest.mark.parametrize("role", ROLES)
def test_state_dict(role):
    described = json.loads((KEYS / f"{role}.json").read_text())
    found = {key: list(v.shape) for key, v in build_without_memory(role).state_dict().items()}
    assert found == described["parameters"]
    assert described["file"] == get_preset("lpnsr").networks[role].files[0]


@pytest.mark.parametrize("role", ["denoiser", "noise_predictor"])
def test_the_deepest_level_never_shifts(role):
    network = build_without_memory(role)
    blocks = {
        name: layer.shift
        for name, layer in network.named_modules()
        if isinstance(layer, WindowAttention)
    }
    deepest = ("input_blocks.10.", "middle_block.", "output_blocks.0.")
    for name, shift in blocks.items():
        second = ".blocks.1." in name
        assert shift == (4 if second and not name.startswith(deepest) else 0), name
    assert sum(name.startswith(deepest) for name in blocks) == 6


def test_every_second_layer_of_swinir_shifts():
    blocks = build_without_memory("pre_upsampler").layers
    for block in blocks:
        shifts = [layer.attn.shift for layer in block.residual_group["blocks"]]
        assert shifts == [0, 4, 0, 4, 0, 4]
