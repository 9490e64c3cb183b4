"""What a request may ask for, under the names of `lpnsr-run`'s options and within their limits."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lpnsr.runtime.command import arguments
from lpnsr.runtime.command.recipe import ALPHA, Recipe
from lpnsr.runtime.pictures.formats import FORMATS
from lpnsr.runtime.serve.refusals import Refusal


@dataclass(frozen=True)
class RequestOptions:
    """What to do with the picture of a request.

    Attributes:
        recipe: how it is upscaled.
        format: of the answer, one of `FORMATS`.
        quality: of lossy formats, 1 to 100.
    """

    recipe: Recipe = Recipe()  # noqa: RUF009, a frozen dataclass
    format: str = "png"
    quality: int = 95


def _choice(*names: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise ArgumentTypeError(f"{text!r} is not one of {', '.join(names)}")
        return text

    return read


def _flag(text: str) -> bool:
    return _choice("true", "false", "1", "0")(text.lower()) in ("true", "1")


_FILE: dict[str, Callable[[str], Any]] = {
    "format": _choice(*FORMATS),
    "quality": arguments.quality,
}

_RECIPE: dict[str, Callable[[str], Any]] = {
    "seed": arguments.seed,
    "scale": arguments.scale,
    "width": arguments.positive,
    "height": arguments.positive,
    "max_side": arguments.positive,
    "alpha": _choice(*ALPHA),
    "deterministic": _flag,
    "color_fix": _flag,
}


def read(given: Iterable[tuple[str, object]]) -> RequestOptions:
    """The options of a request.

    Args:
        given: names and values, the latter as text or what JSON has; empty text leaves a default.

    Raises:
        Refusal: a name is unknown or given twice, or a value is out of its range.
    """
    found: dict[str, Any] = {}
    readers = _FILE | _RECIPE
    for name, value in given:
        if name not in readers:
            raise Refusal(400, f"there is no option {name!r}, only {', '.join(readers)}")
        if name in found:
            raise Refusal(400, f"the option {name} is given twice; give it once")
        if value == "":
            continue
        try:
            found[name] = readers[name](str(value))
        except ArgumentTypeError as error:
            raise Refusal(400, f"option {name}: {error}") from error
    recipe = Recipe(**{name: value for name, value in found.items() if name in _RECIPE})
    return RequestOptions(recipe, **{name: value for name, value in found.items() if name in _FILE})
