"""A model as an ONNX graph in float32."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.compression.own_pass import contained
from distill.core.forward import forward
from distill.core.model_call import of_transformers
from distill.core.signals import DECODER_INPUT, Batch, Request
from distill.core.utils.errors import UserError
from distill.core.utils.quiet import quiet_transformers
from distill.export.blame import place_of, scoped
from distill.export.onnx.fold_batch_norms import fold_batch_norms
from distill.export.onnx.global_pools import write_global_pools
from distill.export.onnx.padding import count_positions, sides

__all__ = ["OPSET", "Logits", "feed", "prepared", "rewrite_file", "save_graph", "silent", "to_onnx", "traceable"]

OPSET = 20  # the first with Gelu

_SCOPES = "pkg.torch.onnx.name_scopes"

LARGEST_FILE = 2_000_000_000  # of protobuf, in bytes, less some room for the graph

_PICTURES = "pixel_values"

# What exported models read; position ids they count themselves.
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", DECODER_INPUT)


class Logits(nn.Module):
    """Tensors in, logits out.

    A text may be padded on the left, as tokenizers of chat models do, and whoever runs the file can give no positions.
    Where a model of transformers would count the padding's too, they are counted from the attention mask.

    Args:
        model: In eval mode.
        example: Named inputs; the graph takes them in their order.
        counts: Whether positions may be counted.
    """

    def __init__(self, model: nn.Module, example: Mapping[str, Tensor], *, counts: bool = True) -> None:
        super().__init__()
        self.model, self.names, self.counts = model, tuple(example), False
        text = set(example) <= {*_TEXT_INPUTS} - {DECODER_INPUT} and "attention_mask" in example
        text = text and of_transformers(model)
        if counts and text and self.sides(example) == ["right"]:
            self.counts = True
            self.counts = len(self.sides(example)) == 2  # else it takes none, or they help nothing

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self.names, inputs, strict=True))
        if self.counts:
            named["position_ids"] = count_positions(named["attention_mask"])
        signals = forward(self.model, named, Request(logits=True))
        assert signals.logits is not None
        return signals.logits

    def sides(self, example: Mapping[str, Tensor]) -> list[str]:
        """Where the padding may be (:func:`~distill.export.onnx.padding.sides`)."""
        return sides(lambda inputs: self(*inputs.values()), example, self.model)


def feed(batch: Batch) -> dict[str, Tensor]:
    """What an exported model reads of a batch: token ids, attention mask and, where the data has them, token types, and
    what its decoder reads.

    Plain modules read what they were trained on.
    """
    if "input_ids" not in batch.inputs:
        return dict(batch.inputs)
    ids = batch.inputs["input_ids"]
    real = torch.ones_like(ids) if batch.tokens is None else batch.tokens.to(ids.dtype)
    known = batch.inputs | {"attention_mask": real}
    return {name: known[name] for name in _TEXT_INPUTS if name in known}


def to_onnx(model: nn.Module, path: Path, inputs: Mapping[str, Tensor], *, fixed: bool = False) -> None:
    """Write ``model`` as an ONNX file whose batch size is free, and whichever other sizes the model leaves free.

    Weights and inputs of other precisions become float32. Weights beyond the 2 GB of a protobuf file lie beside it.

    Args:
        model: It is not changed.
        path: Where to.
        inputs: An example, by the names that the file's inputs get. The output is called ``logits``.
        fixed: Have all sizes but the batch's be those of the example.

    Raises:
        UserError: if the exporter cannot follow the model.
    """
    model = prepared(model)
    logits, example, shapes = traceable(model, inputs, fixed=fixed)
    save_graph(
        logits,
        tuple(example.values()),
        path,
        inputs=list(example),
        outputs=["logits"],
        shapes={"inputs": tuple(shapes.values())},
        of=model,
    )


def traceable(
    model: nn.Module, inputs: Mapping[str, Tensor], *, fixed: bool
) -> tuple[Logits, dict[str, Tensor], dict[str, dict[int, str]]]:
    """What an exporter follows of a model in float32: its logits, example inputs, and names of their free sizes.

    Args:
        model: In eval mode.
        inputs: An example.
        fixed: Have all sizes but the batch's be those of the example.
    """
    example = {name: _example(t.float() if t.is_floating_point() else t, name) for name, t in inputs.items()}
    logits = Logits(model, example).eval()
    shapes = {name: dict[int, str]({0: "batch"}) for name in example}
    for dimension, names in ({} if fixed else _free(logits, example)).items():
        for name in names:
            length = "target_length" if name == DECODER_INPUT else "length"
            shapes[name][dimension] = length if dimension == 1 else f"size_{dimension}"
    return logits, example, shapes


def prepared(model: nn.Module) -> nn.Module:
    """A copy in float32 that an exporter can follow."""
    model = copy.deepcopy(model).eval().float()
    if isinstance(model, PreTrainedModel):
        model.set_attn_implementation("eager")  # the others leave more operators behind, which take longer
        model.set_experts_implementation("batched_mm")  # the others choose rows by what the router says
    return model


def save_graph(
    module: nn.Module,
    example: tuple[Any, ...],
    path: Path,
    *,
    inputs: list[str],
    outputs: list[str],
    shapes: dict[str, Any],
    of: nn.Module,
) -> None:
    """Write what ``module`` computes. Weights beyond the 2 GB of a protobuf file lie beside it.

    Args:
        module: In eval mode.
        example: Its arguments.
        path: Where to.
        inputs: Names of the file's inputs.
        outputs: And of its outputs.
        shapes: Which sizes are free, as ``torch.export`` has them.
        of: The model inside.

    Raises:
        UserError: if the exporter cannot follow it.
    """
    size = sum(t.numel() * t.element_size() for t in (*of.parameters(), *of.buffers()))
    try:
        with torch.no_grad(), silent(), contained():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=shapes,
                verbose=False,
            )
    except Exception as error:  # most are an OnnxExporterError, but its passes raise errors of their own
        raise UserError(
            f"torch.onnx.export cannot follow this {type(of).__name__}{place_of(error, of)} ({_cause(error)})",
            key="--to",
            hint=f"{'export it with --to hf, or ' if isinstance(of, PreTrainedModel) else ''}open the run's student "
            "in torch, with distill.load",
        ) from error
    assert program is not None
    fold_batch_norms(program.model.graph)
    write_global_pools(program.model.graph)
    _strip(program.model)
    program.save(path, external_data=size > LARGEST_FILE)


def rewrite_file(model: Any, path: Path) -> None:
    """Write an ``onnx.ModelProto`` with its weights in it in place of a file, and of what lay beside that."""
    import onnx

    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    large = model.ByteSize() > LARGEST_FILE
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data")


def _strip(model: Any) -> None:
    """Take out what nobody runs: where in the source a node comes from, and the shapes between nodes.

    It can be as large as a small model, names the paths of this machine, and misleads ``quantize_dynamic``. Each node
    keeps in its name the layer that it is of, which is what a runtime says when it cannot run it.
    """
    graph = model.graph
    nodes = list(graph.all_nodes())
    for node in nodes:
        node.name = scoped(node.name, node.metadata_props.get(_SCOPES, ""))
    between = {value for node in nodes for value in node.outputs} - set(graph.outputs)
    for value in (*between, *graph.initializers.values()):
        value.shape, value.type = None, None
    for place in (model, graph, *nodes, *between, *graph.initializers.values(), *graph.inputs, *graph.outputs):
        place.metadata_props.clear()


def _cause(error: BaseException) -> str:
    """The first line of what lies at the bottom of an error, or what it means."""
    while error.__cause__ is not None:
        error = error.__cause__
    if "inferred a static shape" in str(error):
        return "it computes token after token, so its graph would read texts of one length alone"
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _example(tensor: Tensor, name: str) -> Tensor:
    """Two rows, and of text several tokens: an exporter takes a dimension of one for one that never changes."""
    if name in _TEXT_INPUTS:
        length = 6 if name == DECODER_INPUT else 8
        return (
            tensor[:1].repeat(2, length)[:, :length].contiguous()
        )  # nor may rows lie further apart than they are long
    return tensor[:1].repeat(2, *[1] * (tensor.dim() - 1))


@torch.no_grad()
def _free(model: nn.Module, example: Mapping[str, Tensor]) -> dict[int, list[str]]:
    """Dimensions beside the batch that may be of any size, with the inputs that have them.

    Of text it is the length. Any other model is run with each of them twice as long, of all inputs that are equally
    long in it at once. Columns of a table (``[B, 5]``, whose embeddings are laid side by side) and features are of one
    size; words and pixels are not.
    """
    if set(example) <= set(_TEXT_INPUTS):
        return {1: list(example)}
    if set(example) == {_PICTURES}:  # of the size that the image processor beside the file makes
        return {}
    found: dict[int, list[str]] = {}
    for dimension in range(1, max(tensor.dim() for tensor in example.values())):
        sizes = {name: tensor.shape[dimension] for name, tensor in example.items() if tensor.dim() > dimension}
        names = [name for name, size in sizes.items() if size == max(sizes.values())]
        longer = {n: torch.cat([t, t], dimension) if n in names else t for n, t in example.items()}
        try:
            model(*longer.values())
        except Exception:  # sizes that do not fit; a model says so in a way of its own
            continue
        found[dimension] = names
    return found


_LOGGERS = (
    "torch.onnx",
    "torch.export",
    "torch._export.non_strict_utils",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)


@contextmanager
def silent() -> Iterator[None]:
    """Without what the exporter says of its own working, and the graph up to where it failed, which it prints."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with quiet_transformers(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
