"""What every request passes: who may come in, how much it may bring, what is counted."""

from __future__ import annotations

import asyncio
import hmac
import time
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lpnsr.runtime.serve.hosts import is_loopback
from lpnsr.runtime.serve.prometheus import Metrics
from lpnsr.runtime.serve.refusals import Refusal

_OPEN = ("/", "/page.css", "/page.js", "/v2/health/live", "/v2/health/ready")
"""Paths that need no token."""

_COUNTED = ("/upscale", "/infer")
"""Ends of the paths whose requests are counted."""

_LINGER = 2.0
"""Seconds for which the rest of a refused body is read: who still sends would miss the answer."""

_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]


class Body:
    """A request's body that ends with a refusal where it is too large.

    Args:
        headers: of the request.
        receive: of the request.
        most: bytes that it may have.

    Attributes:
        complete: whether nothing of it is still to come.
    """

    def __init__(self, headers: Headers, receive: Receive, most: int) -> None:
        self._receive, self._left, self._most = receive, most, most
        self._announced = headers.get("content-length", "0")
        self.complete = self._announced == "0" and "transfer-encoding" not in headers

    async def receive(self) -> Message:
        """The next part.

        Raises:
            Refusal: the body is too large.
        """
        if not self._announced.isdecimal() or int(self._announced) > self._most:
            raise self._refusal()
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self._left < 0:
            raise self._refusal()
        return message

    def _refusal(self) -> Refusal:
        return Refusal(413, f"the request has over {self._most / 1e6:g} MB; send less")

    async def discard(self) -> None:
        """Read what is left of it, for a while."""

        async def read() -> None:
            while not self.complete:
                self.complete = not (await self._receive()).get("more_body", False)

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(read(), _LINGER)


class Door:
    """Middleware that lets requests in or answers with a refusal.

    Args:
        app: what requests are passed on to.
        metrics: that count the answers.
        megabytes: that a body may have.
        token: that requests must carry; without it, only those are let in that were sent to this
            machine under one of its own names, and not by another site's page.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, megabytes: float, token: str | None) -> None:
        self._app, self._metrics = app, metrics
        self._most, self._token = int(megabytes * 1e6), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, start, status = Headers(scope=scope), time.monotonic(), 500
        body = Body(headers, receive, self._most)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                close = [] if body.complete else [(b"connection", b"close")]
                message["headers"] = [*message.get("headers", []), *_HEADERS, *close]
            await send(message)

        try:
            self._check(scope["path"], headers)
            await self._app(scope, body.receive, answer)
        except Refusal as refusal:
            await body.discard()
            response = JSONResponse({"error": str(refusal)}, refusal.status, refusal.headers)
            await response(scope, receive, answer)
        finally:
            for end in _COUNTED:
                if scope["path"].endswith(end):
                    self._metrics.count(end, status, time.monotonic() - start)

    def _check(self, path: str, headers: Headers) -> None:
        if self._token is not None:
            given = headers.get("authorization", "").encode()
            if path not in _OPEN and not hmac.compare_digest(
                given, f"Bearer {self._token}".encode()
            ):
                raise Refusal(
                    401,
                    "the token is missing or wrong; send the header Authorization: Bearer TOKEN",
                    {"WWW-Authenticate": "Bearer"},
                )
            return
        host = headers.get("host", "")
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        if not is_loopback(name):
            raise Refusal(403, f"this server is not {name!r}; call it by 127.0.0.1 or localhost")
        if headers.get("sec-fetch-site", "none") == "cross-site":
            raise Refusal(403, "pages of other sites may not use this server")
