"""Which kinds of pictures are read here, by their names and by their content."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import features

PILLOWS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow's names of the kinds that every installation reads."""

_SUFFIXES = (
    *(".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    *(".png", ".tif", ".tiff", ".webp"),
)

_RAW = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq"),
    *(".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"),
    *(".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)

_OTHERS = (
    *(".dds", ".eps", ".exr", ".hdr", ".ico", ".j2c", ".j2k", ".jp2", ".jpf", ".jpx", ".jxr"),
    *(".pam", ".pbm", ".pcx", ".pfm", ".pgm", ".pnm", ".ppm", ".psd", ".qoi", ".svg", ".tga"),
    ".xcf",
)


@dataclass(frozen=True)
class Optional:
    """A kind that is read where a plugin for Pillow is installed, or Pillow is built with it.

    Attributes:
        suffixes: of its files.
        brands: what one of the first box's brands is, of files that consist of boxes.
        starts: what other files of the kind begin with.
        plugin: the module that teaches it to Pillow; "" if Pillow can be built with it.
        remedy: how to have it read.
    """

    suffixes: tuple[str, ...]
    brands: tuple[bytes, ...]
    starts: tuple[bytes, ...]
    plugin: str
    remedy: str


OPTIONAL = {
    "AVIF": Optional(
        (".avif", ".avifs"), (b"avif", b"avis"), (), "", "install a Pillow built with AVIF"
    ),
    "HEIF": Optional(
        (".heic", ".heics", ".heif", ".heifs", ".hif"),
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        (),
        "pillow_heif",
        "run: pip install 'lpnsr[heif]'",
    ),
    "JXL": Optional(
        (".jxl",),
        (),
        (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
        "pillow_jxl",
        "run: pip install 'lpnsr[jxl]'",
    ),
}
"""Pillow's name -> kind. In this order: an AVIF file may be HEIF's brand `mif1`, too."""

_HEAD = 64
"""Bytes of a file that tell its kind."""


SUFFIXES = tuple(sorted(sum((kind.suffixes for kind in OPTIONAL.values()), _SUFFIXES)))
"""Of files that are read here, if their content is of no kind that lacks its plugin; lower case."""

PICTURES = (*SUFFIXES, *_RAW, *_OTHERS)
"""Of all files that hold pictures, read or not."""

UNSURE = tuple(suffix for suffix in PICTURES if suffix not in _SUFFIXES)
"""Of those that only some installations read, or none."""


def unread(path: Path) -> str | None:
    """Why a picture is not read here; None for one that is, and for what is not a picture at all.

    Raises:
        OSError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in _RAW:
        return "is a camera's raw file; develop it, and save it as TIFF or JPEG"
    if suffix in _OTHERS:
        return f"is of a kind that is not read ({suffix[1:].upper()}); convert it to PNG or TIFF"
    name = _optional(path)
    if name is None or _is_read(name):
        return None
    return f"is {name}, which is not read here; {OPTIONAL[name].remedy}"


def teach_pillow(path: Path) -> str | None:
    """Load the plugin for a picture of an optional kind; returns Pillow's name of it, or None.

    Raises:
        OSError: the file cannot be read.
    """
    name = _optional(path)
    if name and (plugin := OPTIONAL[name].plugin):
        module = importlib.import_module(plugin)
        if name == "HEIF":
            module.register_heif_opener()
    return name


def _optional(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return next((name for name, kind in OPTIONAL.items() if _begins(head, kind)), None)


def _begins(head: bytes, kind: Optional) -> bool:
    if head.startswith(kind.starts):
        return True
    end = int.from_bytes(head[:4], "big")
    brands = [head[at : at + 4] for at in range(8, min(end, len(head)), 4)]
    return head[4:8] == b"ftyp" and any(brand in kind.brands for brand in brands)


def _is_read(name: str) -> bool:
    plugin = OPTIONAL[name].plugin
    return find_spec(plugin) is not None if plugin else bool(features.check(name.lower()))
