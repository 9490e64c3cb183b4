"""What pip makes of the package: versions that fit together, wheels with and without a compiler."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def needed(*extras):
    """The requirements of some extras of the installed package, on this machine."""
    found = [Requirement(text) for text in requires("lpnsr")]
    wanted = set(extras)
    while (
        more := {
            extra
            for requirement in found
            if requirement.name == "lpnsr" and _applies(requirement, wanted)
            for extra in requirement.extras
        }
        - wanted
    ):
        wanted |= more
    return [r for r in found if r.name != "lpnsr" and _applies(r, wanted)]


def _applies(requirement, extras):
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def test_the_plain_installation_is_light():
    light = {"isal", "numpy", "opencv-python-headless", "pillow", "psutil", "tifffile", "tqdm"}
    assert {requirement.name for requirement in needed()} == light


@pytest.mark.skipif(sys.platform == "darwin", reason="no CUDA on macOS")
@pytest.mark.parametrize("version", ["13.0.88", "13.1.115", "13.2.86", "13.5.37"])
def test_nvrtc_may_be_as_old_as_torch_pins_it(version):
    names = {"nvidia-cuda-nvrtc", "nvidia-cuda-runtime"}
    found = [r for r in needed("tensorrt-rtx") if r.name in names]
    assert len(found) == 2
    assert all(requirement.specifier.contains(version) for requirement in found)


def pip(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


def resolved(*requirements):
    """Name -> version that pip would install; it reads metadata and downloads no large wheel."""
    found = pip(
        *("install", "--dry-run", "--ignore-installed", "-q", "--report", "-"), *requirements
    )
    if "ResolutionImpossible" in found.stderr:
        pytest.fail(found.stderr)
    if found.returncode:
        pytest.skip(f"no package index can be used: {found.stderr.splitlines()[-1]}")
    parts = [part["metadata"] for part in json.loads(found.stdout)["install"]]
    return {part["name"]: part["version"] for part in parts}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch pins CUDA's libraries on Linux alone")
def test_engines_for_tensorrt_rtx_do_not_hold_torch_back():
    newest = resolved("torch")["torch"]
    wanted = [f"{r.name}{r.specifier}" for r in needed("export", "tensorrt-rtx")]
    found = resolved(*wanted)
    assert found["torch"] == newest and "nvidia-cuda-nvrtc" in found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is found another way")
def test_without_a_compiler_the_package_computes_in_numpy(tmp_path):
    """A wheel built where every compiler fails holds no library, and still upscales."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", "tests", "__pycache__"))
    environment = os.environ | {"CC": "/bin/false", "CXX": "/bin/false"}
    built = pip("wheel", "--no-deps", "-w", str(tmp_path), str(source), env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".fatbin"))]
        archive.extractall(tmp_path / "installed")
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import lpnsr
from lpnsr.kernels import library
assert lpnsr.__file__.startswith(sys.argv[1]) and library.LIBRARY is None
print(lpnsr.Upscaler.from_bundle(backend="onnxruntime").upscale(np.zeros((8, 8, 3), "u1")).shape)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "installed")], capture_output=True, text=True
    )
    assert run.stdout == "(32, 32, 3)\n", run.stderr
