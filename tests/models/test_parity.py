"""Full-size networks with the recipe's weights against the tensors of the authors' code."""

import gc
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from lpnsr.models.chain import Chain, residual_shift
from lpnsr.models.presets import get_preset
from lpnsr.models.weights import find_weights, load_chain

pytestmark = pytest.mark.slow

REFERENCE = Path(__file__).parents[1] / "reference"
NETWORK, CHAIN, ARITHMETIC = 1e-4, 1e-3, 1e-6


@dataclass(repr=False)
class Case:
    """One golden case: the chain, its inputs, and what the authors' code made of them."""

    chain: Chain
    golden: dict[str, torch.Tensor]
    lr: torch.Tensor
    noise: torch.Tensor

    @cached_property
    def pre_upsampled(self):
        return self.chain.pre_upsampler(self.lr)


@pytest.fixture(scope="module")
def chain(official_weights):
    preset = get_preset("lpnsr")
    loaded = [load_chain(preset, find_weights(preset, official_weights))]
    yield loaded[0]
    loaded.clear()
    gc.collect()


@pytest.fixture(scope="module", params=["a", "b"])
def case(request, recipe, chain):
    with np.load(REFERENCE / f"golden_{request.param}.npz") as file:
        golden = {name: torch.from_numpy(array) for name, array in file.items()}
    height, width = golden["latent"].shape[2:]
    draws = [recipe.noise(f"{request.param}/eps{i}", (1, 3, height, width)) for i in range(4)]
    lr = recipe.image(f"{request.param}/lr", 1, height, width)
    return Case(chain, golden, torch.from_numpy(lr), torch.from_numpy(np.stack(draws)))


@pytest.fixture(params=[4, 3, 2, 1])
def step(request, chain):
    """The reverse step of t = 4, 3, 2, 1."""
    return chain.schedule.reverse_steps()[4 - request.param]


@pytest.fixture(params=[4, 3, 2])
def noisy_step(request, chain):
    """The reverse steps with noise, t = 4, 3, 2."""
    return chain.schedule.reverse_steps()[4 - request.param]


def test_pre_upsampler(case, assert_near):
    assert_near(case.pre_upsampled, case.golden["pre_upsampled"], NETWORK)


def test_encoder(case, assert_near):
    latent = case.chain.codec.encode(case.golden["pre_upsampled"])
    assert_near(latent, case.golden["latent"], NETWORK)


def test_start(case, assert_near):
    start = case.golden["latent"] + case.chain.schedule.start_noise * case.noise[0]
    assert_near(start, case.golden["x_4"], ARITHMETIC)


def test_denoiser(case, step, assert_near):
    t = step.timestep + 1
    found = case.chain.predict_x0(step, case.golden[f"x_{t}"], case.lr)
    assert_near(found, case.golden[f"x0_pred_{t}"], NETWORK)


def test_noise_predictor(case, noisy_step, assert_near):
    t = noisy_step.timestep + 1
    inputs = case.golden[f"x_{t}"], case.golden[f"x0_pred_{t}"], case.lr
    mean, logvar = case.chain.compute(case.chain.stage("noise_predictor"), noisy_step, *inputs)
    assert_near(mean, case.golden[f"noise_mean_{t}"], NETWORK)
    assert_near(logvar, case.golden[f"noise_logvar_{t}"], NETWORK)


def test_residual_shift(case, step, assert_near):
    t = step.timestep + 1
    noise = {}
    if t > 1:
        noise = {name: case.golden[f"noise_{name}_{t}"] for name in ("mean", "logvar")}
        noise["eps"] = case.noise[5 - t]
    found = residual_shift(step, case.golden[f"x_{t}"], case.golden[f"x0_pred_{t}"], **noise)
    assert_near(found, case.golden[f"x_{t - 1}"], ARITHMETIC)


def test_codes(case, assert_near, assert_share):
    codec, golden = case.chain.codec, case.golden
    assert_share(codec.code_indices(golden["x_0"]), golden["code_indices"], 0.995)
    assert_near(codec.nearest_codes(golden["quantized"]), golden["quantized"], ARITHMETIC)


def test_decoder(case, assert_near):
    decoded = case.chain.codec.decode_quantized(case.golden["quantized"])
    assert_near(decoded, case.golden["decoded"], NETWORK)


def test_chain(case, assert_near, assert_share):
    latent = case.chain.codec.encode(case.pre_upsampled)
    x0 = case.chain.reverse(latent, case.lr, case.noise)
    assert_near(x0, case.golden["x_0"], CHAIN)
    assert_share(case.chain.codec.code_indices(x0), case.golden["code_indices"], 0.995)
