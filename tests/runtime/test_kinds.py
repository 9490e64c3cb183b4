"""Kinds of pictures that plugins read: those of phones, and JPEG XL."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image, features

from lpnsr.runtime.command import cli, jobs
from lpnsr.runtime.pictures import jxl
from lpnsr.runtime.pictures.images import ImageError, probe, read

from .samples import HEIGHT, LOSSLESS, RGB, RGBA, WIDTH, deep, saved
from .test_images import upright
from .toy import photo

HEIF = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
"""Makes its encoder lossless."""


@pytest.fixture
def heif():
    plugin = pytest.importorskip("pillow_heif")
    plugin.register_heif_opener()
    return plugin


@pytest.fixture
def imagecodecs():
    pytest.importorskip("pillow_jxl")
    return pytest.importorskip("imagecodecs")


@pytest.mark.parametrize(
    ("kind", "module", "options"),
    [("HEIF", "pillow_heif", HEIF), ("JXL", "pillow_jxl", {"lossless": True})],
)
@pytest.mark.parametrize("pixels", [RGB, RGBA], ids=["rgb", "rgba"])
def test_plugins_read_further_kinds(tmp_path, monkeypatch, kind, module, options, pixels):
    plugin = pytest.importorskip(module)
    if kind == "HEIF":
        plugin.register_heif_opener()
    exif = Image.Exif()
    exif[0x010F] = "maker"
    # Whatever the name: phones' names are often wrong.
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, kind, exif=exif.tobytes(), **options)
    picture = read(path)
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.metadata.exif[0x010F] == "maker" and picture.lost == ()
    assert probe(path).size == pixels.shape[:2]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match="is damaged"):
        read(path)
    path.write_bytes(content)
    monkeypatch.setitem(sys.modules, module, None)
    for opening in (read, probe):
        with pytest.raises(ImageError, match=f"is {kind}, which is not read here; run: pip"):
            opening(path)


def test_without_their_plugins_they_are_named_once_and_counted(
    tmp_path, calm_bundle, monkeypatch, capfd
):
    (tmp_path / "in").mkdir()
    Image.fromarray(photo(8, 8)).save(tmp_path / "in" / "a.png")
    heads = {
        "b.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "c.avif": b"\0\0\0\x18ftypavif\0\0\0\0mif1avif",
        "d.jxl": b"\xff\x0a",
    }
    for name, head in heads.items():
        (tmp_path / "in" / name).write_bytes(head + bytes(50))
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    monkeypatch.chdir(tmp_path)
    words = ["in", "-o", "out", "-q", "--backend", "onnxruntime", "--report", "run.json"]
    assert cli.main([*words, "--model", str(calm_bundle)]) == 1
    *named, counted = capfd.readouterr().err.splitlines()
    assert named == [
        "lpnsr-run: in/b.heic is HEIF, which is not read here; run: pip install 'lpnsr[heif]'",
        "lpnsr-run: in/c.avif is AVIF, which is not read here; install a Pillow built with AVIF",
        "lpnsr-run: in/d.jxl is JXL, which is not read here; run: pip install 'lpnsr[jxl]'",
    ]
    assert counted == "lpnsr-run: 3 of 4 pictures are of kinds that are not read"
    report = (tmp_path / "run.json").read_text()
    assert all(report.count(f'"in/{name}"') == 1 for name in heads)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.heics", "a.avifs", "a.svg", "a.ICO", "a.gpr", "a.j2k"])
def test_what_looks_like_a_picture_is_not_passed_over(tmp_path, name):
    (tmp_path / name).write_bytes(b"whatever")
    planned = jobs.plan([tmp_path], tmp_path / "out")
    assert len(planned.jobs) + len(planned.unread) == 1


def test_the_two_pictures_of_a_camera_with_two_lenses_are_taken_for_one(tmp_path):
    views = [Image.fromarray(RGB), Image.fromarray(RGB[::-1])]
    views[0].save(tmp_path / "a.mpo", save_all=True, append_images=views[1:], quality=95)
    (job,) = jobs.plan([tmp_path], tmp_path / "out").jobs
    assert np.abs(read(job.source).pixels.astype(int) - RGB).mean() < 5


def test_heif_of_more_than_8_bits_says_what_is_lost(tmp_path, heif):
    path = tmp_path / "a.heic"
    heif.from_bytes("RGB;16", (WIDTH, HEIGHT), deep(RGB).tobytes()).save(path, quality=100)
    picture = read(path)
    assert picture.pixels.dtype == np.uint8 and picture.lost == ("16-bit depth",)
    assert np.abs(picture.pixels.astype(int) - RGB).mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heif_is_turned_upright(tmp_path, heif, orientation):
    """As phones have it: the file turns the picture, and EXIF says the same once more."""
    exif, path = Image.Exif(), tmp_path / "a.heic"
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(path, exif=exif.tobytes(), **HEIF)
    np.testing.assert_array_equal(read(path).pixels, upright(RGB, orientation))


@pytest.mark.skipif(not features.check("avif"), reason="Pillow is built without AVIF")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_upright(tmp_path, orientation):
    exif, path = Image.Exif(), tmp_path / "a.avif"
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(path, exif=exif.tobytes(), **LOSSLESS)
    found, expected = read(path).pixels, upright(RGB, orientation)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_further_frames_of_heif_are_said_to_be_lost(tmp_path, heif):
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1])]
    path = tmp_path / "a.heic"
    frames[0].save(path, save_all=True, append_images=frames[1:], **HEIF)
    picture = read(path)
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.lost == ("all frames but the first",)


def test_of_animated_jpeg_xl_the_last_frame_is_taken_and_said(tmp_path, imagecodecs):
    """Its plugin has no other."""
    path = tmp_path / "a.jxl"
    path.write_bytes(imagecodecs.jpegxl_encode(np.stack([RGB[::-1], RGB]), lossless=True))
    picture = read(path)
    np.testing.assert_array_equal(picture.pixels, RGB)
    assert picture.lost == ("all frames but the last",)


@pytest.mark.parametrize("boxes", [True, False])
def test_jpeg_xl_of_more_than_8_bits_says_what_is_lost(tmp_path, imagecodecs, boxes):
    path = tmp_path / "a.jxl"
    options = {"level": 90, "usecontainer": boxes}
    for pixels, lost in ((RGB, ()), (deep(RGB), ("16-bit depth",)), (deep(RGB)[..., 0], ())):
        path.write_bytes(imagecodecs.jpegxl_encode(pixels, **options))
        picture = read(path)
        assert picture.lost == lost
        assert picture.pixels.dtype == (np.uint16 if pixels.ndim == 2 else np.uint8)


@pytest.mark.parametrize("size", [(8, 8), (24, 32), (25, 33), (700, 20), (9, 9000)])
@pytest.mark.parametrize(
    ("dtype", "bits"), [("u1", 8), ("u2", 12), ("u2", 16), ("f2", 16), ("f4", 32)]
)
def test_the_header_of_jpeg_xl(tmp_path, imagecodecs, size, dtype, bits):
    path, frame = tmp_path / "a.jxl", np.zeros((*size, 3), dtype)
    options = {"bitspersample": bits} if bits == 12 else {}
    for pixels, animated in ((frame, False), (np.stack([frame, frame]), True)):
        path.write_bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, **options))
        assert jxl.contents(path) == jxl.Contents(bits, animated)


@pytest.mark.parametrize(
    ("size", "preview"),
    [
        ("0 00 101010101 000 10 1010101010101", "1 11 101010101 000 01 10101"),
        ("1 10101 100", "0 11 101010101010 100"),
    ],
    ids=["height and width", "height and ratio"],
)
def test_the_header_of_jpeg_xl_may_hold_more(tmp_path, size, preview):
    """Bits in the order in which they are read: lowest first."""
    animation = "01 1010101010 11 1010101010 10 101 1"
    depth = "0 11 110001"  # an integer's, 1 + 1 + 2 + 32
    text = f"1 00010 100 0 1 010 1 {size} 1 {preview} 1 {animation} {depth}"
    bits = [int(bit) for bit in text.replace(" ", "")]
    content = b"\xff\x0a" + np.packbits(bits, bitorder="little").tobytes()
    (tmp_path / "a.jxl").write_bytes(content)
    assert jxl.contents(tmp_path / "a.jxl") == jxl.Contents(36, True)


def boxes(content):
    """Kind and content of each box of a file."""
    while content:
        size = int.from_bytes(content[:4], "big") or len(content)
        yield content[4:8], content[8:size]
        content = content[size:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_xl_is_turned_once(tmp_path, imagecodecs, orientation):
    """Its decoder turns pictures; a JPEG that is packed in it, its decoder does not."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = saved(Image.fromarray(RGB), "JPEG", quality=95, subsampling=0, exif=exif.tobytes())
    packed = imagecodecs.jpegxl_encode_jpeg(jpeg, usecontainer=True)
    (tmp_path / "packed.jxl").write_bytes(packed)
    with Image.open(io.BytesIO(jpeg)) as image:
        expected = upright(np.asarray(image), orientation)
    np.testing.assert_array_equal(read(tmp_path / "packed.jxl").pixels, expected)
    # As pixels, without what it takes to make the JPEG of them again.
    kept = [box for box in boxes(packed) if box[0] not in (b"jbrd", b"brob")]
    kept.insert(2, (b"Exif", bytes(4) + exif.tobytes().removeprefix(b"Exif\0\0")))
    (tmp_path / "plain.jxl").write_bytes(joined(kept))
    found = read(tmp_path / "plain.jxl").pixels
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3


def joined(boxes):
    return b"".join(struct.pack(">I", 8 + len(body)) + kind + body for kind, body in boxes)


def test_metadata_of_jpeg_xl_that_its_plugin_does_not_read_is_said_to_be_lost(
    tmp_path, imagecodecs
):
    exif, path = Image.Exif(), tmp_path / "a.jxl"
    exif[0x010F] = "maker"
    jpeg = saved(Image.fromarray(RGB), "JPEG", exif=exif.tobytes())
    packed = list(boxes(imagecodecs.jpegxl_encode_jpeg(jpeg, usecontainer=True)))
    path.write_bytes(joined(packed))
    assert read(path).lost == () and read(path).metadata.exif[0x010F] == "maker"
    path.write_bytes(joined([box for box in packed if box[0] != b"jbrd"]))
    assert read(path).lost == ("EXIF",)
    plain = [box for box in packed if box[0] not in (b"jbrd", b"brob")]
    path.write_bytes(joined([*plain, (b"xml ", b"<rdf:RDF/>")]))
    assert read(path).lost == ("XMP",)
