"""One small file of every kind of picture that the runtime reads."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms, features
from PIL.PngImagePlugin import PngInfo

from .toy import photo

HEIGHT, WIDTH = 20, 28
RGB = photo(HEIGHT, WIDTH)
GREY = RGB[..., :1]
ALPHA = np.clip(np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) * 9 - 80, 0, 255)
ALPHA = ALPHA.astype(np.uint8)[..., None]
RGBA = np.dstack([RGB, ALPHA])
GREY_ALPHA = np.dstack([GREY, ALPHA])
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def deep(pixels: np.ndarray) -> np.ndarray:
    """A 16-bit version whose low bytes matter; 0 and 255 stay the ends of the range."""
    wide = pixels.astype(np.uint16) * 257
    return np.where((pixels > 0) & (pixels < 255), wide ^ 0x35, wide).astype(np.uint16)


def png(pixels: np.ndarray) -> bytes:
    """A PNG file, 8 or 16 bits, made without any code of the runtime."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    height, width, channels = pixels.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, color, 0, 0, 0)
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(content)), chunk(b"IEND", b""))
    )


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    channels = pixels.shape[2]
    if options.get("planarconfig") == "separate":
        pixels = pixels.transpose(2, 0, 1)
    defaults = {
        "photometric": "rgb" if channels > 2 else "minisblack",
        "extrasamples": ["unassalpha"] if channels in (2, 4) else None,
    }
    tifffile.imwrite(stream, pixels if channels > 1 else pixels[..., 0], **(defaults | options))
    return stream.getvalue()


def _bmp16() -> bytes:
    """5 bits a channel, the "16-bit" of BMP."""
    bits = RGB[::-1] >> 3
    words = bits[..., 0].astype("<u2") << 10 | bits[..., 1].astype("<u2") << 5 | bits[..., 2]
    body = words.astype("<u2").tobytes()  # rows of 56 bytes need no padding
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, 0, len(body), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + info + body


def bit_fields(words: np.ndarray, masks: tuple[int, ...], upward: bool = True) -> bytes:
    """A BMP file of (H, W) uint16 or uint32 `words`, with a header that holds four masks."""
    height, width = words.shape
    padded = np.pad(
        words[::-1] if upward else words, ((0, 0), (0, width % 2 if words.itemsize == 2 else 0))
    )
    body = padded.astype(f"<u{words.itemsize}").tobytes()
    rows, bits = height if upward else -height, 8 * words.itemsize
    info = struct.pack("<IiiHHIIiiII", 56, width, rows, 1, bits, 3, len(body), 0, 0, 0, 0)
    info += struct.pack("<4I", *masks, *[0] * (4 - len(masks)))
    return b"BM" + struct.pack("<IHHI", 70 + len(body), 0, 0, 70) + info + body


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


_PALETTE = Image.fromarray(RGB).quantize(32)
_BILEVEL = Image.fromarray(GREY[..., 0]).convert("1")
_BITS = RGB >> 3
_CMYK = Image.fromarray(RGB).convert("CMYK")


def _decoded(content: bytes, mode: str) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert(mode)).reshape(HEIGHT, WIDTH, -1)


def _lossy(image: Image.Image, kind: str, mode: str) -> tuple[bytes, np.ndarray]:
    content = saved(image, kind, quality=90)
    return content, _decoded(content, mode)


def _tagged(kind: str) -> tuple[bytes, np.ndarray]:
    """A file with all metadata that is carried over, which can be damaged too."""
    exif, xmp = Image.Exif(), b'<rdf:RDF tiff:Orientation="1">Sch\xc3\xb6n</rdf:RDF>'
    exif[0x010F], exif[0x8769], exif[0x8825] = "maker", {0x8827: 400}, {1: "N", 2: (52, 31, 12)}
    if kind == "TIFF":
        exif[700] = xmp
    options = {"exif": exif.tobytes(), "icc_profile": SRGB, "dpi": (300, 150), "xmp": xmp}
    if kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    content = saved(Image.fromarray(RGB), kind, **options)
    return content, _decoded(content, "RGB")


LOSSLESS = {"quality": 100, "subsampling": "4:4:4"}
"""Nearly, for AVIF."""

_PALETTE_CLEAR = saved(_PALETTE, "PNG", transparency=3)
_GREY_PALETTE = Image.fromarray(GREY[..., 0]).convert("P")

