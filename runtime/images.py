"""Reads pictures as 8-bit RGB and writes PNG files, whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    struct.error,
)
"""What Pillow's decoders raise on damaged files."""


class ImageError(Exception):
    """A picture cannot be read."""


@dataclass(frozen=True)
class Picture:
    """A picture as read from a file.

    Attributes:
        pixels: uint8 (H, W, 3), RGB, upright.
        profile: the ICC profile that says what the RGB values mean, if the file has one.
        lost: what the file holds beyond that, such as "transparency".
    """

    pixels: np.ndarray
    profile: bytes | None
    lost: tuple[str, ...]


def read(path: Path) -> Picture:
    """Read a picture, turned upright as its EXIF orientation says.

    Transparency is dropped, not composited: the colours are those stored under it.

    Raises:
        ImageError: the file is missing, unreadable, empty, damaged, not a picture of `FORMATS`, or
            too large for Pillow's guard against decompression bombs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about what does not hinder reading
            return _decode(path)
    except UnidentifiedImageError as error:
        if path.stat().st_size == 0:
            raise ImageError(f"{path} is empty; replace it by a picture") from error
        known = ", ".join(FORMATS)
        raise ImageError(f"{path} is not a picture; convert it to one of {known}") from error
    except Image.DecompressionBombError as error:
        limit = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise ImageError(f"{path} has over {limit} million pixels; crop or split it") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error
    except _DAMAGE as error:
        raise ImageError(f"{path} is damaged ({error}); replace it by an intact copy") from error


def write(path: Path, pixels: np.ndarray, profile: bytes | None = None) -> None:
    """Write `pixels`, uint8 (H, W, 3) RGB, as PNG with an ICC profile; makes missing folders.

    The file appears under its name when it is complete; on failure nothing is left behind.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{secrets.token_hex(8)}.lpnsr-partial"
    try:
        with partial.open("xb") as stream:
            Image.fromarray(pixels).save(stream, format="PNG", icc_profile=profile)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _decode(path: Path) -> Picture:
    with Image.open(path, formats=FORMATS) as image:
        if image.mode in ("I", "F"):
            raise ImageError(f"{path} has 32-bit samples; convert it to 8 or 16 bits")
        lost = []
        if _is_deep(image):
            lost.append("16-bit depth")
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            lost.append("all frames but the first")
        profile = image.info.get("icc_profile")
        if profile and image.mode not in ("RGB", "RGBA"):
            profile = None
            lost.append("color profile")
        upright = ImageOps.exif_transpose(image)
        if _is_transparent(upright):
            lost.append("transparency")
        return Picture(_rgb(upright), profile, tuple(lost))


def _is_deep(image: Image.Image) -> bool:
    """Whether a freshly opened file has 16-bit samples.

    Pillow reduces colour pictures to 8 bits as it decodes them; only the raw mode tells before.
    """
    raw = any(re.search(";16[BLN]", str(part[3])) for part in image.tile)
    return raw or image.mode.startswith("I;16")


def _is_transparent(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    if image.mode.startswith("I;16"):  # one of its greys is transparent; Pillow cannot apply it
        return True
    return image.convert("RGBA").getextrema()[3][0] < 255


def _rgb(image: Image.Image) -> np.ndarray:
    """The colours as uint8 (H, W, 3)."""
    if image.mode.startswith("I;16"):  # Pillow would clip it at 255
        grey = np.asarray(image).astype(np.float32) / np.float32(257.0)
        image = Image.fromarray(np.rint(grey).astype(np.uint8))
    return np.asarray(image.convert("RGB"))
