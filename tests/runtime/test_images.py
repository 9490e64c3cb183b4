import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from lpnsr.runtime.pictures.images import ImageError, probe, read

from .samples import (
    GREY,
    GREY_ALPHA,
    LOSSLESS,
    RGB,
    RGBA,
    SAMPLES,
    bit_fields,
    deep,
    png,
    saved,
    tiff,
)
from .toy import photo


@pytest.mark.parametrize("name", SAMPLES)
def test_reads_every_kind_of_picture(tmp_path, name):
    content, expected = SAMPLES[name]
    path = tmp_path / name
    path.write_bytes(content)
    picture = read(path)
    assert picture.pixels.dtype == expected.dtype
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.lost == ()
    header = probe(path)
    assert header.size == expected.shape[:2]
    assert header.bits == 8 * expected.itemsize and header.channels >= expected.shape[2]


def upright(pixels, orientation):
    turned = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels),
    }
    return turned.get(orientation, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["rgb.png", "rgb16.png", "rgb.jpg", "rgb.webp", "rgb.tif"])
def test_turns_the_picture_upright(tmp_path, kind, orientation):
    exif, path = Image.Exif(), tmp_path / kind
    exif[0x0112] = orientation
    image = Image.fromarray(RGB)
    expected = upright(RGB, orientation)
    if kind == "rgb16.png":
        content = png(deep(RGB))
        body = exif.tobytes().removeprefix(b"Exif\0\0")
        path.write_bytes(content[:33] + chunk(b"eXIf", body) + content[33:])
        expected = deep(expected)
    else:
        options = {"lossless": True} if kind == "rgb.webp" else {}
        image.save(path, exif=exif, **options)
    found = read(path).pixels
    assert found.shape == expected.shape
    tolerance = 30 if kind == "rgb.jpg" else 0
    assert np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "pixels",
    [GREY, RGB, RGBA, deep(GREY), deep(RGB), deep(GREY_ALPHA)],
    ids=["grey", "rgb", "rgba", "grey16", "rgb16", "grey-alpha16"],
)
def test_turns_tiff_upright_at_any_depth(tmp_path, pixels, orientation):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(pixels, extratags=[(274, 3, 1, orientation, True)]))
    np.testing.assert_array_equal(read(path).pixels, upright(pixels, orientation))


def test_big_endian_bigtiff_is_turned_and_keeps_its_resolution(tmp_path):
    path, tags = tmp_path / "a.tif", [(274, 3, 1, 6, True), (271, 2, 6, "maker", True)]
    options = {"bigtiff": True, "byteorder": ">", "resolution": (300, 150)}
    path.write_bytes(tiff(RGB, extratags=tags, resolutionunit="inch", **options))
    picture = read(path)
    np.testing.assert_array_equal(picture.pixels, upright(RGB, 6))
    assert picture.metadata.dpi == (300, 150) and picture.metadata.exif[271] == "maker"
    assert picture.lost == ()


@pytest.mark.parametrize("pixels", [GREY_ALPHA, RGBA], ids=["grey", "rgb"])
def test_premultiplied_16_bit_tiff_is_divided_by_its_alpha(tmp_path, pixels):
    pixels, path = deep(pixels), tmp_path / "a.tif"
    alpha = pixels[..., -1:].astype(np.uint64)
    multiplied = pixels.copy()
    multiplied[..., :-1] = (pixels[..., :-1] * alpha + 32767) // 65535
    path.write_bytes(tiff(multiplied, extrasamples=["assocalpha"]))
    found = read(path).pixels
    np.testing.assert_array_equal(found[..., -1:], alpha)
    error = np.abs(found[..., :-1].astype(float) - pixels[..., :-1]) * (alpha > 0)
    assert (error <= 0.5 + 32768 / np.maximum(alpha, 1)).all()
    assert not found[..., :-1][alpha[..., 0] == 0].any()


def test_extra_channels_of_16_bit_tiff_are_dropped_and_said(tmp_path):
    path = tmp_path / "a.tif"
    kinds = {4: ["unspecified"], 5: ["unassalpha", "unspecified"]}
    for count, extra in kinds.items():
        pixels = np.dstack([deep(RGBA), deep(GREY)])[..., :count]
        path.write_bytes(tiff(pixels, extrasamples=extra))
        picture = read(path)
        np.testing.assert_array_equal(picture.pixels, pixels[..., :-1])
        assert picture.lost == ("extra channels",)


