"""What a terminal shows: how far a run is, and what a shell completes."""

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from .toy import photo

fcntl, termios, pty = (
    pytest.importorskip(name, reason="Windows has other terminals")
    for name in ("fcntl", "termios", "pty")
)


class Terminal:
    """A terminal in which a command runs.

    Attributes:
        text: what the command has written so far.
    """

    def __init__(self, *command, **settings):
        self._here, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            **settings,
        )
        os.close(there)
        self.text = ""

    def type(self, text):
        os.write(self._here, text.encode())

    def wait_for(self, pattern):
        """Read until the text matches; fails where the command ends before."""
        while not re.search(pattern, self.text):
            assert self._read(), self.text

    def wait(self):
        """Read to the end; returns the exit code."""
        while self._read():
            pass
        os.close(self._here)
        return self.process.wait()

    def _read(self):
        try:
            more = os.read(self._here, 2**16).decode(errors="replace")
        except OSError:  # the other side is closed
            return False
        self.text += more
        return bool(more)


def test_the_time_left_over_the_whole_run_is_shown(tmp_path, calm_bundle):
    (tmp_path / "in").mkdir()
    for number in range(4):
        Image.fromarray(photo(300, 400)).save(tmp_path / "in" / f"{number}.png")
    command = [sys.executable, "-m", "lpnsr", "in", "-o", "out", "--model", str(calm_bundle)]
    command += ["--backend", "onnxruntime", "--tile", "32", "--batch", "1"]
    terminal = Terminal(*command, cwd=tmp_path)
    assert terminal.wait() == 0, terminal.text
    bar = r"(\d)/4 pictures: +(\d+)%\|[^|]+\| \d\d:\d\d<(\d\d:\d\d|\?)"
    shown = re.findall(bar, terminal.text)
    assert shown[0][:2] == ("0", "0") and shown[-1][:2] == ("4", "100")
    shares = [int(percent) for _, percent, _ in shown]
    assert shares == sorted(shares) and len(set(shares)) > 4  # between the pictures, too
    assert any(left != "?" for _, _, left in shown[:-1])
    assert re.search(r"\d\.png: +\d+%\|[^|]+\| \d+/\d+ \[", terminal.text)  # of its tiles
    for number in range(4):  # where the bars have been cleared
        line = rf"(?:\r|\x1b\[A)in/{number}\.png -> out/{number}\.png: 1600x1200, \d+\.\d s\r\n"
        assert re.search(line, terminal.text)


@pytest.fixture
def bash(tmp_path):
    """A shell that completes as the README says."""
    pytest.importorskip("argcomplete", reason="needs the extra completion")
    folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": os.pathsep.join([folder, os.environ["PATH"]])}
    for program in ("bash", "register-python-argcomplete", "lpnsr-run"):
        if shutil.which(program, path=environment["PATH"]) is None:
            pytest.skip(f"{program} is not there")
    terminal = Terminal("bash", "--norc", "--noprofile", "-i", cwd=tmp_path, env=environment)
    text = (Path(__file__).parents[2] / "runtime" / "README.md").read_text(encoding="utf-8")
    terminal.type(re.search(r'`(eval "\$\(register-.+?\)")`', text)[1] + "; echo is'ready'\n")
    terminal.wait_for("isready")
    yield terminal
    terminal.type("\x15exit\n")  # Ctrl-U
    assert terminal.wait() == 0, terminal.text


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("--dry", "--dry-run "), ("a.png --format t", "--format tiff "), ("hol", "holiday.png ")],
)
def test_a_real_shell_completes_at_the_tab(bash, tmp_path, typed, completed):
    (tmp_path / "holiday.png").touch()
    bash.type(f"lpnsr-run {typed}\t")
    bash.wait_for(completed)
