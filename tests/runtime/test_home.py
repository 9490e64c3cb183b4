"""Where weights, bundles and compiled graphs are kept."""

import sys
from pathlib import Path

import pytest

from lpnsr.runtime import home


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {}, "user/.cache/lpnsr"),
        ("darwin", {}, "user/Library/Caches/lpnsr"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/lpnsr"),
        ("win32", {}, "user/.cache/lpnsr"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/lpnsr"),
        ("darwin", {"XDG_CACHE_HOME": "xdg", "LPNSR_HOME": "own"}, "own"),
        ("linux", {"LPNSR_HOME": "~/own"}, "user/own"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_such(monkeypatch, platform, variables, folder):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", "user")
    for name in ("LPNSR_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert home.cache_folder() == Path(folder)
    assert home.weights_folder() == Path(folder) / "weights"
    assert home.bundle_folder("lpnsr") == Path(folder) / "bundles" / "lpnsr"
    assert home.compiled_folder() == Path(folder) / "compiled"
