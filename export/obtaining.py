"""Checkpoints for `lpnsr-export`: from a folder, or by name from where they are published."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lpnsr.models.download import DownloadError, cached, fetch
from lpnsr.models.presets import Preset
from lpnsr.models.sources import SOURCES, Source
from lpnsr.models.weights import find_weights, look_up
from lpnsr.runtime.home import weights_folder


def obtain(
    preset: Preset, args: argparse.Namespace, given: Mapping[str, Path | None]
) -> dict[str, Path]:
    """The checkpoint file of each of a preset's networks.

    A file that is named takes precedence over the folder of `--weights`, and that over the cache;
    what is in none of them is downloaded, if that is asked for.

    Raises:
        CheckpointError: a file is missing or for a network that the preset has not.
        DownloadError: a file cannot be had; says what to do.
    """
    folder = args.weights or preset.weights
    if not args.download:
        return find_weights(preset, folder, given)
    named = {role: file for role, file in given.items() if file}
    for role in preset.networks:
        if folder and role not in named and (found := look_up(preset, role, folder)):
            named[role] = found
    wanted = {
        role: next((name for name in network.files if name in SOURCES), network.files[0])
        for role, network in preset.networks.items()
        if role not in named
    }
    return find_weights(preset, None, named | _by_name(preset, wanted, args))


def _by_name(
    preset: Preset, wanted: Mapping[str, str], args: argparse.Namespace
) -> dict[str, Path]:
    """Role -> file, from role -> file name."""
    unknown = [
        f"{name}, from {origin}" if (origin := preset.networks[role].source) else name
        for role, name in wanted.items()
        if name not in SOURCES
    ]
    if unknown:
        raise DownloadError(
            f"not all weights of {preset.name} are published ({'; '.join(unknown)}); "
            "name the folder of yours with --weights DIR"
        )
    folder = weights_folder()
    sources = {name: SOURCES[name] for name in wanted.values()}
    kept = {name: cached(name, source, folder) for name, source in sources.items()}
    found = {name: file for name, file in kept.items() if file is not None}
    missing = {name: source for name, source in sources.items() if name not in found}
    if missing:
        _check_allowed(missing, folder, args)
    for name, source in missing.items():
        found[name] = fetch(name, source, folder)
    return {role: found[name] for role, name in wanted.items()}


def _check_allowed(missing: Mapping[str, Source], folder: Path, args: argparse.Namespace) -> None:
    """See that these files may and can be fetched; prints their terms.

    Raises:
        DownloadError: no connection is wanted, a file has no address, or terms are not accepted.
    """
    manual = [name for name, source in missing.items() if not source.addresses]
    if manual:
        pages = dict.fromkeys(missing[name].page for name in manual)
        raise DownloadError(
            f"there is no direct address of {' and '.join(manual)}: get them at "
            f"{' and '.join(pages)} and put them into {folder}, "
            "or name their folder with --weights DIR"
        )
    # What Hugging Face's own client understands.
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    if args.offline or offline:
        switch = "--offline" if args.offline else "HF_HUB_OFFLINE"
        raise DownloadError(
            f"{' and '.join(missing)} must be downloaded, which {switch} forbids; do without it "
            f"once, or put the files into {folder}"
        )
    for line in terms(missing):
        print(line, file=sys.stderr)
    if args.accept_licences or all(source.licence.free for source in missing.values()):
        return
    if not _agrees():
        raise DownloadError("nothing is downloaded; to accept these terms add --accept-licences")


def _agrees() -> bool:
    """Whether there is somebody at a terminal who accepts the terms."""
    try:
        return sys.stdin.isatty() and input("Accept these terms? [y/N] ").strip().lower() == "y"
    except EOFError:  # Ctrl-D
        return False


def terms(sources: Mapping[str, Source]) -> Sequence[str]:
    """One line for each licence of these files, what it means first."""
    licences = dict.fromkeys(source.licence for source in sources.values())
    return [
        f"{', '.join(name for name, source in sources.items() if source.licence == licence)}: "
        f"{licence.consequence} ({licence.name}, {licence.address})"
        for licence in licences
    ]
