"""Runs on a real Ray of this machine, with two workers."""

import os
import re
import signal
import subprocess
import sys
import time
from importlib.resources import files
from types import SimpleNamespace

import psutil
import pytest
from PIL import Image

pytest.importorskip("ray", reason="needs the extra bulk")

from lpnsr.runtime.command.jobs import JobError

from ..toy import photo
from .conftest import ENGINE, contents, expected, fill
from .test_storage import bucket, download, s3, upload  # noqa: F401, fixtures

pytestmark = pytest.mark.slow

TWO = ("--ray", "local", "--workers", "2")


def command(tmp_path, bundle, *options):
    """A run of `in` in a process of its own."""
    names = [str(tmp_path / name) for name in ("in", "out", "run")]
    return [
        *(sys.executable, "-m", "lpnsr.runtime.bulk.cli", "run", names[0], "-o", names[1]),
        *("--run", names[2], "--model", str(bundle), *ENGINE, *TWO, *options),
    ]


def wait_for(tmp_path, run, results):
    """Wait until so many shards are done."""
    while len(list(tmp_path.glob("run/results/0*"))) < results:
        assert run.poll() is None
        time.sleep(0.02)


def workers(run):
    """The processes of Ray's actors."""
    children = psutil.Process(run.pid).children(recursive=True)
    return [child for child in children if child.name().startswith("ray::Actor")]


CPU, GPUS = {"CPU": 30.0}, {"CPU": 32.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("machines", "options", "count", "needs"),
    [
        ([GPUS] * 4, {}, 16, {"num_gpus": 1, "num_cpus": 1}),
        ([GPUS, CPU], {"backend": "tensorrt", "threads": 3}, 4, {"num_gpus": 1, "num_cpus": 3}),
        ([GPUS], {"backend": "onnxruntime"}, 8, {"num_cpus": 4}),
        ([CPU, CPU], {}, 14, {"num_cpus": 4}),
        ([CPU, {"CPU": 2.0}], {}, 16, {"num_cpus": 2}),
        ([CPU, CPU], {"threads": 16}, 2, {"num_cpus": 16}),
        ([GPUS], {"workers": 40}, 40, {"num_gpus": 1, "num_cpus": 1}),
    ],
)
def test_there_is_a_worker_for_every_gpu_or_group_of_cores(
    monkeypatch, machines, options, count, needs
):
    from lpnsr.runtime.bulk import cluster

    asked = []
    kind = SimpleNamespace(
        options=lambda **wanted: asked.append(wanted) or SimpleNamespace(remote=lambda *_: 0)
    )
    nodes = [{"Alive": True, "Resources": resources} for resources in machines]
    nodes.append({"Alive": False, "Resources": GPUS})
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster.ray, "remote", lambda actor: kind)
    wanted = {"backend": "auto", "model": None, "threads": None, "workers": None} | options
    made = cluster.Cluster("run", say=print, **wanted)
    assert len(made.actors) == count
    assert asked == [{"max_restarts": -1, **needs}]
    with pytest.raises(JobError, match="no machine of the cluster has 64 cores; lower --threads"):
        cluster.Cluster(
            "run", say=print, **wanted | {"threads": 64, "workers": None, "backend": "onnxruntime"}
        )


