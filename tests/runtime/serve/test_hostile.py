"""Whatever a client sends: one clear status, and the server lives."""

import json
import struct
import zlib
from contextlib import suppress

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

from lpnsr.runtime.serve import door, server

from ..samples import png
from ..toy import photo
from .served import form, served

PICTURE = png(photo(20, 20))
POST = b"POST /upscale HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(autouse=True)
def lives(client):
    yield
    assert client("POST", "/upscale", PICTURE).status == 200


def bomb(width, height):
    """A PNG that claims to be this large."""

    def chunk(kind, content):
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "the request has no picture; send a file as its body"),
        (b"hello", 422, "the file is not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "the file is not a picture"),
        (PICTURE[: len(PICTURE) // 2], 422, "the file is damaged"),
        (bomb(3000, 3000), 422, "the file is damaged"),
        (bomb(6000, 6000), 413, "the picture has 36.0 million pixels, 25 are allowed"),
        (bomb(2**31 - 1, 2**31 - 1), 413, "the file has over"),
    ],
)
def test_bodies_that_are_no_pictures(client, content, status, message):
    for answer in (
        client("POST", "/upscale", content),
        client("POST", "/upscale", *form(content)),
    ):
        assert (answer.status, answer.error[: len(message)]) == (status, message)
        assert "/tmp" not in answer.error


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        form(None, ("seed", "1")),
        (b"", {"Content-Type": "multipart/form-data; boundary=x"}),
        (b"--y\r\n", {"Content-Type": "multipart/form-data; boundary=x"}),
        (b"--x\r\n", {"Content-Type": "multipart/form-data"}),
        form(PICTURE, ("seed", "1" * 5000)),
        form(PICTURE, *(("seed", "1") for _ in range(40))),
        form(PICTURE, ("../../seed", "1")),
    ],
    ids=["no file", "empty", "other boundary", "no boundary", "long", "many", "name"],
)
def test_forms_that_are_none(client, body, headers):
    answer = client("POST", "/upscale", body, headers)
    assert answer.status == 400
    assert answer.error


def test_a_file_name_is_ignored(client):
    answer = client("POST", "/upscale", *form(PICTURE, file="../../../../tmp/evil.png"))
    assert answer.status == 200


def test_an_announced_body_that_is_too_large(model):
    with served(model, megabytes=0.1) as small:
        answer = small("POST", "/upscale", bytes(200_000))
        assert (answer.status, answer.error) == (413, "the request has over 0.1 MB; send less")
        assert small("POST", "/upscale", PICTURE).status == 200


@pytest.mark.parametrize("path", ["/upscale", "/v2/models/toy/infer", "/nothing", "/v2"])
def test_an_endless_body(model, path, monkeypatch):
    """The connection is closed after the answer."""
    monkeypatch.setattr(door, "_LINGER", 0.2)
    with served(model, megabytes=0.1) as small:
        connection = small.connect()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
        sent = 0
        try:
            while sent < 2**32:
                connection.sendall(chunk)
                sent += 2**16
        except OSError:
            pass
        assert sent < 2**32
        assert small("POST", "/upscale", PICTURE).status == 200


def test_a_body_that_comes_too_slowly(model, monkeypatch):
    monkeypatch.setattr(door, "_LINGER", 0.2)
    with served(model, seconds=0.5) as hasty:
        connection = hasty.connect()
        connection.sendall(
            b"POST /upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"
        )
        answer = b""
        while part := connection.recv(4096):
            answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"the request comes too slowly" in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"\0\1\2\3\r\n\r\n",
        POST + b"Content-Length: -5\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2**17 + b"\r\n\r\n",
    ],
    ids=["bytes", "negative", "two lengths", "long header"],
)
def test_what_is_no_http(client, request_):
    connection = client.connect()
    connection.sendall(request_)
    assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_a_thousand_idle_connections(client, monkeypatch):
    """They do not keep others from being served, and are closed after a while."""
    monkeypatch.setattr(server, "_PATIENCE", 0.5)
    server.allow_connections()
    idle = [client.connect() for _ in range(1000)]
    idle[0].sendall(b"GET / HTTP/1.1\r\nHost:")  # a request that never ends
    assert client("POST", "/upscale", PICTURE).status == 200
    for connection in idle:
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_other_names_and_other_sites(client):
    answer = client("POST", "/upscale", PICTURE, {"Host": "evil.example:8000"})
    assert (answer.status, "call it by 127.0.0.1" in answer.error) == (403, True)
    assert client("GET", "/metrics", headers={"Host": "127.0.0.1.evil.example"}).status == 403
    assert client("POST", "/upscale", PICTURE, {"Sec-Fetch-Site": "cross-site"}).status == 403
    assert client("GET", "/metrics", headers={"Host": "LOCALHOST:80"}).status == 200
    assert client("GET", "/metrics", headers={"Host": "[::1]:80"}).status == 200


def test_a_token(model):
    with served(model, token="a-long-enough-token") as guarded:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer é"}):
            headers = {name: value.encode() for name, value in headers.items()}
            answer = guarded("POST", "/upscale", PICTURE, headers)
            assert (answer.status, "token" in answer.error) == (401, True)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert guarded("GET", "/metrics", headers=headers).status == 401
        right = {"Authorization": "Bearer a-long-enough-token", "Host": "pictures.example"}
        assert guarded("POST", "/upscale", PICTURE, right).status == 200
        assert guarded("GET", "/v2/health/live").status == 200
        assert guarded("GET", "/").status == 200


def test_a_failure_of_the_server_is_told_without_details(model, monkeypatch, capfd):
    from lpnsr.runtime.serve import handler

    def fail(path):
        raise KeyError("/secret/place")

    with served(model) as broken:
        with monkeypatch.context() as patch:
            patch.setattr(handler.images, "probe", fail)
            answer = broken("POST", "/upscale", PICTURE)
        assert (answer.status, json.loads(answer.body)) == (
            500,
            {"error": "the server failed; its log says why"},
        )
        assert broken("POST", "/upscale", PICTURE).status == 200
    assert "/secret/place" in capfd.readouterr().err
