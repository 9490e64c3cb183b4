"""Listens, and closes connections on which nothing happens."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

_PATIENCE = 10.0
"""Seconds that a connection may take to begin a request."""


class Impatient(H11Protocol):
    """Closes a connection that has brought no request, or no other one, for a while."""

    _seen: RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to watch a new connection."""
        super().connection_made(transport)
        self.loop.call_later(_PATIENCE, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = self.cycle
        self.loop.call_later(_PATIENCE, self._look)


def create(app: Starlette, seconds: float) -> uvicorn.Server:
    """A server for an application.

    Args:
        app: the application.
        seconds: that requests under way may take when the server is to end.
    """
    config = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        access_log=False,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(seconds)),
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; a port of 0 takes any that is free.

    Raises:
        OSError: the address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def allow_connections() -> None:
    """Let the process open as many files as the system allows it: each connection is one."""
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
