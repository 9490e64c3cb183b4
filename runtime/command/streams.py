"""Standard input and output as pictures' files."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lpnsr.runtime.command.jobs import JobError

STANDARD = Path("-")
"""Means standard input among the inputs, and standard output as the output."""


@contextmanager
def replaced(
    inputs: Sequence[Path], output: Path | None, suffix: str
) -> Iterator[tuple[list[Path], Path | None]]:
    """Temporary files in the place of standard input and output.

    What is written to the latter goes to standard output at the end.

    Args:
        inputs: files and folders; of standard input alone, the output is standard output.
        output: file or folder.
        suffix: of the output's format.

    Yields:
        The inputs and the output, of which none is `STANDARD`.

    Raises:
        JobError: standard input or output is a terminal, or is not the only one.
    """
    inputs = list(inputs)
    if STANDARD in inputs:
        if len(inputs) > 1:
            raise JobError("standard input (-) is one picture; name no other input")
        output = output or STANDARD
    elif output == STANDARD and not (len(inputs) == 1 and not inputs[0].is_dir()):
        raise JobError("standard output (-) takes one picture; name one, or a folder as the output")
    if STANDARD not in (*inputs, output):
        yield inputs, output
        return
    with tempfile.TemporaryDirectory(prefix="lpnsr-") as folder:
        if STANDARD in inputs:
            inputs = [Path(folder, "standard input")]
            _refuse_terminal(sys.stdin.isatty(), "standard input", "pipe a picture into it")
            with inputs[0].open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        if output != STANDARD:
            yield inputs, output
            return
        _refuse_terminal(sys.stdout.isatty(), "standard output", "redirect it, or name a file (-o)")
        result = Path(folder, f"standard output{suffix}")
        yield inputs, result
        if result.exists():
            with result.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _refuse_terminal(is_terminal: bool, name: str, advice: str) -> None:
    if is_terminal:
        raise JobError(f"{name} is a terminal; {advice}")
