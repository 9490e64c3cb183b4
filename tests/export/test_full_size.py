"""The command as users run it, on full-size weights, and the authors' picture at its end."""

import collections
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from lpnsr.runtime.bundle import Bundle

pytestmark = pytest.mark.slow

REFERENCE = Path(__file__).parents[1] / "reference"
COMMAND = (sys.executable, "-c", "from lpnsr.export.cli import main; raise SystemExit(main())")
CALLS = {
    "pre_upsampler": 1,
    "encoder": 1,
    "denoiser": 4,
    "noise_predictor": 3,
    "quantizer": 1,
    "decoder": 1,
}
# What one call takes today. A change that needs more has to be worth it.
NODES = {
    "pre_upsampler": 1721,
    "encoder": 170,
    "denoiser": 1200,
    "noise_predictor": 1200,
    "quantizer": 16,
    "decoder": 231,
}
SLACK = 1.03
MEMORY, SIZE = 12e9, 1.35e9


@dataclass(frozen=True)
class Export:
    """A finished `lpnsr-export`: where the bundle is, and the memory it took in bytes."""

    bundle: Path
    code: int
    printed: str
    memory: int


@pytest.fixture(scope="session")
def export(official_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full_size")
    try:
        yield run_export(official_weights, folder / "bundle", folder / "printed.txt")
    finally:
        shutil.rmtree(folder)


def run_export(weights, bundle, printed):
    with printed.open("w") as stream:
        process = subprocess.Popen(
            [*COMMAND, "--weights", weights, "-o", bundle], stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            # Unlike subprocess and getrusage, this tells what this very process has used.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return Export(bundle, process.returncode, printed.read_text(), usage.ru_maxrss * 1024)


@pytest.fixture(scope="session")
def graph_file(export):
    assert export.code == 0, export.printed
    bundle = Bundle.open(export.bundle)
    return bundle.graph_path(bundle.manifest.graphs[0])


def test_memory_and_disk(export, graph_file):
    size = sum(file.stat().st_size for file in export.bundle.iterdir())
    print(f"{export.memory / 1e9:.1f} GB of memory, {size / 1e9:.2f} GB on disk")
    assert export.memory < MEMORY
    assert size <= SIZE


def test_what_it_prints(export, graph_file):
    lines = export.printed.splitlines()
    assert lines[0].startswith(f"{export.bundle}: ") and lines[0].endswith(" MB")
    assert lines[1].startswith(f"  {graph_file.name} in fp32: ")
    assert lines[2].startswith((f"  {graph_file.name} in bf16: ", "  bf16: not "))
    assert len(lines) == 3, "nothing else, no warnings of the exporter"


def test_bf16_is_for_auto_only_if_the_whole_picture_keeps(export):
    """On a processor that computes in it; elsewhere it is not measured."""
    (graph,) = Bundle.open(export.bundle).manifest.graphs
    found = graph.parity.get("bf16", {"sr_psnr": 0, "sr_near_share": 0})
    keeps = found["sr_psnr"] >= 40 and found["sr_near_share"] >= 0.95
    assert graph.precisions == (("fp32", "bf16") if keeps else ("fp32",))


def test_node_counts(graph_file):
    nodes = onnx.load(graph_file, load_external_data=False).graph.node
    counts = collections.Counter(
        match.group(1, 2) for node in nodes if (match := re.match(r"(\w+)_(\d+)/", node.name))
    )
    assert set(counts) == {
        (stage, str(call)) for stage, calls in CALLS.items() for call in range(1, calls + 1)
    }
    for (stage, _), count in counts.items():
        assert count <= NODES[stage] * SLACK, f"{stage}: {count}"


def test_the_authors_picture(graph_file, recipe, assert_share):
    with np.load(REFERENCE / "golden_a.npz") as golden:
        expected = np.clip(golden["decoded"], -1, 1)
    lr = recipe.image("a/lr", 1, 64, 64)
    noise = np.stack([recipe.noise(f"a/eps{draw}", (1, 3, 64, 64)) for draw in range(4)])
    session = onnxruntime.InferenceSession(graph_file, providers=["CPUExecutionProvider"])
    (sr,) = session.run(["sr"], {"lr": lr, "noise": noise})
    assert_share(sr, expected, 0.99, within=2 / 255)
