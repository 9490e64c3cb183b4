"""ResShift is LPNSR without its two networks: plain noise and a bicubic start."""

import pytest
import torch

from lpnsr.models.bicubic import Bicubic
from lpnsr.models.checkpoints import CheckpointError
from lpnsr.models.presets import get_preset
from lpnsr.models.weights import find_weights


@pytest.fixture(scope="module")
def resshift():
    return get_preset("resshift")


def test_it_shares_everything_with_lpnsr_but_what_lpnsr_adds(resshift):
    lpnsr = get_preset("lpnsr")
    assert resshift.schedule == lpnsr.schedule
    assert set(lpnsr.networks) - set(resshift.networks) == {"pre_upsampler", "noise_predictor"}
    for role, network in resshift.networks.items():
        assert network is lpnsr.networks[role]
    assert resshift.draws == 4


def test_it_starts_bicubic_and_its_noise_is_the_draw(resshift):
    with torch.device("meta"):
        chain = resshift.build()
    assert isinstance(chain.pre_upsampler, Bicubic)
    steps = chain.updates()[1:]
    assert [(step.noise > 0, step.predicted) for step in steps] == [(True, False)] * 3 + [
        (False, False)
    ]


def test_official_names(resshift, tmp_path):
    names = ("resshift_realsrx4_s4_v3.pth", "autoencoder_vq_f4.pth")
    for name in names:
        (tmp_path / name).touch()
    assert {file.name for file in find_weights(resshift, tmp_path).values()} == set(names)


def test_a_checkpoint_for_a_network_that_it_has_not_is_refused(resshift, tmp_path):
    with pytest.raises(CheckpointError, match="needs no auxiliary here; leave out --auxiliary"):
        find_weights(resshift, tmp_path, {"auxiliary": tmp_path / "atd_real.pth"})
