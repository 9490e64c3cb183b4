"""The command: what it refuses, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

from lpnsr.runtime.serve import cli

from ..samples import png
from ..toy import photo
from .served import Client


def refused(capfd, *arguments):
    assert cli.main(["--backend", "onnxruntime", *arguments]) == 2
    return capfd.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_addresses_need_a_token(capfd, host):
    line = refused(capfd, "--host", host)
    assert line.startswith(f"lpnsr-serve: --host {host} can be reached from other machines")
    assert "--token-file" in line


@pytest.mark.parametrize("token", ["", "short", "two words that are long enough", "é" * 20])
def test_a_token_is_one_long_word(capfd, tmp_path, token):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    line = refused(capfd, "--token-file", str(tmp_path / "token"))
    assert "holds no single word of 16 or more ASCII characters" in line


def test_what_prevents_the_start(capfd, tmp_path, bundle):
    assert "No such file" in refused(capfd, "--token-file", str(tmp_path / "none"))
    assert "bundle" in refused(capfd, "--port", "0", "--model", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "in use" in refused(capfd, "--port", port, "--model", str(bundle))


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_ports_that_there_are_not(capfd, port):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--port", port])
    assert stop.value.code == 2
    assert f"'{port}' is not a whole number, 0 to 65535" in capfd.readouterr().err


def test_without_its_packages_it_names_the_extra(tmp_path):
    Path(tmp_path, "starlette.py").write_text("raise ImportError('absent', name='starlette')")
    run = subprocess.run(
        [sys.executable, "-m", "lpnsr.runtime.serve.cli"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    expected = "lpnsr-serve: needs starlette; run: pip install 'lpnsr[serve]'\n"
    assert (run.returncode, run.stderr) == (2, expected)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_a_signal_lets_it_finish_what_is_under_way(tmp_path, bundle, number, code):
    command = [sys.executable, "-m", "lpnsr.runtime.serve.cli", "--port", "0"]
    command += ["--model", str(bundle), "--backend", "onnxruntime"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # In the background of a shell, where tests may run, signals from the keyboard are ignored.
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),
    ) as run:
        line = run.stderr.readline()
        client = Client(int(re.search(r"http://127.0.0.1:(\d+)/ with ", line)[1]))
        answers = []
        picture = png(photo(700, 700))
        request = threading.Thread(
            target=lambda: answers.append(client("POST", "/upscale", picture))
        )
        request.start()
        client.wait_for("lpnsr_queue", 1)
        run.send_signal(number)
        request.join()
        assert answers[0].status == 200
        assert run.wait() == code
        assert run.stderr.read() == ""
    assert list(tmp_path.glob("lpnsr-*")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a browser that is a script")
def test_open_shows_the_page(tmp_path, bundle):
    """With the token behind its address, where the server does not see it."""
    (tmp_path / "token").write_text("a-long-enough-token")
    browser, shown = tmp_path / "browser", tmp_path / "shown"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{shown}.new" && mv "{shown}.new" "{shown}"\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "lpnsr.runtime.serve.cli", "--port", "0", "--open"]
    command += ["--model", str(bundle), "--token-file", str(tmp_path / "token")]
    environment = os.environ | {"BROWSER": f"{browser} %s"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as run:
        try:
            address = re.search(r"http://127.0.0.1:(\d+)/", run.stderr.readline())
            while not shown.exists():
                assert run.poll() is None
                time.sleep(0.02)
            assert shown.read_text() == f"{address[0]}#a-long-enough-token\n"
            assert b"<title>" in Client(int(address[1]))("GET", "/").body
        finally:
            run.terminate()
