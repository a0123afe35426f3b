"""Networks as ONNX files, for programs without torch, such as the web page that draws digits.

Weights are stored in half precision, as in the .safetensors, and cast where they are used.
"""

import importlib.util
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from lessons_lib.classifier import Evaluator
from lessons_lib.files import atomic_write
from lessons_lib.flow_map import FlowMap, jump
from lessons_lib.names import refuse
from lessons_lib.unet import UNet
from lessons_lib.weights import load_pretrained

OPSET = 18


class _Jump(nn.Module):
    """A flow map without its checks, which no graph can hold."""

    def __init__(self, flow_map: FlowMap) -> None:
        super().__init__()
        self.flow_map = flow_map

    def forward(self, x_t: Tensor, t: Tensor, s: Tensor, y: Tensor, guidance_scale: Tensor) -> Tensor:
        x_0 = self.flow_map.estimate(x_t, t, s, y, guidance_scale).clamp(-1, 1)
        return jump(self.flow_map.schedule, x_t, t, s, x_0)


def inputs_of(network: nn.Module, batch: int = 2) -> dict[str, Tensor]:
    """Of each input of the network's graph an example, by name."""
    config = network.config
    x = torch.zeros(batch, config.in_channels, config.image_size, config.image_size)
    if isinstance(network, Evaluator):
        return {"x_0": x}
    noisy, y = {"x_t": x, "t": torch.full((batch,), 5)}, torch.zeros(batch, dtype=torch.int64)
    if isinstance(network, FlowMap):
        return noisy | {"s": torch.full((batch,), 4), "y": y, "guidance_scale": torch.ones(batch)}
    return noisy | ({"y": y} if isinstance(network, UNet) and config.num_classes else {})


def export(name: str | Path, path: str | Path) -> dict:
    """Write weights, by name or path, to an .onnx file; returns its metadata: their name and SHA-256.

    The graph's inputs are those of `inputs_of`, for any number of images; its output is "answer": eps, x_s or
    logits. ValueError where onnxscript is not installed, and for a denoiser that is told attributes.
    """
    missing = importlib.util.find_spec("onnxscript") is None
    refuse({"ONNX files need two more packages: pip install onnx onnxscript.": missing})
    import onnx

    network, _, card = load_pretrained(name)
    untold = isinstance(network, UNet) and network.config.multi_label
    refuse({f"{name} is told attributes: only networks with classes, or none, can be exported.": untold})
    given = inputs_of(network)
    graph = _Jump(network) if isinstance(network, FlowMap) else network
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all inputs have one batch size
        program = torch.onnx.export(
            graph.eval(), tuple(given.values()), input_names=list(given), output_names=["answer"],
            dynamic_shapes=tuple({0: batch} for _ in given), opset_version=OPSET, external_data=False,
            dynamo=True, verbose=False,
        )  # fmt: skip
    model = program.model_proto
    _halve(model.graph)
    facts = {"name": card["name"], "sha256": card["sha256"]}
    onnx.helper.set_model_props(model, facts)
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return facts


def _halve(graph) -> None:
    """Store in half precision what loses nothing by it, the weights, each with a node that casts it back."""
    from onnx import TensorProto, helper, numpy_helper

    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type == TensorProto.FLOAT and (values == values.astype("float16")).all():
            name, half = weight.name, f"{weight.name}_half"
            weight.CopyFrom(numpy_helper.from_array(values.astype("float16"), half))
            graph.node.insert(0, helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
