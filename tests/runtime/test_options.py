"""What the command takes and tells besides upscaling: names, sizes, streams, rehearsals."""

import json
import os
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.command import arguments, cli, progress, rehearsal
from lpnsr.runtime.command.jobs import Job
from lpnsr.runtime.upscaler import Upscaler

from .samples import saved
from .toy import photo


@pytest.fixture
def run(tmp_path, calm_bundle, monkeypatch, capfd):
    """Runs the command beside `a.png`, 50x40 pixels; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo(40, 50)).save("a.png")

    def run(*arguments):
        code = cli.main([*arguments, "--backend", "onnxruntime", "--model", str(calm_bundle)])
        return code, *(text.splitlines() for text in capfd.readouterr())

    return run


def size(path):
    with Image.open(path) as image:
        return image.size


def test_without_an_output_it_goes_beside_the_input(tmp_path, run):
    code, (line,), errors = run("a.png")
    assert (code, errors) == (0, [])
    assert re.fullmatch(r"a\.png -> a_x4\.png: 200x160, \d+\.\d s", line)
    assert size("a_x4.png") == (200, 160)
    assert run("a.png", "-s", "2", "--format", "jpeg")[0] == 0 and size("a_x2.jpg") == (100, 80)
    assert run(".", "--suffix", "_big")[0] == 0 and size("a_big.png") == (200, 160)
    code, _, (error,) = run("a.png")
    assert code == 2 and "a_x4.png exists" in error


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        (["--width", "75"], "a_w75.png", (75, 60)),
        (["--height", "60"], "a_h60.png", (75, 60)),
        (["--size", "75x500"], "a_75x500.png", (75, 60)),
        (["--size", "500x60"], "a_500x60.png", (75, 60)),
        (["--width", "500", "--height", "60"], "a_500x60.png", (75, 60)),
        (["--width", "9999"], "a_w9999.png", (200, 160)),
        (["--width", "75", "--scale", "1"], "a_w75.png", (50, 40)),
    ],
)
def test_the_size_may_be_told_in_pixels(tmp_path, run, options, name, expected):
    assert run("a.png", *options)[0] == 0
    assert size(name) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "75"], "'75' is not a size such as 1920x1080"),
        (["--size", "75x60", "--width", "75"], "--size: not allowed with --width and --height"),
        (["--size", "٦٤x٤٦"], "'٦٤x٤٦' is not a size"),
        (["--width", "0"], "'0' is not a whole number, 1 or more"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(run, capfd, options, message):
    with pytest.raises(SystemExit) as stop:
        run("a.png", *options)
    assert stop.value.code == 2 and message in capfd.readouterr().err


def test_options_as_people_type_them(tmp_path, run):
    assert run("-i", "a.png", "-o", "b.png", "-s", "2", "-t", "32x64")[0] == 0
    assert size("b.png") == (100, 80)
    assert run("-o", "c", "a.png", "-q", "b.png")[0] == 0
    assert sorted(os.listdir("c")) == ["a.png", "b.png"]


def test_the_gpu_is_handed_to_the_engine(run, monkeypatch):
    """No other program's view of the GPUs is changed, except for their order."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    asked = []

    def create(name, threads, precision, accurate, bundle, graphs, device):
        asked.append((name, device))
        raise BackendError("there is none")

    monkeypatch.setattr("lpnsr.runtime.backends.create", create)
    for options in (["-g", "1"], ["--gpu", "0"], []):
        assert run("a.png", "-o", "out.png", *options)[0] == 2
    name = "onnxruntime"
    assert asked == [(name, "cuda:1"), (name, "cuda:0"), (name, None)]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_gpu_for_an_engine_of_cpus_is_refused(run):
    code, _, errors = run("a.png", "-o", "out.png", "--gpu", "0")
    assert code == 2
    assert errors == ["lpnsr-run: ONNX Runtime has no device cuda:0; it runs on cpu"]


def test_quiet_says_only_what_goes_wrong(tmp_path, run):
    assert run("a.png", "-o", "out", "--quiet") == (0, [], [])
    assert run("a.png", "-o", "out", "-q", "--skip-existing") == (0, [], [])
    (tmp_path / "bad.png").write_bytes(b"hello")
    code, out, (error,) = run("bad.png", "-o", "out", "-q")
    assert (code, out) == (2, []) and "bad.png is not a picture" in error


def test_a_dry_run_tells_sizes_and_writes_nothing(tmp_path, run, monkeypatch):
    (tmp_path / "bad.png").write_bytes(b"hello")
    Image.fromarray(photo(20, 30)).save("c.jpg")
    monkeypatch.setattr(rehearsal, "seconds_per_pixel", lambda upscaler: 0.05)
    before = sorted(os.listdir())
    code, out, (error,) = run(".", "-o", "out", "--dry-run", "--width", "100")
    assert code == 1 and "bad.png is not a picture" in error
    assert out == [
        "a.png -> out/a.png: 50x40 to 100x80",
        "c.jpg -> out/c.png: 30x20 to 100x67",
        "2 pictures, 0.00 megapixels: about 2 min",
    ]
    assert sorted(os.listdir()) == before
    code, out, _ = run("bad.png", "--dry-run")
    assert code == 2 and out == []


