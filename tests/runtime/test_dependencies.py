"""The runtime stands on a few packages, the kernels and an engine; nothing of the training side."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lpnsr.kernels.cuda
import lpnsr.runtime

FORBIDDEN = ("torch", "onnx", "polygraphy", "lpnsr.models", "lpnsr.export", "lpnsr.benchmarks")
SOURCES = sorted(Path(lpnsr.runtime.__file__).parent.rglob("*.py"))
KERNELS = sorted(Path(lpnsr.kernels.cuda.__file__).parent.glob("*.py"))


def imported(source):
    """Names of all modules that `source` imports anywhere."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_forbidden(module):
    return any(f"{module}.".startswith(f"{name}.") for name in FORBIDDEN)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_no_file_imports_what_is_forbidden(source):
    assert [module for module in imported(source) if is_forbidden(module)] == []


ROOMS = {
    "serve": {"starlette", "uvicorn", "python_multipart"},
    "bulk": {"fsspec", "pyarrow", "ray"},
}
"""Rooms that stand on packages of their own."""


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_room_alone_imports_what_it_stands_on(source, room):
    if source.parent.name != room:
        names = {module.split(".")[0] for module in imported(source)}
        assert not names & ROOMS[room]
        assert not any(module.startswith(f"lpnsr.runtime.{room}") for module in imported(source))


NETWORK = {"ftplib", "http", "httpx", "huggingface_hub", "requests", "socket", "ssl", "urllib"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_nothing_is_fetched(source):
    """A server only answers, and workers of bulk runs read from where they are told."""
    if source.parent.name not in ROOMS:
        assert not {module.split(".")[0] for module in imported(source)} & NETWORK


@pytest.mark.parametrize("source", KERNELS, ids=lambda source: source.name)
def test_kernels_import_numpy_alone(source):
    own = (*sys.stdlib_module_names, "__future__", "numpy", "cuda", "lpnsr")
    names = list(imported(source))
    assert [name for name in names if name.split(".")[0] not in own] == []
    assert [name for name in names if f"{name}.".startswith("lpnsr.runtime.")] == []
    assert [name for name in names if is_forbidden(name)] == []


def test_nothing_forbidden_is_loaded_by_a_run(tmp_path, bundle):
    script = """
import sys
import numpy as np
import lpnsr.runtime.command.cli
assert not {"onnxruntime", "cuda.core"} & set(sys.modules), "an engine is loaded too early"
from lpnsr.runtime.upscaler import Upscaler
Upscaler.from_bundle(sys.argv[1]).upscale(np.zeros((8, 8, 3), np.uint8))
print(*sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(bundle)], capture_output=True, text=True, check=True
    )
    assert [module for module in run.stdout.split() if is_forbidden(module)] == []
