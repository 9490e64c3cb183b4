import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

from lpnsr.runtime.pictures.formats import FORMATS, OutputSpec, write
from lpnsr.runtime.pictures.images import read

from .samples import GREY, HEIGHT, RGB, RGBA, SRGB, WIDTH, deep, png, saved, tiff
from .test_images import chunk, set_short

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}
BASE, IFD = ExifTags.Base, ExifTags.IFD


def camera():
    """EXIF as a camera writes it, with parts that must not be carried over."""
    exif = Image.Exif()
    exif[BASE.Make] = "Kamera"
    exif[BASE.Orientation] = 6
    exif[BASE.DateTime] = "2020:01:02 03:04:05"
    exif[BASE.XResolution] = IFDRational(300)
    exif[BASE.YResolution] = IFDRational(150)
    exif[BASE.ResolutionUnit] = 2
    exif[IFD.Exif] = {
        BASE.ExposureTime: IFDRational(1, 250),
        BASE.ISOSpeedRatings: 400,
        BASE.ExifImageWidth: WIDTH,
        BASE.ExifImageHeight: HEIGHT,
        BASE.MakerNote: b"\x01\x02\x03\x00secret",
    }
    exif[IFD.GPSInfo] = {1: "N", 2: (IFDRational(52), IFDRational(31), IFDRational(12))}
    return exif.tobytes()


def carried(tmp_path, source, kind):
    """What is found in the output when `source` is written at twice its size."""
    picture = read(source)
    pixels = picture.pixels.repeat(2, axis=0).repeat(2, axis=1)
    size = pixels.shape[:2]
    layout = OutputSpec(size, pixels.shape[2], pixels.dtype, picture.metadata, 95)
    target = tmp_path / f"out{SUFFIXES[kind]}"
    adapted, lost = FORMATS[kind].adapt(layout)
    write(target, FORMATS[kind], [pixels], adapted)
    return Image.open(target), (*picture.lost, *lost)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_everything_is_carried_over(tmp_path, source, kind):
    path = tmp_path / f"in{SUFFIXES[source]}"
    Image.fromarray(RGB).save(path, exif=camera(), icc_profile=SRGB, dpi=(300, 150))
    image, lost = carried(tmp_path, path, kind)
    assert lost == ()
    assert image.size == (2 * HEIGHT, 2 * WIDTH)  # the picture lay on its side
    assert image.info["icc_profile"] == SRGB
    exif = image.getexif()
    assert exif[BASE.Orientation] == 1
    assert exif[BASE.Make] == "Kamera" and exif[BASE.DateTime] == "2020:01:02 03:04:05"
    detail = exif.get_ifd(IFD.Exif)
    assert detail[BASE.ExposureTime] == IFDRational(1, 250)
    assert detail[BASE.ISOSpeedRatings] == 400
    assert detail[BASE.MakerNote] == b"\x01\x02\x03\x00secret"
    assert (detail[BASE.ExifImageWidth], detail[BASE.ExifImageHeight]) == image.size
    assert exif.get_ifd(IFD.GPSInfo)[1] == "N"
    if kind == "webp":
        found = (exif[BASE.XResolution], exif[BASE.YResolution])
    else:
        found = image.info["dpi"]
    np.testing.assert_allclose([float(value) for value in found], (300, 150), atol=0.02)


XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{0}"
 xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:PixelXDimension = '{1}'
 xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5">
<exif:PixelYDimension>{2}</exif:PixelYDimension>
<tiff:ImageWidth>{1}</tiff:ImageWidth><tiff:ImageLength>{2}</tiff:ImageLength>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Sch\u00f6n 6</rdf:li></rdf:Alt></dc:title>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("exif", [True, False], ids=["EXIF", "alone"])
def test_xmp_is_carried_over_and_says_upright(tmp_path, source, kind, exif):
    path = tmp_path / f"in{SUFFIXES[source]}"
    xmp = XMP.format(6, WIDTH, HEIGHT).encode()
    options = {"exif": camera()} if exif else {}
    if source == "png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    elif source == "tiff":
        options["tiffinfo"] = {700: xmp}
    else:
        options["xmp"] = xmp
    Image.fromarray(RGB).save(path, **options)
    image, lost = carried(tmp_path, path, kind)
    assert lost == ()
    assert image.size == (2 * HEIGHT, 2 * WIDTH)  # turned, once
    expected = XMP.format(1, *image.size)
    if source == "tiff":  # Pillow turns the picture itself, and says so by saying nothing
        expected = expected.replace('tiff:Orientation="1"', "")
    assert image.info["xmp"].decode() == expected
    assert image.getexif().get(BASE.Orientation, 1) == 1


def test_xmp_that_cannot_be_corrected_is_dropped_and_said(tmp_path):
    path = tmp_path / "a.jpg"
    for xmp in (XMP.encode("utf-16"), b"\xff\xd8 <rdf:RDF", b"hello"):
        Image.fromarray(RGB).save(path, xmp=xmp)
        picture = read(path)
        assert "XMP" in picture.lost and picture.metadata.xmp is None
    more = XMP.replace("xmp:Rating", 'xmpNote:HasExtendedXMP="0F" xmp:Rating').encode()
    Image.fromarray(RGB).save(path, xmp=more)
    assert read(path).lost == ("extended XMP",)


