"""Markdown of results: what `--json` keeps, as tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from lpnsr.benchmarks.machine import RATES
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.measure import Result
from lpnsr.benchmarks.methods import AUTHORS, CALLS, EAGER, STAGED, TRACED, UNCAPTURED
from lpnsr.benchmarks.timing import spread, tell_apart, times_as_fast
from lpnsr.benchmarks.workloads import Published, Workload

CAUSES = (
    "padding and tile overlap",
    "unused calls (the noise predictor's last)",
    "engine",
    "graph rewriting",
    "engine and graph rewriting",
    "precision",
    "total",
)


def speeds(workload: Workload, results: Sequence[Result], rates: Mapping[str, float]) -> str:
    """A row for each model and method, and one for each model that only others have measured.

    Args:
        workload: what was measured.
        results: of its models.
        rates: precision -> measured GMAC/s in matrix products.
    """
    peaks = any(result.starts for result in results)
    theirs = {row.label: row for row in workload.published}
    header = [
        "model",
        "method",
        "median, spread",
        "times the authors'",
        "PSNR to eager",
        "of peak rate",
    ]
    if peaks:
        header.append("peak memory")
    if theirs:
        header.append(f"*published: {workload.source}*")
    lines = []
    for result in results:
        for name, cells in _methods(result, rates, peaks):
            if theirs:
                found = theirs.get(result.label) if AUTHORS in name else None
                cells.append(_published(found))
            lines.append([result.label, name, *cells])
    ours = {result.label for result in results}
    for label, row in theirs.items():
        if label not in ours:
            lines.append([label, *["-"] * (len(header) - 2), _published(row)])
    return table(header, lines)


def _methods(
    result: Result, rates: Mapping[str, float], peaks: bool
) -> Iterator[tuple[str, list[str]]]:
    row = result.row
    authors = next(values for name, values in row.seconds.items() if AUTHORS in name)
    for name, values in row.seconds.items():
        macs = row.macs if name.startswith("PyTorch") else result.graph_macs
        # Mixed precision is float16 for the most part.
        words = name.split(",")[0].replace("mixed", "fp16").split()
        rate = next((rates[word] for word in words if word in rates), None)
        # The authors' unused calls and a graph without its rewrites are not counted.
        odd = AUTHORS in name or TRACED in name or rate is None
        cells = [
            spread(values),
            times_as_fast(values, authors),
            f"{row.psnr[name]:.0f} dB" if name != EAGER else "reference",
            "-" if odd or rate is None else f"{macs / median(values) / 1e9 / rate:.0%}",
        ]
        if rate and name in row.made:
            cells[-1] += f", {row.made[name] / median(values) / 1e9 / rate:.0%} of what is made"
        if peaks:
            cells.append(_memory(result.starts.get(name)))
        yield name, cells


def _published(row: Published | None) -> str:
    if row is None:
        return ""
    seconds = f"{row.seconds:g} s" if row.seconds else ""
    memory = f"{row.gigabytes:g} GB" if row.gigabytes else ""
    return ", ".join(filter(None, (seconds, memory, row.parameters, row.note)))


def _memory(start: Mapping[str, Any] | None) -> str:
    if start is None:
        return "-"
    host = f"{start['memory'] / 1e9:.2f} GB"
    device = start["device_memory"]
    return host if device is None else f"{host}, GPU {device / 1e9:.2f} GB"


def starts(results: Sequence[Result]) -> str:
    """Cold start and build time, in rows of their own."""
    header = ["model", "method", "start to first picture", "second start", "build", "peak memory"]
    lines = []
    for result in results:
        for name, build in result.build.items():
            start = result.starts.get(name)
            seconds = [f"{start[which]:.1f} s" if start else "-" for which in ("first", "second")]
            if start or build:
                lines.append([result.label, name, *seconds, f"{build:.1f} s", _memory(start)])
    return table(header, lines)


def costs(results: Sequence[Result]) -> str:
    """The models, and the graphs that were made of them."""
    header = [
        "model",
        "parameters",
        "GMAC, eager",
        "GMAC, graph",
        "constants of the graph",
        "x_0 to eager, relative L2",
        "export",
    ]
    lines = [
        [
            result.label,
            f"{result.parameters / 1e6:.1f} M",
            f"{result.row.macs / 1e9:.1f}",
            f"{result.graph_macs / 1e9:.1f}",
            f"{result.constants / 1e6:.1f} M",
            ", ".join(
                f"{figures['x0_relative_l2']:.1e} in {precision}"
                for precision, figures in result.parity.items()
                if "x0_relative_l2" in figures
            ),
            "-" if result.export is None else f"{result.export:.0f} s",
        ]
        for result in results
    ]
    return table(header, lines)


def causes(methods: Collection[str]) -> dict[str, dict[str, tuple[str, str]]]:
    """What a speed-up over the authors' procedure consists of.

    Between the authors' procedure and a method lie others that differ in one thing each; the
    factors are ratios of neighbouring medians, and their product is the total.

    Args:
        methods: that were measured.

    Returns:
        method -> cause -> the methods before and after it; the total last.
    """
    authors = next(name for name in methods if AUTHORS in name)
    found = {}
    for name in methods:
        if any(part in name for part in (AUTHORS, CALLS, TRACED, STAGED, UNCAPTURED)):
            continue
        factors, before = {}, authors
        for cause, after in _path(name, authors.removesuffix(AUTHORS), methods):
            factors[cause] = before, after
            before = after
        found[name] = {**factors, "total": (authors, name)}
    return found


def _path(name: str, ours: str, there: Collection[str]) -> list[tuple[str, str]]:
    """Cause and method after it, from the authors' procedure to the method `name`."""
    fp32 = f"{name.rsplit(' ', 1)[0]} fp32"
    path = [("unused calls (the noise predictor's last)", ours)]
    if ours + CALLS in there:
        path.insert(0, ("padding and tile overlap", ours + CALLS))
    if name.startswith("PyTorch") or fp32 not in there:
        return [*path, ("engine", name)]
    if fp32 + TRACED in there:
        path += [("engine", fp32 + TRACED), ("graph rewriting", fp32)]
    else:
        path.append(("engine and graph rewriting", fp32))
    return [*path, ("precision", name)]


