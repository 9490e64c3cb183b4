"""Real-ESRGAN as a preset: its network, its checkpoint, and a chain without steps."""

import pytest
import torch

from lpnsr.models.presets import PresetError, get_preset
from lpnsr.models.rrdbnet import RRDBNet
from lpnsr.models.variants import describe, vary
from lpnsr.models.weights import load_chain

PRESET = get_preset("real-esrgan")


def test_the_size_of_the_published_network():
    with torch.device("meta"):
        network = RRDBNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 16_697_987
    names = {*network.state_dict()}
    assert {"body.22.rdb3.conv5.weight", "conv_up2.bias", "conv_last.weight"} < names


@pytest.mark.slow
def test_the_chain_is_the_network(tmp_path):
    network = RRDBNet().eval()
    file = tmp_path / PRESET.networks["pre_upsampler"].files[0]
    torch.save({"params_ema": network.state_dict()}, file)
    chain = load_chain(PRESET, {"pre_upsampler": file})
    lr = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        found = chain(2 * lr - 1, torch.empty(0))
        expected = (2 * network(lr) - 1).clamp(-1, 1)
    torch.testing.assert_close(found, expected)


def test_it_has_no_steps():
    assert PRESET.draws == 0
    assert vary(PRESET, **describe(PRESET)) == PRESET
    with pytest.raises(PresetError, match="real-esrgan: it has no steps; leave out --steps"):
        vary(PRESET, steps=2)
