"""How one picture of any kind is upscaled: its color, its transparency, its final size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from lpnsr.runtime.command import memory
from lpnsr.runtime.pictures import alpha
from lpnsr.runtime.pictures.formats import Format, OutputSpec
from lpnsr.runtime.pictures.images import Header, Picture
from lpnsr.runtime.tiles.layout import TileLayout
from lpnsr.runtime.tiles.rows import Rows, downscale, quantize
from lpnsr.runtime.upscaler import Progress, Upscaler

ALPHA = ("bicubic", "model")


@dataclass(frozen=True)
class Recipe:
    """What to do with every picture of a run.

    Attributes:
        seed: of the noise, 0 to 2**64 - 1.
        deterministic: use only the mean of the predicted noise.
        color_fix: take the large-scale colors from the input.
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
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

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

        Yields:
            (n, W, channels) of `dtype`; the bands together are the output, top to bottom.
        """
        pixels = picture.pixels
        size, scale = pixels.shape[:2], upscaler.bundle.manifest.scale
        full, target = (size[0] * scale, size[1] * scale), self.target(size)
        model = partial(self._model, upscaler, layout or upscaler.layout(size))
        if pixels.shape[2] == channels == 3 and target == full:
            yield from model(pixels, progress, dtype)
            return
        bands = self._channels(model, pixels, scale, progress)
        if channels < pixels.shape[2]:
            bands = (_on_white(band) for band in bands)
        if target != full:
            bands = downscale(bands, full, target)
        for band in bands:
            yield quantize(band, dtype)

    def _channels(
        self,
        model: Callable[..., Iterator[np.ndarray]],
        pixels: np.ndarray,
        scale: int,
        progress: Progress | None,
    ) -> Iterator[np.ndarray]:
        """The picture at the model's scale, float32 (n, scale·W, C) in [-1, 1]."""
        colors, opacity = pixels, None
        if pixels.shape[2] in (2, 4):
            colors, opacity = pixels[..., :-1], pixels[..., -1]
            colors = alpha.fill_hidden(colors, opacity)
        bands = model(colors, progress)
        if opacity is None:
            yield from bands
            return
        if self.alpha == "model":
            large = Rows(model(opacity[..., None]))
        else:
            large = Rows(alpha.bicubic(opacity, scale))
        top = 0
        for band in bands:
            plane = np.clip(large.take(top, top + len(band)), -1.0, 1.0)
            yield np.concatenate([band, plane], axis=2)
            top += len(band)

    def _model(
        self,
        upscaler: Upscaler,
        layout: TileLayout,
        planes: np.ndarray,
        progress: Progress | None = None,
        dtype: np.dtype | type = np.float32,
    ) -> Iterator[np.ndarray]:
        """Upscale RGB (H, W, 3), or one plane (H, W, 1) as grey; grey in float32 alone."""
        grey = planes.shape[2] == 1
        for band in upscaler.bands(
            planes.repeat(3, axis=2) if grey else planes,
            seed=self.seed,
            deterministic=self.deterministic,
            color_fix=self.color_fix,
            dtype=dtype,
            progress=progress,
            layout=layout,
        ):
            yield band.mean(axis=2, keepdims=True) if grey else band


def _on_white(band: np.ndarray) -> np.ndarray:
    """Compose colors and alpha, the last channel, in [-1, 1] with white."""
    opacity = (band[..., -1:] + 1) / 2
    return band[..., :-1] * opacity + (1 - opacity)
