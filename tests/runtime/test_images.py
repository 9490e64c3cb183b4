import contextlib
import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from lpnsr.runtime import images
from lpnsr.runtime.images import ImageError, read, write

from .toy import photo


@pytest.mark.parametrize("suffix", images.SUFFIXES)
def test_reads_every_supported_suffix(tmp_path, suffix):
    path, pixels = tmp_path / f"photo{suffix}", photo(20, 30)
    Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    picture = read(path)
    assert picture.pixels.shape == (20, 30, 3) and picture.pixels.dtype == np.uint8
    assert np.abs(picture.pixels.astype(int) - pixels).max() <= (30 if "jp" in suffix else 0)
    assert picture.lost == () and picture.profile is None


def test_turns_the_picture_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter
    Image.fromarray(photo(20, 30)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, np.rot90(photo(20, 30), -1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.fromarray(photo(20, 30)).convert(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert read(path).lost == ()
    np.testing.assert_array_equal(read(path).pixels, expected)


def test_transparency_is_dropped_not_blackened(tmp_path):
    pixels = photo(20, 30)
    alpha = np.full((20, 30, 1), 255, np.uint8)
    alpha[:10] = 0
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.lost == ("transparency",)


def test_an_opaque_alpha_channel_is_no_loss(tmp_path):
    Image.fromarray(photo(20, 30)).convert("RGBA").save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").lost == ()


def test_a_transparent_palette_entry_is_a_loss(tmp_path):
    image = Image.fromarray(photo(20, 30)).quantize(16)
    image.save(tmp_path / "a.png", transparency=0)
    assert read(tmp_path / "a.png").lost == ("transparency",)


def test_16_bit_colour_is_reduced_and_said(tmp_path):
    for name in ("a.png", "a.tif"):
        cv2.imwrite(str(tmp_path / name), photo(20, 30)[..., ::-1].astype(np.uint16) * 257)
        picture = read(tmp_path / name)
        np.testing.assert_array_equal(picture.pixels, photo(20, 30))
        assert picture.lost == ("16-bit depth",)


def test_16_bit_grey_is_reduced_not_clipped(tmp_path):
    grey = photo(20, 30)[..., 0]
    for name in ("a.png", "a.tif"):
        cv2.imwrite(str(tmp_path / name), grey.astype(np.uint16) * 257 + 100)
        picture = read(tmp_path / name)
        np.testing.assert_array_equal(picture.pixels, np.dstack([grey] * 3))
        assert picture.lost == ("16-bit depth",)


def test_32_bit_samples_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="32-bit"):
        read(tmp_path / "a.tif")


def test_further_frames_are_said_to_be_lost(tmp_path):
    frames = [Image.fromarray(photo(20, 30)), Image.fromarray(photo(20, 30)[::-1])]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    picture = read(tmp_path / "a.webp")
    np.testing.assert_array_equal(picture.pixels, photo(20, 30))
    assert picture.lost == ("all frames but the first",)


def test_the_colour_profile_is_kept(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo(4, 4)).save(tmp_path / "a.jpg", icc_profile=profile)
    picture = read(tmp_path / "a.jpg")
    assert picture.profile == profile
    write(tmp_path / "b.png", picture.pixels, picture.profile)
    assert read(tmp_path / "b.png").profile == profile


def test_the_profile_of_another_colour_space_is_not(tmp_path):
    image = Image.fromarray(photo(4, 4)).convert("CMYK")
    image.save(tmp_path / "a.jpg", icc_profile=b"a printer's")
    picture = read(tmp_path / "a.jpg")
    assert picture.profile is None and picture.lost == ("color profile",)


def encoded(**options):
    stream = io.BytesIO()
    Image.fromarray(photo(64, 64)).save(stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is not a picture"),
        (encoded(format="PNG")[:300], "is damaged"),
        (encoded(format="JPEG")[:500], "is damaged"),
        (encoded(format="WEBP")[:100], "is damaged|is not a picture"),
        (encoded(format="TIFF")[:5000], "is damaged"),
        (encoded(format="BMP")[:5000], "is damaged"),
        (encoded(format="GIF"), "is not a picture"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_flipped_bytes_never_escape_as_other_errors(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a"
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        original = np.frombuffer(encoded(format=kind), np.uint8)
        for _ in range(40):
            content = original.copy()
            content[rng.integers(0, min(len(content), 400), 5)] = rng.integers(0, 256, 5)
            path.write_bytes(content.tobytes())
            with contextlib.suppress(ImageError):
                read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ImageError, match="cannot read"):
        read(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="cannot read"):
        read(tmp_path)


def test_a_huge_picture_is_refused(tmp_path, monkeypatch):
    Image.fromarray(photo(40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(ImageError, match="million pixels"):
        read(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read(tmp_path / "a.png").pixels.shape == (40, 40, 3)


def test_writes_png_into_new_folders(tmp_path):
    write(tmp_path / "a" / "b" / "c.png", photo(20, 30))
    np.testing.assert_array_equal(read(tmp_path / "a" / "b" / "c.png").pixels, photo(20, 30))
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.png"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, failure):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def fail(descriptor):
        raise failure

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(type(failure)):
        write(target, photo(4, 4))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"old"
