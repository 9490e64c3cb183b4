"""Where this toolkit keeps what can be made or fetched again: weights, bundles, compiled graphs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """`$LPNSR_HOME`, or `lpnsr` in the platform's folder for caches.

    That is `$XDG_CACHE_HOME` where it is set, else `~/.cache`, `~/Library/Caches` on macOS and
    `%LOCALAPPDATA%` on Windows.

    Raises:
        RuntimeError: the user has no home folder.
    """
    home = os.environ.get("LPNSR_HOME")
    return Path(home).expanduser() if home else _platform_caches() / "lpnsr"


def bundle_folder(name: str) -> Path:
    """Where `lpnsr-export` puts the bundle of a preset by default."""
    return cache_folder() / "bundles" / name


def compiled_folder() -> Path:
    """Where engines keep what they have compiled for this machine."""
    return cache_folder() / "compiled"


def weights_folder() -> Path:
    """Where downloaded checkpoints are."""
    return cache_folder() / "weights"


def _platform_caches() -> Path:
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local)
    return Path.home() / ".cache"
