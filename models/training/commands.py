"""What the subcommands of `lpnsr-train` do."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from lpnsr.models.chain import Chain
from lpnsr.models.checkpoints import CheckpointError, load_network
from lpnsr.models.codecs import PixelCodec
from lpnsr.models.pointwise import PointwiseNet
from lpnsr.models.presets import Preset, get_preset
from lpnsr.models.swin_unet import SwinUNet
from lpnsr.models.training.config import Config, StageConfig, load_config
from lpnsr.models.training.degradations import PROCESSES
from lpnsr.models.training.diffusion_objectives import start_from_published
from lpnsr.models.training.drawings import write_drawings
from lpnsr.models.training.errors import TrainingError
from lpnsr.models.training.estimate import HEADER
from lpnsr.models.training.estimate import estimate as estimate_memory
from lpnsr.models.training.objectives import make_objective, start_from_zero, start_with_detail
from lpnsr.models.training.photos import (
    Pair,
    PairCrops,
    clean_pairs,
    find_pictures,
    folder_pairs,
    open_photo,
    reduced,
)
from lpnsr.models.training.teacher import write_taught
from lpnsr.models.training.testset import write_pairs
from lpnsr.models.training.trainer import Trainer
from lpnsr.models.weights import find_weights

SHEET_SIDE = 64


def degrade(args: argparse.Namespace) -> None:
    """Make a folder of degraded pairs."""
    photos = find_pictures(args.photos, args.hold_out)
    if args.versions < 1:
        raise TrainingError("--versions must be at least 1")
    process = PROCESSES[args.process]
    write_pairs(photos, args.output, args.versions, args.crop, args.seed, process)


def draw(args: argparse.Namespace) -> None:
    """Make a folder of drawn pictures."""
    write_drawings(args.output, args.count, args.fonts, args.seed)


def teach(args: argparse.Namespace) -> None:
    """Make a folder of pairs whose large pictures are partly the teacher's."""
    write_taught(args.pairs, args.output, args.share)


def train(args: argparse.Namespace) -> None:
    """Train one network and write its weights."""
    config = load_config(args.config)
    settings = config.stages.get(args.stage)
    if settings is None:
        raise TrainingError(f"{args.config} has no table [{args.stage}]")
    preset = get_preset(config.preset)
    if args.stage not in preset.networks:
        raise TrainingError(f"{preset.name} has no {args.stage} to train")
    torch.manual_seed(config.seed)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    chain = _load(preset, settings, args).to(device)
    trainer = Trainer(
        make_objective(args.stage, chain, preset, settings),
        args.stage,
        config,
        _crops(config, settings, preset, args),
        _validation(args.validation, preset),
        args.out,
        device,
    )
    if args.resume:
        trainer.resume()
    elif trainer.checkpoint.exists():
        raise TrainingError(
            f"{trainer.checkpoint} exists: go on with --resume, or name another folder with --out"
        )
    trainer.run()
    file = (args.out / preset.networks[args.stage].files[0]).with_suffix(".safetensors")
    save_weights(chain.network(args.stage), file)
    print(file)


def estimate(args: argparse.Namespace) -> None:
    """Print the memory that each stage of a configuration takes."""
    config = load_config(args.config)
    preset = get_preset(config.preset)
    print(HEADER)
    for name, settings in config.stages.items():
        print(estimate_memory(preset, name, settings).row(name))


def save_weights(network: nn.Module, file: Path) -> None:
    """Write weights as float16 safetensors; an older file stays until the new one is whole."""
    partial = file.with_name(f".{file.name}.partial")
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, partial)
    partial.replace(file)


def _load(preset: Preset, settings: StageConfig, args: argparse.Namespace) -> Chain:
    """The chain with a fresh or given network to train and the frozen ones it needs."""
    chain = preset.build()
    frozen = {
        "pre_upsampler": [],
        "denoiser": ["autoencoder", "pre_upsampler", "auxiliary"],
        "noise_predictor": ["autoencoder", "pre_upsampler", "denoiser"],
        "timestep_estimator": [],
        "encoder": ["timestep_estimator", "denoiser", "decoder", "text_encoder"],
    }[args.stage]
    if settings.start == "bicubic" and "pre_upsampler" in frozen:
        frozen.remove("pre_upsampler")
    frozen = [role for role in frozen if role in preset.networks]
    folder = args.weights or args.out
    try:
        files = find_weights(preset, folder, roles=frozen)
    except CheckpointError as error:
        raise TrainingError(
            f"{args.stage} needs the weights of {', '.join(frozen)} in {folder}: "
            "train it first, or name another folder with --weights"
        ) from error
    for role, file in files.items():
        load_network(chain.network(role), file, role, preset.networks[role].source)
    if args.stage == "encoder":
        start_from_published(chain, files["decoder"])
    network = chain.network(args.stage)
    if args.init:
        load_network(network, args.init, args.stage)
    else:
        start_from_zero(network)
        rearranged = args.stage == "noise_predictor" and isinstance(chain.codec, PixelCodec)
        if rearranged and isinstance(network, SwinUNet | PointwiseNet):
            start_with_detail(network, preset.scale)
    return chain


def _crops(
    config: Config, settings: StageConfig, preset: Preset, args: argparse.Namespace
) -> PairCrops:
    clean: list[Pair] = []
    degraded: list[Pair] = []
    if args.photos and config.degraded_share < 1:
        photos = find_pictures(args.photos, config.hold_out)
        clean = clean_pairs(photos, preset.scale, settings.crop)
    if args.pairs and config.degraded_share > 0:
        for folder in args.pairs:
            degraded += folder_pairs(folder, preset.scale, settings.crop)
    return PairCrops(clean, degraded, config, preset.scale)


def _validation(folder: Path | None, preset: Preset) -> list[Pair]:
    """The middle of each photograph, reduced."""
    if folder is None:
        return []
    side = SHEET_SIDE * preset.scale
    pairs = []
    for file in find_pictures([folder]):
        photo = open_photo(file)
        if min(photo.size) >= side:
            left, top = (photo.width - side) // 2, (photo.height - side) // 2
            pairs.append(reduced(photo.crop((left, top, left + side, top + side)), preset.scale))
    return [(np.array(small), np.array(large)) for small, large in pairs]
