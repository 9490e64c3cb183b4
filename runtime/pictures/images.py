"""Reads pictures of all common kinds into arrays."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError

from lpnsr.runtime.pictures import bmp, jxl, kinds, metadata, tiff
from lpnsr.runtime.pictures.bmp import BitFields
from lpnsr.runtime.pictures.metadata import DAMAGE, Metadata
from lpnsr.runtime.pictures.tiff import Scan

_COMMON = "BMP, JPEG, PNG, TIFF, WEBP"
"""What other files should be converted to."""

_SALVAGE = ", or add --salvage"

_CHANNELS = {"1": 1, "L": 1, "I": 1, "LA": 2, "La": 2, "RGB": 3, "YCbCr": 3, "CMYK": 3}
"""Mode -> channels; 4 for all others, 1 for the modes of 16-bit grey."""


class ImageError(Exception):
    """A picture cannot be read or written."""


@dataclass(frozen=True)
class Header:
    """What a file says about its picture before it is decoded.

    Attributes:
        size: (height, width) in pixels, or the other way round if the picture lies on its side.
        channels: at most this many.
        bits: 8 or 16 per channel.
    """

    size: tuple[int, int]
    channels: int
    bits: int


@dataclass(frozen=True)
class Picture:
    """A picture as read from a file.

    Attributes:
        pixels: uint8 or uint16 (H, W, C), upright; C is 1 for grey, 2 for grey and alpha, 3 for
            RGB, 4 for RGB and alpha. Alpha is not multiplied into the colours.
        metadata: what to carry over to the output.
        lost: what the file holds beyond that, such as "all frames but the first".
    """

    pixels: np.ndarray
    metadata: Metadata
    lost: tuple[str, ...]


def probe(path: Path) -> Header:
    """Read a picture's header only.

    Raises:
        ImageError: as `read`, but for damage behind the header.
    """
    with _opened(path) as image:
        if not isinstance(image, Image.Image):
            return Header(image.size, image.channels, image.bits)
        channels = 1 if image.mode.startswith("I;16") else _CHANNELS.get(image.mode, 4)
        if image.has_transparency_data:
            channels = max(2, channels + channels % 2)
        return Header((image.height, image.width), channels, 16 if _raw(image) else 8)


def read(path: Path, salvage: bool = False) -> Picture:
    """Read a picture, turned upright as its EXIF orientation says.

    Args:
        path: the file.
        salvage: take of a damaged JPEG what can be decoded; the rest is grey.

    Raises:
        ImageError: the file is missing, unreadable, empty, damaged, of a kind that is not read, or
            has more pixels than twice `PIL.Image.MAX_IMAGE_PIXELS`, Pillow's guard against
            decompression bombs.
    """
    try:
        return _read(path)
    except ImageError:
        if not (salvage and _is_jpeg(path)):
            raise
        return _salvaged(path)


def _read(path: Path) -> Picture:
    with _opened(path) as image:
        if isinstance(image, Image.Image):
            return _decode(path, image)
        return _from_scan(image)


def _is_jpeg(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(3) == b"\xff\xd8\xff"
    except OSError:
        return False


def _salvaged(path: Path) -> Picture:
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # one thread reads at a time
    try:
        picture = _read(path)
    except ImageError as error:
        raise ImageError(str(error).removesuffix(_SALVAGE)) from error  # it does not help
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    return replace(picture, lost=(*picture.lost, "what is damaged"))


def _most_pixels() -> float:
    """What Pillow guards against: twice what it warns of."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else math.inf


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image | Scan | BitFields]:
    try:
        if reason := kinds.unread(path):
            raise ImageError(f"{path} {reason}")
        name = kinds.teach_pillow(path)
        formats = (name,) if name else kinds.PILLOWS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about what does not hinder reading
            with tiff.opened(path) as uncommon:
                if scan := uncommon or bmp.opened(path):
                    if scan.size[0] * scan.size[1] > _most_pixels():
                        raise Image.DecompressionBombError
                    yield scan
                    return
            # By its name, Pillow would map it into memory, where it turns TIFF wrongly.
            with path.open("rb") as file, Image.open(file, formats=formats) as image:
                yield image
    except UnidentifiedImageError as error:
        if path.stat().st_size == 0:
            raise ImageError(f"{path} is empty; replace it by a picture") from error
        if layout := tiff.describe(path):
            raise ImageError(
                f"{path} is a TIFF of a kind that is not read ({layout}); save it as 8 or 16 bits, "
                "grey or RGB, deflated or uncompressed"
            ) from error
        if name:
            message = f"{path} is damaged (unreadable {name}); replace it by an intact copy"
            raise ImageError(message) from error
        raise ImageError(f"{path} is not a picture; convert it to one of {_COMMON}") from error
    except Image.DecompressionBombError as error:
        limit = _most_pixels() / 10**6
        raise ImageError(
            f"{path} has over {limit:g} million pixels; if you trust it, raise --max-megapixels"
        ) from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error
    except tiff.UnsupportedTiff as error:
        raise ImageError(f"{path} {error}") from error
    except DAMAGE as error:
        advice = _SALVAGE if _is_jpeg(path) else ""
        raise ImageError(
            f"{path} is damaged ({error}); replace it by an intact copy{advice}"
        ) from error


def _from_scan(scan: Scan | BitFields) -> Picture:
    details, unreadable = metadata.read(scan)
    lost = [*(["all frames but the first"] if scan.frames > 1 else []), *unreadable]
    if scan.extra:
        lost.append("extra channels")
    pixels = _upright(scan.pixels(), metadata.orientation(scan))
    return Picture(np.ascontiguousarray(pixels), details, tuple(lost))


