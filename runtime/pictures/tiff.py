"""TIFF pictures of the layouts that Pillow and OpenCV do not read, or read wrongly.

With 16 bits a sample, these are grey with alpha, white as zero, channels in planes of their own,
alpha multiplied into the colours, and extra channels; with 8 bits, grey with alpha in planes or
with white as zero, and in planes extra channels and alpha multiplied into the colours.
Floating-point samples, big-endian BigTIFF and files over 4 GB are read here whatever their layout.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import tifffile
from PIL import ExifTags, Image
from tifffile import (
    COMPRESSION,
    DATATYPE,
    EXTRASAMPLE,
    PHOTOMETRIC,
    PLANARCONFIG,
    PREDICTOR,
    SAMPLEFORMAT,
)

from lpnsr.runtime.pictures.metadata import DAMAGE

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_COLORS: dict[int, int] = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.RGB: 3,
}

_DEFLATE = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)

_SAMPLES = (SAMPLEFORMAT.UINT, SAMPLEFORMAT.VOID, SAMPLEFORMAT.IEEEFP)

_READABLE = (COMPRESSION.NONE, *_DEFLATE)
"""What tifffile unpacks by itself, and fast."""

_FAR = 2**32
"""From here on, Pillow does not find the directory of a compressed file, and returns black."""

_BIG_ENDIAN_BIGTIFF = b"MM\0+"
"""What such a file begins with; Pillow does not know it."""

_EXTRA = 2
"""Most channels besides the colours."""

_SEGMENT = 2**26
"""Bytes that a strip or tile of any picture may have."""


class UnsupportedTiff(Exception):
    """A TIFF file is intact but of a kind that is not read; says which."""


@dataclass(frozen=True)
class Scan:
    """The first page of an open TIFF file; described by the names that Pillow's images use.

    Attributes:
        page: as tifffile sees it.
        colors: 1 for grey, 3 for RGB.
        frames: pages in the file.
    """

    page: tifffile.TiffPage
    colors: int
    frames: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) before the picture is turned upright."""
        return self.page.imagelength, self.page.imagewidth

    @property
    def bits(self) -> int:
        """8 or 16 per sample, as `pixels` returns them."""
        return 8 if self.page.bitspersample == 8 else 16

    @property
    def channels(self) -> int:
        """Of the colours and alpha."""
        return self.colors + (self._alpha is not None)

    @property
    def extra(self) -> bool:
        """Whether there are channels besides."""
        return self.page.samplesperpixel > self.channels

    @property
    def mode(self) -> str:
        """Pillow's, as if of 8 bits without alpha."""
        return "L" if self.colors == 1 else "RGB"

    @property
    def info(self) -> dict[str, Any]:
        """Colour profile and XMP, where the file has them."""
        names = {"icc_profile": ExifTags.Base.InterColorProfile, "xmp": ExifTags.Base.XMLPacket}
        values = {name: self.page.tags.valueof(tag) for name, tag in names.items()}
        return {name: value for name, value in values.items() if isinstance(value, bytes)}

    def getexif(self) -> Image.Exif:
        """The file's tags; of big-endian BigTIFF, those of the first directory alone."""
        file, exif = self.page.parent, Image.Exif()
        if file.is_bigtiff and file.byteorder == ">":  # Pillow does not find its way there
            exif.update({tag.code: _plain(tag) for tag in self.page.tags})
            return exif
        exif.bigtiff, exif.endian = file.is_bigtiff, file.byteorder
        # A FileHandle reads and seeks as a file does.
        exif.load_from_fp(cast(IO[bytes], file.filehandle), self.page.offset)
        return exif

    def pixels(self) -> np.ndarray:
        """Decode the page.

        Returns:
            uint8 or uint16 (H, W, channels); alpha is not multiplied into the colours.

        Raises:
            UnsupportedTiff: the compression is not read, or samples are not from 0 to 1.
            ValueError: the file is damaged.
        """
        if self.page.compression not in _READABLE:
            name = COMPRESSION(self.page.compression).name
            raise UnsupportedTiff(
                f"has {name} compression in an uncommon layout; save it with deflate or none"
            )
        if self.page.predictor == PREDICTOR.FLOATINGPOINT:
            raise UnsupportedTiff("has the floating-point predictor; save it without a predictor")
        try:
            self._check_segments()
            samples = self.page.asarray(squeeze=False, maxworkers=1)
        except (tifffile.TiffFileError, zlib.error) as error:
            raise ValueError(str(error)) from error
        if samples.dtype.kind == "f":
            samples = _deep(samples)
        planes, _, _, _, _ = samples.shape
        pixels = samples[0, 0] if planes == 1 else samples[:, 0, :, :, 0].transpose(1, 2, 0)
        colors, full = pixels[..., : self.colors], np.iinfo(pixels.dtype).max
        if self.page.photometric == PHOTOMETRIC.MINISWHITE:
            colors = full - colors
        if self._alpha is None:
            return colors
        opacity = pixels[..., self.colors]
        if self._alpha == EXTRASAMPLE.ASSOCALPHA:
            colors = _divided(colors, opacity)
        return np.dstack([colors, opacity])

    @property
    def _alpha(self) -> EXTRASAMPLE | None:
        """How the first channel after the colours holds transparency, if it does."""
        first = self.page.extrasamples[:1]
        kinds = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
        return EXTRASAMPLE(first[0]) if first and first[0] in kinds else None

    def _check_segments(self) -> None:
        """Refuse missing strips, which tifffile takes for black, and decompression bombs."""
        page, file = self.page, self.page.parent.filehandle
        if page.is_contiguous:
            return
        if len(page.dataoffsets) < np.prod(page.chunked) or 0 in page.databytecounts:
            raise ValueError("a strip or tile is missing")
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            file.seek(offset)
            packed = file.read(count)
            if len(packed) < count:
                raise ValueError("a strip or tile is truncated")
            if page.compression in _DEFLATE:
                limit = max(page.nbytes, _SEGMENT)
                if len(zlib.decompressobj().decompress(packed, limit + 1)) > limit:
                    raise ValueError("a strip or tile is larger than the picture")


