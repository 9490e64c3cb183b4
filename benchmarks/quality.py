"""How well models restore photographs, beside bicubic interpolation.

A folder with `lr/` and `hr/` holds pairs; with --reduce, the pictures are originals and their
bicubic reductions the inputs; other pictures have no original, and get only the metrics that need
none. PSNR, SSIM and sharpness (gradient energy as a share of the original's) are on luma; colour is
the mean difference CIEDE2000.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from lpnsr.benchmarks import peers, samples
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.metrics import Metric, Quality, compare, perceptual
from lpnsr.benchmarks.samples import Sample
from lpnsr.runtime.bundle import BUILTIN
from lpnsr.runtime.manifest import MANIFEST
from lpnsr.runtime.upscaler import Upscaler

LANCZOS = Image.Resampling.LANCZOS

FORMATS = {"psnr": "{:.2f} dB", "ssim": "{:.4f}", "sharpness": "{:.1%}", "color": "{:.3f}"}
NAMES = {"psnr": "PSNR-Y", "ssim": "SSIM-Y", "color": "colour difference", "brisque": "BRISQUE"}

Upscale = Callable[[np.ndarray], np.ndarray]
Record = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `lpnsr-bench quality`."""
    add = parser.add_argument
    add("inputs", type=Path, nargs="+", metavar="INPUT", help="pictures, or folders of such")
    add("--reduce", action="store_true", help="the pictures are originals: reduce them first")
    add("--model", type=Path, nargs="+", default=[BUILTIN], metavar="BUNDLE")
    add(
        "--scale",
        type=int,
        metavar="N",
        help="less than the models': their pictures reduced, and those of inputs reduced first",
    )
    add("--peers", action="store_true", help="Real-ESRGAN in ncnn too (extra `peers`, scale 4)")
    add("--each", action="store_true", help="a table of every picture too")
    add("--json", type=Path, metavar="FILE", help="all values; a stopped run goes on from them")
    add("--markdown", type=Path, metavar="FILE", help="the tables, which are printed anyway")


def run(args: argparse.Namespace) -> int:
    """Measure what is not in the JSON file yet, and print the tables."""
    found = samples.find(args.inputs, args.reduce)
    metrics, lacking = perceptual()
    # In fp32, so that figures do not depend on what the processor computes in.
    upscalers = {_name(path): Upscaler.from_bundle(path, precision="fp32") for path in args.model}
    if len(upscalers) < len(args.model):
        raise ValueError("two bundles have the same folder name; rename one")
    scales = {upscaler.bundle.manifest.scale for upscaler in upscalers.values()}
    if len(scales) > 1:
        raise ValueError("the bundles have different scales; compare them one by one")
    (most,) = scales
    scale = most if args.scale is None else args.scale
    if not 1 <= scale <= most:
        raise ValueError(f"--scale {scale} is not from 1 to {most}")
    if args.peers and scale < most:
        raise ValueError("--peers measures at scale 4 alone; leave out --scale")
    methods: dict[str, tuple[str, Upscale]] = {
        "bicubic": ("bicubic", lambda small: samples.bicubic(small, scale))
    }
    if args.peers:
        methods[peers.NAME] = (peers.MODEL, peers.RealEsrgan().upscale)
    for path, (name, upscaler) in zip(args.model, upscalers.items(), strict=True):
        identity = _digest(path / MANIFEST)
        if scale == most:
            methods[name] = (identity, upscaler.upscale)
            continue
        identity = f"{identity} x{scale}"
        methods[name] = (identity, partial(upscaler.upscale, scale=scale))
        methods[f"{name}, input reduced first"] = (
            f"{identity} reduced first",
            partial(_reduced_first, upscaler, scale),
        )

    done = _read(args.json)
    rows = []
    for sample in tqdm(found, unit="picture", disable=None):
        for method, (identity, upscale) in methods.items():
            key = {"picture": sample.file.name, "method": method, "identity": identity}
            key |= {"inputs": _inputs(sample), "metrics": sorted(metrics)}
            row = next((row for row in done if row.items() >= key.items()), None)
            if row is None:
                row = {**key, **_measure(sample, upscale, scale, metrics)}
                done.append(row)
                _write(args.json, done)
            rows.append(row)

    tables = [_means(rows, list(methods), list(metrics))]
    if args.each:
        tables.append(_each(rows, list(methods)))
    for reason in dict.fromkeys(lacking.values()):
        names = ", ".join(name for name in lacking if lacking[name] == reason)
        tables.append(f"Not available ({reason}): {names}.")
    text = "\n\n".join(tables)
    print(text)
    if args.markdown:
        args.markdown.write_text(text + "\n", encoding="utf-8")
    return 0


