"""The README's picture: `python -m lpnsr.benchmarks.before_after tests/photos OUT`.

Four pictures that the model was not trained on, reduced to a quarter, each upscaled by bicubic
interpolation, the built-in model and Real-ESRGAN x4plus, and the original; crops at twice their
size. The second is saved as an old JPEG in between, the third is lettering.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lpnsr.benchmarks import samples
from lpnsr.benchmarks.peers import RealEsrgan
from lpnsr.runtime.upscaler import Upscaler

SCALE, ZOOM, GAP = 4, 2, 6
SIZE = (144, 104)
"""Width and height of a crop, in output pixels."""

QUALITY = 35
"""Of the old JPEG."""

Pair = tuple[Image.Image, Image.Image, tuple[int, int]]
"""Input, original, and the left upper corner of the crop."""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m lpnsr.benchmarks.before_after", description=__doc__
    )
    parser.add_argument("photos", type=Path, help="folder with kodim03, kodim15 and kodim19")
    parser.add_argument("out", type=Path)
    args = parser.parse_args(argv)
    model, peer = Upscaler.from_bundle(precision="fp32"), RealEsrgan()
    width, height = (ZOOM * side + GAP for side in SIZE)
    rows = list(_pairs(args.photos))
    sheet = Image.new("RGB", (4 * width - GAP, len(rows) * height - GAP), "white")
    for row, (small, original, corner) in enumerate(rows):
        pixels = np.asarray(small)
        made = (samples.bicubic(pixels, SCALE), model.upscale(pixels), peer.upscale(pixels))
        for column, picture in enumerate([*map(Image.fromarray, made), original]):
            crop = picture.crop((*corner, corner[0] + SIZE[0], corner[1] + SIZE[1]))
            large = crop.resize((width - GAP, height - GAP), Image.Resampling.NEAREST)
            sheet.paste(large, (column * width, row * height))
    sheet.save(args.out, optimize=True)


def _pairs(photos: Path) -> Iterator[Pair]:
    yield *_reduced(photos / "kodim15.png"), (300, 130)
    small, original = _reduced(photos / "kodim03.png")
    yield _old_jpeg(small), original, (250, 215)
    page = _lettering()
    yield (
        page.resize((page.width // SCALE, page.height // SCALE), Image.Resampling.BOX),
        page,
        (8, 8),
    )
    yield *_reduced(photos / "kodim19.png"), (250, 330)


def _reduced(photo: Path) -> tuple[Image.Image, Image.Image]:
    small, original = samples.reduce(photo, SCALE)
    return Image.fromarray(small), Image.fromarray(original)


def _old_jpeg(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return Image.open(stream).convert("RGB")


def _lettering() -> Image.Image:
    page = Image.new("RGB", (256, 128), "white")
    font = ImageFont.load_default(size=30)
    ImageDraw.Draw(page).multiline_text((10, 6), "Sphinx of\nblack quartz", "black", font)
    return page


if __name__ == "__main__":
    main()
