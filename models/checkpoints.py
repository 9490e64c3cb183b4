"""Loading of checkpoints: the official files, however they wrap their weights, and safetensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("params_ema", "params", "state_dict")
PREFIXES = ("module.", "_orig_mod.")
# Constants that official files carry along; here they follow from the sizes.
BUFFERS = ("relative_position_index", "relative_position_index_SA", "attn_mask")
SHOWN = 3


class CheckpointError(ValueError):
    """A checkpoint file is missing, unreadable, or of another network."""


def load_network(network: nn.Module, file: Path, role: str, source: str = "") -> None:
    """Load the weights in `file` into `network`, strictly, as float32.

    Args:
        network: receives the weights. If it has a method `own`, this takes its part of the file's
            weights and gives it under the names that the network uses.
        file: `.pth`/`.pt`/`.ckpt` (read with weights_only=True) or `.safetensors`.
        role: what to call the network in an error.
        source: where the right file is published, for an error.

    Raises:
        CheckpointError: the file is missing or unreadable, or its keys or shapes are not those of
            the network; names the file, the network and the first keys concerned.
    """
    load_weights(network, read_weights(file), file, role, source)


def load_weights(
    network: nn.Module, weights: Mapping[str, Tensor], file: Path, role: str, source: str = ""
) -> None:
    """Load the weights that were read from `file`; arguments and errors as of `load_network`."""
    expected = network.state_dict()
    weights = {key: value for key, value in weights.items() if not key.endswith(BUFFERS)}
    if (own := getattr(network, "own", None)) is not None:
        weights = own(weights)
    problems = [
        *_listed("missing", [key for key in expected if key not in weights]),
        *_listed("unexpected", [key for key in weights if key not in expected]),
        *_listed(
            "of the wrong shape",
            [
                f"{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
                for key, value in expected.items()
                if key in weights and weights[key].shape != value.shape
            ],
        ),
    ]
    if problems:
        advice = f"; take that of {source}" if source else ""
        raise CheckpointError(
            f"{file} is not a checkpoint of the {role}: {'; '.join(problems)}{advice}"
        )
    network.load_state_dict({key: value.float() for key, value in weights.items()})


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file under their plain names.

    Wrappers (`params_ema`, `params`, `state_dict`) are opened and the prefixes that data-parallel
    and compiled training leave on names (`module.`, `_orig_mod.`) are taken off.

    Raises:
        CheckpointError: the file is missing, unreadable or holds something else than tensors.
    """
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint {file}")
    content: object
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if file.suffix == ".safetensors":
                content = load_file(file)
            else:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # on a file of another kind, torch's unpickler raises anything
        raise CheckpointError(
            f"{file} cannot be read as a checkpoint of plain tensors; download it again"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file} holds no named tensors; is it a checkpoint?")
    return {_plain(str(key)): value for key, value in content.items() if isinstance(value, Tensor)}


def _plain(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1])
    return key


def _listed(what: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return [f"{what}: {', '.join(keys[:SHOWN])}{more}"]