def measure(photo: Path, upscale: Upscale, scale: int = 4) -> tuple[Quality, Quality]:
    """Quality of `upscale` and of bicubic interpolation on one photograph, reduced."""
    small, original = samples.reduce(photo, scale)
    return compare(upscale(small), original), compare(samples.bicubic(small, scale), original)


def _reduced_first(upscaler: Upscaler, scale: int, small: np.ndarray) -> np.ndarray:
    """The model's own picture of a smaller input: of the size that is wanted, for less work."""
    height, width = small.shape[:2]
    image, share = Image.fromarray(small), scale / upscaler.bundle.manifest.scale
    less = image.resize((max(1, round(width * share)), max(1, round(height * share))), LANCZOS)
    large = upscaler.upscale(less)
    return np.asarray(large.resize((width * scale, height * scale), LANCZOS))


def _measure(sample: Sample, upscale: Upscale, scale: int, metrics: Mapping[str, Metric]) -> Record:
    small, original = sample.load(scale)
    upscaled = upscale(small)
    values = {} if original is None else asdict(compare(upscaled, original))
    values |= {name: metric(upscaled, original) for name, metric in metrics.items()}
    return {name: value for name, value in values.items() if value is not None}


def _means(rows: Sequence[Record], methods: Sequence[str], metrics: Sequence[str]) -> str:
    """A row for each method."""
    names = [name for name in (*FORMATS, *metrics) if any(name in row for row in rows)]
    means = {
        method: {
            name: np.mean([row[name] for row in rows if row["method"] == method and name in row])
            for name in names
        }
        for method in methods
    }
    pictures = len(rows) // len(methods)
    header = [f"mean of {pictures} pictures", *(NAMES.get(name, name) for name in names)]
    lines = []
    for method, values in means.items():
        cells = [FORMATS.get(name, "{:.4f}").format(values[name]) for name in names]
        if "psnr" in names:
            cells.insert(1, f"{values['psnr'] - means['bicubic']['psnr']:+.2f} dB")
        lines.append([method, *cells])
    if "psnr" in names:
        header.insert(2, "gain")
    return table(header, lines)


def _each(rows: Sequence[Record], methods: Sequence[str]) -> str:
    """A row for each picture: PSNR-Y and sharpness of each method."""
    header = ["picture"]
    header += [f"{method} {what}" for what in ("PSNR-Y", "sharpness") for method in methods]
    lines = []
    for first in range(0, len(rows), len(methods)):
        group = rows[first : first + len(methods)]
        cells = [
            FORMATS[name].format(row[name]) if name in row else "-"
            for name in ("psnr", "sharpness")
            for row in group
        ]
        lines.append([group[0]["picture"], *cells])
    return table(header, lines)


def _name(bundle: Path) -> str:
    return "built-in" if bundle == BUILTIN else bundle.resolve().name


def _inputs(sample: Sample) -> str:
    """What the values depend on besides the method."""
    files = [sample.file, *([sample.original] if sample.original else [])]
    return " ".join([*map(_digest, files), *(["reduced"] if sample.reduced else [])])


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise samples.SampleError(f"{file} cannot be read: {error.strerror}") from error


def _read(file: Path | None) -> list[Record]:
    if file is None or not file.exists():
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no results of this command; remove it") from error
    return rows


def _write(file: Path | None, rows: Sequence[Record]) -> None:
    if file is None:
        return
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps({"rows": rows}, indent=1), encoding="utf-8")
    os.replace(partial, file)
