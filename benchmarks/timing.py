"""Engines take turns, so that variations of the machine's speed affect all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lpnsr.export.check.verify import psnr

Run = Callable[[], np.ndarray]

_PAUSE = 0.05
"""Seconds between engines: the one before may keep its threads spinning for a moment."""


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
        median = statistics.median(self.seconds[engine]) * 1e9
        made = self.made.get(engine)
        real = "" if made is None else f" ({made / median:.0f} made)"
        return f"{self.macs / median:.0f}{real} GMAC/s"


@torch.no_grad()
def time_in_turns(row: Row, everyone: Mapping[str, Run], runs: int) -> Row:
    """Fill a row; the first round warms up and compares the results with the first engine's.

    Every second round goes backwards, so that no engine always has the same one before it.
    """
    expected = None
    for name, call in everyone.items():
        try:
            result = call()
        except (RuntimeError, MemoryError) as error:
            row.failed[name] = reason(error)
            continue
        expected = result if expected is None else expected
        row.psnr[name] = round(psnr(result, expected), 1)
        row.seconds[name] = []
    for number in range(runs):
        for name in list(row.seconds)[:: -1 if number % 2 else 1]:
            time.sleep(_PAUSE)
            row.seconds[name].append(round(seconds(everyone[name]), 4))
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


def spread(values: Sequence[float]) -> str:
    """Median, and half of the range as a share of it."""
    median = statistics.median(values)
    return f"{median:.3f} s ± {(max(values) - min(values)) / 2 / median:.0%}"
