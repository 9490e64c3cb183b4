"""Writes pictures band by band, whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from isal import isal_zlib
from PIL import ExifTags, Image, TiffTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from lpnsr.runtime.bundle import sha256
from lpnsr.runtime.pictures.images import ImageError
from lpnsr.runtime.pictures.metadata import Metadata, Tags, exif_bytes
from lpnsr.runtime.tiles.rows import regroup

_LEVEL = 1
"""Effort of ISA-L: files as small as zlib makes with this effort, in a quarter of the time."""

_CLASSIC_TIFF = 2**32 - 2**26
"""Most bytes before the tags of a TIFF file with 32-bit offsets."""


@dataclass(frozen=True)
class OutputSpec:
    """The picture to write.

    Attributes:
        size: (height, width).
        channels: 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for RGB and alpha.
        dtype: uint8 or uint16.
        metadata: what goes along.
        quality: 1 to 100, for lossy formats.
        opaque: whether alpha, if there is any, hides nothing.
    """

    size: tuple[int, int]
    channels: int
    dtype: np.dtype
    metadata: Metadata
    quality: int
    opaque: bool = False


_OFFSETS = (ExifTags.Base.TileOffsets, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
"""Tags whose values may be over 4 GB in BigTIFF."""


Bands = Iterable[np.ndarray]
"""A picture as arrays (n, W, C) of its layout's type, top to bottom."""


@dataclass(frozen=True)
class Format:
    """What a file format can hold.

    Attributes:
        suffixes: of its files; the first one is given to new files.
        deep: whether it holds 16-bit samples.
        alpha: whether it holds transparency.
        grey: whether it holds grey pictures; else they become RGB.
        tags: most bytes of EXIF, and of XMP.
        held: most bytes that its encoder holds for each pixel of the picture; 0 for encoders that
            go band by band.
        side: most pixels a side.
        write: writes a picture to a stream.
    """

    suffixes: tuple[str, ...]
    deep: bool
    alpha: bool
    grey: bool
    tags: int
    held: int
    side: int
    write: Callable[[BinaryIO, Bands, OutputSpec], None]

    def adapt(self, layout: OutputSpec) -> tuple[OutputSpec, list[str]]:
        """The layout as far as the format can hold it, and the names of what is lost."""
        lost, details = [], layout.metadata
        if layout.dtype == np.uint16 and not self.deep:
            layout = replace(layout, dtype=np.dtype(np.uint8))
            lost.append("16-bit depth")
        if layout.channels in (2, 4) and not self.alpha:
            layout = replace(layout, channels=layout.channels - 1)
            lost += [] if layout.opaque else ["transparency"]
        if details.profile and layout.channels < 3 and not self.grey:
            details = replace(details, profile=None)
            lost.append("color profile")
        if len(exif_bytes(details.tags(layout.size))) > self.tags:
            details = replace(details, exif=None)
            lost.append("EXIF")
        if len(details.packet(layout.size)) > self.tags:
            details = replace(details, xmp=None)
            lost.append("XMP")
        return replace(layout, metadata=details), lost

    def check(self, size: tuple[int, int]) -> None:
        """Refuse a picture of a (height, width) that is too large for the format.

        Raises:
            ImageError: it has too many pixels a side.
        """
        name = self.suffixes[0][1:].upper()
        if max(size) > self.side:
            raise ImageError(
                f"the output would have {size[1]}x{size[0]} pixels, {name} holds {self.side} "
                "a side; choose --format png or a lower --scale"
            )


