"""Downloads from a server on this machine that answers as the real ones do."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hub import REPOSITORY, serve, sha256

from lpnsr.models import download
from lpnsr.models.download import PINS, DownloadError, cached, fetch
from lpnsr.models.sources import MIT, HubFile, Source

NAME = "net(v2).pth"
CONTENT = np.random.default_rng(0).bytes(3 << 20)
OTHER = np.random.default_rng(1).bytes(3 << 20)
HALF = len(CONTENT) // 2


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "LPNSR_MIRROR", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(download, "_WAIT", 0)
    with serve() as hub:
        hub.files[NAME] = CONTENT
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "weights"


def source(*addresses, **known):
    return Source(addresses, MIT, "https://example.org/model", **known)


def on_hub(**known):
    return source(HubFile(REPOSITORY, NAME), **known)


PUBLISHED = {"size": len(CONTENT), "sha256": sha256(CONTENT)}


def shown(folder):
    """What a user sees in the folder, besides the pinned hashes."""
    return sorted(p.name for p in folder.glob("[!.]*") if p.name != PINS)


def test_over_redirects(hub, folder):
    for number, origin in enumerate((on_hub(), source(hub.release(NAME)))):
        own = folder / str(number)
        assert fetch(NAME, origin, own).read_bytes() == CONTENT
        assert shown(own) == [NAME]
        assert json.loads((own / PINS).read_text()) == {NAME: sha256(CONTENT)}
    assert [path for path, _ in hub.asked] == [f"/storage/{NAME}", f"/assets/{NAME}"]


def test_a_file_in_a_folder(hub, folder):
    """As SD-Turbo's are; broken at half, so that the part has a place too."""
    name = f"unet/{NAME}"
    hub.cuts += [HALF]
    assert fetch(name, on_hub(), folder) == folder / "unet" / NAME
    assert (folder / name).read_bytes() == CONTENT
    assert shown(folder) == ["unet"] and shown(folder / "unet") == [NAME]
    assert json.loads((folder / PINS).read_text()) == {name: sha256(CONTENT)}


def test_what_is_there_asks_for_nothing(hub, folder):
    fetch(NAME, on_hub(), folder)
    del hub.asked[:]
    assert fetch(NAME, on_hub(), folder) == cached(NAME, on_hub(), folder) == folder / NAME
    assert hub.asked == []
    assert cached("another.pth", on_hub(), folder) is None


def test_a_broken_connection_is_taken_up(hub, folder):
    hub.cuts += [HALF, 1000]
    assert fetch(NAME, on_hub(**PUBLISHED), folder).read_bytes() == CONTENT
    ranges = [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]
    assert [part for _, part in hub.asked] == ranges


