"""`POST /upscale` gives the bytes of `lpnsr-run`."""

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serve")

from lpnsr.runtime.command import cli

from ..samples import RGBA, SAMPLES, SRGB, deep, png, saved
from ..toy import photo
from .served import form

WITH_PROFILE = saved(
    Image.fromarray(photo(30, 70)), "JPEG", icc_profile=SRGB, dpi=(300, 300), quality=90
)


def expected(folder, bundle, content, options, suffix):
    """What `lpnsr-run` makes of a file."""
    source, target = folder / "source", folder / f"target{suffix}"
    source.write_bytes(content)
    words = ["--backend", "onnxruntime", "--model", str(bundle), *options]
    assert cli.main([str(source), "-o", str(target), *words]) == 0
    return target.read_bytes()


@pytest.mark.parametrize(
    ("content", "query", "options", "suffix"),
    [
        (png(photo(40, 50)), "seed=7", ["--seed", "7"], ".png"),
        (
            png(photo(70, 90)),
            "deterministic=true&color_fix=0",
            ["--deterministic", "--no-color-fix"],
            ".png",
        ),
        (
            WITH_PROFILE,
            "format=jpeg&quality=80&scale=2.5",
            ["--quality", "80", "--scale", "2.5"],
            ".jpg",
        ),
        (
            png(np.minimum(RGBA, 240)),
            "format=webp&alpha=model&width=60&height=",
            ["--alpha", "model", "--width", "60"],
            ".webp",
        ),
        (
            png(deep(photo(20, 30))),
            "format=tiff&max_side=70&seed=18446744073709551615",
            ["--max-side", "70", "--seed", "18446744073709551615"],
            ".tif",
        ),
    ],
    ids=["seed", "flags", "jpeg", "webp", "tiff"],
)
def test_the_bytes_are_those_of_the_command(
    client, bundle, tmp_path, content, query, options, suffix
):
    pairs = [pair.split("=") for pair in query.split("&")]
    wanted = expected(tmp_path, bundle, content, options, suffix)
    raw = client("POST", f"/upscale?{query}", content)
    assert (raw.status, raw.body == wanted) == (200, True)
    kind = {".jpg": "jpeg", ".tif": "tiff"}.get(suffix, suffix[1:])
    assert raw.headers["Content-Type"] == f"image/{kind}"
    assert client("POST", "/upscale", *form(content, *pairs)).body == wanted


@pytest.mark.parametrize("name", ["grey.png", "rgb.tif", "rgb.bmp", "rgb.webp"])
def test_kinds_of_pictures(client, name):
    content, pixels = SAMPLES[name]
    answer = client("POST", "/upscale", content)
    with Image.open(io.BytesIO(answer.body)) as image:
        assert np.asarray(image).shape[:2] == tuple(4 * side for side in pixels.shape[:2])


def test_what_is_lost_is_named(client):
    answer = client("POST", "/upscale?format=jpeg", png(deep(RGBA)))
    assert answer.headers["X-Lost"] == "16-bit depth, transparency"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("sed=1", "there is no option 'sed', only format, quality, seed"),
        ("seed=1&seed=1", "the option seed is given twice"),
        ("seed=-1", "option seed: '-1' is not a whole number, 0 to 18446744073709551615"),
        ("seed=18446744073709551616", "option seed"),
        ("scale=nan", "option scale: 'nan' is not a number from 1 to 4"),
        ("format=gif", "option format: 'gif' is not one of png, jpeg, webp, tiff"),
        ("format=../../etc/passwd", "option format"),
        ("quality=101", "option quality"),
        ("alpha=none", "option alpha: 'none' is not one of bicubic, model"),
        ("deterministic=maybe", "option deterministic: 'maybe' is not one of true, false, 1, 0"),
        ("width=0", "option width: '0' is not a whole number, 1 or more"),
    ],
)
def test_options_that_make_no_sense(client, query, message):
    answer = client("POST", f"/upscale?{query}", png(photo(8, 8)))
    assert answer.status == 400
    assert answer.error.startswith(message)


def test_other_paths_and_methods(client):
    assert client("GET", "/upscale").status == 405
    assert client("GET", "/nothing").status == 404
    assert client("GET", "/../../../../etc/passwd").status == 404
    assert client("GET", "/page.css/..%2f..%2fcli.py").status == 404


def test_metrics_count(client):
    before = client.metric('lpnsr_requests_total{path="/upscale",status="200"}')
    pixels = client.metric("lpnsr_megapixels_total")
    errors = client.metric("lpnsr_errors_total")
    client("POST", "/upscale", png(photo(25, 50)))
    client("POST", "/upscale", b"no picture")
    assert client.metric('lpnsr_requests_total{path="/upscale",status="200"}') == before + 1
    assert client.metric("lpnsr_errors_total") == errors + 1
    assert client.metric("lpnsr_megapixels_total") == pytest.approx(pixels + 0.02)
    assert client.metric("lpnsr_queue") == 0


def test_the_metrics_are_prometheus_text(client):
    answer = client("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    described = set()
    for line in answer.body.decode().splitlines():
        if line.startswith("# TYPE "):
            described.add(line.split()[2])
        elif not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            family = name.split("{")[0]
            assert {family, family.rsplit("_", 1)[0]} & described, line
            float(value)
