"""What each family costs on this machine: `python -m lpnsr.benchmarks.families`.

Every preset runs in a process of its own, so that its peak memory is its own: eager PyTorch with
random weights, on a GPU where PyTorch sees one. Multiply-accumulates are counted, not estimated,
in a chain without memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from lpnsr.models.presets import Preset, PresetError, get_preset

FAMILIES = ("upsr", "upsr-light", "lpnsr", "resshift")
PUBLISHED = (
    "Published (UPSR, tables 2 and 6): UPSR-5 1.12 s and ResShift-4 1.00 s for a batch of 32 of "
    "64x64 on an RTX 4090; UPSR-5 0.212 s and 2.83 GB for one RealSR picture."
)


@dataclass(frozen=True)
class Cost:
    """What one preset takes.

    Attributes:
        preset: its name.
        steps: length of the reverse chain.
        parameters: of all networks.
        macs: multiply-accumulates for one tile.
        seconds: median time of one batch.
        memory: peak in bytes, of the GPU where there is one, else of the process.
    """

    preset: str
    steps: int
    parameters: int
    macs: int
    seconds: float
    memory: int

    def row(self) -> str:
        """A line of the Markdown table."""
        return (
            f"| {self.preset}, {self.steps} steps | {self.parameters / 1e6:.1f} M | "
            f"{self.macs / 1e12:.2f} T | {self.seconds:.2f} | {self.memory / 1e9:.2f} |"
        )


@torch.no_grad()
def measure(name: str, tile: int, batch: int, runs: int) -> Cost:
    """Run the eager chain of a preset on random input; the first run is not counted."""
    preset = get_preset(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chain = preset.build().to(device)
    lr = torch.rand(batch, 3, tile, tile, device=device) * 2 - 1
    noise = torch.randn(preset.draws, batch, preset.latent_channels, tile, tile, device=device)
    chain(lr, noise)
    seconds = sorted(_seconds(chain, lr, noise) for _ in range(runs))[runs // 2]
    return Cost(
        preset=name,
        steps=len(preset.schedule.reverse_steps()),
        parameters=sum(parameter.numel() for parameter in chain.parameters()),
        macs=_macs(preset, tile),
        seconds=seconds,
        memory=_peak_memory(),
    )


def _macs(preset: Preset, tile: int) -> int:
    with torch.device("meta"):
        chain = preset.build()
        lr = torch.empty(1, 3, tile, tile)
        noise = torch.empty(preset.draws, 1, preset.latent_channels, tile, tile)
    with FlopCounterMode(display=False) as counter:
        chain(lr, noise)
    return counter.get_total_flops() // 2


def _seconds(chain: torch.nn.Module, lr: torch.Tensor, noise: torch.Tensor) -> float:
    start = time.perf_counter()
    chain(lr, noise)
    if lr.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure each preset in a process of its own and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m lpnsr.benchmarks.families")
    parser.add_argument("presets", nargs="*", default=FAMILIES, metavar="PRESET")
    parser.add_argument("--tile", type=int, default=64, help="side of a tile in pixels")
    parser.add_argument("--batch", type=int, default=1, help="tiles at once")
    parser.add_argument("--runs", type=int, default=3, help="timed runs; the median counts")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        for name in args.presets:
            get_preset(name)
    except PresetError as error:
        parser.error(str(error))
    size = (args.tile, args.batch, args.runs)
    if args.alone:
        print(json.dumps(asdict(measure(args.presets[0], *size))))
        return
    options = [f"--{name}={getattr(args, name)}" for name in ("tile", "batch", "runs")]
    command = [sys.executable, "-m", "lpnsr.benchmarks.families", "--alone", *options]
    costs = []
    for name in tqdm(args.presets, unit="preset", disable=None):
        printed = subprocess.run([*command, name], check=True, capture_output=True, text=True)
        costs.append(Cost(**json.loads(printed.stdout)))
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"Batch {args.batch} of {args.tile}x{args.tile}, eager PyTorch, float32, {where}")
    print("\n| preset | parameters | MAC a tile | seconds | peak memory, GB |")
    print("| --- | --- | --- | --- | --- |")
    print("\n".join(cost.row() for cost in costs))
    print(f"\n{PUBLISHED}")


if __name__ == "__main__":
    main()
