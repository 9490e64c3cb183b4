"""Stores: in memory, S3 as moto's server has it, and one that shows files as they grow."""

import sys
import uuid

import pytest

pytest.importorskip("fsspec", reason="needs the extra bulk")

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from lpnsr.runtime.bulk.storage import Folder, StorageError, ahead

from ..samples import png
from ..toy import photo
from .conftest import contents, expected, fill


@pytest.fixture
def memory():
    """The URL of an empty folder in memory."""
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    found = fsspec.filesystem("memory").store
    for name in [name for name in found if name.startswith(url.removeprefix("memory:/"))]:
        del found[name]


@pytest.fixture(scope="module")
def s3():
    """The address of an S3 server."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server", reason="needs moto[server]").ThreadedMotoServer(
        port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3, monkeypatch):
    """The URL of an empty bucket, for this process and those that it starts."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


def upload(folder, url):
    fs, root = fsspec.url_to_fs(url)
    for name, content in contents(folder).items():
        fs.pipe_file(f"{root}/{name}", content)


def download(url):
    fs, root = fsspec.url_to_fs(url, use_listings_cache=False)
    root = root.rstrip("/")
    return {name.removeprefix(f"{root}/"): fs.cat_file(name) for name in fs.find(root)}


def run_in(url, bulk, lines, tmp_path, bundle):
    """A run from store to store, with a failure, resumed by another process."""
    fill(tmp_path / "in", 7)
    (tmp_path / "in" / "inner" / "bad.png").write_bytes(png(photo(9, 9))[:60])
    upload(tmp_path / "in", f"{url}/in")
    run = ("--run", f"{url}/run")
    bulk("plan", f"{url}/in", "-o", f"{url}/out", *run)
    bulk("work", "--shard", "0/2", *run)
    bulk("run", f"{url}/in", "-o", f"{url}/out", *run, code=1)
    assert download(f"{url}/out") == expected(tmp_path / "in", tmp_path / "wanted", bundle)
    (tmp_path / "run").mkdir()
    bulk("report", "-o", tmp_path / "report.jsonl", *run)
    text = (tmp_path / "report.jsonl").read_text()
    assert text.count('"sha256"') == 7 and text.count('"error": "inner/bad.png is damaged') == 1
    bulk("retry", "--failed", *run)
    bulk("work", *run, code=1)


def test_a_run_in_memory(memory, bulk, lines, tmp_path, bundle):
    run_in(memory, bulk, lines, tmp_path, bundle)


@pytest.mark.slow
def test_a_run_in_s3(bucket, bulk, lines, tmp_path, bundle):
    run_in(bucket, bulk, lines, tmp_path, bundle)


def test_an_input_that_vanishes_fails_alone(memory, bulk, tmp_path, capsys):
    fill(tmp_path / "in", 4)
    upload(tmp_path / "in", f"{memory}/in")
    bulk("plan", f"{memory}/in", "-o", f"{memory}/out")
    fsspec.filesystem("memory").rm_file(f"{memory.removeprefix('memory:/')}/in/001.png")
    bulk("work", code=1)
    assert len(download(f"{memory}/out")) == 3
    bulk("status")
    assert "001.png: No such file" in capsys.readouterr().out


def test_an_output_that_is_refused_fails_alone(memory, bulk, tmp_path, monkeypatch, capsys):
    fill(tmp_path / "in", 4)
    put = MemoryFileSystem.put_file

    def refuse(fs, source, target, **options):
        if "001" in target:
            raise RuntimeError("503 slow down")
        return put(fs, source, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    bulk("run", tmp_path / "in", "-o", f"{memory}/out", code=1)
    assert len(download(f"{memory}/out")) == 3
    bulk("status")
    assert "out/001.png: 503 slow down" in capsys.readouterr().out


class Growing(MemoryFileSystem):
    """A store in which files are seen before they are complete."""

    protocol = "growing"


def test_where_files_grow_they_are_renamed(memory, tmp_path, monkeypatch):
    fsspec.register_implementation("growing", Growing, clobber=True)
    folder = Folder(memory.replace("memory", "growing"))
    written = []
    for name in ("pipe_file", "put_file", "mv"):
        original = getattr(Growing, name)

        def noted(fs, first, second, *args, original=original, name=name, **kwargs):
            written.append((name, first if name == "pipe_file" else second))
            return original(fs, first, second, *args, **kwargs)

        monkeypatch.setattr(Growing, name, noted)
    folder.write("a/b.json", b"content")
    (tmp_path / "c.png").write_bytes(b"picture")
    folder.put(tmp_path / "c.png", "d/c.png")
    assert folder.read("a/b.json") == b"content" and folder.read("d/c.png") == b"picture"
    assert folder.names("a") == ["b.json"] and folder.names("d") == ["c.png"]
    assert not (tmp_path / "c.png").exists()
    final = [name for call, name in written if not name.endswith(".lpnsr-partial")]
    assert len(final) == 2 and [call for call, name in written if name in final] == ["mv", "mv"]


def test_what_stores_say_is_one_kind_of_error(memory, monkeypatch):
    folder = Folder(memory)
    with pytest.raises(FileNotFoundError, match="none: "):
        folder.read("none")
    assert folder.names("none") == []
    folder.remove("none")

    def fail(*_, **__):
        raise ValueError("a\nreason")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    with pytest.raises(StorageError, match=r"/x: a reason$"):
        folder.read("x")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError, match=r"gs://x: .*gcsfs"):
        Folder("gs://x")


def test_folders_know_each_other(tmp_path):
    outer, inner = Folder(str(tmp_path)), Folder(f"file://{tmp_path}/inner/")
    assert inner.url == str(tmp_path / "inner")
    assert outer.holds(inner) and outer.holds(outer) and not inner.holds(outer)
    assert not inner.holds(Folder(str(tmp_path / "inner2")))


def test_a_slash_at_the_end_of_a_store_does_not_matter():
    pytest.importorskip("s3fs")
    assert Folder("s3://b/x").url == Folder("s3://b/x/").url == "s3://b/x"


def test_results_come_in_order_and_only_some_ahead():
    asked = []

    def items():
        for number in range(20):
            asked.append(number)
            yield number

    results = ahead(lambda number: 2 * number, items(), threads=3)
    assert next(results) == 0 and len(asked) == 4
    assert [*results] == [2 * number for number in range(1, 20)]


def test_errors_of_items_are_raised():
    def fail(number):
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        list(ahead(fail, range(3)))


def test_moving_into_a_local_folder_replaces(tmp_path):
    folder = Folder(str(tmp_path / "out"))
    for content in (b"1", b"2"):
        (tmp_path / "source").write_bytes(content)
        folder.put(tmp_path / "source", "a/b")
    assert contents(tmp_path) == {"out/a/b": b"2"}
