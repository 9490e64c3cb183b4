"""TIFF files of every layout: equal pixels, or one line that names what is not read."""

import io
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from lpnsr.runtime.pictures.images import ImageError, probe, read

# What tifffile packs only with this package, and what is read of it by Pillow and OpenCV alone.
OTHERS = ("lzw", "packbits", "zstd", "lzma", "webp") if find_spec("imagecodecs") else ()

EXTRA = (
    *([], ["unassalpha"], ["assocalpha"], ["unspecified"]),
    *(["unassalpha", "unspecified"], ["assocalpha", "unspecified"], ["unspecified"] * 2),
)

LAYOUTS = st.fixed_dictionaries(
    {
        "photometric": st.sampled_from(["minisblack", "miniswhite", "rgb"]),
        "extra": st.sampled_from(EXTRA),
        "dtype": st.sampled_from(["u1", "u2", "f2", "f4", "f8"]),
        "planarconfig": st.sampled_from(["contig", "separate"]),
        "tile": st.sampled_from([None, (16, 16), (32, 16)]),
        "rowsperstrip": st.sampled_from([None, 1, 7]),
        "compression": st.sampled_from([None, None, "zlib", "zlib", *OTHERS]),
        "predictor": st.booleans(),
        "byteorder": st.sampled_from("<>"),
        "bigtiff": st.booleans(),
        "height": st.integers(1, 40),
        "width": st.integers(1, 40),
    }
)

PLANES: dict = {
    "photometric": "rgb",
    "extra": ["assocalpha"],
    "dtype": "u1",
    "planarconfig": "separate",
    "tile": None,
    "rowsperstrip": None,
    "compression": None,
    "predictor": False,
    "byteorder": "<",
    "bigtiff": False,
    "height": 9,
    "width": 11,
}
"""A layout that Pillow calls damaged."""


def samples(shape, dtype):
    values = np.random.default_rng(0).random(shape)
    kind = np.dtype(dtype)
    return (values * (np.iinfo(kind).max if kind.kind in "ui" else 1)).astype(kind)


def written(layout):
    """A file of this layout, and its samples (H, W, C)."""
    layout = dict(layout)
    colors = {"rgb": 3, "separated": 4}.get(layout["photometric"], 1)
    channels = colors + len(layout["extra"])
    shape = (layout.pop("height"), layout.pop("width"), channels)
    pixels = samples(shape, layout.pop("dtype"))
    if "assocalpha" in layout["extra"]:
        full = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
        share = pixels[..., colors : colors + 1] / full
        pixels[..., :colors] = (pixels[..., :colors] * share).astype(pixels.dtype)
    integers = pixels.dtype.kind in "ui"
    layout["predictor"] &= layout["compression"] in ("zlib", "lzw", "zstd", "lzma") and integers
    if layout["tile"]:
        layout["rowsperstrip"] = None
    if channels == 1:
        del layout["planarconfig"]
    stored = pixels[..., 0] if channels == 1 else pixels
    if layout.get("planarconfig") == "separate":
        stored = pixels.transpose(2, 0, 1)
    stream = io.BytesIO()
    tifffile.imwrite(stream, stored, extrasamples=layout.pop("extra"), metadata=None, **layout)
    return stream.getvalue(), pixels, colors


def expected(pixels, layout, colors):
    if pixels.dtype.kind == "f":
        pixels = np.rint(pixels.astype(np.float32) * np.float32(65535)).astype(np.uint16)
    full = np.iinfo(pixels.dtype).max
    color, alpha = pixels[..., :colors], pixels[..., colors : colors + 1]
    if layout["photometric"] == "miniswhite":
        color = full - color
    kind = (*layout["extra"], "unspecified")[0]
    if kind == "unspecified":
        return color
    if kind == "assocalpha":
        divided = np.rint(color * (full / np.maximum(alpha, 1)))
        color = np.where(alpha > 0, np.minimum(divided, full), 0).astype(pixels.dtype)
    return np.dstack([color, alpha])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LAYOUTS)
@example(PLANES)
@example(PLANES | {"extra": ["unspecified"]})
@example(PLANES | {"extra": ["unassalpha", "unspecified"], "byteorder": ">", "bigtiff": True})
def test_every_layout_gives_the_pixels_that_were_written_or_names_what_hinders(layout):
    try:
        content, pixels, colors = written(layout)
    except (ValueError, RuntimeError):
        assume(False)  # the codec does not know such samples
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        path.write_bytes(content)
        try:
            picture, header = read(path), probe(path)
        except ImageError as error:
            assert layout["compression"] in OTHERS
            name = f"has {layout['compression'].upper()} compression"
            assert name in str(error) or "has 16-bit samples in an uncommon layout" in str(error)
            return
    found = expected(pixels, layout, colors)
    assert picture.pixels.dtype == found.dtype
    if "assocalpha" in layout["extra"]:  # rounded in different ways, and unknown where it hides
        seen = np.broadcast_to(found[..., -1:] > 0, found.shape)
        assert np.abs(picture.pixels.astype(int) - found)[seen].max(initial=0) <= 1
    else:
        np.testing.assert_array_equal(picture.pixels, found)
    assert picture.lost == (("extra channels",) if "unspecified" in layout["extra"] else ())
    assert header.size == found.shape[:2] and header.bits == 8 * found.itemsize
    assert header.channels >= found.shape[2]


