"""Batch norms that follow convolutions of integers: folded into these, so that nothing stands between two of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.export.onnx.integer_convolutions import bias_steps

__all__ = ["fold_batch_norms"]


def fold_batch_norms(graph: Any) -> None:
    """Fold each batch norm that alone reads a :class:`~distill.export.onnx.integer_convolutions.StaticConv` into it.

    A norm multiplies a channel by f = gamma / sqrt(var + eps) and adds beta - f * mean. |f| joins the scale of the
    channel's weights, whose integers take the sign of f, and the bias is rounded anew: that alone changes what the
    graph computes, by half a step at most. A norm stays that reads what the graph computes.

    Args:
        graph: An ``onnx_ir.Graph``, which is changed.
    """
    for norm in list(graph):
        if norm.op_type == "BatchNormalization" and _alone(norm.inputs[0]) and not norm.outputs[0].is_graph_output():
            conv = norm.inputs[0].producer()
            if conv is not None and conv.op_type == "Conv":
                _fold(graph, norm, conv)


def _alone(value: Any) -> bool:
    """Whether it is read once."""
    return len(value.uses()) == 1


def _fold(graph: Any, norm: Any, conv: Any) -> None:
    sources = [value.producer() for value in conv.inputs]
    if len(sources) < 3 or any(node is None or node.op_type != "DequantizeLinear" for node in sources):
        return  # of floats
    input, weight, bias = sources
    if not (_alone(weight.outputs[0]) and _alone(bias.outputs[0])):
        return  # another convolution computes with the same ones
    constants = (*norm.inputs[1:5], *weight.inputs, *bias.inputs, input.inputs[1])
    if any(value.const_value is None for value in constants):
        return  # computed as the graph runs
    gamma, beta, mean, variance = (_constant(value).double() for value in norm.inputs[1:5])
    factor = gamma / (variance + norm.attributes["epsilon"].as_float()).sqrt()
    (q, scale, zero_point), (steps, step, _) = (map(_constant, node.inputs) for node in (weight, bias))
    sign = factor.sign().int().view(-1, *[1] * (q.dim() - 1))
    middle = zero_point.int().view(sign.shape)
    q = (middle + (q.int() - middle) * sign).to(q.dtype)
    shift = (steps.double() * step.double() - mean) * factor + beta
    norm_scale = scale * factor.abs().float()
    q, scale, steps = bias_steps(q, norm_scale, zero_point, shift.float(), _constant(input.inputs[1]))
    if steps.is_floating_point():
        return
    for node, values in ((weight, (q, scale)), (bias, (steps, _constant(input.inputs[1]) * scale))):
        for index, tensor in enumerate(values):
            _replace(graph, node, index, tensor)
    norm.outputs[0].replace_all_uses_with(conv.outputs[0])
    graph.remove(norm, safe=True)


def _constant(value: Any) -> Tensor:
    return torch.tensor(value.const_value.numpy())


def _replace(graph: Any, node: Any, index: int, tensor: Tensor) -> None:
    """Have a node read another constant."""
    import onnx_ir

    old = node.inputs[index]
    new = onnx_ir.Value(name=f"{old.name}.{node.name}", const_value=onnx_ir.tensor(tensor.numpy()))
    graph.register_initializer(new)
    node.replace_input_with(index, new)
    if not old.uses():
        del graph.initializers[old.name]