@pytest.mark.parametrize("kind", FORMATS)
def test_text_keeps_its_bytes(tmp_path, kind):
    exif = Image.Exif()
    exif[BASE.Artist] = "Jörg".encode("latin-1")
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif)
    image, _ = carried(tmp_path, tmp_path / "a.jpg", kind)
    assert image.getexif()[BASE.Artist] == "Jörg"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_bare_picture_stays_bare(tmp_path, kind):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    image, lost = carried(tmp_path, tmp_path / "a.png", kind)
    assert lost == () and "icc_profile" not in image.info
    assert not image.getexif().get_ifd(IFD.Exif)
    assert image.info.get("dpi", (1, 1)) == (1, 1)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_deep_pictures_keep_theirs(tmp_path, kind):
    content = png(deep(RGB))
    body = camera().removeprefix(b"Exif\0\0")
    (tmp_path / "a.png").write_bytes(content[:33] + chunk(b"eXIf", body) + content[33:])
    image, lost = carried(tmp_path, tmp_path / "a.png", kind)
    assert lost == ()
    assert image.getexif().get_ifd(IFD.Exif)[BASE.ISOSpeedRatings] == 400


def test_grey_keeps_a_grey_profile(tmp_path):
    # The least that LittleCMS takes for a grey profile: header, one tag, a gamma of 2.2.
    curve = b"curv\0\0\0\0\0\0\0\1\x02\x33\0\0"
    white = b"XYZ \0\0\0\0\0\0\xf6\xd6\0\1\0\0\0\0\xd3\x2d"
    tags = b"\0\0\0\2wtpt\0\0\0\x9c\0\0\0\x14kTRC\0\0\0\xb0\0\0\0\x10"
    body = tags + white + curve
    header = (
        (128 + len(body)).to_bytes(4, "big") + b"lcms\x02\x40\0\0mntrGRAYXYZ "
        + bytes(12) + b"acsp" + bytes(28) + b"\0\0\xf6\xd6\0\1\0\0\0\0\xd3\x2d" + bytes(48)
    )  # fmt: skip
    profile = header + body
    for kind in ("png", "tiff", "jpeg"):
        path = tmp_path / "a.png"
        Image.fromarray(GREY[..., 0]).save(path, icc_profile=profile)
        image, lost = carried(tmp_path, path, kind)
        assert lost == () and image.mode == "L" and image.info["icc_profile"] == profile
    assert carried(tmp_path, tmp_path / "a.png", "webp")[1] == ("color profile",)


def test_cmyk_is_converted_by_its_profile_to_srgb(tmp_path, monkeypatch):
    converted = []

    def convert(image, source, target, outputMode):
        converted.append((image.mode, source.getvalue(), target.profile.profile_description))
        return Image.fromarray(RGB)

    monkeypatch.setattr("lpnsr.runtime.pictures.metadata._fits", lambda profile, image: True)
    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    cmyk = Image.fromarray(RGB).convert("CMYK")
    (tmp_path / "a.jpg").write_bytes(saved(cmyk, "JPEG", icc_profile=b"a printer's"))
    picture = read(tmp_path / "a.jpg")
    assert converted == [("CMYK", b"a printer's", "sRGB built-in")]
    np.testing.assert_array_equal(picture.pixels, RGB)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.metadata.profile)).profile
    assert profile.xcolor_space.strip() == "RGB"


def test_a_cmyk_profile_that_does_not_work_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr("lpnsr.runtime.pictures.metadata._fits", lambda profile, image: True)
    cmyk, path = Image.fromarray(RGB).convert("CMYK"), tmp_path / "a.tif"
    path.write_bytes(saved(cmyk, "TIFF", icc_profile=b"a printer's"))
    picture = read(path)
    assert picture.lost == ("color profile",) and picture.metadata.profile is None
    np.testing.assert_array_equal(picture.pixels, np.asarray(cmyk.convert("RGB")))


def test_unreadable_metadata_is_dropped_and_said(tmp_path):
    exif, path = camera(), tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, exif=exif, icc_profile=b"no profile")
    picture = read(path)
    assert picture.lost == ("color profile",) and picture.metadata.profile is None
    content = path.read_bytes()
    start = content.index(b"Exif\0\0") + 6
    for damage in (b"XX", content[start : start + 4] + b"\xff\xff\xff\xff"):
        path.write_bytes(content[:start] + damage + content[start + len(damage) :])
        picture = read(path)
        assert picture.pixels.shape[2] == 3
        assert picture.metadata.exif is None


@pytest.mark.parametrize("dpi", [(0, 0), (0, 72)])
def test_a_resolution_of_nothing_is_none(tmp_path, dpi):
    Image.fromarray(RGB).save(tmp_path / "a.png", dpi=dpi)
    assert read(tmp_path / "a.png").metadata.dpi is None


def test_tiff_that_pillow_does_not_read_keeps_its_own(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(RGBA).save(path, exif=camera(), dpi=(300, 150))
    plain, content = read(path), path.read_bytes()
    at = content.index(struct.pack("<HHI", 258, 3, 4))  # 4 samples of 8 bits; now 2 of 16
    content = content[: at + 4] + struct.pack("<IHH", 2, 16, 16) + content[at + 12 :]
    path.write_bytes(set_short(set_short(content, 277, 2), 262, 1))
    picture = read(path)
    assert picture.pixels.dtype == np.uint16 and picture.pixels.shape == (WIDTH, HEIGHT, 2)
    assert picture.metadata == plain.metadata and picture.metadata.dpi == (300, 150)
    assert picture.metadata.exif[IFD.Exif][BASE.ISOSpeedRatings] == 400
    path.write_bytes(tiff(deep(RGB), planarconfig="separate", iccprofile=SRGB, bigtiff=True))
    assert read(path).metadata.profile == SRGB
