"""The ASGI application: pictures, the inference protocol, metrics and the page."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lpnsr.runtime.serve import inference, options, prometheus
from lpnsr.runtime.serve.desk import GONE, Desk, Ticket
from lpnsr.runtime.serve.door import Door
from lpnsr.runtime.serve.handler import PictureHandler
from lpnsr.runtime.serve.prometheus import Metrics
from lpnsr.runtime.serve.refusals import Refusal
from lpnsr.runtime.upscaler import Upscaler

T = TypeVar("T")

_UPLOADS = 64
"""Bodies that may be on their way at the same time."""

_FIELD = 4096
"""Bytes of a form's field other than the picture."""

_CHUNK = 2**18
"""Bytes of an answer that are sent at once."""

_POLICY = "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; form-action 'self'"


@dataclass(frozen=True)
class Limits:
    """What requests may cost.

    Attributes:
        parallel: pictures in progress at the same time.
        waiting: pictures that may wait in addition.
        megabytes: of a request's body.
        megapixels: of an input.
        seconds: from a request's beginning to its result.
    """

    parallel: int = 2
    waiting: int = 16
    megabytes: float = 50.0
    megapixels: float = 25.0
    seconds: float = 300.0


class Service:
    """Answers the requests for one upscaler.

    Args:
        upscaler: the model.
        limits: what requests may cost.
    """

    def __init__(self, upscaler: Upscaler, limits: Limits) -> None:
        self.limits, self._desk = limits, Desk(limits.parallel, limits.waiting)
        self.metrics = Metrics(self._desk)
        self._handler = PictureHandler(upscaler, limits.megapixels)
        self._model = upscaler.bundle.manifest.preset
        self._tickets: dict[str, Ticket] = {}
        self._uploads = 0
        self._spool = tempfile.TemporaryDirectory(prefix="lpnsr-serve-")

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Clean up when the server ends."""
        try:
            yield
        finally:
            self._desk.close()
            self._spool.cleanup()

    def routes(self) -> list[Route]:
        """What is answered where."""
        name = f"/v2/models/{self._model}"
        models = (name, f"{name}/versions/{inference.VERSION}")
        get = {
            "/v2": lambda _: JSONResponse(
                {
                    "name": "lpnsr-serve",
                    "version": version("lpnsr"),
                    "extensions": ["binary_tensor_data"],
                }
            ),
            "/v2/health/live": lambda _: JSONResponse({"live": True}),
            "/v2/health/ready": self._ready,
            **{model: lambda _: JSONResponse(inference.describe(self._model)) for model in models},
            **{f"{model}/ready": self._ready for model in models},
            "/progress/{name}": self._progress,
            "/metrics": lambda _: Response(self.metrics.text(), media_type=prometheus.TYPE),
        }
        return [
            Route("/upscale", self._upscale, methods=["POST"]),
            *(Route(f"{model}/infer", self._infer, methods=["POST"]) for model in models),
            *(Route(path, _asynchronous(answer)) for path, answer in get.items()),
            *_page(),
        ]

    def _ready(self, request: Request) -> Response:
        ready = not self._desk.is_full()
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    def _progress(self, request: Request) -> Response:
        ticket = self._tickets.get(request.path_params["name"])
        if ticket is None:
            raise Refusal(404, "no such request is waiting or in progress")
        return JSONResponse({"done": ticket.done, "total": ticket.total})

    async def _upscale(self, request: Request) -> Response:
        async with self._received(request) as (source, fields, end):
            asked = options.read([*request.query_params.multi_items(), *fields])
            result = await self._work(
                request, end, lambda ticket: self._handler.file(source, asked, ticket)
            )
        self.metrics.add_pixels(result.pixels)
        headers = {"Content-Length": str(result.bytes)}
        if result.lost:
            headers["X-Lost"] = ", ".join(result.lost)
        return StreamingResponse(
            _chunks(result.file), media_type=f"image/{asked.format}", headers=headers
        )

    async def _infer(self, request: Request) -> Response:
        def work(ticket: Ticket) -> tuple[int, bytes, dict[str, str]]:
            asked = inference.parse(source, request.headers.get(inference.HEADER))
            pixels = self._handler.array(asked.pixels, asked.recipe, ticket)
            return pixels.shape[0] * pixels.shape[1], *inference.answer(self._model, asked, pixels)

        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal(415, "compressed requests are not read; send it without compression")
        async with self._received(request, forms=False) as (source, _, end):
            pixels, body, headers = await self._work(request, end, work)
        self.metrics.add_pixels(pixels)
        return Response(body, headers=headers)

    @asynccontextmanager
    async def _received(
        self, request: Request, forms: bool = True
    ) -> AsyncIterator[tuple[Path, list[tuple[str, str]], float]]:
        """Receive a body.

        Args:
            request: whose body.
            forms: whether it may be a form with a file in it.

        Yields:
            A file, which is deleted at the end, the form's other fields, and the loop's time by
            which the request must be answered.

        Raises:
            Refusal: there is no such body, it comes too slowly, or the queue is full anyway.
        """
        self._desk.check()
        if self._uploads >= _UPLOADS:
            raise Refusal(503, "too many uploads; try again in 10 s", {"Retry-After": "10"})
        path = Path(self._spool.name, secrets.token_hex(8))
        end = asyncio.get_running_loop().time() + self.limits.seconds
        is_form = request.headers.get("content-type", "").startswith("multipart/form-data")
        receive = _receive_form if forms and is_form else _receive_raw
        self._uploads += 1
        try:
            try:
                fields = await asyncio.wait_for(receive(request, path), self.limits.seconds)
            except ClientDisconnect as error:
                raise Refusal(GONE, "the client has hung up") from error
            except asyncio.TimeoutError as error:
                raise Refusal(408, "the request comes too slowly; send less") from error
            finally:
                self._uploads -= 1
            if not path.stat().st_size:
                raise Refusal(400, "the request has no picture; send a file as its body")
            yield path, fields, end
        finally:
            path.unlink(missing_ok=True)

    async def _work(self, request: Request, end: float, call: Callable[[Ticket], T]) -> T:
        """Queue work for a request and wait for it; its progress can be asked for meanwhile."""
        with self._ticket(request.headers.get("x-request-id")) as ticket:
            gone = asyncio.ensure_future(_hang_up(request))
            try:
                left = end - asyncio.get_running_loop().time()
                return await self._desk.work(call, ticket, gone, left)
            finally:
                gone.cancel()

    @contextmanager
    def _ticket(self, name: str | None) -> Iterator[Ticket]:
        ticket = Ticket()
        if not name:
            yield ticket
            return
        if name in self._tickets:
            raise Refusal(409, "another request has this X-Request-Id; choose a random one")
        self._tickets[name] = ticket
        try:
            yield ticket
        finally:
            del self._tickets[name]


def create(upscaler: Upscaler, limits: Limits, token: str | None = None) -> Starlette:
    """The application.

    Args:
        upscaler: the model.
        limits: what requests may cost.
        token: that requests must carry; None on the loopback address alone.
    """
    service = Service(upscaler, limits)
    return Starlette(
        routes=service.routes(),
        middleware=[Middleware(Door, service.metrics, limits.megabytes, token)],
        exception_handlers={HTTPException: _refused, Exception: _failed},
        lifespan=service.lifespan,
    )


async def _receive_raw(request: Request, path: Path) -> list[tuple[str, str]]:
    with path.open("wb") as file:
        async for chunk in request.stream():
            file.write(chunk)
    return []


async def _receive_form(request: Request, path: Path) -> list[tuple[str, str]]:
    async with request.form(max_files=1, max_fields=32, max_part_size=_FIELD) as form:
        items = form.multi_items()
        uploads = [value for _, value in items if not isinstance(value, str)]
        if not uploads:
            raise Refusal(400, "the form has no file; add the picture as one")
        with path.open("wb") as file:
            await run_in_threadpool(copyfileobj, uploads[0].file, file)
        return [(name, value) for name, value in items if isinstance(value, str)]


async def _hang_up(request: Request) -> None:
    """Returns once the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _asynchronous(answer: Callable[[Request], Response]) -> Callable[[Request], object]:
    """So that it runs in the event loop, as what it reads does."""

    async def endpoint(request: Request) -> Response:
        return answer(request)

    return endpoint


def _page() -> Iterator[Route]:
    types = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
    headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
    for name, kind in types.items():
        content = files("lpnsr.runtime.serve").joinpath("page", name).read_bytes()
        response = Response(content, headers=headers, media_type=kind)
        path = "/" if name == "index.html" else f"/{name}"
        yield Route(path, _asynchronous(partial(_same, response)))


def _same(response: Response, request: Request) -> Response:
    return response


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse(
        {"error": "the server failed; its log says why"}, 500, {"Connection": "close"}
    )