def write(path: Path, kind: Format, bands: Bands, layout: OutputSpec) -> str:
    """Write a picture; makes missing folders.

    The file appears under its name when it is complete; on failure nothing is left behind.

    Returns:
        The file's hexadecimal SHA-256.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as stream:
        kind.write(stream, bands, layout)
    return sha256(path)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file at `path` at the end, unless an error occurs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{secrets.token_hex(8)}.lpnsr-partial"
    try:
        with partial.open("x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_png(stream: BinaryIO, bands: Bands, layout: OutputSpec) -> None:
    def chunk(kind: bytes, content: bytes) -> None:
        stream.write(struct.pack(">I", len(content)) + kind + content)
        stream.write(struct.pack(">I", isal_zlib.crc32(kind + content)))

    (height, width), details = layout.size, layout.metadata
    stream.write(b"\x89PNG\r\n\x1a\n")
    color = {1: 0, 2: 4, 3: 2, 4: 6}[layout.channels]
    bits = 8 * layout.dtype.itemsize
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    if details.profile:
        chunk(b"iCCP", b"ICC Profile\0\0" + isal_zlib.compress(details.profile))
    if details.dpi:
        across, down = (round(dpi / 0.0254) for dpi in details.dpi)
        chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    if details.exif:
        chunk(b"eXIf", exif_bytes(details.tags(layout.size)).removeprefix(b"Exif\0\0"))
    if details.xmp:
        chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + details.packet(layout.size))
    packer = isal_zlib.compressobj(_LEVEL)
    above = np.zeros(width * layout.channels * layout.dtype.itemsize, dtype=np.uint8)
    for band in bands:
        samples = band.astype(band.dtype.newbyteorder(">")).view(np.uint8).reshape(len(band), -1)
        filtered = np.full((len(band), 1 + len(above)), 2, dtype=np.uint8)  # 2: minus the row above
        filtered[0, 1:] = samples[0] - above
        filtered[1:, 1:] = samples[1:] - samples[:-1]
        above = samples[-1]
        if packed := packer.compress(filtered.data):
            chunk(b"IDAT", packed)
    chunk(b"IDAT", packer.flush())
    chunk(b"IEND", b"")


def _write_tiff(stream: BinaryIO, bands: Bands, layout: OutputSpec) -> None:
    """Tiles as wide as the picture, then the directory that finds them; BigTIFF only if needed."""
    stream.write(bytes(16))
    tags = _tiff_tags(layout) | _write_tiles(stream, bands, layout)
    big = stream.tell() > _CLASSIC_TIFF
    head = b"II+\0\x08\0\0\0" if big else b"II*\0"
    offset = struct.Struct("<Q" if big else "<I")

    def write_directory(content: Tags, group: int | None = None) -> int:
        directory = ImageFileDirectory_v2(head + bytes(offset.size), group=group)
        for tag, value in content.items():
            directory[tag] = value
            if big and tag in _OFFSETS:
                directory.tagtype[tag] = TiffTags.LONG8
        stream.write(bytes(-stream.tell() % 8))
        start = stream.tell()
        stream.write(directory.tobytes(start))
        return start

    for group in ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo:
        if group in tags:
            tags[group] = write_directory(tags[group], group)
    start = write_directory(tags)
    stream.seek(0)
    stream.write(head + offset.pack(start))


def _write_tiles(stream: BinaryIO, bands: Bands, layout: OutputSpec) -> Tags:
    """Write the pixels, deflated; gives the tags that say where and how."""
    height, width = layout.size
    padding, rows = -width % 16, 16 * max(1, 2**18 // (16 * width))
    offsets, counts = [], []
    for band in regroup(bands, height, rows):
        margin = ((0, rows - len(band)), (0, padding), (0, 0))
        samples = np.pad(band, margin, mode="edge")
        samples[:, 1:] -= samples[:, :-1].copy()
        content = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
        packed = isal_zlib.compress(content, _LEVEL)
        offsets.append(stream.tell())
        counts.append(len(packed))
        stream.write(packed)
    base = ExifTags.Base
    return {
        base.Compression: 8,
        base.Predictor: 2,
        base.TileWidth: width + padding,
        base.TileLength: rows,
        base.TileOffsets: tuple(offsets),
        base.TileByteCounts: tuple(counts),
    }


def _tiff_tags(layout: OutputSpec) -> Tags:
    """The tags that do not depend on where the pixels are."""
    (height, width), channels, details = layout.size, layout.channels, layout.metadata
    base = ExifTags.Base
    tags = details.tags(layout.size) | {
        base.ImageWidth: width,
        base.ImageLength: height,
        base.BitsPerSample: (8 * layout.dtype.itemsize,) * channels,
        base.PhotometricInterpretation: 1 if channels < 3 else 2,
        base.SamplesPerPixel: channels,
        base.PlanarConfiguration: 1,
    }
    if channels in (2, 4):
        tags[base.ExtraSamples] = 2
    if details.dpi:
        across, down = details.dpi
        tags |= {base.XResolution: across, base.YResolution: down, base.ResolutionUnit: 2}
    if details.profile:
        tags[base.InterColorProfile] = details.profile
    if details.xmp:
        tags[base.XMLPacket] = details.packet(layout.size)
    return tags


class _Through(io.BufferedIOBase):
    """A stream without a descriptor, to which Pillow would write without seeing a disk fill up."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, content: Any) -> int:
        """All of it, or an `OSError`."""
        return self._stream.write(content)


def _write_jpeg(stream: BinaryIO, bands: Bands, layout: OutputSpec) -> None:
    details = layout.metadata
    _whole(bands, layout).save(
        cast(IO[bytes], _Through(stream)),  # of which Pillow takes only what it has
        "JPEG",
        quality=layout.quality,
        exif=exif_bytes(details.tags(layout.size)),
        icc_profile=details.profile,
        dpi=details.dpi or (0, 0),
        xmp=details.packet(layout.size),
    )


def _write_webp(stream: BinaryIO, bands: Bands, layout: OutputSpec) -> None:
    details = layout.metadata
    tags = details.tags(layout.size)
    if details.dpi:  # WebP has no other place for it
        across, down = details.dpi
        base = ExifTags.Base
        tags |= {base.XResolution: across, base.YResolution: down, base.ResolutionUnit: 2}
    image = _whole(bands, layout)
    if layout.channels < 3:
        image = image.convert("RGBA" if layout.channels == 2 else "RGB")
    image.save(
        stream,
        "WEBP",
        quality=layout.quality,
        lossless=layout.quality == 100,
        exif=exif_bytes(tags),
        icc_profile=details.profile,
        xmp=details.packet(layout.size),
    )


def _whole(bands: Bands, layout: OutputSpec) -> Image.Image:
    """The picture in memory, for encoders that ask for it."""
    height, width = layout.size
    image = Image.new(("L", "LA", "RGB", "RGBA")[layout.channels - 1], (width, height))
    top = 0
    for band in bands:
        image.paste(Image.fromarray(band[..., 0] if layout.channels == 1 else band), (0, top))
        top += len(band)
    return image


FORMATS = {
    "png": Format(
        (".png",),
        deep=True,
        alpha=True,
        grey=True,
        tags=2**31,
        held=0,
        side=2**31 - 1,
        write=_write_png,
    ),
    "jpeg": Format(
        (".jpg", ".jpeg"),
        deep=False,
        alpha=False,
        grey=True,
        tags=65504,
        held=4,
        side=65500,
        write=_write_jpeg,
    ),
    "webp": Format(
        (".webp",),
        deep=False,
        alpha=True,
        grey=False,
        tags=2**31,
        held=40,
        side=16383,
        write=_write_webp,
    ),
    "tiff": Format(
        (".tif", ".tiff"),
        deep=True,
        alpha=True,
        grey=True,
        tags=2**31,
        held=0,
        side=2**31 - 1,
        write=_write_tiff,
    ),
}
"""Name -> format."""
