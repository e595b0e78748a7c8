"""The last linear layer of a network in ONNX format: its weights, and its input as one more output, so that features come out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ufm.files.archive import reason_of


@dataclass(frozen=True, eq=False)
class OnnxHead:
    """W (C, P) and b (C,) of the last linear layer, and the model (bytes) with the features as its output `features_name`."""

    W: np.ndarray
    b: np.ndarray
    features_name: str
    model: bytes


def onnx_head(path: Path | str) -> OnnxHead:
    """The last MatMul (with or without Add) or Gemm whose weights are constants.

    `onnxruntime.InferenceSession(head.model)` run for `[head.features_name]` gives features. Raises ValueError without one.
    """
    import onnx

    try:
        model: Any = onnx.load(path)
    except Exception as error:  # a damaged file raises anything, DecodeError of protobuf among it
        raise ValueError(f"cannot read {path} as ONNX: {reason_of(error)}") from error
    nodes = list(model.graph.node)
    constants = {x.name: x for x in model.graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in nodes if node.op_type == "Constant"}
    layers = [node for node in nodes if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants]
    if not layers:
        raise ValueError(f"{path} has no linear layer with constant weights")
    layer = layers[-1]

    def array(name: str) -> np.ndarray:
        return np.array(onnx.numpy_helper.to_array(constants[name]))

    transposed = any(item.name == "transB" and item.i for item in layer.attribute)
    W = array(layer.input[1]) if transposed else array(layer.input[1]).T
    if layer.op_type == "Gemm":
        biases = layer.input[2:]
    else:
        added = [node for node in nodes if node.op_type == "Add" and layer.output[0] in node.input]
        biases = [name for node in added for name in node.input if name in constants]
    b = array(biases[0]).reshape(-1) if biases else np.zeros(len(W), W.dtype)
    model.graph.output.append(onnx.helper.make_tensor_value_info(layer.input[0], onnx.TensorProto.FLOAT, None))
    return OnnxHead(np.ascontiguousarray(W), b, layer.input[0], model.SerializeToString())
