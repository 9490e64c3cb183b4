"""Training configurations: TOML files, one table for each stage."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lpnsr.models.training.errors import TrainingError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STAGES = ("pre_upsampler", "denoiser", "noise_predictor")
DIFFUSION_STAGES = ("timestep_estimator", "encoder")
"""Those of DM-SR."""
CHOICES = {
    "pixel": ("l1", "l2", "charbonnier", "psnr"),
    "judged": ("all", "degraded"),
    "start": ("bicubic", "pre_upsampler"),
    "states": ("forward", "chain"),
    "target": ("original", "noise_free"),
}


@dataclass(frozen=True)
class StageConfig:
    """How one stage is trained; the defaults are those of LPNSR, Algorithm 1.

    Attributes:
        iterations: updates of the network.
        batch: crops of an update.
        crop: side of a crop of the small picture.
        learning_rate: of AdamW at the start.
        final_learning_rate: at the end of a cosine.
        warm_up: iterations over which the learning rate rises from zero.
        clip: largest norm of the gradient.
        ema: decay of the moving average of the weights, which is what is kept.
        pixel: loss on values: l1, l2, charbonnier or psnr (the logarithm of each picture's mean
            squared error, so that all pictures count alike).
        clean_error: weight of the logarithm of each clean crop's mean squared error, which lets
            smooth crops, whose errors are small, count as much as busy ones.
        no_harm: in the pre-upsampler's training, weight of how far the logarithm of a crop's mean
            squared error lies above bicubic interpolation's, zero where it lies below.
        perceptual: weight of the perceptual term.
        degraded_perceptual: added to that weight for degraded crops, so that a network that tells
            them from clean ones can be crisp there and faithful here.
        adversarial: weight of the hinge loss; 0 for none.
        features: weight of the distance of the discriminator's features (feature matching).
        judged: what the discriminator sees, all crops or degraded ones alone, so that a network is
            not led to invent detail where the input is clean.
        judge_channels: width of the discriminator's first layer.
        adversarial_start: iteration from which there is a discriminator.
        start: what the chain starts from in training.
        states: what the denoiser learns from: x_t made of the true x_0 (forward, ResShift's
            objective), or the states that the chain reaches by itself (chain).
        steps: lengths of the chain to train, drawn anew for each update; empty for the whole.
        straight_through: in the noise predictor's training, let gradients pass the denoiser as if
            it returned its state: no way back through it, for one that nearly does (skip).
        color_fix: in the training of the pre-upsampler and the noise predictor, judge the picture
            with the large-scale colours of its input, as the runtime gives it to users.
        target: in the noise predictor's training, what the picture is held against: the original,
            or the picture that the last step alone makes of a start without noise (noise_free).
            The second teaches only to undo noise, but with a fraction of the first's variance.
        bfloat16: autocast; weights stay float32.
        checkpoint_activations: compute the networks again on the way back to save memory.
        save_every: iterations between checkpoints, validations and contact sheets.
    """

    iterations: int = 100_000
    batch: int = 8
    crop: int = 64
    learning_rate: float = 5e-5
    final_learning_rate: float = 1e-5
    warm_up: int = 0
    clip: float = 1.0
    ema: float = 0.999
    pixel: str = "l1"
    clean_error: float = 0.0
    no_harm: float = 0.0
    perceptual: float = 1.0
    degraded_perceptual: float = 0.0
    adversarial: float = 0.1
    features: float = 0.0
    judged: str = "all"
    judge_channels: int = 64
    adversarial_start: int = 10_000
    start: str = "bicubic"
    states: str = "forward"
    steps: tuple[int, ...] = ()
    straight_through: bool = False
    color_fix: bool = False
    target: str = "original"
    bfloat16: bool = True
    checkpoint_activations: bool = True
    save_every: int = 1000


@dataclass(frozen=True)
class Config:
    """A configuration file.

    Attributes:
        preset: name of the preset whose networks are trained.
        seed: of weights, crops and noise.
        degraded_share: how often a crop comes from the degraded pairs.
        permuted_share: how often a crop's colour channels change places, against a colour bias of
            few photographs.
        border_share: how often a crop reaches beyond a picture's edge along an axis, where the
            picture goes on as in a mirror, as the runtime continues it.
        hold_out: file names of photographs that are not trained on.
        stages: by stage.
    """

    preset: str
    seed: int = 0
    degraded_share: float = 0.0
    permuted_share: float = 0.0
    border_share: float = 0.0
    hold_out: tuple[str, ...] = ()
    stages: dict[str, StageConfig] = field(default_factory=dict)


def load_config(file: Path) -> Config:
    """Read a configuration.

    Raises:
        TrainingError: the file is missing or no TOML, or a setting is unknown or of another type.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(f"{file} cannot be read as a configuration: {error}") from error
    tables = {name: content.pop(name) for name in (*STAGES, *DIFFUSION_STAGES) if name in content}
    stages = {
        name: _read(StageConfig, table, f"{file}, [{name}]") for name, table in tables.items()
    }
    if "preset" not in content:
        raise TrainingError(f'{file} names no preset; add a line like preset = "lpnsr-tiny"')
    config = _read(Config, content, str(file))
    return Config(**{**vars(config), "stages": stages})


def _read(kind: type, table: dict[str, Any], where: str) -> Any:
    known = {f.name: f.default for f in fields(kind) if f.name != "stages"}
    for name, value in table.items():
        if name not in known:
            raise TrainingError(f"{where}: unknown setting '{name}'; known: {', '.join(known)}")
        table[name] = _checked(name, value, known[name], where)
    return kind(**table)


def _checked(name: str, value: Any, default: Any, where: str) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    expected = str if name == "preset" else type(default)
    if type(value) is not expected:
        raise TrainingError(f"{where}: {name} = {value!r} is not a {expected.__name__}")
    if name in CHOICES and value not in CHOICES[name]:
        raise TrainingError(f"{where}: {name} = {value!r} is none of {', '.join(CHOICES[name])}")
    if isinstance(value, (int, float)) and value < 0:
        raise TrainingError(f"{where}: {name} = {value!r} is negative")
    return value
