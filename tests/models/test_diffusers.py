"""Networks of Stable Diffusion against diffusers', on equal random weights."""

import gc

import pytest
import torch
from dm_sr import AUTOENCODER, PRESET, UNET
from small import random_model

from lpnsr.models.autoencoder_kl import AutoencoderKLConfig, KLDecoder, KLEncoder
from lpnsr.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from lpnsr.models.dm_sr import TRAINED_STEPS
from lpnsr.models.presets import get_preset
from lpnsr.models.variants import vary

diffusers = pytest.importorskip("diffusers", reason="compares with diffusers, if it is installed")
LIMIT = 1e-4
FULL = pytest.mark.slow
UNETS = [UNET, pytest.param(DiffusionUNetConfig(), marks=FULL, id="full")]
AUTOENCODERS = [AUTOENCODER, pytest.param(AutoencoderKLConfig(), marks=FULL, id="full")]


@pytest.fixture(autouse=True)
def eager(request):
    with torch.no_grad():
        yield
    if request.node.get_closest_marker("slow"):  # networks of full size
        gc.collect()


def their_unet(config):
    return diffusers.UNet2DConditionModel(
        sample_size=64,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        # The heads' number goes by the name of their width.
        attention_head_dim=[width // config.head_channels for width in config.widths],
        cross_attention_dim=config.context_channels,
        use_linear_projection=True,
        norm_num_groups=config.groups,
    ).eval()


def their_autoencoder(config):
    return diffusers.AutoencoderKL(
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        scaling_factor=config.scaling,
    ).eval()


def shaken(network):
    """With norms and biases that are not 1 and 0."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("config", UNETS)
def test_the_unet(config, assert_near):
    theirs = shaken(their_unet(config))
    ours = DiffusionUNet(config).eval()
    ours.load_state_dict(theirs.state_dict())
    latent = torch.randn(2, config.latent_channels, 16, 8)
    context = torch.randn(1, 5, config.context_channels)
    ours.attend_to(context)
    for timestep in (torch.tensor([0, 999]), torch.tensor([250, 17])):
        expected = theirs(latent, timestep, context.expand(2, -1, -1)).sample
        assert_near(ours(latent, ours.modulation(timestep)), expected, LIMIT)


@pytest.mark.parametrize("config", AUTOENCODERS)
def test_the_autoencoder(config, assert_near):
    theirs = shaken(their_autoencoder(config))
    encoder, decoder = KLEncoder(config).eval(), KLDecoder(config).eval()
    decoder.load_state_dict(decoder.own(theirs.state_dict()))
    missing = encoder.load_state_dict(encoder.own(theirs.state_dict()), strict=False)
    assert {name.split(".")[0] for name in missing.missing_keys} == {"time_projections"}
    assert not missing.unexpected_keys
    picture = torch.randn(2, 3, 64, 32)
    latent = encoder(picture, torch.tensor([3.0, 400.0]))
    expected = theirs.encode(picture).latent_dist.mean * config.scaling
    assert_near(latent, expected, LIMIT)
    assert_near(decoder.decode(latent), theirs.decode(latent / config.scaling).sample, LIMIT)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_chain(tmp_path, steps, assert_near):
    """Against a plain script on diffusers' networks and scheduler (equations 1 and 2)."""
    model = random_model(vary(PRESET, steps=steps), tmp_path)
    chain = model.chain
    autoencoder, unet = their_autoencoder(AUTOENCODER), their_unet(UNET)
    unet.load_state_dict(chain.denoiser.state_dict())
    state = chain.encoder.state_dict() | chain.decoder.state_dict()
    projections = {name: state.pop(name) for name in [*state] if name.startswith("time_")}
    autoencoder.load_state_dict(state)
    alphas = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    ).alphas_cumprod
    assert len(alphas) == TRAINED_STEPS

    lr = torch.rand(1, 3, 16, 32) * 2 - 1
    picture = torch.nn.functional.interpolate(lr, scale_factor=4.0, mode="bicubic")
    t = int(chain.timestep_estimator(picture).round())
    for level, block in enumerate(autoencoder.encoder.down_blocks):
        weight, bias = (projections[f"time_projections.{level}.{n}"] for n in ("weight", "bias"))
        shift = (weight[:, 0] * t / 500 + bias)[:, None, None]
        block.resnets[-1].register_forward_hook(lambda m, i, found, shift=shift: found + shift)
    x = autoencoder.encode(picture).latent_dist.mean * AUTOENCODER.scaling
    first = z = None
    for step in range(steps, 0, -1):
        told = round(t * step / steps)
        signal, noise = alphas[told].sqrt(), (1 - alphas[told]).sqrt()
        x = x if first is None else signal * z + noise * first
        predicted = unet(x, told, chain.text_encoder()).sample
        first = predicted if first is None else first
        z = (x - noise * predicted) / signal
    expected = autoencoder.decode(z / AUTOENCODER.scaling).sample.clamp(-1, 1)

    found = chain.run(lr, torch.empty(0))
    assert found["timestep"].round() == t
    assert_near(found["state"][:, :4], z, LIMIT)
    assert_near(found["sr"], expected, LIMIT)


def test_full_size_counts():
    with torch.device("meta"):
        networks = {role: n.build() for role, n in get_preset("dmsr").networks.items()}
    counts = {role: sum(p.numel() for p in n.parameters()) for role, n in networks.items()}
    assert counts["denoiser"] == 865_910_724
    assert counts["decoder"] == 49_490_179 + 20
    assert counts["encoder"] == 34_163_592 + 72 + 2 * (128 + 256 + 512 + 512)
    assert counts["text_encoder"] == 340_387_840
    assert counts["timestep_estimator"] == 20_024_384 + 256_500
