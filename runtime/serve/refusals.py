"""Requests that are refused, each with one status and one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
from PIL import Image

from lpnsr.runtime.pictures.images import ImageError
from lpnsr.runtime.upscaler import UpscaleError


class Refusal(Exception):
    """A request that is not answered with a picture.

    Args:
        status: of the HTTP answer.
        message: one line that says what is wrong and what to do next.
        headers: more headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.status, self.headers = status, headers or {}


@contextmanager
def explained(source: Path | None = None) -> Iterator[None]:
    """Turns what goes wrong with a picture into a `Refusal` that does not reveal where it is.

    Args:
        source: the picture's file.
    """
    try:
        yield
    except ImageError as error:
        is_bomb = isinstance(error.__cause__, Image.DecompressionBombError)
        text = str(error).replace(str(source), "the file")
        raise Refusal(413 if is_bomb else 422, text) from error
    except cv2.error as error:
        raise Refusal(422, "the picture is damaged; replace it by an intact copy") from error
    except UpscaleError as error:
        raise Refusal(500, str(error)) from error
    except MemoryError as error:
        text = str(error) or "not enough memory; crop or split the picture"
        raise Refusal(503, text, {"Retry-After": "60"}) from error
