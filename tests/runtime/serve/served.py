"""A server in a thread of the test, and a plain client."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lpnsr.runtime.serve import app, server

from ..toy import Grey


class Answer:
    """Status, headers and body of an answer."""

    def __init__(self, response: http.client.HTTPResponse):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]

    def json(self):
        return json.loads(self.body)


class Client:
    """Sends requests to a port of this machine, each over a connection of its own."""

    def __init__(self, port: int):
        self.port = port

    def __call__(self, method, path, body=None, headers=None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def metric(self, name: str) -> float:
        lines = self("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a metric has this value; the test's own time limit is the only one."""
        while self.metric(name) != value:
            time.sleep(0.02)


@contextmanager
def served(upscaler, token=None, **limits) -> Iterator[Client]:
    limits = app.Limits(**limits)
    listener = server.listen("127.0.0.1", 0)
    running = server.create(app.create(upscaler, limits, token), limits.seconds)
    thread = threading.Thread(target=running.run, args=[[listener]])
    thread.start()
    try:
        yield Client(listener.getsockname()[1])
    finally:
        running.should_exit = True
        thread.join()


class Gated(Grey):
    """A backend that waits at every tile until it is let through."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Semaphore(0)

    def run(self, lr, noise):
        self.gate.acquire()
        return super().run(lr, noise)

    def open(self):
        self.gate.release(1000)


def form(content, *fields, file="picture.png", boundary="frontier"):
    """Body and headers of a form with a file."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    if content is not None:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file}"'
        parts.append(head.encode() + b"\r\n\r\n" + content + b"\r\n")
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
