"""What holds for the compact upsampler whatever its weights."""

import pytest
import torch
from torch import nn

from lpnsr.models.bicubic import Bicubic
from lpnsr.models.compact import CompactConfig, CompactUpsampler


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


def test_what_is_added_to_luma_is_limited_by_the_contrast_around(network):
    grey = torch.zeros(1, 3, 24, 24)
    grey[..., 12:] = 0.25
    added = (network(grey) - Bicubic(4)(grey)).abs()[0, 0]
    assert added.max() == pytest.approx(0.25, abs=1e-5)
    # The edge is among the 5x5 pixels around columns 10 to 13 only.
    assert added[:, : 4 * 10].max() < 1e-6
    assert added[:, 4 * 14 :].max() < 1e-6


def test_a_fresh_network_interpolates():
    fresh = CompactUpsampler(CompactConfig(channels=8, layers=3)).eval().requires_grad_(False)
    lr = torch.rand(1, 3, 10, 11) * 2 - 1
    torch.testing.assert_close(fresh(lr), Bicubic(4)(lr))
