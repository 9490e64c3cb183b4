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
        CheckpointError: a file is missing or for a network that the preset has not; names the
            network and what was looked for.
    """
    given = given or {}
    for role in (role for role, file in given.items() if file and role not in preset.networks):
        raise CheckpointError(f"{preset.name} needs no {role} here; leave out {_option(role)}")
    folder = folder or preset.weights
    wanted = tuple(preset.networks) if roles is None else roles
    return {role: given.get(role) or _find(preset, role, folder) for role in wanted}


def look_up(preset: Preset, role: str, folder: Path) -> Path | None:
    """The checkpoint of one network in a folder, if it is there."""
    for name in preset.networks[role].files:
        for candidate in (folder / name, (folder / name).with_suffix(".safetensors")):
            if candidate.is_file():
                return candidate
    return None


def _find(preset: Preset, role: str, folder: Path | None) -> Path:
    names = preset.networks[role].files
    if folder is None:
        raise CheckpointError(
            f"{preset.name} needs weights: fetch them with --download, name their folder with "
            f"--weights DIR (for the {role}, {names[0]}) or each file, as in {_option(role)}"
        )
    if found := look_up(preset, role, folder):
        return found
    raise CheckpointError(
        f"{folder} has no checkpoint of the {role}: put {' or '.join(names)} there, "
        f"or name the file with {_option(role)}"
    )


def _option(role: str) -> str:
    return f"--{role.replace('_', '-')} FILE"


def load_chain(preset: Preset, files: Mapping[str, Path]) -> Chain:
    """The preset's chain with the weights of `files` (by role).

    Raises:
        CheckpointError: a file is missing, unreadable, or of another network.
    """
    chain = preset.build()
    for role, file in files.items():
        load_network(chain.network(role), file, role, preset.networks[role].source)
    return chain