def test_16_bit_tiff_that_cannot_be_unpacked_says_so(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(set_short(tiff(deep(GREY_ALPHA), compression="zlib"), 259, 5))
    with pytest.raises(ImageError, match=r"a.tif has LZW compression .*; save it with deflate"):
        read(path)


@pytest.mark.parametrize(
    ("tag", "value", "message"), [(279, 0, "is missing"), (279, 9999, "is truncated")]
)
def test_missing_strips_of_16_bit_tiff_are_damage(tmp_path, tag, value, message):
    path = tmp_path / "a.tif"
    path.write_bytes(set_short(tiff(deep(GREY_ALPHA), compression="zlib"), tag, value))
    with pytest.raises(ImageError, match=message):
        read(path)


def test_a_strip_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lpnsr.runtime.pictures.tiff._SEGMENT", 0)
    path = tmp_path / "a.tif"
    content = tiff(deep(GREY_ALPHA), compression="zlib")
    path.write_bytes(content)
    assert read(path).pixels.shape == GREY_ALPHA.shape
    path.write_bytes(set_short(content, 257, GREY_ALPHA.shape[0] - 1))
    with pytest.raises(ImageError, match="larger than the picture"):
        read(path)


def chunk(kind, content):
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


def test_one_colour_can_stand_for_transparency(tmp_path):
    path = tmp_path / "a.png"
    for pixels in (RGB, GREY, deep(RGB), deep(GREY)):
        key = pixels[3, 4]
        content = png(pixels)
        clear = chunk(b"tRNS", key.astype(">u2").tobytes())
        path.write_bytes(content[:33] + clear + content[33:])
        found = read(path).pixels
        assert probe(path).channels >= found.shape[2]
        np.testing.assert_array_equal(found[..., :-1], pixels)
        full = np.iinfo(pixels.dtype).max
        np.testing.assert_array_equal(found[..., -1] == full, (pixels != key).any(axis=2))
        assert found[3, 4, -1] == 0


def test_12_bit_grey_is_spread_over_16_bits(tmp_path):
    # Two samples in three bytes.
    values = np.array([[0, 4095, 2048, 1]])
    body = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x01])
    content = tiff(np.zeros((1, 6, 1), np.uint8))
    (tmp_path / "plain.tif").write_bytes(content)
    with Image.open(tmp_path / "plain.tif") as image:
        tags = dict(image.tag_v2)
    offset = tags[273][0]
    patched = bytearray(content)
    patched[offset : offset + 6] = body
    patched = bytes(patched)
    for tag, value in ((256, 4), (258, 12)):
        patched = set_short(patched, tag, value)
    (tmp_path / "a.tif").write_bytes(patched)
    found = read(tmp_path / "a.tif").pixels
    np.testing.assert_array_equal(found[..., 0], values * 16 + (values >> 8))


def set_short(content, tag, value):
    """Change a tag's value in a little-endian TIFF."""
    at = content.index(tag.to_bytes(2, "little"), 8)
    return content[: at + 8] + value.to_bytes(4, "little") + content[at + 12 :]


@pytest.mark.parametrize("upward", [True, False])
@pytest.mark.parametrize("width", [4, 5])
def test_bit_fields_of_bmp_may_be_anything(tmp_path, upward, width):
    path, rng = tmp_path / "a.bmp", np.random.default_rng(0)
    for bits in ([5, 6, 5], [4, 4, 4, 4], [10, 10, 10, 2], [1, 8, 3, 7], [16, 8, 8]):
        order = rng.permutation(len(bits))
        word = 16 if sum(bits) <= 16 else 32
        starts, at = {}, 0
        for channel in order:
            starts[channel], at = at, at + bits[channel]
        values = [rng.integers(1, 2**count, (3, width)) for count in bits]
        words = sum(value << starts[channel] for channel, value in enumerate(values))
        masks = [2**count - 1 << starts[channel] for channel, count in enumerate(bits)]
        path.write_bytes(bit_fields(words.astype(f"u{word // 8}"), masks, upward))
        full = 65535 if max(bits) > 8 else 255
        pairs = zip(values, bits, strict=True)
        expected = np.dstack([np.rint(value / (2**count - 1) * full) for value, count in pairs])
        np.testing.assert_array_equal(read(path).pixels, expected)
        assert probe(path).bits == (16 if full > 255 else 8)


def test_bit_fields_that_make_no_sense_are_damage(tmp_path):
    path, words = tmp_path / "a.bmp", np.zeros((3, 4), np.uint16)
    for masks in ((0b101, 8, 16), (0, 8, 16), (1 << 20, 8, 16)):
        path.write_bytes(bit_fields(words, masks))
        with pytest.raises(ImageError, match=r"is damaged .the header"):
            read(path)
    path.write_bytes(bit_fields(words, (1, 2, 4))[:-1])
    with pytest.raises(ImageError, match="pixels are truncated"):
        read(path)