def test_another_process_takes_it_up(hub, folder):
    """The first one gives up at half; nothing has the file's name."""
    hub.cuts += [HALF, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"the connection broke after 1\.6 of 3\.1 MB; try"):
        fetch(NAME, on_hub(**PUBLISHED), folder)
    assert shown(folder) == []
    script = (
        "import sys; from pathlib import Path; from lpnsr.models.download import fetch\n"
        "from lpnsr.models.sources import MIT, HubFile, Source\n"
        f"hub = Source((HubFile({REPOSITORY!r}, {NAME!r}),), MIT, '')\n"
        f"fetch({NAME!r}, hub, Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    assert hub.asked[-1][1] == f"bytes={HALF}-"
    assert (folder / NAME).read_bytes() == CONTENT
    assert shown(folder) == [NAME]


def test_a_whole_part_is_not_fetched_again(hub, folder):
    """As when the process ended between the last byte and the rename."""
    fetch(NAME, on_hub(), folder)
    (folder / NAME).rename(folder / f".{NAME}.part")
    tag = f'"{sha256(CONTENT)[:16]}"'
    note = {"address": f"{hub.address}/{REPOSITORY}/resolve/main/net%28v2%29.pth", "etag": tag}
    (folder / f".{NAME}.part.json").write_text(json.dumps(note))
    assert fetch(NAME, on_hub(), folder).read_bytes() == CONTENT
    assert hub.asked[-1][1] == f"bytes={len(CONTENT)}-"


def test_a_file_that_has_changed_starts_over(hub, folder):
    hub.cuts += [HALF, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(NAME, on_hub(), folder)
    hub.files[NAME] = OTHER
    assert fetch(NAME, on_hub(), folder).read_bytes() == OTHER


def test_a_server_without_ranges_starts_over(hub, folder):
    hub.ranges, hub.cuts = False, [HALF]
    assert fetch(NAME, on_hub(), folder).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_wrong_content_names_both_hashes(hub, folder, size):
    """The release states no hash; the hub does, before it sends anything."""
    hub.files[NAME] = OTHER
    for origin in (hub.release(NAME), HubFile(REPOSITORY, NAME)):
        with pytest.raises(DownloadError) as failed:
            fetch(NAME, source(origin, size=size, sha256=sha256(CONTENT)), folder)
        assert sha256(CONTENT) in str(failed.value) and sha256(OTHER) in str(failed.value)
        assert "\n" not in str(failed.value)
    assert list(folder.glob("*.part")) == shown(folder) == []


def test_another_size_is_refused_before_the_transfer(hub, folder):
    with pytest.raises(DownloadError, match=f"offers {len(CONTENT)} bytes instead of 5"):
        fetch(NAME, on_hub(size=5), folder)


def test_the_first_hash_is_pinned(hub, folder):
    fetch(NAME, on_hub(), folder)
    (folder / NAME).write_bytes(OTHER)
    with pytest.raises(DownloadError) as failed:
        cached(NAME, on_hub(), folder)
    message = str(failed.value)
    assert sha256(CONTENT) in message and sha256(OTHER) in message and PINS in message


def test_a_file_that_somebody_put_there_is_pinned_too(hub, folder):
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    assert cached(NAME, on_hub(), folder) == folder / NAME
    (folder / NAME).write_bytes(OTHER)
    with pytest.raises(DownloadError, match="delete it"):
        cached(NAME, on_hub(), folder)


def test_sources_are_tried_in_order(hub, folder, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        several = source(f"{closed}/net.pth", f"{hub.address}/none", hub.release(NAME))
        assert fetch(NAME, several, folder / "a").read_bytes() == CONTENT
        with pytest.raises(DownloadError) as failed:
            fetch(NAME, source(f"{closed}/net.pth", f"{hub.address}/none"), folder / "b")
    message = str(failed.value)
    assert "no connection" in message and "404 Not Found" in message and "\n" not in message
    assert "https://example.org/model" in message
    assert shown(folder / "b") == []


def test_a_mirror_goes_before_all(hub, folder, monkeypatch):
    monkeypatch.setenv("LPNSR_MIRROR", f"{hub.address}/mirror/")
    fetch(NAME, on_hub(), folder)
    assert [path for path, _ in hub.asked] == [f"/mirror/{NAME}"]


def test_through_a_proxy(hub, folder, monkeypatch):
    monkeypatch.setenv("http_proxy", hub.address)
    elsewhere = "http://release.invalid" + hub.release(NAME).removeprefix(hub.address)
    assert fetch(NAME, source(elsewhere), folder).read_bytes() == CONTENT


def test_no_network(folder, monkeypatch):
    monkeypatch.delenv("http_proxy", raising=False)
    with pytest.raises(DownloadError, match=r"host\.invalid: no connection") as failed:
        fetch(NAME, source("http://host.invalid/net.pth"), folder)
    assert "\n" not in str(failed.value)
    assert shown(folder) == []


def test_what_hugging_faces_client_has_is_used(hub, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    model = tmp_path / "hf" / "hub" / "models--authors--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0123abcd")
    file = model / "snapshots" / "0123abcd" / NAME
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    assert cached(NAME, on_hub(**PUBLISHED), folder) == file
    assert fetch(NAME, on_hub(), folder) == file
    assert hub.asked == []


Usage = namedtuple("Usage", "total used free")


def test_room_is_looked_for_first(hub, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e9, 1e9, 1e6))
    with pytest.raises(DownloadError, match=r"3 MB are missing and 1 MB are free.*LPNSR_HOME"):
        fetch(NAME, on_hub(), folder)
    assert shown(folder) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_disk_that_is_full(hub, folder, monkeypatch):
    folder.mkdir()
    opened = download.Path.open

    def on_full_disk(path, mode="r", *rest, **more):
        return opened(download.Path("/dev/full") if mode == "ab" else path, mode, *rest, **more)

    monkeypatch.setattr(download.Path, "open", on_full_disk)
    with pytest.raises(DownloadError, match="No space left on device"):
        fetch(NAME, on_hub(), folder)
    assert shown(folder) == [] and not list(folder.glob(".*part*"))


def test_a_cache_that_cannot_be_written(hub, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"cannot be written to .*LPNSR_HOME"):
        fetch(NAME, on_hub(), tmp_path / "file" / "weights")
    assert hub.asked == []


@pytest.mark.skipif(os.name == "nt", reason="has other permissions")
def test_a_cache_that_is_read_only(hub):
    """What is in it is used; root, who may write everywhere, is somebody else meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fetch(NAME, on_hub(), folder)
        folder.chmod(0o555)
        with as_somebody():
            assert cached(NAME, on_hub(), folder) == folder / NAME
            with pytest.raises(DownloadError, match=r"other\.pth cannot be written .*Permission"):
                fetch("other.pth", on_hub(), folder)
        folder.chmod(0o755)
        assert shown(folder) == [NAME]


@contextmanager
def as_somebody():
    if root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_no_detour_without_encryption(hub):
    redirects = download._Redirects()
    request = download.Request("https://example.org/net.pth")
    with pytest.raises(OSError, match="without encryption"):
        redirects.redirect_request(request, None, 302, "Found", {}, "http://example.org/net.pth")


def _fetch_apart(folder):
    fetch(NAME, on_hub(), folder)


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_two_processes_at_once_download_once(hub, folder, capfd):
    hub.gate.clear()
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_fetch_apart, args=(folder,)) for _ in range(2)]
    for process in both:
        process.start()
    waiting = ""
    release = threading.Timer(60, hub.gate.set)
    release.start()
    while "waiting for it" not in waiting and release.is_alive():
        waiting += capfd.readouterr().err
    release.cancel()
    hub.gate.set()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(hub.asked) == 1
    assert shown(folder) == [NAME]
