"""x4 image super-resolution with LPNSR: `lpnsr.Upscaler` in Python, `lpnsr-run` in a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lpnsr.runtime.upscaler import Upscaler

    __version__: str

__all__ = ["Upscaler", "__version__"]


def __getattr__(name: str) -> object:
    """Load what is asked for only then: training and export need nothing of the runtime."""
    if name == "Upscaler":
        from lpnsr.runtime.upscaler import Upscaler

        return Upscaler
    if name == "__version__":
        from importlib.metadata import version

        return version("lpnsr")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
