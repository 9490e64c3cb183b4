"""Engines take turns, so that variations of the machine's speed affect all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import torch

from lpnsr.export.check.verify import psnr

Run = Callable[[], np.ndarray]

_PAUSE = 0.05
"""Seconds between engines: the one before may keep its threads spinning for a moment."""

_MOST = 4
"""How many times as many rounds as were asked for there may be until times have settled."""

_CONFIDENCE = 0.9

WITHIN = "within the spread"
"""In place of a comparison that the measured times do not allow."""


@dataclass
class Row:
    """One stage, or a whole chain.

    Attributes:
        name: of the stage or the model.
        macs: multiply-accumulates of the eager network.
        seconds: engine -> seconds of every timed run.
        psnr: engine -> PSNR to the first engine in dB, against a range of 2.
        failed: engine -> why it could not run.
        made: engine -> multiply-accumulates that it makes, which may be fewer than `macs`.
    """

    name: str
    macs: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    psnr: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)

    def rate(self, engine: str) -> str:
        """Its GMAC/s as if it made those of the eager network, and of those that it makes."""
        nanoseconds = median(self.seconds[engine]) * 1e9
        made = self.made.get(engine)
        real = "" if made is None else f" ({made / nanoseconds:.0f} made)"
        return f"{self.macs / nanoseconds:.0f}{real} GMAC/s"


class Timer:
    """Times engines, and compares what they give with what the first one of all gave.

    Args:
        row: to be filled.
        runs: rounds at least.
        settled: go on, up to four times as long, until no engine's spread (see `spread`) is larger.
    """

    def __init__(self, row: Row, runs: int, settled: float = math.inf) -> None:
        self.row, self.runs, self.settled = row, runs, settled
        self._reference: np.ndarray | None = None

    @torch.no_grad()
    def time(self, everyone: Mapping[str, Run]) -> None:
        """Let engines take turns; the first round warms up and compares.

        Every second round goes backwards, so that no engine always has the same one before it.

        Args:
            everyone: engine -> upscales the one input.
        """
        row, ready = self.row, []
        for name, call in everyone.items():
            try:
                result = call()
            except (RuntimeError, MemoryError) as error:
                row.failed[name] = reason(error)
                continue
            self._reference = result if self._reference is None else self._reference
            row.psnr[name] = round(psnr(result, self._reference), 1)
            row.seconds[name] = []
            ready.append(name)
        for number in range(self.runs if math.isinf(self.settled) else _MOST * self.runs):
            if number >= self.runs and self._has_settled(ready):
                break
            for name in ready[:: -1 if number % 2 else 1]:
                time.sleep(_PAUSE)
                row.seconds[name].append(round(seconds(everyone[name]), 6))

    def _has_settled(self, names: Sequence[str]) -> bool:
        return all(width(self.row.seconds[name]) <= self.settled for name in names)


def time_in_turns(
    row: Row, everyone: Mapping[str, Run], runs: int, settled: float = math.inf
) -> Row:
    """Fill a row with engines that take turns; arguments as of `Timer`."""
    Timer(row, runs, settled).time(everyone)
    return row


def reason(error: Exception) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def seconds(call: Callable[[], object]) -> float:
    """Seconds of a call; on a machine with a GPU, by the device's own clock."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of all possible runs lies with a confidence of 90 % or more.

    Its ends are two of the values: as many may lie beyond each as fair coins allow, none of up to
    seven, one of eight. Fewer than five values leave less confidence.
    """
    ordered, count = sorted(values), len(values)
    cut, beyond = 0, 1.0
    while 2 * (beyond + math.comb(count, cut + 1)) <= (1 - _CONFIDENCE) * 2**count:
        cut += 1
        beyond += math.comb(count, cut)
    return ordered[cut], ordered[-1 - cut]


def width(values: Sequence[float]) -> float:
    """Half of the interval as a share of the median."""
    low, high = interval(values)
    return (high - low) / 2 / median(values)


def spread(values: Sequence[float]) -> str:
    """Median, and `width`."""
    return f"{median(values):.3f} s ± {width(values):.0%}"


def tell_apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the intervals of two methods do not overlap; a single value has none."""
    if min(len(one), len(other)) < 2:
        return False
    (low, high), (other_low, other_high) = interval(one), interval(other)
    return high < other_low or other_high < low


def times_as_fast(values: Sequence[float], reference: Sequence[float]) -> str:
    """Ratio of the medians, which is not stated where the spread leaves open which is faster."""
    if values is not reference and not tell_apart(values, reference):
        return WITHIN
    return f"{median(reference) / median(values):.2f}"
