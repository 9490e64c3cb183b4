"""Train the built-in model: `python -m lpnsr.models.training --photos DIR --out DIR`.

Three stages, each with the earlier networks frozen:

1. pre-upsampler: regression (L1) on crops;
2. denoiser: the ResShift objective, predict x_0 from x_t at a random t (L1 in pixels);
3. noise predictor: LPNSR, Algorithm 1, through the whole reverse chain (L1 on the picture).
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from lpnsr.models.chain import Chain
from lpnsr.models.checkpoints import load_network
from lpnsr.models.presets import get_preset, module_of
from lpnsr.models.training.photos import PhotoCrops, PhotoError

Loss = Callable[[Tensor, Tensor], Tensor]
EMA_DECAY = 0.999
LEARNING_RATE = 1e-3


def main() -> None:
    """Train stage by stage; each ends with its weights written as float16 safetensors."""
    parser = argparse.ArgumentParser(prog="python -m lpnsr.models.training", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of PNG photographs")
    parser.add_argument("--hold-out", nargs="*", default=[], help="file names not to train on")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the weights; goes on from those there"
    )
    parser.add_argument("--preset", default="lpnsr-tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--crop", type=int, default=32, help="side of an input crop")
    parser.add_argument(
        "--iterations",
        type=int,
        nargs=3,
        default=(5000, 7500, 600),
        metavar=("PRE_UPSAMPLER", "DENOISER", "NOISE_PREDICTOR"),
        help="of each stage, 0 leaves it out",
    )
    args = parser.parse_args()

    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    chosen = sorted(f for f in args.photos.glob("*.png") if f.name not in args.hold_out)
    try:
        photos = PhotoCrops(chosen, scale=4, generator=generator)
    except PhotoError as error:
        parser.error(str(error))
    preset = get_preset(args.preset)
    chain = preset.build()
    args.out.mkdir(parents=True, exist_ok=True)
    stages = {
        "pre_upsampler": (_pre_upsampler_loss(chain), 8),
        "denoiser": (_denoiser_loss(chain), 8),
        "noise_predictor": (_chain_loss(chain), 4),
    }
    files = {role: args.out / network.files[0] for role, network in preset.networks.items()}
    for role, file in files.items():
        if file.exists():
            load_network(module_of(chain, role), file, role)
    for (role, (loss, batch)), iterations in zip(stages.items(), args.iterations, strict=True):
        if iterations:
            batches = (photos.batch(batch, args.crop) for _ in range(iterations))
            train(module_of(chain, role), loss, batches, iterations)
            save(module_of(chain, role), files[role], role)


def train(
    network: nn.Module,
    loss: Loss,
    batches: Iterator[tuple[Tensor, Tensor]],
    iterations: int,
) -> None:
    """Train in place; the network ends with the moving average of its weights.

    Adam, cosine decay to a hundredth after a short warm-up, bfloat16 autocast.
    """
    average = copy.deepcopy(network)
    network.train().requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _warm_cosine(step, iterations)
    )
    progress = tqdm(batches, total=iterations, mininterval=10, desc="training")
    smooth, started = None, time.monotonic()
    for step, (lr, hr) in enumerate(progress):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(lr, hr)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for mean, new in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(new.detach(), 1 - decay)
        smooth = value.item() if smooth is None else 0.99 * smooth + 0.01 * value.item()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{smooth:.5f}", refresh=False)
    network.load_state_dict(average.state_dict())
    network.eval().requires_grad_(False)
    tqdm.write(f"loss {smooth:.5f} after {time.monotonic() - started:.0f} s")


def save(network: nn.Module, file: Path, role: str) -> None:
    """Write a network's weights as float16, and continue with what was written."""
    save_file({k: v.half().contiguous() for k, v in network.state_dict().items()}, file)
    load_network(network, file, role)


def _pre_upsampler_loss(chain: Chain) -> Loss:
    return lambda lr, hr: F.l1_loss(chain.pre_upsampler(lr).float(), hr)


def _denoiser_loss(chain: Chain) -> Loss:
    steps = chain.schedule.reverse_steps()
    etas = torch.tensor(chain.schedule.etas.copy(), dtype=torch.float32)
    scales = torch.tensor([step.input_scale for step in reversed(steps)])

    def loss(lr: Tensor, hr: Tensor) -> Tensor:
        with torch.no_grad():
            y = chain.encode(lr).float()
            x0 = chain.codec.encode(hr)
            t = torch.randint(len(steps), (len(lr),))
            eta = etas[t, None, None, None]
            eps = torch.randn_like(x0)
            x = x0 + eta * (y - x0) + chain.schedule.kappa * eta.sqrt() * eps
            x = x * scales[t, None, None, None]
        predicted = chain.denoiser(torch.cat([x, lr], dim=1), chain.denoiser.modulation(t))
        return F.l1_loss(predicted.float(), x0)

    return loss


def _chain_loss(chain: Chain) -> Loss:
    def loss(lr: Tensor, hr: Tensor) -> Tensor:
        with torch.no_grad():
            y = chain.encode(lr).float()
            noise = torch.randn(chain.schedule.steps, *y.shape)
        return F.l1_loss(chain.codec.decode(chain.reverse(y, lr, noise).float()), hr)

    return loss


def _warm_cosine(step: int, iterations: int, warm_up: int = 100) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * (1 + math.cos(math.pi * step / iterations)) / 2


if __name__ == "__main__":
    main()
