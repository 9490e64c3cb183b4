"""Training checkpoints: everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from lpnsr.models.training.errors import TrainingError


def save_checkpoint(state: dict[str, Any], file: Path) -> None:
    """Write a checkpoint: the new one whole, or the old one stays."""
    partial = file.with_name(f".{file.name}.partial")
    torch.save(state, partial)
    os.replace(partial, file)


def load_checkpoint(file: Path, preset: str, stage: str) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        TrainingError: it cannot be read or is of another preset or stage.
    """
    if not file.exists():
        raise TrainingError(f"there is no checkpoint {file}; start without --resume")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # on a damaged file, torch raises anything
        raise TrainingError(f"{file} cannot be read as a checkpoint; remove it") from error
    found = tuple(state.get(key) for key in ("preset", "stage")) if isinstance(state, dict) else ()
    if found != (preset, stage):
        what = "{1} of {0}".format(*found) if all(found) and found else "something else"
        raise TrainingError(
            f"{file} is a checkpoint of {what}, not of the {stage} of {preset}; "
            "name another folder with --out"
        )
    return state


def random_state() -> dict[str, Any]:
    """The state of PyTorch's generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_state(state: dict[str, Any]) -> None:
    """Put PyTorch's generators back."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
