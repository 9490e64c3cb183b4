"""A server that gives files away as Hugging Face and GitHub do: over redirects, in ranges."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

REPOSITORY = "authors/model"
RELEASE = "/authors/model/releases/download/v1.0"


@dataclass
class Hub:
    """What the server has and does, and what it was asked for.

    Attributes:
        address: of the server.
        files: name -> content.
        cuts: after how many bytes of an answer the connection breaks, each once.
        ranges: whether parts of files can be asked for.
        asked: path and Range header of each request for content.
        gate: answers with content wait for it.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def release(self, name: str) -> str:
        """The address of a file among the release's."""
        return f"{self.address}{RELEASE}/{quote(name)}"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    hub.gate.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)  # a proxy is asked for a whole address
            name = path.rpartition("/")[2]
            if path == f"/{REPOSITORY}/resolve/main/{name}" and name in hub.files:
                digest = sha256(hub.files[name])
                size = str(len(hub.files[name]))
                stated = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": size}
                self.send_on(f"{hub.address}/storage/{quote(name)}", stated)
            elif path == f"{RELEASE}/{name}" and name in hub.files:
                self.send_on(f"{hub.address}/assets/{quote(name)}", {})
            elif path in (f"/storage/{name}", f"/assets/{name}", f"/mirror/{name}"):
                self.send_content(path, hub.files.get(name))
            else:
                self.refuse(404)

        def send_on(self, location, headers):
            self.send_response(302)
            for key, value in {"Location": location, "Content-Length": "0", **headers}.items():
                self.send_header(key, value)
            self.end_headers()

        def refuse(self, code, **headers):
            self.send_response(code)
            for key, value in {"Content-Length": "0", **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()

        def send_content(self, path, content):
            hub.asked.append((path, self.headers["Range"]))
            hub.gate.wait(30)
            if content is None:
                return self.refuse(404)
            tag, start = f'"{sha256(content)[:16]}"', 0
            if hub.ranges and self.headers["Range"] and self.headers["If-Range"] in (None, tag):
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.refuse(416, Content_Range=f"bytes */{len(content)}")
            self.send_response(206 if start else 200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            cut = hub.cuts.pop(0) if hub.cuts else len(content)
            with suppress(ConnectionError):  # the client has seen enough
                self.wfile.write(content[start : start + cut])
            if cut < len(content) - start:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
