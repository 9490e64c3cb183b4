"""Real engines, built by TensorRT-RTX for a GPU that is not here."""

import dataclasses
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper
from runtime.toy import TILES, write_bundle, write_staged_bundle

from lpnsr.export import cli
from lpnsr.export.engines import building, command, store
from lpnsr.models.presets import get_preset
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.engine_files import EngineError, find, read
from lpnsr.runtime.bundle import BUILTIN, Bundle
from lpnsr.runtime.manifest import MANIFEST

trt = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
pytest.importorskip("polygraphy", reason="the extra engines is not installed")

BUILDER, GPU = "tensorrt-rtx", "sm_89"
VERSION = trt.__version__
ABSENT = "    not compared with ONNX Runtime: the GPU is not here"


@pytest.fixture(scope="module", autouse=True)
def no_gpu():
    """What is built here is not run, wherever the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "present", lambda: None)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A toy bundle with the engine of its graph; do not change its files."""
    folder = write_bundle(tmp_path_factory.mktemp("engines") / "toy", tiles=TILES[:1], batches=(1,))
    return command.build(Bundle.open(folder), building.order(BUILDER, [GPU]))


@pytest.fixture
def own(built, tmp_path):
    """A copy of it that the test may change."""
    shutil.copytree(built.path, tmp_path / "own")
    return Bundle.open(tmp_path / "own")


def run(capfd, *arguments):
    code = cli.main(list(map(str, arguments)))
    out, err = capfd.readouterr()
    return code, out.splitlines(), err.splitlines()


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def changed(bundle, **fields):
    (engine,) = bundle.manifest.engines
    engines = (dataclasses.replace(engine, **fields),)
    return Bundle(bundle.path, dataclasses.replace(bundle.manifest, engines=engines))


def test_the_manifest_says_what_an_engine_is(built):
    opened = Bundle.open(built.path)
    (engine,), (graph,) = opened.manifest.engines, opened.manifest.graphs
    assert (engine.builder, engine.version, engine.gpus) == (BUILDER, VERSION, (GPU,))
    assert engine.graph == graph.file
    assert engine.sources == opened.manifest.files
    assert find(opened, graph.file, BUILDER, VERSION, GPU) == engine
    plan = read(opened, engine)
    assert plan[:4] == b"vtrt"
    assert names(built.path) == sorted([*opened.manifest.files, engine.file, MANIFEST])


def test_the_built_in_model_becomes_an_engine(tmp_path, capfd):
    opened = Bundle.open(BUILTIN)
    graph = min(opened.manifest.graphs, key=lambda graph: graph.tile)
    manifest = dataclasses.replace(opened.manifest, graphs=(graph,))
    target = tmp_path / "built-in"
    shutil.copytree(BUILTIN, target)
    (target / MANIFEST).write_text(manifest.to_json())
    code, out, err = run(capfd, "--bundle", target, "--engine", BUILDER, "--gpu", GPU)
    assert (code, err) == (0, [])
    assert out[1:] == [ABSENT]
    (engine,) = Bundle.open(target).manifest.engines
    assert re.fullmatch(
        rf"  {re.escape(engine.file)}: [\d.]+ MB, built with [\d.]+ GB of memory", out[0]
    )
    size = (target / engine.file).stat().st_size
    assert size > (target / "weights.bin").stat().st_size
    assert run(capfd, "--bundle", target, "--engine", BUILDER, "--gpu", GPU) == (
        0,
        [f"  {graph.file} has its {BUILDER} engine already", ABSENT],
        [],
    )


@pytest.mark.slow
def test_the_built_in_model_in_mixed_precision_as_stages(tmp_path, capfd):
    options = ["--preset", "lpnsr-tiny", "--tile", "32", "--precision", "mixed"]
    options += ["--topology", "staged", "--engine", BUILDER, "--gpu", GPU]
    code, out, _ = run(capfd, "-o", tmp_path / "bundle", *options)
    assert (code, out[-1]) == (0, ABSENT)
    opened = Bundle.open(tmp_path / "bundle")
    (graph,) = opened.manifest.graphs
    assert {"fp16", "bf16"} < set(opened.manifest.precision.values())
    assert 0 < graph.parity["mixed"]["x0_relative_l2"] < get_preset("lpnsr-tiny").tolerance.x0_bf16
    for file in graph.files:
        found = find(opened, file, BUILDER, VERSION, GPU)
        assert read(opened, found)[:4] == b"vtrt"


