"""Exact rewrites of traced graphs, one small file each, with what each is worth.

Some things are done where the graph is made: what depends on the timestep alone is computed at
export (`lpnsr.export.graph.unroll`), repeated tables are stored once
(`lpnsr.export.graph.builder`), and attention is written in four dimensions, which OpenVINO then
runs as one operation (`lpnsr.models.windows`; pre-upsampler of `lpnsr`, 64x64 tile, 2 cores with
AVX-512: 0.53 -> 0.52 s in bfloat16, 0.92 -> 0.87 s in float32, ONNX Runtime 1.28 -> 1.26 s).

Measured and left out, for the same tile:

- Folding the chain's scalar factors and the input's scale into convolutions, or computing the part
  of the first convolution that sees only the input once: in OpenVINO in bfloat16 all operations
  between the networks together take 0.0003 s and a denoiser's first convolution 0.0001 s, of 2.9 s.
- Group norms as means and products, which spares changes of layout: 5 % faster in bfloat16, but the
  statistics are then rounded too, and the decoder falls from 45.9 to 44.2 dB.
- A 4x4 transposed convolution for upsampling: see `upsample_phases`.
"""

from __future__ import annotations

import onnx_ir as ir

from lpnsr.export.graph.passes.blockwise_argmin import blockwise_argmin
from lpnsr.export.graph.passes.narrow_indices import narrow_indices
from lpnsr.export.graph.passes.upsample_phases import upsample_phases


def rewrite(model: ir.Model) -> None:
    """Apply all rewrites to a traced network, in place."""
    upsample_phases(model)
    blockwise_argmin(model)
    narrow_indices(model)
