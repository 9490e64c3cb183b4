"""Pictures of which it is known what they should become: flat areas, ramps, lettering, greys.

All figures are levels of 255, the worst of a picture. Photographs are stored as grey for the fifth
row, and reduced for the last two: there the outermost eight output pixels are compared with the
rest, which shows other things, and those of a picture's middle with themselves when the whole
picture is upscaled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lpnsr.benchmarks import samples
from lpnsr.benchmarks.markdown import table
from lpnsr.runtime.bundle import BUILTIN
from lpnsr.runtime.upscaler import Upscaler

SCALE = 4
SIDE = 96
REACH = 5
"""Side of the input area that has to be flat for an output pixel to count as away from edges."""

FRAME = 8
MARGIN = 8
"""Input pixels around a picture's middle."""

INK, PAPER = 64, 192
TEXT = "Sphinx of black\nquartz, judge\nmy vow 0123"

Upscale = Callable[[np.ndarray], np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `lpnsr-bench patches`."""
    add = parser.add_argument
    add("photos", type=Path, nargs="*", metavar="PHOTO", help="photographs for the last rows")
    add("--model", type=Path, default=BUILTIN, metavar="BUNDLE")


def run(args: argparse.Namespace) -> int:
    """Print the table, with and without the correction of large-scale colours."""
    upscaler = Upscaler.from_bundle(args.model)
    ways = [partial(upscaler.upscale, color_fix=color_fix) for color_fix in (True, False)]
    rows = [[name, *map(measure, ways)] for name, measure in measures(args.photos)]
    print(table(["worst, levels", "with colour fix", "without"], rows))
    return 0


def measures(photos: Sequence[Path]) -> list[tuple[str, Callable[[Upscale], str]]]:
    """What is measured, each with its name; the last three need photographs."""
    measures: list[tuple[str, Callable[[Upscale], str]]] = [
        ("flat primaries", _primaries),
        ("grey ramps", _ramps),
        ("lettering, away from edges", _lettering),
        ("lettering, beyond ink and paper", _overshoot),
    ]
    if photos:
        measures.append(("grey photographs, colour", partial(_greys, photos=photos)))
        measures.append(("frame and rest, dB over bicubic", partial(_frames, photos=photos)))
        name = "frame of a middle, alone and surrounded, dB over bicubic"
        measures.append((name, partial(_surroundings, photos=photos)))
    return measures


def _primaries(upscale: Upscale) -> str:
    colors = product((0, 255), repeat=3)
    patches = [np.full((SIDE, SIDE, 3), color, np.uint8) for color in colors]
    return _worst(_distance(upscale(patch), _enlarged(patch)).max() for patch in patches)


def _ramps(upscale: Upscale) -> str:
    ramp = np.linspace(0, 255, 2 * SIDE).round().astype(np.uint8)
    across = np.broadcast_to(ramp[:, None], (SIDE, 2 * SIDE, 3)).copy()
    ramps = across, across.transpose(1, 0, 2).copy()
    return _worst(_distance(upscale(r), samples.bicubic(r, SCALE)).max() for r in ramps)


def _lettering(upscale: Upscale) -> str:
    page = _page(0, 255)
    return _worst(_distance(upscale(page), _enlarged(page))[_flat(page)].ravel())


def _overshoot(upscale: Upscale) -> str:
    values = upscale(_page(INK, PAPER)).astype(int)
    return _worst((0, values.max() - PAPER, INK - values.min()))


def _greys(upscale: Upscale, photos: Sequence[Path]) -> str:
    worst = []
    for photo in photos:
        small, _ = samples.reduce(photo, SCALE)
        grey = np.repeat(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        upscaled = upscale(grey).astype(int)
        worst.append((upscaled.max(axis=2) - upscaled.min(axis=2)).max())
    return _worst(worst)


def _frames(upscale: Upscale, photos: Sequence[Path]) -> str:
    """Mean gain over bicubic interpolation in the outermost pixels, and inside."""
    gains = []
    for photo in photos:
        small, original = samples.reduce(photo, SCALE)
        pictures = upscale(small), samples.bicubic(small, SCALE)
        frame = _frame(original)
        gains.append([_gain(*pictures, original, area) for area in (frame, ~frame)])
    return "{:+.2f}, {:+.2f}".format(*np.mean(gains, axis=0))


def _surroundings(upscale: Upscale, photos: Sequence[Path]) -> str:
    """Mean gain in the outermost pixels of a middle, upscaled alone and as part of the whole."""
    gains = []
    for photo in photos:
        small, original = samples.reduce(photo, SCALE)
        middle, margin = _middle(small, MARGIN), SCALE * MARGIN
        alone = upscale(middle), samples.bicubic(middle, SCALE)
        whole = upscale(small), samples.bicubic(small, SCALE)
        surrounded = _middle(whole[0], margin), _middle(whole[1], margin)
        original = _middle(original, margin)
        gains.append([_gain(*p, original, _frame(original)) for p in (alone, surrounded)])
    return "{:+.2f}, {:+.2f}".format(*np.mean(gains, axis=0))


def _middle(picture: np.ndarray, margin: int) -> np.ndarray:
    height, width = picture.shape[:2]
    return np.ascontiguousarray(picture[margin : height - margin, margin : width - margin])


def _frame(picture: np.ndarray) -> np.ndarray:
    """Which pixels are outermost, bool (H, W)."""
    frame = np.ones(picture.shape[:2], bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    return frame


def _gain(ours: np.ndarray, theirs: np.ndarray, original: np.ndarray, area: np.ndarray) -> float:
    """How much nearer ours is to the original there, dB."""
    errors = (np.square(p[area] - original[area].astype(float)).mean() for p in (theirs, ours))
    return float(10 * np.log10(next(errors) / next(errors)))


def _page(ink: int, paper: int) -> np.ndarray:
    """Lettering as it comes from a small scan: drawn large, and reduced."""
    large = Image.new("L", (8 * SIDE, 4 * SIDE), paper)
    font = ImageFont.load_default(size=80)
    ImageDraw.Draw(large).multiline_text((24, 24), TEXT, fill=ink, font=font)
    small = np.asarray(large.resize((2 * SIDE, SIDE), Image.Resampling.BOX))
    return np.repeat(small[..., None], 3, axis=2)


def _flat(page: np.ndarray) -> np.ndarray:
    """Which output pixels have only one value around them, bool (H, W)."""
    kernel = np.ones((REACH, REACH), np.uint8)
    grey = page[..., 0].copy()
    return _enlarged(cv2.dilate(grey, kernel) == cv2.erode(grey, kernel))


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """Each pixel as a block."""
    return picture.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def _distance(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.abs(found.astype(int) - expected)


def _worst(values: Iterable[int]) -> str:
    return str(int(max(values)))
