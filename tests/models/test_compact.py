"""What holds for the compact upsampler whatever its weights."""

import pytest
import torch
from torch import nn

from lpnsr.models.bicubic import Bicubic
from lpnsr.models.compact import OVERSHOOT, CompactConfig, CompactUpsampler


@pytest.fixture
def network():
    """One whose last convolution puts out large values."""
    torch.manual_seed(0)
    network = CompactUpsampler(CompactConfig(channels=8, layers=3)).eval().requires_grad_(False)
    nn.init.normal_(network.last.weight, std=5.0)
    return network


@pytest.mark.parametrize("color", [(-1.0, -1.0, 1.0), (0.1, 0.1, 0.1), (0.9, -0.2, 0.4)])
def test_flat_stays_flat(network, color):
    flat = torch.tensor(color)[None, :, None, None].expand(1, 3, 12, 9)
    large = torch.tensor(color)[None, :, None, None].expand(1, 3, 48, 36)
    torch.testing.assert_close(network(flat), large, atol=1e-6, rtol=0)


def test_grey_stays_grey(network):
    grey = (torch.rand(2, 1, 16, 16) * 2 - 1).expand(2, 3, 16, 16)
    upscaled = network(grey)
    assert (upscaled - Bicubic(4)(grey)).abs().max() > 0.5, "the network adds something"
    torch.testing.assert_close(upscaled[:, 0], upscaled[:, 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(upscaled[:, 2], upscaled[:, 1], atol=1e-6, rtol=0)


def test_edges_do_not_ring(network):
    grey = torch.zeros(1, 3, 24, 24)
    grey[..., 12:] = 0.25
    upscaled = network(grey)[0, 0]
    assert upscaled.max() == pytest.approx(0.25 + OVERSHOOT, abs=1e-5)
    assert upscaled.min() == pytest.approx(-OVERSHOOT, abs=1e-5)
    # The edge is among the 5x5 pixels around columns 10 to 13 only.
    assert upscaled[:, : 4 * 10].abs().max() < 1e-6
    assert (upscaled[:, 4 * 14 :] - 0.25).abs().max() < 1e-6


def test_faint_edges_do_not_ring_by_more_than_their_height(network):
    grey = torch.zeros(1, 3, 24, 24)
    grey[..., 12:] = 0.01
    upscaled = network(grey)[0, 0]
    assert upscaled.max() == pytest.approx(0.02, abs=1e-5)
    assert upscaled.min() == pytest.approx(-0.01, abs=1e-5)


def test_a_fresh_network_interpolates():
    fresh = CompactUpsampler(CompactConfig(channels=8, layers=3)).eval().requires_grad_(False)
    lr = torch.linspace(-1, 1, 24).expand(1, 3, 24, 24)
    torch.testing.assert_close(fresh(lr), Bicubic(4)(lr))