def test_two_workers_do_what_one_process_does(tmp_path, bundle, bulk, lines):
    fill(tmp_path / "in", 8)
    (tmp_path / "in" / "bad.png").write_bytes(b"bad")
    run = subprocess.run(command(tmp_path, bundle), capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert "lpnsr-bulk: runs with 2 workers, ONNX Runtime " in run.stderr
    assert contents(tmp_path / "out") == expected(tmp_path / "in", tmp_path / "wanted", bundle)
    assert [line["input"] for line in lines() if "error" in line] == ["bad.png"]


def test_what_no_worker_can_do_is_told_in_one_line(tmp_path, bundle, bulk):
    fill(tmp_path / "in", 2)
    bulk("plan", tmp_path / "in", "-o", tmp_path / "out")
    arguments = ["work", "--run", str(tmp_path / "run"), *TWO, "--threads", "1"]
    run = subprocess.run(
        [sys.executable, "-m", "lpnsr.runtime.bulk.cli", *arguments, "--model", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith(f"lpnsr-bulk: {tmp_path} is not a bundle")
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there(tmp_path, bundle):
    fill(tmp_path / "in", 2)
    run = subprocess.run(
        [*command(tmp_path, bundle), "--ray", "auto"],
        capture_output=True,
        text=True,
        env=os.environ | {"RAY_ADDRESS": ""},
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("lpnsr-bulk: cannot reach Ray at auto: ")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_workers_and_a_killed_driver_cost_nothing(tmp_path, bundle, bulk, lines):
    """200 pictures on two workers: one is killed in the middle, then the driver."""
    fill(tmp_path / "in", 200, times=3)  # else all is done before Ray notices the first
    wanted = expected(tmp_path / "in", tmp_path / "wanted", bundle)
    with subprocess.Popen(command(tmp_path, bundle), stderr=subprocess.PIPE, text=True) as run:
        wait_for(tmp_path, run, 5)
        workers(run)[0].kill()
        while "a worker's process has ended in shard " not in run.stderr.readline():
            assert run.poll() is None
        family = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGKILL)
    psutil.wait_procs(family)
    some = contents(tmp_path / "out")
    done = {name: content for name, content in some.items() if not name.startswith(".")}
    assert 0 < len(done) < 200 and done.items() <= wanted.items()  # each is whole
    assert subprocess.run(command(tmp_path, bundle)).returncode == 0
    assert contents(tmp_path / "out") == wanted
    found = lines()
    assert sorted(line["output"] for line in found) == sorted(wanted)
    assert not any("error" in line for line in found)


def test_a_lost_engine_ends_its_process_and_ray_starts_another(tmp_path, bundle, bulk, lines):
    """As told by the engine; the shard is finished by the next process."""
    fill(tmp_path / "in", 20)
    site = tmp_path / "site"
    site.mkdir()
    mark = tmp_path / "lost"
    (site / "sitecustomize.py").write_text(
        f"""
import os, sys

def spoil():
    from lpnsr.runtime.backends.base import BackendError
    from lpnsr.runtime.command.pipeline import Pipeline
    run = Pipeline.run
    def fails_once(self, jobs):
        if os.path.exists({str(mark)!r}):
            yield from run(self, jobs)
        else:
            open({str(mark)!r}, "w").close()
            raise BackendError("the GPU is gone")
    Pipeline.run = fails_once

if any("default_worker.py" in word for word in sys.orig_argv):
    spoil()
"""
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    run = subprocess.run(command(tmp_path, bundle), capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert mark.exists() and "a worker's process has ended in shard " in run.stderr
    assert contents(tmp_path / "out") == expected(tmp_path / "in", tmp_path / "wanted", bundle)
    assert {line["attempts"] for line in lines()} == {1, 2}


def test_two_workers_from_store_to_store(tmp_path, bundle, bucket):  # noqa: F811
    fill(tmp_path / "in", 20)
    upload(tmp_path / "in", f"{bucket}/in")
    arguments = [f"{bucket}/in", "-o", f"{bucket}/out", "--run", f"{bucket}/run"]
    arguments += ["--model", str(bundle), *ENGINE, *TWO]
    run = subprocess.run(
        [sys.executable, "-m", "lpnsr.runtime.bulk.cli", "run", *arguments],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert download(f"{bucket}/out") == expected(tmp_path / "in", tmp_path / "wanted", bundle)


def test_the_recipe_for_ray_data(tmp_path, bundle):
    """As it stands in the README, without its GPU."""
    pytest.importorskip("pandas", reason="Ray Data needs pandas")
    text = (files("lpnsr.runtime.bulk") / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code = code.replace('["bundle"]', f"[{str(bundle)!r}]").replace(
        "num_gpus=1, concurrency=4", "concurrency=1"
    )
    (tmp_path / "recipe.py").write_text(code)
    Image.fromarray(photo(20, 30)).save(tmp_path / "photo.jpg")
    run = subprocess.run(
        [sys.executable, "recipe.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (120, 80)
    from pyarrow import parquet

    (row,) = parquet.read_table(tmp_path / "status").to_pylist()
    assert row == {"path": "photo.jpg", "target": "large.png", "error": ""}
