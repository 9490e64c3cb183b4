"""What a run leaves to look at: a CSV log and contact sheets."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


class CsvLog:
    """One row an iteration, appended as it comes.

    Args:
        file: the log; rows from `iteration` on, of a run that went further than its checkpoint,
            are dropped.
        columns: names; the first is the iteration.
        iteration: the first that is going to be logged.
    """

    def __init__(self, file: Path, columns: Sequence[str], iteration: int) -> None:
        rows = []
        if iteration and file.exists():
            with file.open(newline="", encoding="utf-8") as old:
                rows = [row for row in list(csv.reader(old))[1:] if int(row[0]) < iteration]
        self._file = file.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerows([columns, *rows])

    def write(self, row: Sequence[int | float]) -> None:
        """Append a row."""
        self._writer.writerow([f"{v:.8g}" if isinstance(v, float) else v for v in row])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def contact_sheet(rows: Sequence[Sequence[Tensor]], file: Path) -> None:
    """Write pictures, (3, H, W) in [-1, 1] and of one size in each row, side by side."""
    strips = [np.concatenate([to_picture(picture) for picture in row], axis=1) for row in rows]
    width = max(strip.shape[1] for strip in strips)
    strips = [np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0))) for strip in strips]
    Image.fromarray(np.concatenate(strips)).save(file)


def to_picture(values: Tensor) -> np.ndarray:
    """(3, H, W) in [-1, 1] -> uint8 (H, W, 3)."""
    values = ((values.float().clamp(-1, 1) + 1) * 127.5).round()
    return values.byte().permute(1, 2, 0).cpu().numpy()
