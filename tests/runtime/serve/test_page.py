"""The page, in a real browser where there is one."""

import io
import re
import shutil
from contextlib import ExitStack
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra serve")

from lpnsr.runtime.command import cli
from lpnsr.runtime.upscaler import Description, Upscaler

from ..samples import png
from ..toy import photo
from .served import Gated, served

PAGE = files("lpnsr.runtime.serve") / "page"


def test_the_page_comes_without_the_network(client):
    for path, kind in (
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
    ):
        answer = client("GET", path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert not re.search(rb"https?://|//[a-z]+\.", answer.body)


def test_every_control_has_a_name():
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    for tag in re.findall(r"<(?:input|select|progress)[^>]*>", text):
        name = re.search(r'id="(\w+)"', tag)[1]
        before = text[: text.index(tag)]
        is_within_label = before.rfind("<label") > before.rfind("</label>")
        assert "aria-label" in tag or is_within_label, name
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    for name in re.findall(r'\$\("(\w+)"\)', script):
        assert f'id="{name}"' in text


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, client):
    page = browser.new_page(viewport={"width": 900, "height": 800})
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.goto(f"http://127.0.0.1:{client.port}/")
    yield page
    page.close()
    assert errors == []


def upscale(page, content, name="holiday.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
    page.click("#start")
    page.wait_for_selector("#download:visible")


@pytest.mark.slow
def test_upload_compare_download(page, bundle, tmp_path):
    content = png(photo(60, 80))
    page.fill("#seed", "7")
    page.select_option("#format", "webp")
    upscale(page, content)
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "holiday_x4.webp"
    (tmp_path / "holiday.png").write_bytes(content)
    target = tmp_path / "large.webp"
    command = ["--backend", "onnxruntime", "--model", str(bundle), "--seed", "7"]
    assert cli.main([str(tmp_path / "holiday.png"), "-o", str(target), *command]) == 0
    assert download.value.path().read_bytes() == target.read_bytes()

    line = page.locator("#line")
    middle = line.bounding_box()["x"]
    page.focus("#split")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    right = line.bounding_box()["x"]
    assert right > middle
    percent = page.inner_text("#zoom")
    page.focus("#view")
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#zoom") != percent
    assert line.bounding_box()["x"] == right  # zooming leaves the line where it is
    page.keyboard.press("0")
    assert page.inner_text("#zoom") == percent

    # To the left of the line is the original, to the right the result.
    box = page.locator("#view").bounding_box()
    shown = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")).astype(int)
    page.evaluate("document.querySelector('#before img').style.visibility = 'hidden'")
    without = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB"))
    changed = np.abs(shown - without).max(axis=(0, 2)) > 30
    column = round(right - box["x"] + line.bounding_box()["width"] / 2)
    assert changed[: column - 2].any() and not changed[column + 2 :].any()


@pytest.mark.slow
def test_a_picture_may_be_dropped(page):
    script = """bytes => {
        const given = new DataTransfer();
        given.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
        return given;
    }"""
    given = page.evaluate_handle(script, list(png(photo(20, 20))))
    page.dispatch_event("#drop", "drop", {"dataTransfer": given})
    assert page.inner_text("#name") == "dropped.png"
    page.click("#start")
    page.wait_for_selector("#download:visible")
    assert page.get_attribute("#download", "download") == "dropped_x4.png"


@pytest.mark.slow
def test_progress_is_seen(browser, bundle):
    engine = Gated()
    model = Upscaler(Description(bundle, tile=(32, 32), batch=1), engine)
    with served(model) as client, browser.new_page() as page, ExitStack() as end:
        end.callback(engine.open)
        page.goto(f"http://127.0.0.1:{client.port}/")
        content = png(photo(32, 200))
        page.set_input_files("#file", {"name": "a.png", "mimeType": "", "buffer": content})
        page.click("#start")
        message = page.get_by_text(re.compile(r"^\d+ of \d+ tiles$"))
        message.wait_for()
        assert page.is_visible("#progress") and page.is_visible("#cancel")
        total = int(message.inner_text().split()[2])
        engine.gate.release(2)
        page.get_by_text(f"2 of {total} tiles", exact=True).wait_for()
        value = page.locator("#progress").evaluate("bar => bar.value")
        assert value == pytest.approx(2 / total)
        engine.open()
        page.wait_for_selector("#download:visible")
        assert not page.is_visible("#progress")


@pytest.mark.slow
def test_dragging_the_line_and_zooming_with_the_wheel(page):
    upscale(page, png(photo(60, 80)))
    box = page.locator("#view").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, y, steps=4)
    page.mouse.up()
    assert float(page.input_value("#split")) == pytest.approx(25, abs=1)
    before = page.inner_text("#zoom")
    page.mouse.wheel(0, -400)
    page.wait_for_function(
        "before => document.querySelector('#zoom').textContent !== before", arg=before
    )
    assert float(page.input_value("#split")) == pytest.approx(25, abs=1)


@pytest.mark.slow
def test_the_keyboard_alone_is_enough(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.set_input_files("#file", {"name": "a.png", "mimeType": "", "buffer": png(photo(20, 20))})
    for name in ("format", "seed", "start"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == name
    page.keyboard.press("Enter")
    page.wait_for_selector("#download:visible")


@pytest.mark.slow
def test_what_is_wrong_is_said(page):
    page.set_input_files("#file", {"name": "a.png", "mimeType": "", "buffer": b"no picture"})
    page.click("#start")
    page.wait_for_selector("#message.error")
    assert "not a picture" in page.inner_text("#message")


@pytest.mark.slow
def test_a_small_screen_needs_no_scrolling_sideways(page):
    page.set_viewport_size({"width": 320, "height": 600})
    upscale(page, png(photo(60, 80)), name="a" * 100 + ".png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.slow
def test_the_page_asks_for_the_token(browser, model):
    with served(model, token="a-long-enough-token") as guarded:
        address = f"http://127.0.0.1:{guarded.port}/"
        page = browser.new_page()
        page.goto(address)
        page.set_input_files("#file", {"name": "a.png", "mimeType": "", "buffer": png(photo(9, 9))})
        page.click("#start")
        page.fill("#token", "a-long-enough-token")
        page.click("#start")
        page.wait_for_selector("#download:visible")
        page.close()
        page = browser.new_page()
        page.goto(f"{address}#a-long-enough-token")  # as --open does
        assert page.evaluate("location.hash") == ""
        upscale(page, png(photo(9, 9)))
        page.close()
