"""What the threads behind the queue do: pictures from file to file, and from array to array."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures import images
from lpnsr.runtime.pictures.formats import FORMATS, OutputSpec
from lpnsr.runtime.pictures.images import Picture
from lpnsr.runtime.pictures.metadata import Metadata
from lpnsr.runtime.serve.desk import Ticket
from lpnsr.runtime.serve.options import RequestOptions
from lpnsr.runtime.serve.refusals import Refusal, explained
from lpnsr.runtime.tiles.layout import TileLayout
from lpnsr.runtime.upscaler import Upscaler


@dataclass(frozen=True)
class UpscaledFile:
    """An upscaled picture.

    Attributes:
        file: its content, at the beginning; it vanishes when it is closed.
        bytes: of the file.
        pixels: of the picture.
        lost: what the format could not keep, such as "16-bit depth".
    """

    file: BinaryIO
    bytes: int
    pixels: int
    lost: list[str]


class PictureHandler:
    """Upscales pictures; several threads may use it at the same time.

    Args:
        upscaler: the model.
        megapixels: most millions of pixels of an input.
    """

    def __init__(self, upscaler: Upscaler, megapixels: float) -> None:
        self._upscaler, self._most = upscaler, megapixels
        self._reading = Lock()

    def file(self, source: Path, options: RequestOptions, ticket: Ticket) -> UpscaledFile:
        """Upscale a picture's file as `lpnsr-run` does, to the byte.

        Raises:
            Refusal: it is damaged, too large, or of a kind that is not read.
        """
        kind, recipe = FORMATS[options.format], options.recipe
        with explained(source):
            with self._reading:  # decoders change settings of the whole process
                header = images.probe(source)
                self._check(header.size)
                recipe.check(self._upscaler, header, kind)
                picture = images.read(source)
            spec, lost = recipe.output(picture, kind, options.quality)
            layout = self._upscaler.layout(picture.pixels.shape[:2])
            while True:
                try:
                    file = self._write(picture, options, spec, ticket, layout)
                    break
                except MemoryError:
                    layout = self._upscaler.lighter(picture.pixels.shape[:2], layout)
        size = file.tell()
        file.seek(0)
        return UpscaledFile(file, size, spec.size[0] * spec.size[1], lost)

    def _write(
        self,
        picture: Picture,
        options: RequestOptions,
        spec: OutputSpec,
        ticket: Ticket,
        layout: TileLayout,
    ) -> BinaryIO:
        bands = options.recipe.bands(
            self._upscaler, picture, spec.channels, spec.dtype, ticket.report, layout
        )
        file = tempfile.TemporaryFile()  # noqa: SIM115, the answer closes it
        try:
            FORMATS[options.format].write(file, bands, spec)
            file.seek(0, 2)
        except BaseException:
            file.close()
            raise
        return file

    def array(self, pixels: np.ndarray, recipe: Recipe, ticket: Ticket) -> np.ndarray:
        """Upscale uint8 (H, W, 3), RGB; returns the same of the larger size.

        Raises:
            Refusal: it is empty or too large.
        """
        self._check(pixels.shape[:2])
        picture = Picture(pixels, Metadata(), ())
        with explained():
            bands = recipe.bands(self._upscaler, picture, 3, pixels.dtype, ticket.report)
            return np.concatenate(list(bands))

    def _check(self, size: tuple[int, int]) -> None:
        if not all(size):
            raise Refusal(400, "the picture has no pixels; send one that has some")
        if size[0] * size[1] > self._most * 1e6:
            raise Refusal(
                413,
                f"the picture has {size[0] * size[1] / 1e6:.1f} million pixels, {self._most:g} are "
                "allowed; crop or reduce it",
            )
