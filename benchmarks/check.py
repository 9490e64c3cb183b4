"""What somebody with official weights runs once, and attaches to an issue.

Exports a model, verifies it against eager PyTorch, builds engines where there is a GPU for them,
upscales eight pictures in every backend that is there, in turns, and writes one page.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from lpnsr.benchmarks import folder, machine, samples
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.methods import AUTHORS, CALLS, EAGER
from lpnsr.benchmarks.timing import Row, reason, seconds, spread, time_in_turns
from lpnsr.export.check.parity import verify_bundle
from lpnsr.export.check.ranges import RangeError
from lpnsr.export.check.sentences import sentence
from lpnsr.export.check.verify import ParityError
from lpnsr.export.cli import add_downloads
from lpnsr.export.engines import building, command
from lpnsr.export.obtaining import obtain
from lpnsr.export.pack import pack
from lpnsr.models.chain import Chain
from lpnsr.models.presets import get_preset
from lpnsr.models.roles import PRECISIONS
from lpnsr.models.training.drawings import write_drawings
from lpnsr.models.weights import load_chain
from lpnsr.runtime.backends.engine_files import BUILDERS
from lpnsr.runtime.bundle import Bundle, sha256
from lpnsr.runtime.command.jobs import plan
from lpnsr.runtime.pictures import images
from lpnsr.runtime.tiles.sizes import parse_tile

PICTURES, SIDE = 8, 128
"""How many pictures, and how large they are where none are given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lpnsr-bench check`."""
    add = parser.add_argument
    add("--preset", default="lpnsr", help="model (default: %(default)s)")
    add("--weights", type=Path, help="folder with the checkpoints under their official names")
    add("--precision", choices=PRECISIONS, default="fp32", help="of the export")
    add("--tile", type=parse_tile, default=(64, 64), help="of the export (default: 64)")
    add("--photos", type=Path, metavar="DIR", help="its first eight pictures (default: drawings)")
    add("--runs", type=int, default=3, help="timed rounds (default: %(default)s)")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("lpnsr-check"),
        help="write OUTPUT.md and OUTPUT.json (default: %(default)s)",
    )
    add_downloads(parser)


def run(args: argparse.Namespace) -> int:
    """Check, print and write; returns the exit code, 1 if the export does not verify.

    Raises:
        CheckpointError, DownloadError: a checkpoint is missing or cannot be had.
        SampleError: there are no pictures.
    """
    preset = get_preset(args.preset)
    files = obtain(preset, args, {})
    kept: dict[str, Any] = {
        "preset": preset.name,
        "asked": {"precision": args.precision, "tile": args.tile, "runs": args.runs},
        "weights": {file.name: sha256(file) for file in files.values()},
        "machine": machine.environment(),
    }
    with tempfile.TemporaryDirectory() as name:
        there = Path(name)
        pictures = _pictures(args.photos, there)
        chain = load_chain(preset, files)
        options = {"precision": args.precision}
        shapes, target = [(1, args.tile)], there / preset.name
        _say(f"exports {preset.name}")
        try:
            taken = seconds(lambda: pack(chain, preset, shapes, target, **options))
            _say("verifies")
            found = verify_bundle(Bundle.open(target), None, files).manifest.graphs
        except (ParityError, RangeError) as error:
            kept["failed"] = str(error)
        else:
            kept["export"] = round(taken, 1)
            kept["parity"] = {"at export": Bundle.open(target).manifest.graphs[0].parity}
            kept["parity"]["verified anew"] = found[0].parity
            kept["engines"] = _build_engines(target)
            kept |= _upscale(chain, Bundle.open(target), pictures, there / "out", args.runs)
    text = describe(kept)
    print(text)
    args.output.with_name(f"{args.output.name}.json").write_text(json.dumps(kept, indent=1) + "\n")
    args.output.with_name(f"{args.output.name}.md").write_text(text + "\n", encoding="utf-8")
    return 1 if "failed" in kept else 0


def describe(kept: dict) -> str:
    """The page, Markdown, of what the JSON file keeps."""
    about, asked = kept["machine"], kept["asked"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    parts = [
        f"# Check of `{kept['preset']}`",
        f"{about['processor']}, {about['cores']} cores, {about['memory, GB']} GB; GPU: "
        f"{about['GPU'] or 'none'}; {about['system']}, Python {about['python']}; {versions}.",
        f"Exported in {asked['precision']} for tiles of {'x'.join(map(str, asked['tile']))}, from",
        table(
            ["checkpoint", "SHA-256"],
            [[f"`{name}`", f"`{digest}`"] for name, digest in kept["weights"].items()],
        ),
        "## Does it compute what eager PyTorch does?",
    ]
    if "failed" in kept:
        return "\n\n".join([*parts, f"**No:** {kept['failed']}."])
    measured = [
        f"- {when}, {precision}: {sentence(parity)}"
        for when, found in kept["parity"].items()
        for precision, parity in found.items()
    ]
    megapixels = kept["scale"] ** 2 * sum(h * w for h, w in kept["sizes"]) / 1e6
    row = Row(**kept["row"])
    lines = [
        [
            name,
            spread(values),
            f"{median(values) / megapixels:.2f}",
            "reference" if name == EAGER else f"{row.psnr[name]:.0f} dB",
        ]
        for name, values in row.seconds.items()
    ]
    header = ["method", "median, spread", "s per output MP", "PSNR to eager"]
    absent = [f"- {name}: {why}" for name, why in (kept["missing"] | kept["engines"]).items()]
    return "\n\n".join(
        [
            *parts,
            "\n".join(measured),
            f"## {len(kept['sizes'])} pictures, {megapixels:.2f} output megapixels",
            f"From file to file, in turns, each timed {asked['runs']} times; the export took "
            f"{kept['export']} s.",
            table(header, lines),
            *(["Not possible here:", "\n".join(absent)] if absent else []),
        ]
    )


def _pictures(photos: Path | None, there: Path) -> list[Path]:
    """Eight of these, or drawings."""
    if photos:
        return [sample.file for sample in samples.find([photos])[:PICTURES]]
    write_drawings(there / "drawn", PICTURES, None, seed=0)
    drawn = sorted((there / "drawn").iterdir())
    for file in drawn:
        with Image.open(file) as picture:
            picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(file)
    return drawn


def _build_engines(target: Path) -> dict[str, str]:
    """Add engines of all builders that can; builder -> why it cannot."""
    failed = {}
    for builder in BUILDERS:
        if building.present() is None:
            failed[builder] = "there is no NVIDIA GPU"
            continue
        try:
            command.build(Bundle.open(target), building.order(builder))
        except (RuntimeError, MemoryError) as error:
            failed[builder] = reason(error)
    return failed


def _upscale(
    chain: Chain, bundle: Bundle, pictures: list[Path], output: Path, runs: int
) -> dict[str, object]:
    """Every method in turns; sizes are (height, width)."""
    jobs = plan(pictures, output).jobs
    methods = folder.ways(chain.to("cuda" if torch.cuda.is_available() else "cpu"), bundle, jobs)
    ours = {
        name: call for name, call in methods.runs.items() if not name.endswith((AUTHORS, CALLS))
    }
    _say(f"upscales {len(jobs)} pictures in {', '.join(ours)}")
    row = time_in_turns(Row(bundle.manifest.preset, 0), ours, runs)
    return {
        "sizes": [images.probe(job.source).size for job in jobs],
        "scale": bundle.manifest.scale,
        "row": asdict(row),
        "missing": methods.missing | row.failed,
    }


def _say(text: str) -> None:
    print(f"lpnsr-bench check: {text}", file=sys.stderr, flush=True)
