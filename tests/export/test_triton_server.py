"""A model repository in a real Triton, the one that the wheel nvidia-pytriton carries."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from runtime.toy import photo

from lpnsr.export import cli
from lpnsr.runtime.upscaler import Upscaler

pytestmark = pytest.mark.slow
SIZES = ((20, 30), (40, 31), (64, 64), (100, 90), (33, 150), (9, 9))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server's program, its environment and the folder of its Python backend."""
    found = importlib.util.find_spec("pytriton")
    if found is None:
        pytest.skip("needs nvidia-pytriton (pip install --no-deps)")
    package = Path(found.submodule_search_locations[0])
    home = package / "tritonserver"
    stub = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / stub / "triton_python_backend_stub"
    if not stub.is_file():
        pytest.skip("nvidia-pytriton has no backend for this version of Python")
    backends = tmp_path_factory.mktemp("backends")
    shutil.copytree(home / "backends" / "python", backends / "python")
    shutil.copy(stub, backends / "python")
    programs = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(package.parent / "nvidia_pytriton.libs"),
        "PATH": os.pathsep.join(programs),  # by which the backend finds this environment
    }
    return home / "bin" / "tritonserver", environment, backends


@pytest.fixture(scope="module")
def port(server, tmp_path_factory):
    """Of a server with the built-in model."""
    program, environment, backends = server
    folder = tmp_path_factory.mktemp("triton")
    assert cli.main(["--bundle", "lpnsr-tiny", "--triton", str(folder / "models")]) == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    words = [f"--model-repository={folder / 'models'}", f"--backend-directory={backends}"]
    words += ["--http-address=127.0.0.1", f"--http-port={number}"]
    words += ["--allow-grpc=false", "--allow-metrics=false"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, *words], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while process.poll() is None and not is_ready(number):
                time.sleep(0.2)
            if process.poll() is not None:
                pytest.fail((folder / "log").read_text())
            yield number
        finally:
            process.terminate()
            process.wait()
    text = (folder / "log").read_text()
    assert "Traceback" not in text, text


def is_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready"):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def infer(port):
    """Sends a picture; gives what comes back."""
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")

    def infer(picture, seed=None, **options):
        with http.InferenceServerClient(f"127.0.0.1:{port}") as client:
            tensors = [http.InferInput("IMAGE", list(picture.shape), "UINT8")]
            tensors[0].set_data_from_numpy(picture)
            if seed is not None:
                tensors.append(http.InferInput("SEED", [1], "UINT64"))
                tensors[1].set_data_from_numpy(np.array([seed], np.uint64))
            answer = client.infer("lpnsr-tiny", tensors, parameters=options or None)
            return answer.as_numpy("UPSCALED")

    return infer


def test_pictures_are_those_of_the_upscaler(infer):
    upscaler = Upscaler.from_bundle()
    pictures = [photo(*size) for size in SIZES]
    seeds = [None, 7, 2**64 - 1, 0, 1, 2]
    with ThreadPoolExecutor(len(pictures)) as threads:
        found = list(threads.map(infer, pictures, seeds))
    for picture, seed, ours in zip(pictures, seeds, found, strict=True):
        np.testing.assert_array_equal(ours, upscaler.upscale(picture, seed=seed or 0))


def test_parameters(infer):
    picture = photo(30, 40)
    expected = Upscaler.from_bundle().upscale(picture, deterministic=True, seed=3)
    np.testing.assert_array_equal(infer(picture, deterministic=True, seed=3), expected)
    assert infer(picture, width=80).shape == (60, 80, 3)


def test_what_is_wrong_is_said(infer):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="there is no option 'sed'"):
        infer(photo(8, 8), sed=1)
    with pytest.raises(InferenceServerException, match="million pixels"):
        infer(np.zeros((6000, 6000, 3), np.uint8))
    assert infer(photo(8, 8)).shape == (32, 32, 3)