INKS = LAYOUTS.map(lambda layout: layout | {"photometric": "separated"}).filter(
    lambda layout: layout["dtype"] in ("u1", "u2") and layout["compression"] in (None, "zlib")
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(INKS)
@example(PLANES | {"photometric": "separated", "extra": [], "dtype": "u2"})
def test_cyan_magenta_yellow_and_black_are_the_picture_or_named(layout):
    content, pixels, _ = written(layout)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        path.write_bytes(content)
        try:
            picture = read(path)
        except ImageError as error:
            assert "SEPARATED samples in planes" in str(error) or "separated" in str(error)
            return
    inks = np.ascontiguousarray((pixels[..., :4] >> 8 * (pixels.itemsize - 1)).astype(np.uint8))
    size = inks.shape[1::-1]
    found = np.asarray(Image.frombytes("CMYK", size, inks.tobytes()).convert("RGB")).astype(int)
    assert np.abs(picture.pixels - found).max() <= 2
    assert ("16-bit depth" in picture.lost) == (layout["dtype"] == "u2")


@pytest.mark.skipif(not OTHERS, reason="needs imagecodecs to pack bits")
@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 16),
    st.sampled_from(["minisblack", "miniswhite", "rgb"]),
    st.sampled_from(["contig", "separate"]),
    st.sampled_from("<>"),
    st.booleans(),
    st.integers(1, 40),
)
def test_samples_of_every_number_of_bits(bits, photometric, planes, order, big, width):
    channels = 3 if photometric == "rgb" else 1
    most = 2**bits - 1
    pixels = np.random.default_rng(0).integers(0, most, (9, width, channels), endpoint=True)
    stored = pixels.transpose(2, 0, 1) if planes == "separate" else pixels
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        (stored if channels > 1 else pixels[..., 0]).astype("u1" if bits <= 8 else "u2"),
        photometric=photometric,
        planarconfig=planes if channels > 1 else None,
        bitspersample=bits,
        byteorder=order,
        bigtiff=big,
        metadata=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        path.write_bytes(stream.getvalue())
        try:
            picture = read(path)
        except ImageError as error:
            assert f"{channels} x {bits} bits uint, {photometric}" in str(error)
            assert bits not in (8, 16)
            return
    values = most - pixels if photometric == "miniswhite" else pixels
    full = np.iinfo(picture.pixels.dtype).max
    tolerance = 1 if bits == 12 else 0  # the highest bits fill up the lowest
    assert full >= most
    np.testing.assert_allclose(picture.pixels, values * (full / most), rtol=0, atol=tolerance)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["i1", "i2", "i4", "u4", "i8", "u8", "c8"]),
    st.sampled_from(["minisblack", "rgb"]),
    st.sampled_from(["contig", "separate"]),
    st.booleans(),
    st.sampled_from("<>"),
    st.integers(0, 4),
)
def test_what_is_not_read_is_named(dtype, photometric, planes, big, order, extra):
    channels = (3 if photometric == "rgb" else 1) + extra
    shape = (9, 11, channels) if planes == "contig" else (channels, 9, 11)
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        np.zeros(shape, dtype),
        photometric=photometric,
        planarconfig=planes if channels > 1 else None,
        extrasamples=["unspecified"] * extra,
        bigtiff=big,
        byteorder=order,
        metadata=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        path.write_bytes(stream.getvalue())
        with pytest.raises(ImageError) as error:
            read(path)
    message = str(error.value)
    assert "\n" not in message and "not a picture" not in message and "damaged" not in message
    assert (
        "signed or 32-bit samples" in message or "is a TIFF of a kind that is not read" in message
    )


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_floating_point_samples_beyond_0_to_1_are_refused(tmp_path, value):
    pixels = np.full((4, 5), 0.5, np.float32)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    assert (read(tmp_path / "a.tif").pixels == 32768).all()
    pixels[1, 2] = value
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    with pytest.raises(ImageError, match="floating-point samples beyond 0 to 1; scale them"):
        read(tmp_path / "a.tif")
