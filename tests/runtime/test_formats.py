import io
import os

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile

from lpnsr.runtime.bundle import sha256
from lpnsr.runtime.pictures.formats import FORMATS, OutputSpec, replacing, write
from lpnsr.runtime.pictures.images import ImageError, read
from lpnsr.runtime.pictures.metadata import Metadata

from .samples import ALPHA, GREY, GREY_ALPHA, RGB, RGBA, SRGB, deep

KINDS = {"grey": GREY, "grey-alpha": GREY_ALPHA, "rgb": RGB, "rgba": RGBA}


def layout(pixels, metadata=None, quality=95):
    metadata = metadata or Metadata()
    return OutputSpec(pixels.shape[:2], pixels.shape[2], pixels.dtype, metadata, quality)


def save(path, kind, pixels, metadata=None, quality=95):
    """Write in bands of uneven height; gives the layout as adapted and what was lost."""
    adapted, lost = FORMATS[kind].adapt(layout(pixels, metadata, quality))
    assert adapted.channels == pixels.shape[2] and adapted.dtype == pixels.dtype
    bands = np.split(pixels, [1, 9, 9 + len(pixels) // 4])
    assert write(path, FORMATS[kind], iter(bands), adapted) == sha256(path)
    return lost


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("name", KINDS)
def test_png_holds_everything(tmp_path, name, depth):
    pixels = KINDS[name] if depth == 8 else deep(KINDS[name])
    path = tmp_path / "a.png"
    assert save(path, "png", pixels) == []
    np.testing.assert_array_equal(read(path).pixels, pixels)
    with Image.open(path) as image:
        image.verify()  # every chunk's checksum
        assert isinstance(image, PngImageFile)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("name", KINDS)
def test_tiff_holds_everything(tmp_path, name, depth):
    pixels = KINDS[name] if depth == 8 else deep(KINDS[name])
    path = tmp_path / "a.tif"
    assert save(path, "tiff", pixels) == []
    np.testing.assert_array_equal(read(path).pixels, pixels)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert page.bitspersample == depth and page.samplesperpixel == pixels.shape[2]
        assert page.shape[:2] == pixels.shape[:2]


def test_tiff_spans_many_tiles(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (700, 1100, 3), dtype=np.uint8)
    save(tmp_path / "a.tif", "tiff", pixels)
    np.testing.assert_array_equal(read(tmp_path / "a.tif").pixels, pixels)


def test_tiff_over_4_gb_has_64_bit_offsets(tmp_path):
    """The file has a hole of 5 GB that takes no space on the disk."""
    pixels, path = np.tile(RGB, (35, 40, 1)), tmp_path / "a.tif"
    exif = {0x010F: "maker", ExifTags.IFD.Exif: {0x8827: 400}, ExifTags.IFD.GPSInfo: {1: "N"}}

    def bands(stream):
        yield pixels[:300]
        stream.seek(5 * 2**30, os.SEEK_CUR)
        yield pixels[300:]

    for is_big in (False, True):
        with path.open("wb") as stream:
            source = bands(stream) if is_big else [pixels]
            FORMATS["tiff"].write(stream, source, layout(pixels, Metadata(SRGB, exif, (300, 150))))
        assert (path.stat().st_size > 5 * 2**30) == is_big
        with tifffile.TiffFile(path) as file:
            assert file.is_bigtiff == is_big and len(file.pages) == 1
            np.testing.assert_array_equal(file.pages[0].asarray(), pixels)
        found = read(path)
        np.testing.assert_array_equal(found.pixels, pixels)
        assert found.metadata.profile == SRGB and found.metadata.dpi == (300, 150)
        assert found.metadata.exif[0x010F] == "maker"
        assert found.metadata.exif[ExifTags.IFD.Exif][0x8827] == 400
        assert found.metadata.exif[ExifTags.IFD.GPSInfo] == {1: "N"}


@pytest.mark.parametrize("name", ["grey", "rgb"])
def test_jpeg_is_pillows(tmp_path, name):
    pixels, path, expected = KINDS[name], tmp_path / "a.jpg", io.BytesIO()
    assert save(path, "jpeg", pixels, quality=80) == []
    image = Image.fromarray(pixels[..., 0] if name == "grey" else pixels)
    image.save(expected, "JPEG", quality=80)
    with Image.open(path) as found, Image.open(expected) as plain:
        assert found.mode == image.mode
        np.testing.assert_array_equal(np.asarray(found), np.asarray(plain))


@pytest.mark.parametrize("name", ["rgb", "rgba"])
def test_webp_is_lossless_at_100(tmp_path, name):
    path, pixels = tmp_path / "a.webp", KINDS[name]
    assert save(path, "webp", pixels, quality=100) == []
    found = read(path).pixels
    seen = np.dstack([ALPHA > 0] * pixels.shape[2]) if name == "rgba" else slice(None)
    np.testing.assert_array_equal(found[seen], pixels[seen])
    save(path, "webp", pixels, quality=50)
    assert np.abs(read(path).pixels[..., :3].astype(int) - pixels[..., :3]).mean() < 20


@pytest.mark.parametrize(
    ("kind", "pixels", "channels", "lost"),
    [
        ("jpeg", deep(RGBA), 3, ["16-bit depth", "transparency"]),
        ("jpeg", GREY_ALPHA, 1, ["transparency"]),
        ("webp", deep(RGBA), 4, ["16-bit depth"]),
        ("webp", GREY, 1, ["color profile"]),
        ("png", deep(RGBA), 4, []),
        ("tiff", deep(GREY_ALPHA), 2, []),
    ],
)
def test_what_a_format_cannot_hold_is_named(kind, pixels, channels, lost):
    adapted, found = FORMATS[kind].adapt(layout(pixels, Metadata(profile=SRGB)))
    assert (adapted.channels, found) == (channels, lost)
    assert (adapted.dtype == np.uint16) == (pixels.dtype == np.uint16 and "16" not in str(lost))
    assert (adapted.metadata.profile is None) == ("color profile" in lost)


def test_what_is_too_long_for_jpeg_is_dropped(tmp_path):
    exif, xmp = {0x010E: "x" * 70000}, b"<rdf:RDF>" + b" " * 70000
    assert FORMATS["jpeg"].adapt(layout(RGB, Metadata(exif=exif, xmp=xmp)))[1] == ["EXIF", "XMP"]
    assert FORMATS["png"].adapt(layout(RGB, Metadata(exif=exif, xmp=xmp)))[1] == []
    longest = Metadata(xmp=xmp[:65504])
    assert save(tmp_path / "a.jpg", "jpeg", RGB, longest) == []
    assert read(tmp_path / "a.jpg").metadata == longest


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("webp", (100, 16384), "WEBP holds 16383 a side"),
        ("jpeg", (65501, 4), "JPG holds 65500 a side"),
    ],
)
def test_too_large_pictures_are_refused(kind, size, message):
    with pytest.raises(ImageError, match=message):
        FORMATS[kind].check(size)
    FORMATS[kind].check((16383, 16383))
    for roomy in ("png", "tiff"):
        FORMATS[roomy].check((200000, 200000))


def test_writes_into_new_folders(tmp_path):
    save(tmp_path / "a" / "b" / "c.png", "png", RGB)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.png"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, failure):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def fail(descriptor):
        raise failure

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(type(failure)):
        save(target, "png", RGB)
    assert os.listdir(tmp_path) == ["a.png"]
    assert target.read_bytes() == b"old"


def test_the_file_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("os.fsync", lambda descriptor: seen.append(os.fstat(descriptor).st_size))
    with replacing(tmp_path / "a") as stream:
        stream.write(b"content")
        assert not (tmp_path / "a").exists()
    assert seen == [7] and (tmp_path / "a").read_bytes() == b"content"
