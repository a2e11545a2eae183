"""Whether a network ends with an activation of its own: then its answers are probabilities, and another one would spoil them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

ACTIVATIONS = ("sigmoid", "softmax")
#: operations that leave each value what it is, of TorchScript and of ONNX as OpenVINO names them
SAME_VALUES = {
    "squeeze",
    "unsqueeze",
    "flatten",
    "view",
    "reshape",
    "permute",
    "transpose",
    "contiguous",
    "to",
    "float",
    "convert",
    "identity",
}


def ending(network: Any) -> str:
    """ "sigmoid" or "softmax"; empty where it ends with neither, or nobody can see it."""
    if isinstance(network, torch.jit.ScriptModule):
        return _of_script(network)
    return _of_module(network) if isinstance(network, nn.Module) else str(getattr(network, "ending", ""))


def _of_script(network: torch.jit.ScriptModule) -> str:
    return _last(_kinds(list(network.inlined_graph.outputs())))


def _kinds(outputs: list[Any]) -> Iterator[str]:
    while len(outputs) == 1:
        node = outputs[0].node()
        yield node.kind().rpartition("::")[2]
        outputs = list(node.inputs())[:1]


def of_onnx(model: Any) -> str:
    """The same of a model that OpenVINO has read."""
    return _last(_types(model.outputs[0].get_node())) if len(model.outputs) == 1 else ""


def _types(node: Any) -> Iterator[str]:
    while node.get_input_size():
        node = node.input_value(0).get_node()
        yield node.get_type_name()


def _last(operations: Iterable[str]) -> str:
    """The activation among operations, told from the last one back, that nothing but another shape follows."""
    changes = next((name.lower() for name in operations if name.lower() not in SAME_VALUES), "")
    return changes if changes in ACTIVATIONS else ""


def _of_module(network: nn.Module) -> str:
    """Of modules that run one after the other, and of the head of a network of segmentation_models_pytorch."""
    if isinstance(network, nn.Sigmoid | nn.Softmax | nn.Softmax2d):
        return "sigmoid" if isinstance(network, nn.Sigmoid) else "softmax"
    if isinstance(network, nn.Sequential) and len(network):
        return _of_module(network[-1])
    inner = getattr(network, "segmentation_head", None) or (getattr(network, "activation", None) if _is_wrapper(network) else None)
    return _of_module(inner) if isinstance(inner, nn.Module) else ""


def _is_wrapper(network: nn.Module) -> bool:
    return type(network).__name__ == "Activation" and len(list(network.children())) == 1
