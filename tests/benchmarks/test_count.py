import onnx_ir as ir
import torch

from lpnsr.benchmarks import count
from lpnsr.benchmarks.methods import without_rewrites
from lpnsr.export.graph.composing import single
from lpnsr.export.graph.trace import trace_stage


def test_graphs_as_traced_cost_what_eager_costs(micro, tmp_path):
    chain, preset = micro.chain, micro.preset

    def cost(stage):
        model = single(chain, preset, trace_stage(chain, preset, stage, 1, (16, 16)), stage)
        ir.save(model, tmp_path / "stage.onnx")
        return count.graph(tmp_path / "stage.onnx")

    x = torch.zeros(1, 3, 16, 16)
    eager = count.eager(lambda: chain.codec.decode_quantized(x))
    with without_rewrites():
        macs, constants = cost("decoder")
    assert macs == eager
    parameters = sum(p.numel() for p in chain.codec.decoder.parameters())
    assert parameters <= constants < 2 * parameters
    # Upsampling and convolution as four smaller convolutions.
    assert cost("decoder")[0] < macs
