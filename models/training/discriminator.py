"""The discriminator of adversarial training."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Sequential):
    """Judges overlapping patches; every convolution is spectrally normalised.

    Sources: Isola et al., pix2pix (2017), the patches; Miyato et al. (2018), the normalisation.

    Args:
        channels: width of the first layer.
        layers: layers that halve the sides; three see patches of 70 pixels, one of 16.
        inputs: channels of what is judged.
    """

    def __init__(self, channels: int = 64, layers: int = 3, inputs: int = 3) -> None:
        widths = [inputs, *(channels << min(level, 3) for level in range(layers + 1))]
        modules: list[nn.Module] = []
        for level in range(layers + 1):
            stride = 2 if level < layers else 1
            convolution = nn.Conv2d(widths[level], widths[level + 1], 4, stride, padding=1)
            modules += [spectral_norm(convolution), nn.LeakyReLU(0.2)]
        last = spectral_norm(nn.Conv2d(widths[-1], 1, 4, padding=1))
        super().__init__(*modules, last)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, inputs, H, W) -> verdicts (B, 1, about H/8, about W/8), high for what looks real."""
        return super().forward(pictures)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """What each activation puts out, from fine to coarse, and the verdicts, last."""
        found, x = [], pictures
        for module in self:
            x = module(x)
            if isinstance(module, nn.LeakyReLU):
                found.append(x)
        return [*found, x]