SAMPLES: dict[str, tuple[bytes, np.ndarray]] = {
    "bilevel.png": (saved(_BILEVEL, "PNG"), np.asarray(_BILEVEL)[..., None] * np.uint8(255)),
    "grey.png": (png(GREY), GREY),
    "grey-alpha.png": (png(GREY_ALPHA), GREY_ALPHA),
    "palette.png": (saved(_PALETTE, "PNG"), np.asarray(_PALETTE.convert("RGB"))),
    "palette-clear.png": (_PALETTE_CLEAR, _decoded(_PALETTE_CLEAR, "RGBA")),
    "palette-grey.png": (saved(_GREY_PALETTE, "PNG"), GREY),
    "rgb.png": (png(RGB), RGB),
    "rgba.png": (png(RGBA), RGBA),
    "grey16.png": (png(deep(GREY)), deep(GREY)),
    "grey-alpha16.png": (png(deep(GREY_ALPHA)), deep(GREY_ALPHA)),
    "rgb16.png": (png(deep(RGB)), deep(RGB)),
    "rgba16.png": (png(deep(RGBA)), deep(RGBA)),
    "grey.jpg": _lossy(Image.fromarray(GREY[..., 0]), "JPEG", "L"),
    "rgb.jpg": _lossy(Image.fromarray(RGB), "JPEG", "RGB"),
    "cmyk.jpg": _lossy(_CMYK, "JPEG", "RGB"),
    "rgb.webp": (saved(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
    "rgba.webp": (saved(Image.fromarray(RGBA), "WEBP", lossless=True, exact=True), RGBA),
    "lossy.webp": _lossy(Image.fromarray(RGB), "WEBP", "RGB"),
    "bilevel.tif": (saved(_BILEVEL, "TIFF"), np.asarray(_BILEVEL)[..., None] * np.uint8(255)),
    "grey.tif": (tiff(GREY), GREY),
    "grey-alpha.tif": (tiff(GREY_ALPHA), GREY_ALPHA),
    "palette.tif": (saved(_PALETTE, "TIFF"), np.asarray(_PALETTE.convert("RGB"))),
    "rgb.tif": (tiff(RGB), RGB),
    "rgb-lzw.tif": (saved(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"), RGB),
    "rgba.tif": (tiff(RGBA), RGBA),
    "cmyk.tif": (saved(_CMYK, "TIFF"), np.asarray(_CMYK.convert("RGB"))),
    "grey16.tif": (tiff(deep(GREY)), deep(GREY)),
    "rgb16.tif": (tiff(deep(RGB)), deep(RGB)),
    "rgb16-deflate.tif": (tiff(deep(RGB), compression="zlib", predictor=True), deep(RGB)),
    "rgb16-lzw.tif": (cv2.imencode(".tif", deep(RGB)[..., ::-1])[1].tobytes(), deep(RGB)),
    "rgb16-big-endian.tif": (tiff(deep(RGB), byteorder=">"), deep(RGB)),
    "rgba16.tif": (tiff(deep(RGBA)), deep(RGBA)),
    "grey16-inverse.tif": (tiff(0xFFFF - deep(GREY), photometric="miniswhite"), deep(GREY)),
    "grey-alpha16.tif": (tiff(deep(GREY_ALPHA)), deep(GREY_ALPHA)),
    "grey-alpha16-deflate.tif": (
        tiff(deep(GREY_ALPHA), compression="zlib", predictor=True, rowsperstrip=6, byteorder=">"),
        deep(GREY_ALPHA),
    ),
    "grey-alpha-planes.tif": (tiff(GREY_ALPHA, planarconfig="separate"), GREY_ALPHA),
    "rgb16-planes.tif": (
        tiff(deep(RGB), planarconfig="separate", compression="zlib", tile=(16, 16)),
        deep(RGB),
    ),
    "rgba16-big.tif": (tiff(deep(RGBA), bigtiff=True, rowsperstrip=7), deep(RGBA)),
    "rgb-big-endian-big.tif": (tiff(RGB, bigtiff=True, byteorder=">"), RGB),
    "rgb-float.tif": (tiff(deep(RGB) / np.float32(65535), compression="zlib"), deep(RGB)),
    "palette.gif": (saved(_PALETTE, "GIF"), np.asarray(_PALETTE.convert("RGB"))),
    "tagged.png": _tagged("PNG"),
    "tagged.jpg": _tagged("JPEG"),
    "tagged.webp": _tagged("WEBP"),
    "tagged.tif": _tagged("TIFF"),
    "grey.bmp": (saved(Image.fromarray(GREY[..., 0]), "BMP"), GREY),
    "palette.bmp": (saved(_PALETTE, "BMP"), np.asarray(_PALETTE.convert("RGB"))),
    "rgb.bmp": (saved(Image.fromarray(RGB), "BMP"), RGB),
    "rgbx.bmp": (saved(Image.fromarray(RGBA), "BMP"), RGB),
    "rgb-fields.bmp": (
        bit_fields(
            RGB.astype(np.uint32) @ np.array([1 << 20, 1 << 4, 1 << 12], np.uint32),
            (
                0xFF << 20,
                0xFF << 4,
                0xFF << 12,
            ),
        ),
        RGB,
    ),
    "rgb555.bmp": (_bmp16(), (_BITS.astype(np.uint16) * 255 // 31).astype(np.uint8)),
}
"""File name -> its content and its pixels, uint8 or uint16 (HEIGHT, WIDTH, C)."""

if features.check("avif"):
    _AVIF = saved(Image.fromarray(RGBA), "AVIF", **LOSSLESS)
    SAMPLES["rgba.avif"] = (_AVIF, _decoded(_AVIF, "RGBA"))


def write_all(folder: Path) -> list[Path]:
    """Write all samples into a new folder; gives their paths."""
    folder.mkdir()
    for name, (content, _) in SAMPLES.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in SAMPLES]
