"""How degraded a picture is, as a timestep of a diffusion chain.

Source: DM-SR (ICLR 2026), sections 3.1 and A.1, equation 10. A checkpoint has the keys of VGG19's
convolutions, `features.N.{weight,bias}`, as torchvision publishes them, and `head.{weight,bias}`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TIMESTEPS = 500
BLOCKS = (2, 2, 4, 4, 4)
"""Convolutions of VGG19's blocks (Simonyan and Zisserman, 2015), between which sides are halved."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet, in [0, 1]."""


class TimestepEstimator(nn.Module):
    """VGG19's convolutions, the mean over all positions, and an expectation over timesteps.

    The paper does not say what is between the convolutions and the 500 numbers; this is the
    simplest reading that takes pictures of every size.

    Args:
        widths: of the five blocks.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512, 512)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, count in zip(widths, BLOCKS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.head = nn.Linear(channels, TIMESTEPS)
        for name, values in (("mean", MEAN), ("std", STD)):
            buffer = torch.tensor(values)[:, None, None]
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        """The timestep, not rounded.

        Args:
            picture: (B, 3, H, W) in [-1, 1], at the size of the output, sides at least 16.

        Returns:
            (B,) in [0, 499].
        """
        features = self.features(((picture + 1) / 2 - self.mean) / self.std)
        shares = self.head(features.mean((2, 3))).softmax(dim=-1)
        steps = torch.arange(TIMESTEPS, dtype=torch.float32, device=picture.device)
        return (shares * steps).sum(dim=-1)
