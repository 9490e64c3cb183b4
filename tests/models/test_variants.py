"""Variants against the formulas of the papers, written out; and what they need and refuse."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lpnsr.models.presets import PresetError, get_preset
from lpnsr.models.roles import NOISE_KINDS
from lpnsr.models.variants import describe, vary
from lpnsr.models.weights import find_weights

from .test_chain import Recorder, assemble

KEYS = Path(__file__).parents[1] / "reference" / "keys"
X0, MEAN, LOGVAR = 0.25, 0.5, -1.0


def etas(steps, least, kappa=2.0, end=0.99, power=0.3):
    """eta_0 = 0 and eta_1 … eta_T by ResShift's eq. 10, sqrt(eta_t) = sqrt(eta_1)·b^(beta_t)."""
    first = min(least / kappa, least)
    base = math.exp(math.log(end / first) / (steps - 1))
    exponents = [((t - 1) / (steps - 1)) ** power * (steps - 1) for t in range(1, steps + 1)]
    return [0.0, *((first * base**exponent) ** 2 for exponent in exponents)]


def run(preset, noise):
    """The reverse chain on a black picture, and its recorded networks."""
    predictor = Recorder(48, MEAN, LOGVAR) if "noise_predictor" in preset.networks else None
    up = torch.nn.Upsample(scale_factor=4)
    chain = assemble(preset.schedule, up, Recorder(48, X0), predictor)
    lr = torch.full((1, 3, 8, 8), -1.0)
    return chain.reverse(chain.encode(lr), lr, noise), chain


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("kinds", [[kind] for kind in NOISE_KINDS])
def test_short_chains_with_each_noise(steps, kinds):
    assert_follows_the_formulas(steps, kinds)


@pytest.mark.parametrize("kinds", list(itertools.product(NOISE_KINDS, repeat=2)))
def test_noise_told_step_by_step(kinds):
    assert_follows_the_formulas(3, kinds)


def assert_follows_the_formulas(steps, kinds):
    """ResShift, eq. 7: x_{t-1} ~ N(eta_{t-1}/eta_t x_t + alpha_t/eta_t x_0, eta_{t-1}/eta_t …)."""
    preset = vary(get_preset("lpnsr"), steps, kinds)
    told = kinds if len(kinds) > 1 else kinds * (steps - 1)
    drawn = torch.randn(1 + sum(kind != "zero" for kind in told), 1, 48, 8, 8)
    found, chain = run(preset, drawn)

    eta, draws = etas(4, 0.2), iter(drawn)
    x = -1 + 2.0 * math.sqrt(eta[steps]) * next(draws)
    states = []
    for t, kind in zip(range(steps, 0, -1), [*told, "zero"], strict=True):
        states.append(x)
        alpha = eta[t] - eta[t - 1]
        x = eta[t - 1] / eta[t] * x + alpha / eta[t] * X0
        if kind != "zero":
            z = next(draws)
            z = MEAN + math.exp(LOGVAR / 2) * z if kind == "predicted" else z
            x = x + 2.0 * math.sqrt(eta[t - 1] / eta[t] * alpha) * z
    torch.testing.assert_close(found, x)
    assert [t for t, _ in chain.denoiser.calls] == list(range(steps - 1, -1, -1))
    for t, state, (_, seen) in zip(range(steps, 0, -1), states, chain.denoiser.calls, strict=True):
        torch.testing.assert_close(seen[:, :48], state / math.sqrt(4 * eta[t] + 1))
    asked = [steps - 1 - k for k, kind in enumerate(told) if kind == "predicted"]
    calls = chain.network("noise_predictor").calls if chain.has("noise_predictor") else []
    assert [t for t, _ in calls] == asked


def test_resshift_15_by_the_formula():
    schedule = get_preset("resshift-15").schedule
    expected = etas(15, 0.04)
    assert schedule.etas == pytest.approx(expected[1:], rel=1e-12)
    assert expected[1] == pytest.approx(0.02**2) and expected[15] == pytest.approx(0.99**2)
    steps = schedule.reverse_steps()
    assert [step.timestep for step in steps] == list(range(14, -1, -1))
    assert (schedule.draws, schedule.start_noise) == (15, pytest.approx(1.98))


