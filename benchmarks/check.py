"""What somebody with official weights runs once, and attaches to an issue.

Exports a model, verifies it against eager PyTorch, builds engines where there is a GPU for them,
upscales eight pictures in every backend that is there, and writes one page. Backends run one after
the other, so that memory holds one at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from lpnsr.benchmarks import folder, machine, samples
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.measure import own_cache
from lpnsr.benchmarks.methods import EAGER, Methods
from lpnsr.benchmarks.timing import Row, Run, Timer, reason, seconds, spread
from lpnsr.export.check.parity import verify_bundle
from lpnsr.export.check.ranges import RangeError
from lpnsr.export.check.sentences import sentence
from lpnsr.export.check.verify import ParityError
from lpnsr.export.cli import add_downloads
from lpnsr.export.engines import building, command
from lpnsr.export.obtaining import obtain
from lpnsr.export.pack import pack
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset, get_preset
from lpnsr.models.roles import PRECISIONS
from lpnsr.models.training.drawings import write_drawings
from lpnsr.models.weights import load_chain
from lpnsr.runtime.backends.engine_files import BUILDERS
from lpnsr.runtime.backends.registry import BACKENDS
from lpnsr.runtime.bundle import Bundle, sha256
from lpnsr.runtime.command.jobs import plan
from lpnsr.runtime.pictures import images
from lpnsr.runtime.tiles.sizes import parse_tile

PICTURES, SIDE = 8, 120
"""How many pictures, and how large they are where none are given: two overlapping tiles a side."""


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
        help="write OUTPUT.md and OUTPUT.json, which replaces them (default: %(default)s)",
    )
    add_downloads(parser)


def run(args: argparse.Namespace) -> int:
    """Check, print and write; returns the exit code, 1 if the export does not verify.

    Raises:
        CheckpointError, DownloadError: a checkpoint is missing or cannot be had.
        SampleError: there are no pictures, or one cannot be read.
    """
    preset = get_preset(args.preset)
    page, figures = (args.output.with_name(args.output.name + end) for end in (".md", ".json"))
    page.parent.mkdir(parents=True, exist_ok=True)  # if that fails, then before the work
    with tempfile.TemporaryDirectory() as name:
        there = Path(name)
        pictures, target = _pictures(args.photos, there), there / preset.name
        files = obtain(preset, args, {})
        kept: dict[str, Any] = {
            "preset": preset.name,
            "asked": {"precision": args.precision, "tile": args.tile, "runs": args.runs},
            "weights": {role: (file.name, sha256(file)) for role, file in files.items()},
            "machine": machine.environment(),
        }
        try:
            kept |= _export(preset, files, target, args)
        except (ParityError, RangeError) as error:
            kept["failed"] = str(error)
        else:
            kept["engines"] = _build_engines(target)
            chain, bundle = load_chain(preset, files), Bundle.open(target)
            with own_cache(there / "cache"):
                kept |= _upscale(chain, bundle, pictures, there / "out", args.runs)
    text = describe(kept)
    print(text)
    figures.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    page.write_text(text + "\n", encoding="utf-8")
    _say(f"{page} and {figures} are written, to be attached to an issue")
    return 1 if "failed" in kept else 0


def _export(
    preset: Preset, files: Mapping[str, Path], target: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Export, and verify with weights that are loaded anew; seconds and parity."""

    def export() -> None:
        chain, options = load_chain(preset, files), {"precision": args.precision}
        pack(chain, preset, [(1, args.tile)], target, progress=_say, **options)

    taken = round(seconds(export), 1)
    _say("verify once more")
    bundle = Bundle.open(target)
    again = verify_bundle(bundle, None, files)
    parity = {
        when: each.manifest.graphs[0].parity
        for when, each in (("at export", bundle), ("verified anew", again))
    }
    return {"export": taken, "parity": parity}


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
            ["network", "checkpoint", "SHA-256"],
            [
                [role, f"`{name}`", f"`{digest}`"]
                for role, (name, digest) in kept["weights"].items()
            ],
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
            "**Yes**, within what an export has to keep:",
            "\n".join(measured),
            f"## {len(kept['sizes'])} pictures, {megapixels:.2f} output megapixels",
            f"From file to file, one method after the other, each timed {asked['runs']} times "
            f"after a run to warm up; the export took {kept['export']} s.",
            table(header, lines),
            *(["Not possible here:", "\n".join(absent)] if absent else []),
        ]
    )


def _pictures(photos: Path | None, there: Path) -> list[Path]:
    """Eight of these, or drawings."""
    if photos:
        chosen = [sample.file for sample in samples.find([photos])[:PICTURES]]
        try:
            for file in chosen:
                images.probe(file)
        except images.ImageError as error:
            raise samples.SampleError(error) from error
        return chosen
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
        bundle = Bundle.open(target)
        if building.present() is None:
            failed[builder] = "there is no NVIDIA GPU"
            continue
        try:
            BACKENDS[builder].check_bundle(bundle.manifest)
            command.build(bundle, building.order(builder))
        except (RuntimeError, MemoryError, OSError) as error:
            failed[builder] = reason(error)
    return failed


def _upscale(
    chain: Chain, bundle: Bundle, pictures: list[Path], output: Path, runs: int
) -> dict[str, object]:
    """Every method, one after the other; sizes are (height, width)."""
    jobs = plan(pictures, output).jobs
    timer = Timer(Row(bundle.manifest.preset, 0), runs)

    def upscale(name: str, call: Run) -> None:
        _say(f"upscale {len(jobs)} pictures in {name}")
        timer.time({name: call})

    methods = Methods(use=upscale)
    chain = chain.to("cuda" if torch.cuda.is_available() else "cpu")
    folder.add_ours(methods, chain, bundle, jobs)
    return {
        "sizes": [images.probe(job.source).size for job in jobs],
        "scale": bundle.manifest.scale,
        "row": asdict(timer.row),
        "missing": methods.missing | timer.row.failed,
    }


def _say(text: str) -> None:
    print(f"lpnsr-bench check: {text}", file=sys.stderr, flush=True)
