"""Drawn pictures: flat patches, gradients, line art, lettering and fur, which photographs lack."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from lpnsr.models.training.errors import TrainingError

SIDE = 512
SUPERSAMPLING = 2
PRIMARY_SHARE = 0.4
GREY_SHARE = 0.3
GRADIENT_SHARE = 0.3
FUR_SHARE = 0.4
HAIRS = 12_000
MOST_SHAPES = 12
MOST_LINES = 14
TEXT_SIZES = (14, 64)
CHARACTERS = string.ascii_letters * 3 + string.digits + ".,:;-!?()%&" + " " * 30

Color = tuple[int, int, int]


def write_drawings(output: Path, count: int, fonts: Path | None, seed: int) -> None:
    """Draw `count` pictures of 512x512 pixels, each from its own seed, to `output`.

    Args:
        output: folder to make.
        count: how many.
        fonts: folder with TrueType files, searched in depth; None takes Pillow's own font.
        seed: of all draws.

    Raises:
        TrainingError: the folder exists, or there is no font in `fonts`.
    """
    if output.exists():
        raise TrainingError(f"{output} exists already; remove it or name another folder")
    files = sorted(fonts.rglob("*.ttf")) if fonts else []
    if fonts and not files:
        raise TrainingError(f"there are no TrueType fonts in {fonts}")
    output.mkdir(parents=True)
    for number in tqdm(range(count), unit="picture", disable=None):
        picture = _Drawing(np.random.default_rng([seed, number]), files).finished()
        picture.save(output / f"drawing_{number:04}.png")


class _Drawing:
    """One picture, drawn larger than it is to be, so that its edges are smooth."""

    def __init__(self, random: np.random.Generator, fonts: Sequence[Path]) -> None:
        self.random, self.fonts = random, fonts
        self.side = SIDE * SUPERSAMPLING
        self.picture = self._background()
        self.pen = ImageDraw.Draw(self.picture)
        if random.random() < FUR_SHARE:
            self._fur()
        for _ in range(random.integers(MOST_SHAPES + 1)):
            self._shape()
        if random.random() < 0.7:
            self._text()

    def finished(self) -> Image.Image:
        """(512, 512) RGB."""
        return self.picture.resize((SIDE, SIDE), Image.Resampling.BOX)

    def _color(self) -> Color:
        if self.random.random() < PRIMARY_SHARE:
            values = self.random.integers(2, size=3) * 255
        elif self.random.random() < GREY_SHARE:
            values = np.repeat(self.random.integers(256), 3)
        else:
            values = self.random.integers(256, size=3)
        red, green, blue = map(int, values)
        return red, green, blue

    def _background(self) -> Image.Image:
        if self.random.random() >= GRADIENT_SHARE:
            return Image.new("RGB", (self.side, self.side), self._color())
        slope = np.linspace(0, 1, self.side)[:, None, None]
        first, second = (np.array(self._color(), float) for _ in range(2))
        column = np.rint(first + slope * (second - first)).astype(np.uint8)
        picture = np.broadcast_to(column, (self.side, self.side, 3))
        turns = int(self.random.integers(4))
        return Image.fromarray(np.ascontiguousarray(np.rot90(picture, turns)))

    def _points(self, count: int) -> list[tuple[float, float]]:
        centre = self.random.uniform(0, self.side, 2)
        reach = self.random.uniform(0.02, 0.5) * self.side
        points = centre + self.random.uniform(-reach, reach, (count, 2))
        return [(float(x), float(y)) for x, y in points]

    def _shape(self) -> None:
        kind = self.random.choice(["line", "rectangle", "ellipse", "polygon", "hatching"])
        color, width = self._color(), int(self.random.integers(2, 14))
        if kind == "line":
            self.pen.line(self._points(int(self.random.integers(2, 6))), color, width)
        elif kind == "polygon":
            self.pen.polygon(self._points(int(self.random.integers(3, 7))), color)
        elif kind == "hatching":
            (left, top), (right, bottom) = self._points(2)
            step = int(self.random.integers(2, 6)) * width
            for shift in range(0, int(abs(right - left)) + 1, step):
                self.pen.line([(left + shift, top), (right + shift, bottom)], color, width)
        else:
            (x0, y0), (x1, y1) = self._points(2)
            box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
            fill = color if self.random.random() < 0.5 else None
            getattr(self.pen, kind)(box, fill=fill, outline=self._color(), width=width)

    def _fur(self) -> None:
        """Thin strokes all over, of like directions and colours: fur, or grass."""
        color, contrast = self.random.uniform(30, 225, 3), self.random.uniform(8, 80)
        middle, spread = self.random.uniform(0, np.pi), self.random.uniform(0.1, 1)
        length, width = self.random.uniform(10, 100), int(self.random.integers(2, 7))
        starts = self.random.uniform(-length, self.side, (HAIRS, 2))
        angles = self.random.normal(middle, spread, HAIRS)
        ends = starts + length * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        shades = color + self.random.normal(0, contrast, (HAIRS, 1))
        hues = shades + self.random.normal(0, contrast / 8, (HAIRS, 3))
        colors = np.rint(hues.clip(0, 255)).astype(int)
        for hair, shade in zip(np.hstack([starts, ends]).tolist(), colors.tolist(), strict=True):
            self.pen.line(hair, tuple(shade), width)

    def _text(self) -> None:
        color = self._color()
        top = self.random.uniform(0, self.side / 2)
        left = self.random.uniform(0, self.side / 2)
        for _ in range(self.random.integers(1, MOST_LINES + 1)):
            size = int(self.random.integers(*TEXT_SIZES)) * SUPERSAMPLING
            letters = self.random.choice(list(CHARACTERS), int(self.random.integers(3, 40)))
            self.pen.text((left, top), "".join(letters), color, self._font(size))
            top += size * 1.3
            if self.random.random() < 0.2:
                color = self._color()

    def _font(self, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        if not self.fonts:
            return ImageFont.load_default(size)
        return ImageFont.truetype(self.fonts[int(self.random.integers(len(self.fonts)))], size)
