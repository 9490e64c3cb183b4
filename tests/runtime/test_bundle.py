import json
from dataclasses import replace

import numpy as np
import pytest

from lpnsr.runtime.bundle import BUILTIN, Bundle
from lpnsr.runtime.manifest import MANIFEST, BundleError, Graph, Manifest

from .toy import TILES, write_staged_bundle


def test_manifest_survives_a_round_trip(bundle):
    manifest = Bundle.open(bundle).manifest
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert {graph.tile for graph in manifest.graphs} == set(TILES)


def test_graph_path_leads_to_a_file(bundle):
    opened = Bundle.open(str(bundle))
    assert all(opened.graph_path(graph).is_file() for graph in opened.manifest.graphs)


def test_a_folder_without_manifest_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BundleError, match=r"not a bundle.*lpnsr-export"):
            Bundle.open(path)


def test_a_file_that_changed_is_refused(own_bundle):
    path = own_bundle()
    name = Bundle.open(path).manifest.graphs[0].file
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} does not match its SHA-256"):
        Bundle.open(path)
    (path / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "..\\b"])
def test_a_name_that_leads_out_of_the_bundle_is_refused(own_bundle, name):
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(own_bundle(files={name: "0" * 64}))


def test_a_graph_without_hash_is_refused(own_bundle):
    with pytest.raises(BundleError, match="no hash"):
        Bundle.open(own_bundle(files={}))


def test_a_bundle_without_graphs_is_refused(own_bundle):
    with pytest.raises(BundleError, match="no hash for its graphs"):
        Bundle.open(own_bundle(graphs=()))


def damaged(bundle, **changes):
    fields = json.loads((bundle / MANIFEST).read_text())
    return json.dumps({**fields, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"graphs": 3},
        {"graphs": [{"file": "a"}]},
        {"graphs": [{"file": "a", "tile": ["x", 1], "batch": 1, "parity": {}}]},
        {"files": ["a"]},
        {"inputs": None},
        {"inputs": ["lr"]},
        {"inputs": ["lr", 3]},
        {"scale": "4"},
        {"scale": 0},
        {"draws": -1},
        {"draws": 1e300},
        {"latent_channels": True},
        {"preset": 3},
        {"files": {"a": None}},
        {"graphs": [{"file": "a", "tile": [0, 8], "batch": 1, "parity": {}}]},
        {"graphs": [{"file": "a", "tile": [8, 8], "batch": 10**9, "parity": {}}]},
        {"graphs": [{"file": "a", "tile": [8, float("inf")], "batch": 1, "parity": {}}]},
        {"graphs": [{"file": 1, "tile": [8, 8], "batch": 1, "parity": {}}]},
        {"unknown": 1},
    ],
)
def test_damaged_fields_are_refused(bundle, changes):
    with pytest.raises(BundleError, match="damaged"):
        Manifest.from_json(damaged(bundle, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"format": 2}', "[" * 99999])
def test_damaged_documents_are_refused(text):
    with pytest.raises(BundleError, match="damaged"):
        Manifest.from_json(text)


def test_another_format_is_refused(bundle):
    with pytest.raises(BundleError, match="format 99 is not the supported"):
        Manifest.from_json(damaged(bundle, format=99))


def test_a_manifest_that_is_not_text_is_refused(own_bundle):
    path = own_bundle()
    (path / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="damaged"):
        Bundle.open(path)


def test_graphs_are_values():
    graph = Graph("a.onnx", (64, 64), 1, {})
    assert graph == replace(graph) != replace(graph, batch=2)


def test_a_link_out_of_the_bundle_is_refused(own_bundle):
    path = own_bundle()
    file = next(path.glob("*.onnx"))
    file.rename(path.parent / "elsewhere")
    file.symlink_to(path.parent / "elsewhere")
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(path)


def test_every_edit_is_noticed_or_harmless(own_bundle):
    """The manifest truncated at 200 places and with 200 random flips never gives another error."""
    path = own_bundle()
    content = (path / MANIFEST).read_bytes()
    rng = np.random.default_rng(0)
    variants = [content[:cut] for cut in np.linspace(0, len(content) - 2, 200).astype(int)]
    for _ in range(200):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        variants.append(bytes(flipped))
    refused = 0
    for variant in variants:
        (path / MANIFEST).write_bytes(variant)
        try:
            Bundle.open(path)
        except BundleError as error:
            refused += 1
            assert "Traceback" not in str(error)
    assert refused > 300


@pytest.mark.parametrize("number", [2, 3])
def test_former_names_of_precisions_are_read(bundle, number):
    """Formats 2 and 3 call them by the names of types and by those of OpenVINO."""
    fields = json.loads((bundle / MANIFEST).read_text())
    fields |= {"format": number, "precision": {"a": "float32", "b": "float16", "c": "bfloat16"}}
    for graph in fields["graphs"]:
        graph |= {"parity": {"f32": {"x": 1.0}, "bf16": {}}, "precisions": ["f32", "bf16"]}
    manifest = Manifest.from_json(json.dumps(fields))
    assert manifest.precision == {"a": "fp32", "b": "fp16", "c": "bf16"}
    assert manifest.graphs[0].parity == {"fp32": {"x": 1.0}, "bf16": {}}
    assert manifest.graphs[0].precisions == ("fp32", "bf16")
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_former_formats_say_by_name_when_a_stage_is_called(tmp_path):
    path = write_staged_bundle(tmp_path / "staged")
    expected = Bundle.open(path).manifest
    fields = json.loads((path / MANIFEST).read_text()) | {"format": 3}
    for name in ("latent_side", "precise"):
        del fields[name]
    for graph in fields["graphs"]:
        del graph["picture"], graph["given"]
        for stage in graph["stages"]:
            del stage["phase"]
    for step in fields["steps"]:
        del step["timestep"], step["input_scale"]
    assert Manifest.from_json(json.dumps(fields)) == expected
    fields["graphs"][0]["stages"][0]["name"] = "something"
    with pytest.raises(BundleError, match="damaged"):
        Manifest.from_json(json.dumps(fields))


@pytest.mark.parametrize("number", [2, 3])
def test_former_formats_imply_where_a_graph_may_be_cut(bundle, number):
    fields = json.loads((bundle / MANIFEST).read_text()) | {"format": number}
    del fields["precise"]
    assert Manifest.from_json(json.dumps(fields)).precise == ()
    fields["precision"]["quantizer"] = "float32"
    assert Manifest.from_json(json.dumps(fields)).precise == (("x_0", "quantized"),)


def test_an_unknown_precision_is_refused(bundle):
    with pytest.raises(BundleError, match="no such precision"):
        Manifest.from_json(damaged(bundle, precision={"denoiser": "int8"}))


def test_the_builtin_bundle_opens():
    assert Bundle.open(BUILTIN).manifest.graphs[0].precisions == ("fp32", "bf16")