def _decode(path: Path, image: Image.Image) -> Picture:
    raw = _raw(image)
    if image.mode in ("I", "F"):
        raise ImageError(f"{path} has signed or 32-bit samples; convert it to 8 or 16 bits")
    lost = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        lost.append("all frames but the first")
    if image.info.get("bit_depth", 8) > 8:  # of HEIF, which its plugin reduces
        lost.append("16-bit depth")
    if image.format == "JXL":
        lost += _lost_of_jxl(path, image)
    samples = getattr(image, "tag_v2", {}).get(ExifTags.Base.SamplesPerPixel, 1)
    if samples > len(image.getbands()):  # of TIFF
        lost.append("extra channels")
    turned = _is_turned(image)
    image.load()
    details, unreadable = metadata.read(image)
    if image.mode.startswith("I;16"):
        pixels = _deep_grey(image, raw)
    elif re.fullmatch("(LA|RGBA?);16[BLN]", raw):
        pixels = _deep_colour(path, image, grey=raw.startswith("LA"))
    else:
        if raw:
            lost.append("16-bit depth")
        if image.mode == "CMYK" and details.profile:
            image, profile = _for_screens(image, details.profile)
            details = replace(details, profile=profile)
            lost += [] if profile else ["color profile"]
        pixels = _shallow(image, path)
    if not turned:
        pixels = _upright(pixels, metadata.orientation(image))
    return Picture(np.ascontiguousarray(pixels), details, (*lost, *unreadable))


def _is_turned(image: Image.Image) -> bool:
    """Whether the decoder turns the picture upright; HEIF's also says so in its EXIF."""
    if image.format == "JXL":
        return not getattr(image, "jpeg", False)  # one that was packed is given as it was
    return image.format == "TIFF"


def _lost_of_jxl(path: Path, image: Image.Image) -> list[str]:
    """What Pillow's plugin for JPEG XL drops without saying so."""
    stored = jxl.contents(path)
    lost = ["all frames but the last"] if stored.animated else []
    if stored.bits > 8 and not image.mode.startswith("I;16"):
        lost.append("16-bit depth")
    # A JPEG that is packed in the file brings its own.
    return lost if getattr(image, "jpeg", False) else [*lost, *stored.unread]


def _raw(image: Image.Image) -> str:
    """How a freshly opened file stores samples of more than 8 bits, such as "RGB;16B", or "".

    Pillow reduces colour pictures to 8 bits as it decodes them; only this tells before.
    """
    for part in getattr(image, "tile", ()):
        if found := re.search(r"\w+;1[26][BLN]*", str(part[3])):
            return found[0]
    return image.mode if image.mode.startswith("I;16") else ""


def _deep_grey(image: Image.Image, raw: str) -> np.ndarray:
    grey: np.ndarray = np.asarray(image).astype(np.uint16)[..., None]
    if ";12" in raw:
        grey = grey << 4 | grey >> 8
    return _with_key(grey, image.info.get("transparency"))


def _deep_colour(path: Path, image: Image.Image, grey: bool) -> np.ndarray:
    """Decode once more, at full depth, what Pillow has found to be sound."""
    content = path.read_bytes()
    if image.format == "PNG":
        content = b"".join([content[:8], *_essential_chunks(content)])
    pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != image.size[::-1]:
        raise ImageError(f"{path} has 16-bit samples in an uncommon layout; convert it to 8 bits")
    if grey:
        return pixels[..., [0, -1]]
    order = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return _with_key(cv2.cvtColor(pixels, order), image.info.get("transparency"))


def _essential_chunks(content: bytes) -> Iterator[bytes]:
    """The chunks of a PNG file that hold the pixels.

    OpenCV allocates whatever length a chunk claims to have; these are known to have theirs.
    """
    at = 8
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        if end > len(content):
            raise ValueError("a chunk is truncated")
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            yield content[at:end]
        if kind == b"IEND":
            return
        at = end


def _with_key(pixels: np.ndarray, key: int | tuple[int, ...] | None) -> np.ndarray:
    """Add alpha where one colour of the file stands for transparency."""
    if key is None or pixels.shape[2] in (2, 4):
        return pixels
    visible = (pixels != np.array(key)).any(axis=2, keepdims=True)
    return np.dstack([pixels, visible.astype(np.uint16) * 0xFFFF])


def _for_screens(image: Image.Image, profile: bytes) -> tuple[Image.Image, bytes | None]:
    """Printing colours as sRGB with its profile, or as they are if theirs cannot be applied."""
    screen = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        shown = ImageCms.profileToProfile(image, io.BytesIO(profile), screen, outputMode="RGB")
    except ImageCms.PyCMSError:
        return image, None
    return shown or image, screen.tobytes()


def _shallow(image: Image.Image, path: Path) -> np.ndarray:
    """The pixels as uint8 (H, W, C)."""
    palette = image.mode in ("P", "PA")
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("LAB", "HSV"):
        raise ImageError(f"{path} has {image.mode} colors; convert it to RGB")
    mode = ("L" if grey else "RGB") + ("A" if image.has_transparency_data else "")
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    if grey:
        return pixels.reshape(*pixels.shape[:2], len(mode))
    if palette and (pixels[..., :1] == pixels[..., 1:3]).all():
        return pixels[..., [0, 3][: pixels.shape[2] - 2]]
    return pixels


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo how the camera was turned, 1 to 8 as EXIF has it."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
