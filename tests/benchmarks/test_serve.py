import re

import pytest

from lpnsr.benchmarks import serve
from runtime import toy

pytest.importorskip("starlette", reason="needs the extra serve")


def test_every_number_of_clients_has_a_line(tmp_path):
    bundle = toy.write_bundle(tmp_path / "toy", fragile=False)
    text = serve.measure(bundle, 5, [1, 3], 1)
    assert text.startswith("5 pictures of 48 to 200 pixels a side; ")
    names = r"\| (lpnsr-run|1 client|3 clients) "
    rows = [line for line in text.splitlines() if re.match(names, line)]
    assert len(rows) == 3
    assert all(re.search(r"\d+% \| \d+\.\d\d s \| \d+\.\d\d s \|$", row) for row in rows[1:])
