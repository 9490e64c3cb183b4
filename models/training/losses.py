"""Losses: values, perception, and the two sides of an adversarial game."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALES = 3
BLOCK = 8
CHARBONNIER = 1e-3
LEAST_ERROR = 1e-8

Loss = Callable[[Tensor, Tensor], Tensor]


def pixel_loss(name: str) -> Loss:
    """`l1`, `l2`, `charbonnier`, a smooth L1, or `psnr`, the mean PSNR but for sign and scale."""
    losses: dict[str, Loss] = {"l1": F.l1_loss, "l2": F.mse_loss}
    losses |= {"charbonnier": _charbonnier, "psnr": _psnr}
    return losses[name]


def _charbonnier(found: Tensor, expected: Tensor) -> Tensor:
    return torch.sqrt((found - expected).square() + CHARBONNIER**2).mean()


def _psnr(found: Tensor, expected: Tensor) -> Tensor:
    return log_error(found, expected).mean()


def log_error(found: Tensor, expected: Tensor) -> Tensor:
    """The logarithm of each picture's mean squared error, (B,), of (B, C, H, W)."""
    errors = (found - expected).square().flatten(1).mean(dim=1)
    return (errors + LEAST_ERROR).log()


class GradientFrequencyLoss(nn.Module):
    """Perceptual term without trained weights: gradients and local spectra at several scales.

    At each of three scales (each half as large) the L1 distance of horizontal and vertical
    differences, which wants edges in the right place, and of the amplitudes of the 8x8 Fourier
    transform, which wants texture of the right strength wherever exactly it lies. Blocks lie on a
    grid that moves by half a block from one scale to the next.
    """

    def forward(self, found: Tensor, expected: Tensor) -> Tensor:
        """Distance of two pictures -> scalar.

        Args:
            found: (B, C, H, W), sides multiples of 8; of 32 for all scales.
            expected: the same.
        """
        total = found.new_zeros(())
        side = min(found.shape[2:])
        scales = [scale for scale in range(SCALES) if side >> scale >= BLOCK + _offset(scale)]
        for scale in scales:
            for axis in (-1, -2):
                total = total + F.l1_loss(found.diff(dim=axis), expected.diff(dim=axis))
            total = total + F.l1_loss(_amplitudes(found, scale), _amplitudes(expected, scale))
            found, expected = (F.avg_pool2d(picture, 2) for picture in (found, expected))
        return total / (3 * len(scales))


def _offset(scale: int) -> int:
    return scale % 2 * (BLOCK // 2)


def _amplitudes(pictures: Tensor, scale: int) -> Tensor:
    """Amplitudes of the spectrum of each block, without its mean."""
    offset = _offset(scale)
    blocks = pictures[..., offset:, offset:].unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)
    blocks = blocks.float()
    spectrum = torch.fft.rfft2(blocks - blocks.mean((-1, -2), keepdim=True), norm="ortho")
    # Not abs(), whose gradient at zero is not defined.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-6).sqrt()


def perceptual_loss(device: torch.device, latent: bool = False) -> tuple[nn.Module, str]:
    """LPIPS where the package and its weights are there, else `GradientFrequencyLoss`.

    Nothing is downloaded: LPIPS needs the weights of VGG-16 in PyTorch's cache.

    Args:
        device: where it computes.
        latent: whether latents are compared, for which the package has no LPIPS.

    Returns:
        the term, and which it is in words.
    """
    if latent:
        return (
            GradientFrequencyLoss(),
            "gradients and local spectra, as there is no LPIPS of latents",
        )
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / "vgg16-397923af.pth"
    if importlib.util.find_spec("lpips") and backbone.is_file():
        import lpips

        term = lpips.LPIPS(net="vgg", verbose=False)
        return term.to(device).requires_grad_(False), "LPIPS (VGG-16)"
    missing = "its backbone's weights" if importlib.util.find_spec("lpips") else "the package"
    return GradientFrequencyLoss(), f"gradients and local spectra, as LPIPS lacks {missing}"


def generator_loss(of_found: Tensor) -> Tensor:
    """What the generator minimises: a discriminator's verdict on its pictures, negated."""
    return -of_found.mean()


def feature_distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """Mean distance of a discriminator's features, each relative to the expected ones' size.

    A perceptual term without trained weights, for targets that the input determines, as a teacher's
    pictures are (Wang et al., pix2pixHD, 2018, feature matching).
    """
    pairs = zip(found, expected, strict=True)
    distances = [F.l1_loss(a.float(), b.float()) / b.float().abs().mean() for a, b in pairs]
    return torch.stack(distances).mean()


def discriminator_loss(of_found: Tensor, of_expected: Tensor) -> Tensor:
    """Hinge loss (Lim and Ye, Geometric GAN, 2017)."""
    return (F.relu(1 + of_found).mean() + F.relu(1 - of_expected).mean()) / 2
