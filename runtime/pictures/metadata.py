"""What a picture carries besides pixels: colour profile, EXIF, XMP and print resolution."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import ExifTags, Image, ImageCms

DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What Pillow raises on damaged files and tags."""

_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)

_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Copyright,
    ExifTags.Base.Rating,
    ExifTags.Base.XPTitle,
    ExifTags.Base.XPComment,
    ExifTags.Base.XPAuthor,
    ExifTags.Base.XPKeywords,
    ExifTags.Base.XPSubject,
)
"""The tags that say something about the picture; all others describe the layout of its file."""

_INTEROPERABILITY = 0xA005
"""A pointer within the Exif directory to another one, which says nothing about the picture."""


_IN_XMP = (
    b"tiff:Orientation",
    b"tiff:ImageWidth",
    b"tiff:ImageLength",
    b"exif:PixelXDimension",
    b"exif:PixelYDimension",
)
"""The properties of XMP that describe the pixels."""


Tags = dict[int, Any]
"""EXIF tag -> value; for the directories of `_IFDS` the value is such a dictionary again."""


@dataclass(frozen=True)
class Metadata:
    """What is carried over from the input to the output.

    Attributes:
        profile: the ICC profile of the colours.
        exif: EXIF tags, without orientation, thumbnail and layout of the file.
        dpi: pixels per inch, across and down.
        xmp: the XMP packet of the input.
    """

    profile: bytes | None = None
    exif: Tags | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None

    def tags(self, size: tuple[int, int]) -> Tags:
        """The EXIF tags for a picture of `size` (height, width) that is upright."""
        if not self.exif:
            return {}
        tags = self.exif | {ExifTags.Base.Orientation: 1}
        if detail := tags.get(ExifTags.IFD.Exif):
            tags[ExifTags.IFD.Exif] = detail | {
                ExifTags.Base.ExifImageWidth: size[1],
                ExifTags.Base.ExifImageHeight: size[0],
            }
        return tags

    def packet(self, size: tuple[int, int]) -> bytes:
        """The XMP packet for a picture of `size` (height, width) that is upright, b"" for none."""
        packet = self.xmp or b""
        for name, value in zip(_IN_XMP, (1, size[1], size[0], size[1], size[0]), strict=True):
            # As an attribute, name="6", or as an element, <name>6</name>.
            found = rb"(%s(?:\s*=\s*[\"']|>)\s*)\d+" % name
            packet = re.sub(found, rb"\g<1>%d" % value, packet)
        return packet


def exif_bytes(tags: Tags) -> bytes:
    """EXIF tags as they stand in a file, b"" for none."""
    exif = Image.Exif()
    exif.update(tags)
    return exif.tobytes() if tags else b""


class Tagged(Protocol):
    """What metadata is read from: a picture of Pillow's, or a scan of ours."""

    @property
    def info(self) -> Mapping[Any, Any]:
        """What the file says of itself, by Pillow's names."""

    @property
    def mode(self) -> str:
        """Pillow's name for how the samples are stored."""

    def getexif(self) -> Image.Exif:
        """The file's tags."""


def read(image: Tagged) -> tuple[Metadata, list[str]]:
    """The metadata of an opened picture and the names of what cannot be read."""
    exif, dpi, lost = None, None, []
    profile = image.info.get("icc_profile")
    if profile and not _fits(profile, image):
        profile = None
        lost.append("color profile")
    try:
        exif = _kept(image.getexif())
        exif_bytes(exif)
    except DAMAGE:
        exif = None
        lost.append("EXIF")
    try:
        dpi = _dpi(image)
    except DAMAGE:
        lost.append("DPI")
    xmp = image.info.get("xmp")
    if xmp and not _is_packet(xmp):
        xmp = None
        lost.append("XMP")
    elif xmp and b"xmpNote:HasExtendedXMP" in xmp:
        lost.append("extended XMP")
    return Metadata(profile or None, exif or None, dpi, xmp or None), lost


def orientation(image: Tagged) -> int:
    """How the camera was turned, 1 to 8 as EXIF has it; 1, upright, if that cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return 1
    return value if value in range(1, 9) else 1


def _kept(exif: Image.Exif) -> Tags:
    """The tags worth keeping, text in the file's own encoding."""
    tags: Tags = {tag: _raw(exif[tag]) for tag in _TAGS if tag in exif}
    for directory in _IFDS:
        inner = {tag: _raw(value) for tag, value in exif.get_ifd(directory).items()}
        inner.pop(_INTEROPERABILITY, None)
        if inner:
            tags[directory] = inner
    return tags


def _raw(value: object) -> object:
    """Pillow reads text as Latin-1 but writes it as ASCII; bytes it writes as they are."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value


def _dpi(image: Tagged) -> tuple[float, float] | None:
    """Pixels per inch, from the file's own header or else from EXIF."""
    stated = image.info.get("dpi") or _exif_dpi(image.getexif())
    if stated is None:
        return None
    across, down = map(float, stated)
    usable = all(math.isfinite(value) and 0 < value < 1e6 for value in (across, down))
    return (across, down) if usable else None


def _exif_dpi(exif: Image.Exif) -> tuple[Any, Any] | None:
    across, down = exif.get(0x011A), exif.get(0x011B)
    if across is None or down is None:
        return None
    if exif.get(ExifTags.Base.ResolutionUnit) == 3:  # per centimetre
        return across * 2.54, down * 2.54
    return across, down


def _is_packet(xmp: object) -> bool:
    """Whether this is XMP in its usual encoding, in which `Metadata.packet` can correct it."""
    try:
        return isinstance(xmp, bytes) and "<rdf:RDF" in xmp.decode()
    except UnicodeDecodeError:
        return False


def _fits(profile: bytes, image: Tagged) -> bool:
    """Whether an ICC profile can be read and is for colours of this picture's kind."""
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError, ValueError):
        return False
    grey = image.mode.startswith(("1", "L", "I"))
    return space == ("CMYK" if image.mode == "CMYK" else "GRAY" if grey else "RGB")