def test_sinsr_predicts_x0_from_the_last_state():
    preset = get_preset("sinsr")
    assert preset.schedule.etas.tolist() == get_preset("resshift-15").schedule.etas.tolist()
    noise = torch.randn(1, 1, 48, 8, 8)
    found, chain = run(preset, noise)
    assert (found == X0).all()
    ((timestep, seen),) = chain.denoiser.calls
    assert timestep == 14
    torch.testing.assert_close(seen[:, :48], (-1 + 1.98 * noise[0]) / math.sqrt(1.98**2 + 1))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resshift-15", "resshift_realsrx4_s15_v1.pth"),
        ("resshift-15", "resshift_realsrx4_s15_v2.pth"),
        ("sinsr", "SinSR_v1.pth"),
    ],
)
def test_checkpoints_of_the_same_denoiser(name, file, tmp_path):
    preset = get_preset(name)
    for each in (file, "autoencoder_vq_f4.pth"):
        (tmp_path / each).touch()
    assert find_weights(preset, tmp_path)["denoiser"].name == file
    with torch.device("meta"):
        state = preset.networks["denoiser"].build().state_dict()
    described = json.loads((KEYS / "denoiser.json").read_text())["parameters"]
    assert {key: list(value.shape) for key, value in state.items()} == described


@pytest.mark.parametrize(
    ("asked", "needed"),
    [
        ({}, {"pre_upsampler", "noise_predictor"}),
        ({"start": "swinir", "noise": ["predicted"]}, {"pre_upsampler", "noise_predictor"}),
        ({"start": "bicubic"}, {"noise_predictor"}),
        ({"noise": ["gaussian"]}, {"pre_upsampler"}),
        ({"noise": ["zero"], "start": "bicubic"}, set()),
        ({"noise": ["zero", "gaussian", "predicted"]}, {"pre_upsampler", "noise_predictor"}),
        ({"steps": 1}, {"pre_upsampler"}),
        ({"steps": 1, "noise": ["predicted"]}, {"pre_upsampler"}),
    ],
)
def test_networks_that_are_not_called_are_left_out(asked, needed):
    lpnsr = get_preset("lpnsr")
    preset = vary(lpnsr, **asked)
    assert set(preset.networks) == needed | {"autoencoder", "denoiser"}
    # A description is enough to make the variant again.
    assert vary(lpnsr, **describe(preset)) == vary(preset, **describe(preset))


def test_lpnsr_without_its_additions_is_resshift():
    found = vary(get_preset("lpnsr"), noise=["gaussian"], start="bicubic")
    resshift = get_preset("resshift")
    assert found.networks == resshift.networks
    for ours, theirs in zip(
        found.schedule.reverse_steps(), resshift.schedule.reverse_steps(), strict=True
    ):
        assert replace(ours, predicted=ours.noise > 0) == theirs
    assert describe(found) == describe(resshift)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lpnsr", {"steps": 4, "noise": ["predicted"] * 3, "start": "swinir"}),
        ("resshift-15", {"steps": 15, "noise": ["gaussian"] * 14, "start": "bicubic"}),
        ("sinsr", {"steps": 1, "noise": [], "start": "bicubic"}),
        ("upsr", {"steps": 5, "noise": ["zero"] * 4, "start": "bicubic"}),
    ],
)
def test_presets_describe_themselves(name, told):
    assert describe(get_preset(name)) == told


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("lpnsr", {"steps": 9}, "lpnsr: a chain of 4 steps cannot be run with 9"),
        ("lpnsr", {"steps": 0}, "4 steps cannot be run with 0"),
        ("sinsr", {"steps": 2}, "sinsr: a chain of 1 steps cannot be run with 2"),
        ("resshift", {"noise": ["predicted"]}, "resshift has no noise predictor"),
        ("resshift", {"start": "swinir"}, "resshift has no pre-upsampler"),
        ("upsr", {"noise": ["gaussian"]}, "the steps of upsr use no noise"),
        ("lpnsr", {"noise": ["zero", "predicted"]}, "one kind of noise for all or 3, not 2"),
        ("lpnsr", {"steps": 1, "noise": ["zero", "zero"]}, "0 steps that use noise"),
    ],
)
def test_what_there_is_not(name, asked, message):
    with pytest.raises(PresetError, match=message):
        vary(get_preset(name), **asked)


def test_a_variant_can_be_shortened_again():
    """Kinds of noise stay with their steps."""
    whole = vary(get_preset("lpnsr"), noise=["zero", "predicted", "gaussian"])
    short = vary(whole, steps=3)
    assert short.schedule.reverse_steps() == whole.schedule.reverse_steps()[1:]