@contextmanager
def opened(path: Path) -> Iterator[Scan | None]:
    """Open a TIFF file of the layouts that are read here; gives None for any other file.

    Raises:
        OSError: the file cannot be read.
    """
    with ExitStack() as stack:
        yield _scan(path, stack)


def _scan(path: Path, stack: ExitStack) -> Scan | None:
    magic = _magic(path)
    if magic not in _MAGIC:
        return None
    try:
        file = stack.enter_context(tifffile.TiffFile(path))
        page = file.pages.first
        if page.sampleformat not in _SAMPLES or (page.bitspersample > 16 and not _is_float(page)):
            raise UnsupportedTiff("has signed or 32-bit samples; convert it to 8 or 16 bits")
        if _is_garbled(page):
            name = PHOTOMETRIC(page.photometric).name
            raise UnsupportedTiff(f"has 16-bit {name} samples in planes; save it deflated")
        if page.compression == COMPRESSION.WEBP:  # Pillow's libtiff calls that damaged
            raise UnsupportedTiff("has WEBP compression; save it with deflate or none")
        unknown = magic == _BIG_ENDIAN_BIGTIFF or page.offset >= _FAR
        if _is_readable(page) and (unknown or _is_uncommon(page)):
            return Scan(page, _COLORS[page.photometric], len(file.pages))
        if page.offset >= _FAR:
            raise UnsupportedTiff("is over 4 GB and of an uncommon kind; convert it to PNG")
    except (*DAMAGE, tifffile.TiffFileError):
        pass  # Pillow tells what is wrong
    return None


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def describe(path: Path) -> str | None:
    """The layout of an intact TIFF file in a few words, None if it is damaged or no TIFF.

    Raises:
        OSError: the file cannot be read.
    """
    if _magic(path) not in _MAGIC:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            kind = SAMPLEFORMAT(page.sampleformat).name.lower()
            words = [f"{page.samplesperpixel} x {page.bitspersample} bits {kind}"]
            words += [PHOTOMETRIC(page.photometric).name.lower()]
            words += [COMPRESSION(page.compression).name.lower()]
            words += [PLANARCONFIG(page.planarconfig).name.lower()]
            return ", ".join([*words, *(["BigTIFF"] if file.is_bigtiff else [])])
    except (*DAMAGE, tifffile.TiffFileError):
        return None


def _is_readable(page: tifffile.TiffPage) -> bool:
    """Whether `Scan` knows what the samples mean."""
    colors, samples = _COLORS.get(page.photometric, 0), page.samplesperpixel
    if not colors or not colors <= samples <= colors + _EXTRA or 0 in page.shape:
        return False
    return page.imagedepth == 1 and (page.bitspersample in (8, 16) or _is_float(page))


def _is_garbled(page: tifffile.TiffPage) -> bool:
    """Whether Pillow returns something else than the picture without noticing."""
    in_planes = page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
    plain = page.compression == COMPRESSION.NONE and page.bitspersample == 16
    return page.photometric not in _COLORS and in_planes and plain


def _is_float(page: tifffile.TiffPage) -> bool:
    return page.sampleformat == SAMPLEFORMAT.IEEEFP


def _is_uncommon(page: tifffile.TiffPage) -> bool:
    """Whether neither Pillow nor OpenCV reads a readable page rightly."""
    colors, samples = _COLORS[page.photometric], page.samplesperpixel
    if _is_float(page):
        return True
    usual = page.photometric != PHOTOMETRIC.MINISWHITE and (
        page.planarconfig == PLANARCONFIG.CONTIG or samples == 1
    )
    if page.bitspersample == 8:
        if colors == 1:
            return samples > 2 or (samples == 2 and not usual)
        # Only where nothing is compressed, Pillow stumbles over planes of four.
        strange = page.extrasamples not in ((), (EXTRASAMPLE.UNASSALPHA,))
        is_plain = page.compression == COMPRESSION.NONE
        return not usual and (samples > 4 or (strange and is_plain))
    plain = samples in (1, 3, 4) and page.extrasamples in ((), (EXTRASAMPLE.UNASSALPHA,))
    return not (usual and plain)


def _plain(tag: tifffile.TiffTag) -> object:
    """A tag's value as Pillow has it: rationals are numbers."""
    if tag.dtype not in (DATATYPE.RATIONAL, DATATYPE.SRATIONAL) or tag.count > 1:
        return tag.value
    above, below = tag.value
    return above / below if below else math.nan


def _deep(samples: np.ndarray) -> np.ndarray:
    """Floating-point samples from 0 to 1 as uint16."""
    if not ((samples >= 0) & (samples <= 1)).all():
        raise UnsupportedTiff("has floating-point samples beyond 0 to 1; scale them to this range")
    return np.rint(np.multiply(samples, 65535, dtype=np.float32)).astype(np.uint16)


def _divided(colors: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Undo the multiplication of (H, W, C) by alpha (H, W); what is hidden becomes black."""
    full, visible = np.iinfo(colors.dtype).max, np.maximum(opacity, 1).astype(np.uint32)
    plain = np.empty_like(colors)
    for channel in range(colors.shape[2]):
        exact = (colors[..., channel] * np.uint32(full) + visible // 2) // visible
        plain[..., channel] = np.where(opacity > 0, np.minimum(exact, full), 0)
    return plain
