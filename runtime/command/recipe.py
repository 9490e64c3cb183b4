"""How one picture of any kind is upscaled: its colour, its transparency, its final size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lpnsr.runtime import planes
from lpnsr.runtime.command import memory
from lpnsr.runtime.pictures.formats import Format, OutputSpec
from lpnsr.runtime.pictures.images import Header, Picture
from lpnsr.runtime.planes import Progress
from lpnsr.runtime.tiles.layout import TileLayout
from lpnsr.runtime.upscaler import Upscaler

ALPHA = ("bicubic", "model")


@dataclass(frozen=True)
class Recipe:
    """What to do with every picture of a run.

    Attributes:
        seed: of the noise, 0 to 2**64 - 1.
        deterministic: use only the mean of the predicted noise.
        color_fix: take the large-scale colours from the input.
        alpha: how transparency is enlarged, one of `ALPHA`.
        scale: factor between the sides of input and output, at most the model's.
        max_side: most pixels of the output's longer side; None for no limit.
        width: most pixels of a row.
        height: most rows.
    """

    seed: int = 0
    deterministic: bool = False
    color_fix: bool = True
    alpha: str = "bicubic"
    scale: float = 4.0
    max_side: int | None = None
    width: int | None = None
    height: int | None = None

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """The output's (height, width) for an input of this one."""
        bounds = ((self.max_side, max(size)), (self.height, size[0]), (self.width, size[1]))
        factor = min([self.scale, *(most / side for most, side in bounds if most is not None)])
        return planes.scaled(size, factor)

    def check(self, upscaler: Upscaler, header: Header, kind: Format) -> None:
        """Refuse a picture that is too large for the format or for the memory that is free.

        Args:
            upscaler: the model.
            header: of the input.
            kind: the output's format.

        Raises:
            ImageError: it is.
        """
        target = self.target(header.size)
        kind.check(target)
        passes = 2 if self.alpha == "model" and header.channels in (2, 4) else 1
        computing = passes * upscaler.memory(header.size)
        memory.check(memory.needed(header, target, kind, computing))

    def output(self, picture: Picture, kind: Format, quality: int) -> tuple[OutputSpec, list[str]]:
        """What is written of a picture in a format, and the names of what is lost."""
        pixels = picture.pixels
        spec, lost = kind.adapt(
            OutputSpec(
                self.target(pixels.shape[:2]),
                pixels.shape[2],
                pixels.dtype,
                picture.metadata,
                quality,
                opaque=bool((pixels[..., -1] == np.iinfo(pixels.dtype).max).all()),
            )
        )
        return spec, [*picture.lost, *lost]

    def bands(
        self,
        upscaler: Upscaler,
        picture: Picture,
        channels: int,
        dtype: np.dtype,
        progress: Progress | None = None,
        layout: TileLayout | None = None,
    ) -> Iterator[np.ndarray]:
        """Upscale a picture.

        Args:
            upscaler: the model.
            picture: the input.
            channels: of the output: those of the input, or without its alpha, which is then
                composed with white.
            dtype: of the output, uint8 or uint16.
            progress: see `Upscaler.upscale`.
            layout: see `Upscaler.bands`.

        Returns:
            Bands (n, W, channels) of `dtype`, which together are the output, top to bottom.
        """
        pixels = picture.pixels
        size = pixels.shape[:2]
        options: dict[str, Any] = {
            "seed": self.seed,
            "deterministic": self.deterministic,
            "color_fix": self.color_fix,
            "layout": layout or upscaler.layout(size),
        }
        return planes.upscale(
            planes.RgbModel(partial(upscaler.bands, **options), upscaler.bundle.manifest.scale),
            pixels,
            self.target(size),
            dtype,
            opaque=channels < pixels.shape[2],
            by_model=self.alpha == "model",
            progress=progress,
        )