def test_a_staged_bundle_gets_an_engine_for_each_network(tmp_path, capfd):
    target = write_staged_bundle(tmp_path / "staged")
    code, out, err = run(capfd, "--bundle", target, "--engine", BUILDER, "--gpu", GPU)
    assert (code, err) == (0, [])
    opened = Bundle.open(target)
    (graph,) = opened.manifest.graphs
    found = [find(opened, file, BUILDER, VERSION, GPU).file for file in graph.files]
    assert [line.split(":")[0].strip() for line in out[:-1]] == found


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"gpus": ("sm_75", "sm_80")}, "is for sm_75, sm_80, the GPU is sm_89"),
        ({"version": "0.9"}, "was built by tensorrt-rtx 0.9, here is"),
        ({"sources": {"weights.bin": "0" * 64}}, "was built from another"),
        ({"builder": "tensorrt"}, "has no tensorrt-rtx engine"),
        ({"graph": "other.onnx"}, "has no tensorrt-rtx engine"),
    ],
)
def test_a_stale_or_foreign_engine_is_refused(built, fields, reason):
    bundle = changed(built, **fields)
    with pytest.raises(EngineError, match=reason) as raised:
        find(bundle, built.manifest.graphs[0].file, BUILDER, VERSION, GPU)
    command = f"lpnsr-export --bundle {bundle.path} --engine {BUILDER} --gpu {GPU}"
    assert str(raised.value).endswith(f"; run: {command}")


def test_a_damaged_engine_is_refused_and_built_again(own, capfd):
    (engine,) = own.manifest.engines
    (own.path / engine.file).write_bytes(b"ptrt")
    with pytest.raises(EngineError, match="is missing or damaged; run: lpnsr-export --bundle"):
        read(own, engine)
    code, out, _ = run(capfd, "--bundle", own.path, "--engine", BUILDER, "--gpu", GPU)
    assert code == 0 and "built with" in out[0]
    (again,) = Bundle.open(own.path).manifest.engines
    assert len(read(own, again)) > 1000


def test_one_engine_serves_several_gpus_and_replaces_the_narrower(own):
    (old,), wanted = own.manifest.engines, building.order(BUILDER, ["sm_120", GPU])
    graph = own.manifest.graphs[0].file
    bundle, _ = store.add_engine(own, graph, wanted, lambda phase, done: None)
    (engine,) = Bundle.open(own.path).manifest.engines
    assert engine.gpus == ("sm_120", GPU)
    assert find(bundle, graph, BUILDER, VERSION, "sm_120") == engine
    assert not (own.path / old.file).exists()


def test_progress_rises_to_the_end(own):
    seen, wanted = [], building.order(BUILDER, ["sm_80"])
    graph = own.manifest.graphs[0].file
    store.add_engine(own, graph, wanted, lambda *news: seen.append(news))
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[0] == 0 and shares[-1] == 1


def test_an_engine_much_larger_than_its_weights_is_refused(own, monkeypatch, capfd):
    monkeypatch.setattr(store, "CODE", 0)
    before = names(own.path)
    options = ["--bundle", own.path, "--engine", BUILDER, "--gpu", "sm_80"]
    code, out, err = run(capfd, *options)
    assert (code, out, len(err)) == (2, [], 1)
    assert "unfolded its constants; try another version" in err[0]
    assert names(own.path) == before


