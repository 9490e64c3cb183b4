"""Counters in Prometheus' text format."""

from __future__ import annotations

import time
from collections import Counter

from lpnsr.runtime.serve.desk import Desk

TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of `Metrics.text`."""

_BOUNDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
"""Upper bounds in seconds of the histogram's classes."""


class Metrics:
    """What the server has done so far.

    Args:
        desk: whose queue is shown.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk, self._start = desk, time.time()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._within: Counter[float] = Counter()
        self._seconds = self._pixels = 0.0

    def count(self, path: str, status: int, seconds: float) -> None:
        """Note an answer.

        Args:
            path: of the request, one of a few.
            status: of the answer.
            seconds: from the request's first byte to the answer's.
        """
        self._requests[path, status] += 1
        self._seconds += seconds
        for bound in _BOUNDS:
            self._within[bound] += seconds <= bound

    def add_pixels(self, pixels: int) -> None:
        """Note the pixels of a picture that was sent."""
        self._pixels += pixels

    def text(self) -> str:
        """All metrics."""
        total = sum(self._requests.values())
        requests: dict[str, float] = {
            f'{{path="{path}",status="{status}"}}': number
            for (path, status), number in sorted(self._requests.items())
        }
        buckets: dict[str, float] = {
            f'_bucket{{le="{bound:g}"}}': self._within[bound] for bound in _BOUNDS
        }
        buckets |= {'_bucket{le="+Inf"}': total, "_sum": self._seconds, "_count": total}
        errors = sum(n for (_, status), n in self._requests.items() if status >= 400)
        families = (
            ("requests_total", "counter", "Requests for pictures.", requests),
            ("errors_total", "counter", "Those answered with 4xx or 5xx.", {"": errors}),
            ("request_seconds", "histogram", "Seconds until their answers.", buckets),
            ("queue", "gauge", "Pictures that wait or are in progress.", {"": self._desk.inside}),
            ("megapixels_total", "counter", "Upscaled.", {"": self._pixels / 1e6}),
            ("start_time_seconds", "gauge", "Since when.", {"": self._start}),
        )
        lines = []
        for name, kind, purpose, values in families:
            lines += [f"# HELP lpnsr_{name} {purpose}", f"# TYPE lpnsr_{name} {kind}"]
            lines += [f"lpnsr_{name}{label} {float(value)!r}" for label, value in values.items()]
        return "\n".join(lines) + "\n"
