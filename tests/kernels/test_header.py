"""The header, compiled plainly: no vectors, no fused multiply-add."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import lpnsr.kernels.cuda
from lpnsr.kernels import library, reference

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
HEADERS = Path(lpnsr.kernels.cuda.__file__).parent


@pytest.fixture(scope="module")
def header_normals(tmp_path_factory):
    """`header_normals(words)`: uint32 (n, 2) -> float32 (n, 2)."""
    if COMPILER is None:
        pytest.skip("there is no C++ compiler")
    program = tmp_path_factory.mktemp("header") / "normals"
    source = Path(__file__).with_name("normals.cpp")
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([COMPILER, *flags, f"-I{HEADERS}", str(source), "-o", str(program)], check=True)

    def run(words):
        content = np.ascontiguousarray(words, np.uint32).tobytes()
        done = subprocess.run([str(program)], input=content, capture_output=True, check=True)
        return np.frombuffer(done.stdout, np.float32).reshape(-1, 2)

    return run


def test_normals_are_precise_where_it_is_hardest(header_normals):
    # The farthest tail, the smallest radii, both sides of 1/2 and of the root of 1/2; and angles
    # at, around and between the quarters.
    near = np.arange(-300, 300, dtype=np.int64)
    radii = np.concatenate([near + centre for centre in (0, 2**31, int(2**31.5), 2**32)])
    eighths = np.arange(17, dtype=np.int64)[:, None] * 2**29
    around = eighths + np.array([-129, -1, 0, 1, 63, 128])
    angles = np.concatenate([around.ravel(), 537993246 + near[:40]])
    words = np.stack(np.meshgrid(radii, angles), axis=-1).reshape(-1, 2) % 2**32
    u = (words + 0.5) * 2.0**-32
    radius, angle = np.sqrt(-2 * np.log(u[:, 0])), 2 * np.pi * u[:, 1]
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    assert np.abs(expected).max() > 6.7
    found = header_normals(words)
    assert np.abs(found - expected.astype(np.float32)).max() <= 1e-6


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_the_library_was_built():
    assert library.LIBRARY is not None, "install lpnsr again, with -v to see why"


@pytest.mark.skipif(library.LIBRARY is None, reason="built without a C++ compiler")
def test_every_processor_makes_the_same_noise(header_normals):
    window = (37, 53, 40, 301)
    rows, columns = np.mgrid[37:77, 53:354]
    words = np.stack(reference.philox4x32((columns, rows, 0, 0), (9, 0)), axis=-1)
    plain = header_normals(words.reshape(-1, 2)).reshape(40, 301, 4)
    found = lpnsr.kernels.normals(9, 1, 4, *window)[0]
    np.testing.assert_array_equal(found, np.moveaxis(plain, -1, 0))