def test_the_estimate_is_of_the_pixels_that_run(bundle, monkeypatch):
    upscaler, seen, clock = Upscaler.from_bundle(bundle), [], iter([100.0, 106.0])
    upscale = upscaler.upscale
    monkeypatch.setattr(upscaler, "upscale", lambda x: seen.append(x.shape) or upscale(x))
    monkeypatch.setattr(rehearsal.time, "perf_counter", lambda: next(clock))
    seconds = rehearsal.seconds_per_pixel(upscaler)
    assert seconds == pytest.approx(6 / (seen[-1][0] * seen[-1][1]))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.1, "1 s"), (89, "89 s"), (150, "2 min"), (9000, "2.5 h")]
)
def test_durations_are_rough(seconds, words):
    assert rehearsal.duration(seconds) == words


def piped(content, *arguments):
    command = [sys.executable, "-m", "lpnsr", *arguments, "--backend", "onnxruntime"]
    return subprocess.run(command, input=content, capture_output=True)


def test_standard_input_and_output(tmp_path, bundle, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, small = ["--model", str(bundle)], photo(20, 30)
    content = saved(Image.fromarray(small), "PNG")
    expected = Upscaler.from_bundle(bundle).upscale(small)
    through = piped(content, "-", *model)
    assert (through.returncode, through.stderr) == (0, b"")
    (tmp_path / "found.png").write_bytes(through.stdout)
    with Image.open("found.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected)
    (tmp_path / "a.png").write_bytes(content)
    assert piped(b"", "a.png", "-o", "-", "--format", "png", *model).stdout == through.stdout
    assert piped(content, "-", "-o", "b.png", *model).returncode == 0
    assert (tmp_path / "b.png").read_bytes() == through.stdout
    bad = piped(b"hello", "-", *model)
    assert (bad.returncode, bad.stdout) == (2, b"")
    assert b"standard input is not a picture" in bad.stderr


def test_standard_streams_stand_alone(tmp_path, run, monkeypatch):
    (tmp_path / "in").mkdir()
    for words in (["-", "a.png"], ["in", "-o", "-"], ["a.png", "in", "-o", "-"]):
        code, _, (error,) = run(*words)
        assert code == 2 and "one picture" in error
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert run("a.png", "-o", "-")[0] == 2
    assert sorted(os.listdir()) == ["a.png", "in"]


class Terminal:
    encoding = "utf-8"

    def isatty(self):
        return True


class Bar:
    """A progress bar that remembers."""

    def __init__(self):
        self.n, self.total, self.text = 0, None, None

    def update(self, count):
        self.n += count

    def reset(self, total):
        self.n, self.total = 0, total

    def set_description(self, text, refresh):
        self.text = text

    set_description_str = set_description


def test_progress_counts_pixels(tmp_path):
    jobs = [Job(tmp_path / name, tmp_path / "out") for name in ("small", "large", "bad")]
    pictures, tiles = Bar(), Bar()
    shown = progress.Progress(pictures, tiles, dict(zip(jobs, (100, 300, 0), strict=True)))
    shown.show(jobs[0], 1, 4)
    assert (pictures.n, tiles.n, tiles.total, tiles.text) == (25, 1, 4, "small")
    shown.show(jobs[1], 1, 3)
    shown.end(jobs[2])
    assert (pictures.n, pictures.text, tiles.n) == (125, "1/3 pictures", 1)
    shown.end(jobs[0])
    shown.end(jobs[1])
    assert (pictures.n, pictures.text) == (400, "3/3 pictures")


def test_bars_know_the_pixels_only_where_they_are_seen(tmp_path, monkeypatch):
    Image.fromarray(photo(40, 50)).save(tmp_path / "a.png")
    jobs = [Job(tmp_path / name, tmp_path / "out") for name in ("a.png", "none.png")]
    with progress.bars(jobs) as hidden:
        assert set(hidden._pixels.values()) == {0}
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.bars(jobs) as shown:
        assert list(shown._pixels.values()) == [2000, 0] and shown._pictures.total == 2000


def test_salvage_is_said_and_reported(tmp_path, run):
    content = saved(Image.fromarray(photo(128, 128)), "JPEG")
    (tmp_path / "old.jpg").write_bytes(content[: len(content) // 2])
    code, _, (error,) = run("old.jpg")
    assert code == 2 and "is damaged" in error and "--salvage" in error
    code, _, (warning,) = run("old.jpg", "--salvage", "--report", "run.json")
    assert code == 0 and warning == "lpnsr-run: warning: old.jpg: what is damaged dropped"
    (picture,) = json.loads((tmp_path / "run.json").read_text())["pictures"]
    assert picture["lost"] == ["what is damaged"] and size("old_x4.png") == (512, 512)


def test_help_is_in_groups_and_states_exit_codes(capsys):
    with pytest.raises(SystemExit):
        arguments.parse(["--help"])
    text = capsys.readouterr().out
    for group in ("files:", "output:", "model:", "engine:", "messages:", "exit codes:"):
        assert f"\n{group}" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lpnsr-run --dry", {"--dry-run"}),
        ("lpnsr-run a.png --format ", {"png", "jpeg", "webp", "tiff"}),
    ],
)
@pytest.mark.parametrize("limit", [None, 2**40], ids=["", "limited"])
def test_a_shell_completes_options_and_choices(tmp_path, line, words, limit):
    """Where address space is limited, too."""
    pytest.importorskip("argcomplete")
    resource = pytest.importorskip("resource") if limit else None
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    restrict = resource and partial(resource.setrlimit, resource.RLIMIT_AS, (limit, limit))
    command = [sys.executable, "-m", "lpnsr"]
    subprocess.run(command, env=os.environ | asked, check=True, preexec_fn=restrict)
    found = (tmp_path / "words").read_text().splitlines()
    assert words <= {word.split(":")[0].strip() for word in found}
