"""Exact rewrites of traced graphs, one small file each, with what each is worth."""

from __future__ import annotations

import onnx_ir as ir

from lpnsr.export.passes.blockwise_argmin import blockwise_argmin
from lpnsr.export.passes.upsample_phases import upsample_phases


def rewrite(model: ir.Model) -> None:
    """Apply all rewrites to a traced network, in place."""
    upsample_phases(model)
    blockwise_argmin(model)
