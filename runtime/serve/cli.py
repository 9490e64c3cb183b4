"""The command `lpnsr-serve`."""

from __future__ import annotations

import argparse
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.command import opening
from lpnsr.runtime.command.arguments import (
    Parser,
    add_engine,
    add_model,
    installed,
    megapixels,
    positive,
    whole,
)
from lpnsr.runtime.command.jobs import JobError
from lpnsr.runtime.manifest import BundleError
from lpnsr.runtime.serve.hosts import is_loopback
from lpnsr.runtime.tiles.tiling import TilingError
from lpnsr.runtime.upscaler import UpscaleError

NAME = "lpnsr-serve"

_FATAL = (BackendError, BundleError, JobError, TilingError, UpscaleError, OSError, MemoryError)

_SHORTEST = 16
"""Least characters of a token."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM, then finish what is under way.

    Args:
        argv: arguments, by default those of the process.

    Returns:
        Exit code: 2 if the server cannot start, 130 after Ctrl-C. SIGTERM ends the process itself.
    """
    args = _parser().parse_args(argv)
    try:
        _serve(args)
    except KeyboardInterrupt:
        return 130
    except ImportError as error:
        if error.name not in ("starlette", "uvicorn", "python_multipart", "h11", "anyio"):
            raise
        _say(f"needs {error.name}; run: pip install 'lpnsr[serve]'")
        return 2
    except _FATAL as error:
        _say(str(error) or "not enough memory")
        return 2
    return 0


def _serve(args: argparse.Namespace) -> None:
    import python_multipart  # noqa: F401, which Starlette needs for forms

    from lpnsr.runtime.serve import app, server

    token = _token(args)
    opening.prepare(args.max_megapixels, args.threads)
    listener = server.listen(args.host, args.port)
    with listener, opening.upscaler(args) as upscaler:
        # What is wrong with the model shows before the first request, and that one is fast.
        upscaler.upscale(np.zeros((*upscaler.layout((1, 1)).graph.tile, 3), np.uint8))
        parallel = args.parallel or max(2, upscaler.parallel)
        limits = app.Limits(
            parallel, args.queue, args.max_megabytes, args.max_megapixels, args.timeout
        )
        server.allow_connections()
        host = f"[{args.host}]" if ":" in args.host else args.host
        url = f"http://{host}:{listener.getsockname()[1]}/"
        _say(f"serves {upscaler.bundle.manifest.preset} at {url} with {upscaler.choice}")
        if args.open:
            page = f"{url}#{token}" if token else url
            threading.Thread(target=webbrowser.open, args=[page], daemon=True).start()
        server.create(app.create(upscaler, limits, token), args.timeout).run([listener])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=NAME,
        description="Make pictures up to four times as large, over HTTP and on a page.",
        epilog="exit codes: 2 bad input, or the server cannot start; 130, 143 ended by Ctrl-C or "
        "SIGTERM",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_port, default=8000, help="0 takes a free one (default: %(default)s)")
    add("--open", action="store_true", help="show the page in the browser")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="holds the token that requests must carry; needed where other machines can connect",
    )
    _add_limits(parser.add_argument_group("limits"))
    add_model(parser.add_argument_group("model"))
    add_engine(parser.add_argument_group("engine"))
    add("--version", action="version", version=f"%(prog)s {installed()}")
    return parser


def _add_limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--parallel",
        type=positive,
        metavar="N",
        help="pictures in progress at once (default: 2, of which one is computed while another is "
        "read or written; for batches of several tiles, twice as many as those)",
    )
    add(
        "--queue",
        type=positive,
        default=16,
        metavar="N",
        help="further pictures that may wait (default: %(default)s)",
    )
    add(
        "--max-megabytes",
        type=positive,
        default=50,
        metavar="N",
        help="of a request (default: %(default)s)",
    )
    add(
        "--max-megapixels",
        type=megapixels,
        default=25.0,
        metavar="N",
        help="of an input (default: %(default)g)",
    )
    add(
        "--timeout",
        type=positive,
        default=300,
        metavar="SECONDS",
        help="from a request's beginning to its result (default: %(default)s)",
    )


def _port(text: str) -> int:
    return whole(text, 0, 65535)


def _token(args: argparse.Namespace) -> str | None:
    """The token that requests must carry.

    Raises:
        JobError: there must be one, or it is too short.
    """
    if args.token_file is None:
        if not is_loopback(args.host):
            raise JobError(
                f"--host {args.host} can be reached from other machines; add --token-file FILE, "
                "made with: openssl rand -hex 32 > FILE"
            )
        return None
    token = args.token_file.read_text(encoding="utf-8").strip()
    if len(token) < _SHORTEST or not token.isascii() or len(token.split()) != 1:
        raise JobError(
            f"{args.token_file} holds no single word of {_SHORTEST} or more ASCII characters; "
            f"make one with: openssl rand -hex 32 > {args.token_file}"
        )
    return token


def _say(message: str) -> None:
    print(f"{NAME}: {' '.join(message.split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
