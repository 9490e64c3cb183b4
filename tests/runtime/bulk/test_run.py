"""Runs in one process: outputs, resuming, failures, refusals."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("fsspec", reason="needs the extra bulk")

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.bulk import account, plan, worker
from lpnsr.runtime.bulk.storage import Folder
from lpnsr.runtime.command import pipeline
from lpnsr.runtime.pictures import images

from ..samples import RGBA, SRGB, png, saved
from ..toy import write_bundle
from .conftest import ENGINE, contents, expected, fill


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(folder):
    """What names can do to each other, and what is left out."""
    fill(folder, 7)
    from PIL import Image

    for name in ("a.jpg", "a.webp", "b.gif", "A.bmp", "inner/a.png"):
        Image.new("RGB", (9, 13), "teal").save(folder / name)
    (folder / "a_jpg.png").write_bytes(png(RGBA))
    (folder / "Inner").mkdir()
    Image.new("RGB", (9, 13), "maroon").save(folder / "Inner" / "a.tif", icc_profile=SRGB)
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".folder").mkdir()
    shutil.copy(folder / "000.png", folder / ".folder")
    (folder / "notes.txt").write_text("no picture")
    os.symlink(folder / "000.png", folder / "link.png")
    os.symlink(folder / "inner", folder / "linked")
    return folder


@pytest.mark.parametrize(
    "options", [(), ("--format", "jpeg", "--scale", "2", "--suffix", "_large", "--seed", "7")]
)
def test_outputs_are_those_of_lpnsr_run(here, bundle, bulk, lines, options):
    wanted = expected(pictures(here / "in"), here / "wanted", bundle, *options)
    bulk("run", "in", "-o", "out", *options)
    assert contents(here / "out") == wanted
    assert len(wanted) == 14 and not list(here.glob("out/.*"))
    found = lines()
    assert {line["output"] for line in found} == set(wanted)
    assert all(line["attempts"] == 1 and len(line["sha256"]) == 64 for line in found)


def test_the_same_command_goes_on(here, bundle, bulk, monkeypatch, capsys):
    fill(here / "in", 6)
    bulk("plan", "in", "-o", "out", "--shard-megapixels", "0.01")
    assert not (here / "out").exists()
    bulk("work", "--shard", "1/3")
    some = contents(here / "out")
    assert 0 < len(some) < 6
    bulk("status")
    assert re.search(r"shards +(\d+) of \d+ done\npictures +\d of 6 done", capsys.readouterr().out)
    before = {name: (here / "out" / name).stat().st_mtime_ns for name in some}
    bulk("run", "in", "-o", "out")
    assert contents(here / "out") == expected(here / "in", here / "wanted", bundle)
    assert {name: (here / "out" / name).stat().st_mtime_ns for name in some} == before
    monkeypatch.setattr(worker, "Worker", None)  # is not needed any more
    bulk("run", "in", "-o", "out")


def test_failures_are_tried_three_times_and_once_more_if_asked(here, bundle, bulk, lines, capsys):
    fill(here / "in", 4)
    good = (here / "in" / "001.png").read_bytes()
    (here / "in" / "001.png").write_bytes(good[:-30])
    bulk("run", "in", "-o", "out", code=1)
    (bad,) = [line for line in lines() if "error" in line]
    assert bad["attempts"] == 3 and bad["error"].startswith("001.png is damaged")
    assert len(contents(here / "out")) == 3
    bulk("status")
    assert f"failed     001.png: {bad['error']}\n" in capsys.readouterr().out
    (here / "in" / "001.png").write_bytes(good)
    bulk("work", code=1)
    capsys.readouterr()
    bulk("retry", "--failed")
    assert capsys.readouterr().out.startswith("pictures to be tried again: 1, in 1 shards; ")
    bulk("work")
    assert contents(here / "out") == expected(here / "in", here / "wanted", bundle)
    assert not [line for line in lines() if "error" in line]


class Killed(BaseException):
    """Ends the worker without a word, as signal 9 does."""


def test_a_picture_that_ends_processes_is_given_up(here, bulk, lines, monkeypatch):
    fill(here / "in", 9)
    read, deaths = images.read, 0

    def deadly(path, salvage):
        if path.name == "003.png":
            raise Killed
        return read(path, salvage)

    monkeypatch.setattr(images, "read", deadly)
    monkeypatch.setattr("lpnsr.runtime.bulk.planning._LEAST", 1)
    bulk("plan", "in", "-o", "out")
    while True:
        try:
            bulk("work", code=1)
            break
        except Killed:
            deaths += 1
    assert deaths == account.ATTEMPTS
    (bad,) = [line for line in lines() if "error" in line]
    assert bad["input"] == "003.png" and "has ended at every attempt" in bad["error"]
    assert len(contents(here / "out")) == 8


def test_an_engine_that_is_lost_ends_the_worker(here, bundle, bulk, lines, monkeypatch):
    fill(here / "in", 5)
    monkeypatch.setattr("lpnsr.runtime.bulk.planning._LEAST", 1)
    bulk("plan", "in", "-o", "out")
    run = str(here / "run")
    lost = worker.Worker(run, threads=1)

    def fail(*_, **__):
        raise BackendError("the GPU is gone")

    monkeypatch.setattr(lost._upscaler, "bands", fail)
    with pytest.raises(BackendError):
        lost.work(0)
    assert account.Account(Folder(run), 0, 5).reason == "the GPU is gone"
    bulk("work")
    assert contents(here / "out") == expected(here / "in", here / "wanted", bundle)


def test_a_full_disk_ends_the_run_and_not_the_pictures(here, bulk, lines, monkeypatch, capsys):
    fill(here / "in", 5)
    write = pipeline.formats.write

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline.formats, "write", full)
    bulk("run", "in", "-o", "out", code=2)
    assert "No space left on device" in capsys.readouterr().err
    assert contents(here / "out") == {}
    monkeypatch.setattr(pipeline.formats, "write", write)
    bulk("work")
    assert {line["attempts"] for line in lines()} == {1}


def test_a_worker_that_is_asked_to_stop_leaves_its_shard_to_the_next(here, bulk, lines):
    fill(here / "in", 5)
    bulk("plan", "in", "-o", "out")
    stop = threading.Event()
    stop.set()
    with pytest.raises(worker.Stopped):
        worker.Worker(str(here / "run"), threads=1, stop=stop).work(0)
    bulk("work")
    assert {line["attempts"] for line in lines()} == {1} and not list(here.glob("out/.*"))


def test_what_another_process_has_left_behind_is_removed(here, bulk):
    fill(here / "in", 3)
    bulk("plan", "in", "-o", "out")
    left = here / "out" / f"{worker.STAGING}-000000"
    left.mkdir(parents=True)
    (left / ".0123.lpnsr-partial").write_bytes(b"half")
    bulk("work")
    assert set(contents(here / "out")) == {"000.png", "001.png", "inner/002.png"}


def test_another_bundle_or_version_is_refused(here, bulk, bundle, monkeypatch, capsys):
    fill(here / "in", 2)
    bulk("plan", "in", "-o", "out")
    other = write_bundle(here / "other", noise_gain=0.2)
    bulk("work", "--model", other, code=2)
    assert f"{other} is another bundle (" in capsys.readouterr().err
    copy = shutil.copytree(bundle, here / "copy")
    monkeypatch.setattr(plan, "installed", lambda: "9.9")
    bulk("work", "--model", copy, code=2)
    assert "made by lpnsr" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(here)
    bulk("work", "--model", copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "none", "-o", "out"), "/none: No such file or directory; name a folder"),
        (("run", "empty", "-o", "out"), "/empty holds no picture"),
        (("run", "in", "-o", "full"), "/full is not empty; choose another output, or add"),
        (("run", "in", "-o", "in", "--overwrite"), "/in holds the inputs; choose another"),
        (("run", "in/inner", "-o", "in", "--overwrite"), "/in holds the inputs"),
        (("run", "in", "-o", "planned-out", "--run", "planned"), "with another seed (7, not 0)"),
        (("run", "in", "-o", "nope://x"), "nope://x: Protocol not known: nope"),
        (("work",), "/run holds no plan.json; make one with"),
        (("work", "--run", "damaged"), "/damaged/plan.json is damaged"),
        (("work", "--run", "planned", "--workers", "2"), "--workers is for Ray"),
        (("status",), "/run holds no plan.json"),
        (("retry", "--failed"), "/run holds no plan.json"),
        (("report", "--run", "planned", "-o", "r.csv"), "end it with .jsonl or .parquet"),
    ],
)
def test_bad_input_is_told_in_one_line(here, bulk, capsys, arguments, message):
    fill(here / "in", 2)
    fill(here / "full", 1)
    (here / "empty").mkdir()
    (here / "damaged").mkdir()
    (here / "damaged" / "plan.json").write_text('{"shards": 3')
    bulk("plan", "in", "-o", "planned-out", "--seed", "7", "--run", "planned")
    before = contents(here)
    capsys.readouterr()
    bulk(*arguments, code=2)
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("lpnsr-bulk: ") and message in line and captured.out == ""
    assert contents(here) == before


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("work", "--run", "r", "--shard", "3/3"),
        ("work", "--run", "r", "--shard", "x"),
        ("retry", "--run", "r"),
        ("run", "in", "--run", "r"),
        ("run", "in", "-o", "o", "--run", "r", "--size", "1x1", "--width", "3"),
    ],
)
def test_a_command_line_that_makes_no_sense(capsys, arguments):
    from lpnsr.runtime.bulk import cli

    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow  # which run where the extra is installed
def test_a_report_in_parquet(here, bulk, lines):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra bulk")
    fill(here / "in", 4)
    (here / "in" / "bad.jpg").write_bytes(saved(images.Image.new("RGB", (8, 8)), "JPEG")[:90])
    bulk("run", "in", "-o", "out", code=1)
    bulk("report", "-o", "report.parquet")
    rows = parquet.read_table("report.parquet").to_pylist()
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert kept == lines()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_ends_it_in_an_orderly_way(here, bundle, bulk):
    fill(here / "in", 60)
    command = [sys.executable, "-m", "lpnsr.runtime.bulk.cli", "run", "in", "-o", "out", "--run"]
    command += ["run", "--model", str(bundle), *ENGINE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        while not list(here.glob("run/results/0*")):
            assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        assert run.wait() == 143
        assert run.stderr.read().endswith("lpnsr-bulk: interrupted; the same command goes on\n")
    assert not list(here.glob("out/.*"))
    bulk("run", "in", "-o", "out")
    assert contents(here / "out") == expected(here / "in", here / "wanted", bundle)


def test_without_its_packages_it_names_the_extra(tmp_path):
    Path(tmp_path, "fsspec.py").write_text("raise ImportError('absent', name='fsspec')")
    run = subprocess.run(
        [sys.executable, "-m", "lpnsr.runtime.bulk.cli", "status", "--run", "r"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (
        2,
        "lpnsr-bulk: needs fsspec; run: pip install 'lpnsr[bulk]'\n",
    )
