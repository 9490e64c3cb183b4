"""The pointwise network: limits, modulation, positions of their own."""

import pytest
import torch

from lpnsr.models.pointwise import PointwiseConfig, PointwiseNet


def network(**options):
    torch.manual_seed(0)
    net = PointwiseNet(PointwiseConfig(9, 6, hidden=5, **options)).requires_grad_(False)
    net.scales.normal_()
    return net


def run(net, x, timestep=0):
    return net(x, net.modulation(torch.tensor([timestep])))


def test_a_limited_network_returns_about_its_state():
    net, x = network(limit=0.01), torch.randn(2, 9, 4, 3)
    change = run(net, x) - x[:, :6]
    assert change.abs().max() == pytest.approx(0.01, abs=1e-6)


def test_the_timestep_matters_and_broadcasts_over_the_batch():
    net, x = network(), torch.randn(2, 9, 4, 3)
    first, second = (run(net, x, timestep) for timestep in (0, 3))
    assert (first - second).abs().max() > 0.1
    torch.testing.assert_close(run(net, x[1:], 3), second[1:])


def test_each_position_sees_itself_alone():
    net, x = network(), torch.randn(1, 9, 4, 3)
    changed = x.clone()
    changed[:, :, 2, 1] += 1
    differs = (run(net, x) != run(net, changed)).any(dim=1)[0]
    assert differs.nonzero().tolist() == [[2, 1]]
