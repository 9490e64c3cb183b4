import copy
from dataclasses import replace

import pytest
import torch

from lpnsr.models.swin_unet import SwinUNet, SwinUNetConfig, timestep_embedding


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = SwinUNetConfig(
        in_channels=5,
        out_channels=2,
        channels=16,
        multipliers=(1, 2),
        blocks=1,
        groups=4,
        swin_channels=16,
        head_channels=8,
        mlp_ratio=2,
    )
    return SwinUNet(config).eval().requires_grad_(False)


def run(network, x, *timesteps):
    return network(x, network.modulation(torch.tensor(timesteps)))


def test_a_batch_of_timesteps_is_each_alone(network):
    x = torch.randn(3, 5, 16, 32)
    together = run(network, x, 3, 0, 1)
    for row, timestep in enumerate((3, 0, 1)):
        alone = run(network, x[row : row + 1], timestep)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_one_timestep_serves_a_batch(network):
    x = torch.randn(2, 5, 32, 16)
    torch.testing.assert_close(run(network, x, 2), run(network, x, 2, 2), rtol=1e-4, atol=1e-5)


def test_the_timestep_matters(network):
    x = torch.randn(1, 5, 16, 16)
    assert (run(network, x, 0) - run(network, x, 3)).abs().max() > 1e-3


def test_shapes(network):
    assert network.config.multiple == 16
    assert run(network, torch.randn(1, 5, 48, 16), 1).shape == (1, 2, 48, 16)


def test_timestep_embedding():
    found = timestep_embedding(torch.tensor([0, 3]), 8)
    angles = 3 * 10000.0 ** (-torch.arange(4) / 4)
    expected = torch.stack(
        [torch.cat([torch.ones(4), torch.zeros(4)]), torch.cat([angles.cos(), angles.sin()])]
    )
    torch.testing.assert_close(found, expected)


def test_a_skip_adds_the_state_to_the_output(network):
    x = torch.randn(2, network.config.in_channels, 16, 16)
    modulation = network.modulation(torch.tensor([1]))
    skipping = copy.copy(network)
    skipping.config = replace(network.config, skip=True)
    state = x[:, : network.config.out_channels]
    torch.testing.assert_close(skipping(x, modulation), state + network(x, modulation))


@pytest.mark.parametrize(("groups", "everywhere"), [(4, True), (0, False)])
def test_without_norms_no_position_depends_on_all_others(network, groups, everywhere):
    torch.manual_seed(1)
    local = SwinUNet(replace(network.config, groups=groups)).eval().requires_grad_(False)
    x = torch.randn(1, 5, 16, 192)
    changed = x.clone()
    changed[..., 88:104] += 1
    far, far_changed = (run(local, picture, 1)[..., :8] for picture in (x, changed))
    assert (far != far_changed).any() == everywhere