def causes_table(rows: Sequence[tuple[str, Mapping[str, Sequence[float]]]]) -> str:
    """The factors of every method of models (label, seconds)."""
    found = []
    for label, row in rows:
        for name, steps in causes(row).items():
            factors = {
                cause: times_as_fast(row[after], row[before])
                for cause, (before, after) in steps.items()
            }
            found.append((label, name, factors))
    names = [n for n in CAUSES if any(n in factors for _, _, factors in found)]
    lines = [[label, name, *(factors.get(n, "-") for n in names)] for label, name, factors in found]
    return table(["model", "method", *names], lines)


def ties(results: Sequence[Result]) -> str:
    """The models that a method has not told apart, as a sentence; empty if there are none."""
    found: dict[str, list[str]] = {}
    for one, other in combinations(results, 2):
        for name in one.row.seconds.keys() & other.row.seconds.keys():
            if not tell_apart(one.row.seconds[name], other.row.seconds[name]):
                found.setdefault(f"{one.label} and {other.label}", []).append(name)
    pairs = [f"{pair} ({', '.join(sorted(names))})" for pair, names in found.items()]
    return f"Not told apart, as their spreads overlap: {'; '.join(pairs)}." if pairs else ""


def missing(results: Sequence[Result]) -> str:
    """What is not there, by reason."""
    reasons: dict[str, list[str]] = {}
    for result in results:
        for name, reason in result.missing.items():
            names = reasons.setdefault(reason, [])
            names += [name] if name not in names else []
    return "\n".join(f"- {', '.join(names)}: {reason}" for reason, names in reasons.items())


def whole(kept: Mapping[str, Any], main: bool = False) -> str:
    """Everything about one workload, or its `main` table alone.

    Args:
        kept: what `lpnsr-bench table` writes to `--json`.
        main: leaves out the tables of starts, costs and parts of the speed-up.
    """
    workload = Workload.from_json(kept["workload"])
    results = [Result.from_json(fields) for fields in kept["results"]]
    machine, rates = kept["machine"], kept["machine"][RATES]
    origins = " and ".join(dict.fromkeys(result.weights for result in results))
    height, width = workload.size
    parts = [
        f"`{workload.name}`: {workload.what}; batch {workload.batch} of {height}x{width}, "
        f"{_rounds(results)}, {origins}. {machine['processor']}, {machine['cores']} cores"
        + (f", {machine['GPU']}" if machine["GPU"] else "")
        + "; in matrix products it reaches "
        + " and ".join(f"{rate} GMAC/s in {name}" for name, rate in rates.items())
        + f".{_changed(workload)}",
        speeds(workload, results, rates),
        *filter(None, [ties(results)]),
    ]
    if not main:
        parts += [
            "Times as fast as the authors' procedure, as factors whose product is the total:",
            causes_table([(result.label, result.row.seconds) for result in results]),
            costs(results),
        ]
        if any(result.starts for result in results):
            parts.append(starts(results))
    absent = missing(results)
    if absent and not main:
        parts += ["Not possible here:", absent]
    return "\n\n".join(parts)


def _rounds(results: Sequence[Result]) -> str:
    """How often all was timed, and in which order."""
    counts = sorted({len(values) for result in results for values in result.row.seconds.values()})
    text = f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} rounds"
    alone = [result.label for result in results if not result.in_turns]
    if len(alone) == len(results):
        return f"{text}, one method after the other"
    return f"{text} in turns" + (f" (but {', '.join(alone)} one by one)" if alone else "")


def summary(kept: Sequence[Mapping[str, Any]]) -> str:
    """One table of several workloads on one machine: seconds of a tile in every engine.

    Rows that only explain a difference are left out: of eager PyTorch without what the authors do,
    and of graphs as traced.

    Args:
        kept: what `lpnsr-bench table` writes to `--json`, each with one model.
    """
    lines = []
    for each in kept:
        (result,) = (Result.from_json(fields) for fields in each["results"])
        for name, (taken, times, psnr, _, memory) in _methods(
            result, each["machine"][RATES], peaks=True
        ):
            if name != EAGER and TRACED not in name:
                lines.append([result.label, name, taken, times, psnr, memory])
    machine = kept[0]["machine"]
    header = ["model", "method", "64x64 tile", "times the authors'", "PSNR to eager", "memory"]
    return f"{table(header, lines)}\n\n{machine['processor']}, {machine['cores']} cores."


def _changed(workload: Workload) -> str:
    """A warning where batch or size is not the published one."""
    told = []
    if workload.published_batch:
        told.append(f"batch {workload.published_batch}")
    if workload.published_size:
        told.append("{}x{}".format(*workload.published_size))
    if not told:
        return ""
    return f" **Not comparable with the published figures, which are for {' of '.join(told)}.**"
