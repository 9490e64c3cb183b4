"""DM-SR in miniature."""

from dataclasses import replace
from functools import partial

from lpnsr.models.autoencoder_kl import AutoencoderKLConfig, KLDecoder, KLEncoder
from lpnsr.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from lpnsr.models.presets import Tolerance, get_preset
from lpnsr.models.text_tower import TextTower, TextTowerConfig
from lpnsr.models.timestep_estimator import TimestepEstimator

# Four levels each, as in the original: that is what fixes the key names and the side of a latent.
UNET = DiffusionUNetConfig(widths=(8, 8, 16, 16), head_channels=4, context_channels=12, groups=4)
AUTOENCODER = AutoencoderKLConfig(widths=(8, 8, 16, 16), groups=4)
TEXT = TextTowerConfig(channels=12, layers=2, heads=3, vocabulary=20, length=7, prompt=(3, 1, 2, 4))
BUILDERS = {
    "timestep_estimator": partial(TimestepEstimator, (4, 4, 8, 8, 8)),
    "encoder": partial(KLEncoder, AUTOENCODER),
    "denoiser": partial(DiffusionUNet, UNET),
    "decoder": partial(KLDecoder, AUTOENCODER),
    "text_encoder": partial(TextTower, TEXT),
}
_FULL = get_preset("dmsr")
PRESET = replace(
    _FULL,
    name="micro-dmsr",
    networks={role: replace(_FULL.networks[role], build=build) for role, build in BUILDERS.items()},
    # A few random channels do not average their rounding as many trained ones do.
    tolerance=Tolerance(psnr_bf16=30.0, x0_bf16=0.1),
)
