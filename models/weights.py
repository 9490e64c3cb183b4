"""From checkpoint files to the eager chain of a preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lpnsr.models.chain import Chain
from lpnsr.models.checkpoints import CheckpointError, load_network
from lpnsr.models.presets import Preset


def find_weights(
    preset: Preset,
    folder: Path | None = None,
    given: Mapping[str, Path | None] | None = None,
    roles: Sequence[str] | None = None,
) -> dict[str, Path]:
    """The checkpoint file of each of a preset's networks.

    Args:
        preset: whose networks.
        folder: where to look for the official file names (or the same with `.safetensors`); left
            out, the weights that come with the package, if the preset has any.
        given: files named one by one, by role; they go before the folder's.
        roles: whose files; left out, those of all networks.

    Raises:
        CheckpointError: files are missing, or one is for a network that the preset has not; names
            the networks and what was looked for.
    """
    given = given or {}
    for role in (role for role, file in given.items() if file and role not in preset.networks):
        raise CheckpointError(f"{preset.name} needs no {role} here; leave out {_option(role)}")
    folder = folder or preset.weights
    files, missing = {}, []
    for role in preset.networks if roles is None else roles:
        file = given.get(role) or (folder and look_up(preset, role, folder))
        if file:
            files[role] = file
        else:
            missing.append(role)
    if missing:
        raise CheckpointError(_advice(preset, folder, missing))
    return files


def look_up(preset: Preset, role: str, folder: Path) -> Path | None:
    """The checkpoint of one network in a folder, if it is there."""
    for name in preset.networks[role].files:
        for candidate in (folder / name, (folder / name).with_suffix(".safetensors")):
            if candidate.is_file():
                return candidate
    return None


def _advice(preset: Preset, folder: Path | None, missing: Sequence[str]) -> str:
    """What to do about networks without a checkpoint, in one line that names all their files."""
    names = _listed([preset.networks[role].files[0] for role in missing])
    options = " ".join(map(_option, missing))
    if folder is None:
        return (
            f"{preset.name} needs weights: fetch them with --download, name the folder of {names} "
            f"with --weights DIR, or name each file: {options}"
        )
    if not folder.is_dir():
        return f"there is no folder {folder}; name that of {names} with --weights DIR"
    roles = _listed(missing)
    return f"{folder} has no checkpoint of the {roles}: put {names} there, or give {options}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _option(role: str) -> str:
    return f"--{role.replace('_', '-')} FILE"


def load_chain(preset: Preset, files: Mapping[str, Path]) -> Chain:
    """The preset's chain with the weights of `files` (by role), prepared.

    Raises:
        CheckpointError: files are missing, or one is unreadable or of another network.
    """
    if absent := [str(file) for file in files.values() if not file.is_file()]:
        raise CheckpointError(f"there is no checkpoint {' and no '.join(absent)}")
    chain = preset.build()
    for role, file in files.items():
        load_network(chain.network(role), file, role, preset.networks[role].source)
    chain.prepare()
    return chain
