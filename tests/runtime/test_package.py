import os
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lpnsr
from lpnsr.runtime.upscaler import Upscaler

ROOT = Path(__file__).parents[2]


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, **options
    ).stdout


def test_the_package_names_its_version_and_its_class():
    assert lpnsr.__version__ == version("lpnsr")
    assert lpnsr.Upscaler is Upscaler
    assert {"Upscaler", "__version__"} <= set(dir(lpnsr))
    with pytest.raises(AttributeError, match="'lpnsr' has no attribute 'Downscaler'"):
        _ = lpnsr.Downscaler


def test_importing_the_package_loads_nothing_else():
    loaded = python("-c", "import sys, lpnsr; print(*sys.modules)").split()
    assert "lpnsr" in loaded and "numpy" not in loaded
    assert not any(name.startswith("lpnsr.") for name in loaded)


def test_all_its_parts_are_found_and_typed():
    installed = files("lpnsr")
    assert (installed / "py.typed").is_file()
    for part in ("models", "export", "runtime", "kernels", "benchmarks"):
        assert (installed / part / "__init__.py").is_file(), part
    assert not (installed / "runtime" / "lpnsr").exists()


def test_a_checkout_called_lpnsr_does_not_hide_the_installed_package(tmp_path):
    os.symlink(ROOT, tmp_path / "lpnsr")
    found = python("-c", "import lpnsr.runtime; print(lpnsr.runtime.__file__)", cwd=tmp_path)
    assert not Path(found).is_relative_to(tmp_path)


def test_the_package_runs_as_the_command():
    assert python("-m", "lpnsr", "--version") == f"lpnsr-run {version('lpnsr')}\n"
    assert "usage: lpnsr-run " in python("-m", "lpnsr", "--help")


def test_packages_that_do_not_load_are_told_in_one_line():
    script = "import sys; sys.modules['cv2'] = None; import lpnsr.__main__ as m; sys.exit(m.main())"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith("lpnsr-run: cannot start: ") and "cv2" in line


COMMANDS = {
    "lpnsr-run": "lpnsr.runtime.command.cli",
    "lpnsr-export": "lpnsr.export.cli",
    "lpnsr-bench": "lpnsr.benchmarks.cli",
    "lpnsr-train": "lpnsr.models.training.cli",
    "lpnsr-serve": "lpnsr.runtime.serve.cli",
    "lpnsr-bulk": "lpnsr.runtime.bulk.cli",
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_every_command_explains_itself_without_heavy_packages(name, option):
    script = f"""
import sys
from {COMMANDS[name]} import main
try:
    main(["{option}"])
finally:
    heavy = {{"torch", "onnx", "onnxruntime", "openvino", "starlette", "ray", "fsspec", "pyarrow"}}
    assert not heavy & set(sys.modules)
"""
    found = python("-c", script)
    if option == "--version":
        assert found == f"{name} {version('lpnsr')}\n"
    else:
        assert found.startswith(f"usage: {name} ") and "exit codes:" in found


@pytest.mark.parametrize("name", ["lpnsr-run", "lpnsr-export", "lpnsr-serve"])
def test_options_stand_in_groups(name):
    """Nothing but where it comes from and where it goes is among the rest."""
    found = python("-c", f"from {COMMANDS[name]} import main; main(['--help'])")
    general = found.split("\noptions:\n")[1].split("\n\n")[0]
    assert len(re.findall(r"^  -", general, re.MULTILINE)) <= 8
    assert len(re.findall(r"^[a-zA-Z ]+:$", found, re.MULTILINE)) >= 4


def test_presets_stand_in_the_help():
    presets = pytest.importorskip("lpnsr.models.presets").PRESETS
    script = "from lpnsr.export.cli import main; main(['--help'])"
    found = python("-c", script).split("\npresets:\n")[1]
    listed = re.findall(r"^  ([a-z0-9-]+) +\w", found.split("\n\n")[0], re.MULTILINE)
    assert listed == list(presets)


def test_quality_helps_without_what_only_measuring_needs():
    script = """
import sys
sys.modules |= dict.fromkeys(["skimage", "torch", "onnx_ir", "matplotlib", "openvino", "ncnn"])
from lpnsr.benchmarks.cli import main
main(["quality", "--help"])
"""
    found = python("-c", script)
    assert "PSNR, SSIM and perceptual metrics" in found and "--reduce" in found


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [("skimage", ["quality", "a.png", "--reduce"], "bench"), ("ray", ["bulk"], "bulk")],
)
def test_a_package_that_measuring_needs_is_named(tmp_path, package, arguments, extra):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    script = f"""
import sys
sys.modules["{package}"] = None
from lpnsr.benchmarks.cli import main
main({arguments})
"""
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    (line,) = found.stderr.splitlines()
    assert found.returncode == 2 and line.startswith(f"lpnsr-bench {arguments[0]}: ")
    assert package in line and line.endswith(f"; run: pip install 'lpnsr[{extra}]'")