def test_alpha_of_bmp_that_hides_everything_is_none(tmp_path):
    path, masks = tmp_path / "a.bmp", (0xFF, 0xFF00, 0xFF0000, 0xFF << 24)
    path.write_bytes(bit_fields(np.full((3, 4), 0x0A141E, np.uint32), masks))
    assert (read(path).pixels == [30, 20, 10]).all()


def test_damaged_jpegs_are_salvaged_if_asked(tmp_path):
    path, small = tmp_path / "a.jpg", photo(128, 128)
    content = saved(Image.fromarray(small), "JPEG", quality=95)
    path.write_bytes(content)
    whole = read(path, salvage=True)
    assert whole.lost == ()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match="is damaged"):
        read(path)
    found = read(path, salvage=True)
    assert found.lost == ("what is damaged",)
    np.testing.assert_array_equal(found.pixels[:32], whole.pixels[:32])
    assert (found.pixels[-16:] == found.pixels[-1, -1]).all()
    with pytest.raises(ImageError, match="is damaged"):
        read(path)
    for useless in (content[:100], content[:3]):
        path.write_bytes(useless)
        with pytest.raises(ImageError):
            read(path, salvage=True)
    path.write_bytes(png(small)[:5000])
    with pytest.raises(ImageError, match="is damaged"):
        read(path, salvage=True)


def test_32_bit_samples_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="32-bit"):
        read(tmp_path / "a.tif")


def test_other_colour_spaces_are_refused(tmp_path):
    lab = ImageCms.profileToProfile(
        Image.fromarray(RGB), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )  # fmt: skip
    lab.save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="LAB colors; convert it to RGB"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_further_frames_are_said_to_be_lost(tmp_path, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow is built without AVIF")
    path = tmp_path / "a"
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1])]
    options = {"WEBP": {"lossless": True}, "AVIF": LOSSLESS}.get(kind, {})
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
    picture = read(path)
    error = np.abs(picture.pixels.astype(int) - RGB).max()
    assert error <= (3 if kind == "AVIF" else 0)
    assert picture.lost == ("all frames but the first",)


def test_the_first_frame_of_a_gif_is_taken(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.fromarray(pixels).quantize(64) for pixels in (RGB, RGB[::-1])]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    picture = read(path)
    np.testing.assert_array_equal(picture.pixels, np.asarray(frames[0].convert("RGB")))
    assert picture.lost == ("all frames but the first",)


def test_a_picture_with_another_kinds_name_is_read(tmp_path):
    for name in ("a.heic", "a.jxl", "a.avif", "a.tif"):
        (tmp_path / name).write_bytes(png(RGB))
        np.testing.assert_array_equal(read(tmp_path / name).pixels, RGB)


@pytest.mark.parametrize("name", ["a.dng", "a.NEF", "a.psd"])
def test_kinds_that_nothing_reads_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(tiff(RGB))  # raw files are TIFF outside, with a thumbnail
    with pytest.raises(ImageError, match=r"raw file; develop it|kind that is not read"):
        read(tmp_path / name)


def test_cmyk_becomes_srgb_by_its_profile(tmp_path):
    cmyk, path = Image.fromarray(RGB).convert("CMYK"), tmp_path / "a.jpg"
    path.write_bytes(saved(cmyk, "JPEG", icc_profile=b"a printer's"))
    picture = read(path)
    assert picture.metadata.profile is None and picture.lost == ("color profile",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is not a picture"),
        (saved(Image.fromarray(photo(64, 64)), "PNG")[:300], "is damaged"),
        (saved(Image.fromarray(photo(64, 64)), "JPEG")[:500], "is damaged"),
        (saved(Image.fromarray(photo(64, 64)), "WEBP")[:100], "is damaged|is not a picture"),
        (saved(Image.fromarray(photo(64, 64)), "TIFF")[:5000], "is damaged"),
        (saved(Image.fromarray(photo(64, 64)), "BMP")[:5000], "is damaged"),
        (saved(Image.fromarray(photo(64, 64)), "GIF")[:1500], "is damaged"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "is damaged|is AVIF, which is not read here"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for opening in (read, probe):
        with pytest.raises(ImageError, match="cannot read"):
            opening(tmp_path / "missing.png")
        with pytest.raises(ImageError, match="cannot read"):
            opening(tmp_path)


def test_a_huge_picture_is_refused(tmp_path, monkeypatch):
    Image.fromarray(photo(40, 40)).save(tmp_path / "a.png")
    (tmp_path / "b.tif").write_bytes(tiff(deep(photo(40, 40)[..., :2])))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    for opening in (read, probe):
        for name in ("a.png", "b.tif"):
            with pytest.raises(ImageError, match=r"over 0.0014 million pixels; .*--max-megapixels"):
                opening(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read(tmp_path / "a.png").pixels.shape == (40, 40, 3)
