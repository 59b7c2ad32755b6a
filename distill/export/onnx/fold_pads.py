"""Zeros around what a convolution of integers reads: made a part of the convolution."""

from __future__ import annotations

from typing import Any

__all__ = ["fold_pads"]


def fold_pads(graph: Any) -> None:
    """Have a convolution that alone reads a tensor with zeros around it pad by itself.

    A class of its own may pad before it convolves; onnxruntime multiplies integers only where a convolution reads what
    is rounded. Zero is on every grid, so the same is computed.

    Args:
        graph: An ``onnx_ir.Graph``, which is changed.
    """
    for conv in list(graph):
        if conv.op_type != "Conv":
            continue
        pad = conv.inputs[0].producer()
        if pad is None or pad.op_type != "Pad" or len(pad.outputs[0].uses()) != 1 or pad.outputs[0].is_graph_output():
            continue
        more = _zeros(pad)
        source = pad.inputs[0].producer()
        if more is None or source is None or source.op_type != "DequantizeLinear":
            continue
        own = conv.attributes.get("pads")
        automatic = conv.attributes.get("auto_pad")
        if automatic is not None and automatic.as_string() != "NOTSET":
            continue
        pads = own.as_ints() if own is not None else [0] * len(more)
        conv.attributes.add(_attribute([a + b for a, b in zip(pads, more, strict=True)]))
        conv.replace_input_with(0, pad.inputs[0])
        graph.remove(pad, safe=True)


def _attribute(pads: list[int]) -> Any:
    import onnx_ir

    return onnx_ir.AttrInt64s("pads", pads)


def _zeros(pad: Any) -> list[int] | None:
    """How many zeros it adds before and behind each dimension of the image; ``None`` where it does something else."""
    mode = pad.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return None
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    if value is not None and (value.const_value is None or value.const_value.numpy().any()):
        return None
    if (len(pad.inputs) > 3 and pad.inputs[3] is not None) or pad.inputs[1].const_value is None:
        return None
    ends = [int(end) for end in pad.inputs[1].const_value.numpy()]
    half = len(ends) // 2
    if any(ends[:2]) or any(ends[half : half + 2]) or min(ends) < 0:
        return None
    return [*ends[2:half], *ends[half + 2 :]]
