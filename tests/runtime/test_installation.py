"""What pip makes of the package: versions that fit together, wheels with and without a compiler."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, files, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lpnsr.kernels import library

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
    names = installed(tmp_path, source, env=environment)
    assert not [name for name in names if name.endswith((".so", ".fatbin"))]
    check_upscaling(tmp_path / "installed", has_library=False)


def installed(folder, source, **options):
    """Build a wheel of a source and unpack it; gives its files of the package."""
    built = pip("wheel", "--no-deps", "-w", str(folder), str(source), **options)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
        return {name for name in archive.namelist() if name.startswith("lpnsr/")}


def check_upscaling(folder, has_library):
    """Upscale with the package in this folder, from elsewhere."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import lpnsr
from lpnsr.kernels import library
assert lpnsr.__file__.startswith(sys.argv[1]) and str(library.LIBRARY is not None) == sys.argv[2]
print(lpnsr.Upscaler.from_bundle(backend="onnxruntime").upscale(np.zeros((8, 8, 3), "u1")).shape)
"""
    command = [sys.executable, "-c", script, str(folder), str(has_library)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert run.stdout == "(32, 32, 3)\n", run.stderr


@pytest.mark.slow
def test_a_source_distribution_holds_all_that_a_wheel_needs(tmp_path):
    """It is all there is; the checkout is not."""
    pytest.importorskip("build", reason="needs build, which cibuildwheel brings")
    command = [sys.executable, "-m", "build", "--sdist", "-o", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    (source,) = tmp_path.glob("*.tar.gz")
    names = installed(tmp_path, source)
    present = {file.as_posix() for file in files("lpnsr") if file.suffix != ".pyc"}
    assert names == {name for name in present if name.startswith("lpnsr/")}
    check_upscaling(tmp_path / "installed", has_library=library.LIBRARY is not None)


@pytest.mark.parametrize(
    ("platform", "wheels"),
    [
        ("linux", {"cp310-manylinux_x86_64", "cp310-manylinux_aarch64"}),
        ("macos", {"cp310-macosx_x86_64", "cp310-macosx_arm64"}),
        ("windows", {"cp310-win_amd64"}),
    ],
)
def test_one_command_builds_the_wheels_of_a_system(platform, wheels):
    pytest.importorskip("cibuildwheel", reason="needs cibuildwheel")
    command = [sys.executable, "-m", "cibuildwheel", "--platform", platform, str(ROOT)]
    run = subprocess.run(
        [*command, "--print-build-identifiers"], capture_output=True, text=True, check=True
    )
    assert set(run.stdout.split()) == wheels


def test_one_wheel_serves_every_python():
    tags = distribution("lpnsr").read_text("WHEEL")
    assert re.search(r"^Tag: py3-none-(?!any)\w+$", tags, re.MULTILINE)
