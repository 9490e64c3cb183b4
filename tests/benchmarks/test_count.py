import onnx_ir as ir
import pytest
import torch

from lpnsr.benchmarks import count
from lpnsr.export.graph.composing import single


@pytest.mark.slow
def test_graphs_as_traced_cost_what_eager_costs(micro, micro_raw_traces, micro_traces, tmp_path):
    chain, preset = micro.chain, micro.preset

    def cost(traces):
        model = single(chain, preset, traces("decoder", 1, (16, 16)), "decoder")
        ir.save(model, tmp_path / "stage.onnx")
        return count.graph(tmp_path / "stage.onnx")

    x = torch.zeros(1, 3, 16, 16)
    eager = count.eager(lambda: chain.codec.decode_quantized(x))
    macs, constants = cost(micro_raw_traces)
    assert macs == eager
    parameters = sum(p.numel() for p in chain.codec.decoder.parameters())
    assert parameters <= constants < 2 * parameters
    # Upsampling and convolution as four smaller convolutions.
    assert cost(micro_traces)[0] < macs
