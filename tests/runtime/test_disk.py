"""Disks that fill up and folders that vanish while pictures are written."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from lpnsr.runtime.command import cli
from lpnsr.runtime.pictures import formats
from lpnsr.runtime.pictures.formats import FORMATS

TINY = 3 * 2**10
"""Bytes that a small picture's output takes more than, and a flat one's less."""


@pytest.fixture
def run(tmp_path, calm_bundle, monkeypatch, capfd):
    """Runs the command in an empty folder; gives exit code and lines on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main([*arguments, "--backend", "onnxruntime", "--model", str(calm_bundle)])
        return code, capfd.readouterr().err.splitlines()

    return run


def pictures(folder, count, size=(20, 30)):
    """Pictures of which the even ones compress well and the others do not."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for number in range(count):
        pixels = noise if number % 2 else np.zeros_like(noise)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


def left(folder):
    return sorted(os.listdir(folder)) if folder.exists() else []


@contextmanager
def failing(monkeypatch, size, fail):
    """Calls `fail` in the place of a write after so many bytes, of each file anew."""

    def replacing(path):
        stream = original(path)

        @contextmanager
        def limited():
            with stream as file:
                write, written = file.write, 0

                class Limited:
                    def __getattr__(self, name):
                        return getattr(file, name)

                    def write(self, content):
                        nonlocal written
                        written += len(content)
                        if written > size:
                            fail()
                        return write(content)

                yield Limited()

        return limited()

    original = formats.replacing
    with monkeypatch.context() as patch:
        patch.setattr(formats, "replacing", replacing)
        yield


def full():
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_disk_that_fills_ends_the_run(tmp_path, run, monkeypatch, kind):
    pictures(tmp_path / "in", 30)
    with failing(monkeypatch, TINY, full):
        code, errors = run("in", "-o", "out", "--format", kind)
    assert code == 2
    failed = [error for error in errors if "No space left on device" in error]
    assert failed and failed[0].startswith("lpnsr-run: in/") and ": cannot write out/" in failed[0]
    assert "pictures were not tried" in errors[-1] and "--skip-existing" in errors[-1]
    done = left(tmp_path / "out")
    assert all(name[1] in "02468" for name in done) and len(done) < 15
    assert run("in", "-o", "out", "--format", kind, "--skip-existing", "-q") == (0, [])
    assert len(left(tmp_path / "out")) == 30


@pytest.mark.parametrize("kind", FORMATS)
def test_a_disk_that_fills_within_a_large_picture(tmp_path, run, monkeypatch, kind):
    """While bands are still being computed, for the formats that are written band by band."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 180, 3), np.uint8)
    Image.fromarray(noise).save("large.png")
    with failing(monkeypatch, 10 * TINY, full):
        code, errors = run("large.png", "-o", "out", "--format", kind)
    target = f"out/large{FORMATS[kind].suffixes[0]}"
    assert code == 2 and len(errors) == 1
    assert errors[0].endswith(f": cannot write {target}: No space left on device")
    assert left(tmp_path / "out") == []


def test_a_folder_that_vanishes_within_a_large_picture(tmp_path, run, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (600, 180, 3), np.uint8)
    Image.fromarray(noise).save("large.png")
    with failing(monkeypatch, 10 * TINY, lambda: shutil.rmtree("out", ignore_errors=True)):
        code, errors = run("large.png", "-o", "out")
    said = "lpnsr-run: cannot write out/large.png: No such file or directory"
    assert (code, errors) == (2, [said])
    assert left(tmp_path / "out") == []


def test_after_a_folder_has_vanished_the_rest_goes_on(tmp_path, run, monkeypatch):
    """What was written before is lost with it; what follows makes it anew."""
    pictures(tmp_path / "in", 12)
    taken = []

    def vanish():
        if not taken:
            shutil.rmtree("out")
            taken.append(True)

    with failing(monkeypatch, TINY, vanish):
        code, errors = run("in", "-o", "out")
    assert code == 1 and "pictures failed:" in errors[-1 - (len(errors) - 1) // 2]
    assert all("cannot write out/" in error for error in errors if "failed:" not in error)
    assert "11.png" in left(tmp_path / "out")
    assert not [name for name in left(tmp_path / "out") if not name.endswith(".png")]


def command(folder, bundle, *options, **settings):
    command = [sys.executable, "-m", "lpnsr", "in", "-o", "out/there"]
    command += ["--backend", "onnxruntime", "--model", str(bundle), *options]
    found = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, **settings
    )
    return found.returncode, found.stderr.splitlines()


def test_files_may_be_no_larger_than_the_system_allows(tmp_path, calm_bundle):
    """Each picture that is too large fails by itself."""
    resource = pytest.importorskip("resource")
    pictures(tmp_path / "in", 6)
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (TINY, TINY))}
    code, errors = command(tmp_path, calm_bundle, **limits)
    assert code == 1 and errors[-4] == "lpnsr-run: 3 of 6 pictures failed:"
    assert len(errors) == 7 and all("File too large" in error for error in errors[:3])
    assert left(tmp_path / "out/there") == ["00.png", "02.png", "04.png"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB, where this process may mount one."""
    disk = tmp_path / "out"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("may not mount file systems")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_real_disk_that_fills(tmp_path, calm_bundle, small_disk, kind):
    pictures(tmp_path / "in", 40, (60, 80))
    code, errors = command(tmp_path, calm_bundle, "--format", kind)
    assert code == 2 and "No space left on device" in errors[0]
    assert "pictures were not tried" in errors[-1]
    done = left(small_disk / "there")
    assert 0 < len(done) < 40
    for name in done:
        with Image.open(small_disk / "there" / name) as image:
            image.load()
