"""Where in a model something failed: the layer, by its place, and the operator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.fx import Node

__all__ = ["layers_of", "place_of", "scoped"]


def place_of(error: BaseException, model: nn.Module) -> str:
    """`` in body.1 (Odd)``: the innermost layer that was computing, or whose operator was being translated.

    It is read off the tracebacks of the error and its causes. Empty where none of them says it.

    Args:
        error: Of an exporter.
        model: What it followed: the very object, and not a copy.
    """
    names = {id(module): name for name, module in model.named_modules() if name}
    for frame in _frames(error):
        if (name := names.get(id(frame.get("self")))) is not None:
            return f" in {name} ({type(frame['self']).__name__})"
        node = frame.get("node")
        if isinstance(node, Node) and (stack := node.meta.get("nn_module_stack")):
            path, kind = list(stack.values())[-1]
            operator = str(node.target).removesuffix(".default").replace(".", "::", 1)
            return f" at {operator} in {_below(path)} ({str(getattr(kind, '__name__', kind)).rpartition('.')[2]})"
    return ""


def _frames(error: BaseException | None) -> Iterator[dict[str, Any]]:
    """Local variables of the frames, of the last cause first, and there of the innermost frame."""
    if error is None:
        return
    yield from _frames(error.__cause__ or error.__context__)
    found, step = [], error.__traceback__
    while step is not None:
        found.append(step.tb_frame.f_locals)
        step = step.tb_next
    yield from reversed(found)


def _below(path: str) -> str:
    """A place as the student names it: what is traced holds it under ``model``, and this perhaps under ``logits``."""
    for outer in ("logits.", "model."):
        path = path.removeprefix(outer)
    return path or "the model"


def scoped(name: str | None, scopes: str) -> str:
    """The name of a node that begins with the layer it is of.

    Args:
        name: As the exporter gave it.
        scopes: A list of the names of the modules around it, the outermost first, and its own, as a text.
    """
    around = re.findall(r"'([^']*)'", scopes)[:-1]
    layer = _below(around[-1]) if around and around[-1] not in ("", "model") else ""
    return f"{layer}/{name}" if layer else str(name)


def layers_of(graph: Path, said: str) -> str:
    """``; Det is in body.1``: the layers of those operators of an ONNX file that a message names.

    Args:
        graph: The file.
        said: What a runtime says of it.

    Returns:
        Nothing where none is named, or the file is no graph.
    """
    import onnx

    found: dict[str, list[str]] = {}
    try:
        nodes = onnx.load(graph, load_external_data=False).graph.node
    except Exception:  # a DecodeError of protobuf's: then the message is of that
        return ""
    for node in nodes:
        layer = node.name.rpartition("/")[0]
        if layer and re.search(rf"\b{re.escape(node.op_type)}\b", said):
            found.setdefault(node.op_type, []).append(layer)
    return "".join(f"; {kind} is in {layers[0]}" for kind, layers in found.items())
