"""Variants of a preset: fewer steps, other noise, another start. Each is a preset of its own.

Sources: the ablations of LPNSR (arXiv 2603.21045); tables 3 and 4 of DM-SR (ICLR 2026).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lpnsr.models.dm_sr import TRAINED_STEPS
from lpnsr.models.presets import Preset, PresetError
from lpnsr.models.schedule import refinement, residual


def vary(
    preset: Preset,
    steps: int | None = None,
    noise: Sequence[str] = (),
    start: str | None = None,
    timestep: int | None = None,
) -> Preset:
    """A variant; what is left out stays as it is.

    Networks that the variant does not call are left out, and so need no checkpoint.

    Args:
        preset: whose variant.
        steps: length of the chain. One that is shorter than the whole is its end: it starts at
            x_steps = y + kappa·sqrt(eta_steps)·noise, as the authors run T = 1 … 4. One that
            refines may be longer.
        noise: what the steps add, one of `lpnsr.models.roles.NOISE_KINDS` for all of them, or one
            for each step that uses noise (all but the last), in the order of the chain. The noise
            that starts the chain is Gaussian in any case.
        start: one of `lpnsr.models.roles.STARTS`.
        timestep: of the diffusion model, in place of the one that is estimated from each picture.

    Raises:
        PresetError: the preset has no such variant.
    """
    if start == "swinir" and "pre_upsampler" not in preset.networks:
        raise PresetError(f"{preset.name} has no pre-upsampler; its start is bicubic")
    if start == "bicubic":
        preset = _without(preset, "pre_upsampler")
    if steps is not None:
        try:
            preset = replace(preset, schedule=preset.schedule.truncated(steps))
        except ValueError as error:
            raise PresetError(f"{preset.name}: {error}") from error
    if timestep is not None:
        preset = _at_timestep(preset, timestep)
    if noise and (kinds := _kind_of_each_step(preset, noise)):
        schedule = replace(residual(preset.schedule), noise_kinds=kinds)
        preset = replace(preset, schedule=schedule)
    if not any(step.predicted for step in preset.schedule.reverse_steps()):
        preset = _without(preset, "noise_predictor")
    return preset


def describe(preset: Preset) -> dict[str, int | str | list[str]]:
    """What distinguishes variants of a preset.

    Returns:
        `steps`, the length of the chain; `noise`, the kind that each step but the last adds;
        `start`, where the chain starts from; `timestep`, if it is fixed. `vary` takes them.
    """
    steps = preset.schedule.reverse_steps()
    predicted = "noise_predictor" in preset.networks
    noise = [
        "zero" if not step.noise else "predicted" if predicted and step.predicted else "gaussian"
        for step in steps[:-1]
    ]
    start = "swinir" if "pre_upsampler" in preset.networks else "bicubic"
    found: dict[str, int | str | list[str]] = {"steps": len(steps), "noise": noise, "start": start}
    timestep = getattr(preset.schedule, "timestep", None)
    return found if timestep is None else {**found, "timestep": timestep}


def _kind_of_each_step(preset: Preset, kinds: Sequence[str]) -> tuple[str, ...]:
    if preset.schedule.deterministic and set(kinds) != {"zero"}:
        raise PresetError(f"the steps of {preset.name} use no noise; leave out --noise")
    if "predicted" in kinds and "noise_predictor" not in preset.networks:
        raise PresetError(f"{preset.name} has no noise predictor; its noise is gaussian or zero")
    noisy = len(preset.schedule.reverse_steps()) - 1
    if not hasattr(preset.schedule, "noise_kinds"):
        return ()
    if len(kinds) == 1:
        return tuple(kinds) * noisy
    if len(kinds) != noisy:
        raise PresetError(
            f"{preset.name} has {noisy} steps that use noise here: "
            f"give one kind of noise for all or {noisy}, not {len(kinds)}"
        )
    return tuple(kinds)


def _at_timestep(preset: Preset, timestep: int) -> Preset:
    if "timestep_estimator" not in preset.networks:
        raise PresetError(f"{preset.name} estimates no timestep; leave out --timestep")
    if not 0 <= timestep < TRAINED_STEPS:
        raise PresetError(
            f"{preset.name} has no timestep {timestep}; take one from 0 to {TRAINED_STEPS - 1}"
        )
    schedule = replace(refinement(preset.schedule), timestep=timestep)
    preset = replace(preset, schedule=schedule)
    return _without(preset, "timestep_estimator")


def _without(preset: Preset, role: str) -> Preset:
    networks = {name: network for name, network in preset.networks.items() if name != role}
    return replace(preset, networks=networks)
