"""How the sources are laid out: names of their own, no circles, files that are read in one go."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "export", "kernels", "models", "runtime")
SHARED = ("__init__.py", "cli.py")
"""Names of files that mean the same wherever they are."""


def module(file):
    """The name that a source is imported by."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[:2] == ["runtime", "lpnsr"]:
        parts = parts[2:]
    return ".".join(["lpnsr", *parts]).removesuffix(".__init__")


TREES = {
    file: ast.parse(file.read_text(encoding="utf-8"))
    for folder in FOLDERS
    for file in sorted((ROOT / folder).rglob("*.py"))
}
MODULES = {module(file): tree for file, tree in TREES.items()}


def imported(tree):
    """Modules of ours that a source imports anywhere, for types as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from {name if name in MODULES else node.module for name in names} & set(MODULES)


def test_no_imports_go_in_a_circle():
    TopologicalSorter({name: set(imported(tree)) for name, tree in MODULES.items()}).prepare()


def test_files_and_classes_have_names_of_their_own():
    files = Counter(file.name for file in TREES if file.name not in SHARED)
    classes = Counter(
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in (files + classes).items() if count > 1] == []


@pytest.mark.parametrize("suffix", ["*.py", "*.cpp", "*.cu", "*.h", "*.js"])
def test_no_file_is_long(suffix):
    found = [file for folder in (*FOLDERS, "tests") for file in (ROOT / folder).rglob(suffix)]
    assert found
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in found}
    assert {file: length for file, length in lengths.items() if length > 400} == {}