def test_an_interrupted_build_leaves_the_bundle_as_it_was(own):
    before = names(own.path), (own.path / MANIFEST).read_text()
    code = "import sys; from lpnsr.export.cli import main; sys.exit(main())"
    options = ["--bundle", str(own.path), "--engine", BUILDER, "--gpu", "sm_80"]
    command = [sys.executable, "-c", code, *options]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Jobs in the background are started with Ctrl-C ignored, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(own.path.glob(".*.lpnsr-partial")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("lpnsr-export: interrupted; engines that were done are kept\n")
    assert (names(own.path), (own.path / MANIFEST).read_text()) == before


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be blocked")
def test_an_interrupt_waits_until_the_build_has_started():
    code = """
import os, signal, subprocess, sys
from lpnsr.export.engines.store import _uninterrupted

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('child goes on')"
try:
    with _uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        subprocess.run([sys.executable, "-c", interrupt])
except KeyboardInterrupt:
    print("interrupted")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("child goes on\ninterrupted\n", "")


@pytest.mark.parametrize(
    ("operator", "rows", "reason"),
    [
        ("NoSuchOperator", 1, "cannot read .*{graph}: In node 0 with name: odd"),
        ("Relu", "any", "cannot build {graph}: .*no optimization profile"),
    ],
)
def test_a_graph_that_the_builder_cannot_use_is_refused(own, capfd, operator, rows, reason):
    node = helper.make_node(operator, ["lr"], ["sr"], name="odd")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [rows, 3]) for n in ("lr", "sr")]
    graph = own.manifest.graphs[0].file
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(
            helper.make_graph([node], "odd", values[:1], values[1:]), opset_imports=opset
        ),
        own.path / graph,
    )
    wanted, before = building.order(BUILDER, ["sm_80"]), names(own.path)
    expected = f"{BUILDER} {reason.format(graph=re.escape(graph))}"
    with pytest.raises(BackendError, match=expected) as raised:
        store.add_engine(own, graph, wanted, lambda phase, done: None)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")
    assert names(own.path) == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--engine", BUILDER, "--gpu", "sm_90"], "builds no engine for sm_90, only for sm_75, "),
        (["--engine", "tensorrt", "--gpu", GPU], r'pip install "lpnsr\[tensorrt\]"'),
        (["--engine", BUILDER, "--gpu", GPU, "--timing-cache", "x"], "leave out --timing-cache"),
        ([], "add --engine tensorrt-rtx"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(built, capfd, monkeypatch, options, reason):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    code, out, err = run(capfd, "--bundle", built.path, *options)
    assert (code, out, len(err)) == (2, [], 1)
    assert re.search(reason, err[0])


def test_without_polygraphy_nothing_is_built(own, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    code, out, err = run(capfd, "--bundle", own.path, "--engine", BUILDER, "--gpu", "sm_80")
    missing = 'polygraphy is missing; install it with: pip install "lpnsr[engines]"'
    assert (code, out, err) == (2, [], [f"lpnsr-export: {missing}"])


def test_a_command_without_engines_loads_none_of_their_packages(built):
    script = """
import sys
from lpnsr.export.cli import main
main(["--bundle", sys.argv[1]])
print(*sys.modules)
"""
    command = [sys.executable, "-c", script, str(built.path)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "lpnsr.export.engines.building" in loaded
    assert not {"polygraphy", "tensorrt", "tensorrt_rtx"} & set(loaded)


def test_timings_need_a_folder(monkeypatch, tmp_path):
    """The real TensorRT takes no timings where there is no GPU."""
    monkeypatch.setattr(building, "present", lambda: "sm_86")
    monkeypatch.setattr(building, "import_builder", lambda name: SimpleNamespace(__version__="11"))
    cache = tmp_path / "timings"
    assert building.order("tensorrt", timing_cache=cache).timing_cache == cache
    with pytest.raises(BackendError, match=r"there is no folder for .*timings; make it"):
        building.order("tensorrt", timing_cache=tmp_path / "none" / "timings")


def test_polygraphy_serves_one_builder_in_a_process():
    script = """
from lpnsr.export.engines.building import _loaders
_loaders("tensorrt-rtx")
_loaders("tensorrt")
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stderr.endswith("serves another builder in this process than tensorrt\n")


def test_without_a_gpu_one_has_to_be_named():
    with pytest.raises(BackendError, match=r"no NVIDIA GPU here; .* --gpu sm_75 sm_80"):
        building.order(BUILDER)


def test_the_gpu_that_is_there_is_the_default(monkeypatch):
    monkeypatch.setattr(building, "present", lambda: "sm_86")
    assert building.order(BUILDER).gpus == ("sm_86",)
