import os
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("lpnsr.runtime.command.cli", "lpnsr-run"),
        ("lpnsr.export.cli", "lpnsr-export"),
        ("lpnsr.benchmarks.cli", "lpnsr-bench"),
        ("lpnsr.models.training.cli", "lpnsr-train"),
        ("lpnsr.runtime.serve.cli", "lpnsr-serve"),
        ("lpnsr.runtime.bulk.cli", "lpnsr-bulk"),
    ],
)
def test_every_command_tells_the_version_without_heavy_packages(module, name):
    script = f"""
import sys
from {module} import main
try:
    main(["--version"])
finally:
    heavy = {{"torch", "onnx", "onnxruntime", "openvino", "starlette", "ray", "fsspec", "pyarrow"}}
    assert not heavy & set(sys.modules)
"""
    assert python("-c", script) == f"{name} {version('lpnsr')}\n"
