"""Runs where the system refuses memory: one line and exit code 2, or success; never a hang."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from .toy import photo

resource = pytest.importorskip("resource", reason="Windows has no limits")

COMMENTS = ("runs with", "memory has run out with")
"""What is said of runs that succeed, too."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems ignore the limit")


def start(folder, megabytes, *options):
    """Begin to upscale `a.png` of a folder within an address space."""
    limits = (megabytes * 2**20,) * 2
    command = [sys.executable, "-m", "lpnsr", "a.png", "-o", "out.png", *options]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limits),
    )


def check_end(folder, megabytes, *options):
    (folder / "out.png").unlink(missing_ok=True)
    process = start(folder, megabytes, *options)
    told, said = process.communicate(timeout=120)
    lines = [line.removeprefix("lpnsr-run: ") for line in said.splitlines()]
    errors = [line for line in lines if not line.startswith(COMMENTS)]
    at = f"at {megabytes} MB: {said}"
    if process.returncode == 0:
        assert not errors and told.startswith("a.png -> out.png: "), at
        with Image.open(folder / "out.png") as image:
            image.load()
    else:
        assert process.returncode == 2 and len(errors) == 1 and not told, at
        left = [name for name in os.listdir(folder) if not name.endswith(".lpnsr-partial")]
        assert left == ["a.png"], at  # a crash may leave what was begun
    return process.returncode


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(photo(128, 192)).save(tmp_path / "a.png")
    return tmp_path


def test_with_too_little_address_space_a_run_ends_in_one_line(folder):
    assert [check_end(folder, megabytes) for megabytes in (40, 120, 450)] == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_every_limit_of_address_space_ends_a_run_well(folder, backend):
    """From just too little for the interpreter's packages to ample."""
    limits = [*range(40, 1600, 60), 3000, 20000]
    codes = [check_end(folder, megabytes, "--backend", backend) for megabytes in limits]
    assert codes[0] == 2 and codes[-1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [450, 650, 1000, 3000])
@pytest.mark.parametrize("seconds", [0.2, 0.6, 1.2, 2.5])
def test_sigterm_ends_every_run(tmp_path, megabytes, seconds):
    Image.fromarray(np.tile(photo(100, 100), (12, 12, 1))).save(tmp_path / "a.png")
    process = start(tmp_path, megabytes)
    time.sleep(seconds)
    process.terminate()
    said = process.communicate(timeout=120)[1]
    assert process.returncode in (2, 143, -signal.SIGTERM) and "Traceback" not in said
    assert not (tmp_path / "out.png").exists()


GUARDED = """
import os, signal, sys, time
from lpnsr.runtime.command import limited
limited._GRACE = 1
def run():
    {body}
sys.exit(limited.guarded("it", run))
"""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return 1", 1, ""),
        ("sys.exit(2)", 2, ""),
        ("os.abort()", 2, "it: ended by SIGABRT, as libraries do without memory; raise the limit"),
        ("os._exit(127)", 2, "it: ended with code 127, as libraries do"),
        ("raise SystemError('no\\nroom')", 2, "it: no room; raise the limit of address space"),
        ("os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)", 143, ""),
        (
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); os.kill(os.getppid(), signal.SIGTERM)\n"
            "    time.sleep(60)",
            143,
            "",
        ),
    ],
)
def test_the_end_of_a_guarded_command(body, code, said):
    script = GUARDED.format(body=body)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == code and found.stderr.startswith(said)
    assert len(found.stderr.splitlines()) == bool(said)
