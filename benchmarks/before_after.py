"""The README's picture: `python -m lpnsr.benchmarks.before_after PHOTO OUT`.

A crop of a photograph, reduced to a quarter: upscaled with bicubic interpolation on the left, by
the built-in model in the middle, the original on the right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lpnsr.runtime.upscaler import Upscaler

SCALE = 4
GAP = 8


def main(argv: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m lpnsr.benchmarks.before_after", description=__doc__
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--crop", type=int, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"))
    args = parser.parse_args(argv)
    with Image.open(args.photo) as image:
        photo = image.convert("RGB")
    small = photo.resize((photo.width // SCALE, photo.height // SCALE), Image.Resampling.BICUBIC)
    upscaled = Image.fromarray(Upscaler.from_bundle().upscale(np.asarray(small)))
    panels = [small.resize(upscaled.size, Image.Resampling.BICUBIC), upscaled, photo]
    crops = [panel.crop(args.crop or panel.getbbox()) for panel in panels]
    width, height = crops[0].size
    sheet = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for place, crop in enumerate(crops):
        sheet.paste(crop, (place * (width + GAP), 0))
    sheet.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
