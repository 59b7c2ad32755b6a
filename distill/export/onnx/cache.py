"""A language model as an ONNX graph that keeps the keys and values of what it has read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from distill.export.onnx.graph import prepared, save_graph
from distill.export.onnx.padding import count_positions

__all__ = ["PAST", "PRESENT", "CacheShape", "cache_shape", "greedy", "step", "to_onnx_with_cache"]

PAST, PRESENT = "past_key_values.{}.{}", "present.{}.{}"
"""Names of inputs and outputs, of a layer's ``key`` or ``value``, as runtimes for language models have them."""

_LENGTH, _BEFORE = 3, 5  # of the example


class CacheShape(NamedTuple):
    """What a language model keeps of a token, the same in every layer.

    Attributes:
        layers: How many layers keep something.
        heads: How many heads of keys and values each has.
        width: Of a head.
    """

    layers: int
    heads: int
    width: int


@torch.no_grad()
def cache_shape(model: PreTrainedModel) -> CacheShape | str:
    """What a model keeps, or why a graph cannot keep it."""
    ids = torch.zeros(1, 2, dtype=torch.long)
    cache = getattr(model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True), "past_key_values", None)
    if not isinstance(cache, DynamicCache) or not cache.layers:
        return "keeps no keys and values of what it has read"
    layers: list[Any] = cache.layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        return "keeps something else than keys and values of all tokens in some layers"
    shapes = {tuple(kept.shape) for layer in layers for kept in (layer.keys, layer.values)}
    if len(shapes) > 1:
        return "has layers of several widths or numbers of heads"
    [(_, heads, _, width)] = shapes
    return CacheShape(len(layers), heads, width)


class _Cached(nn.Module):
    """Tokens, and the keys and values of those before them, in; logits, and keys and values of all, out."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None,
        past: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        given = {} if position_ids is None else {"position_ids": position_ids}
        cache = DynamicCache(past)
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, **given, past_key_values=cache, use_cache=True
        )
        return out.logits, [(layer.keys, layer.values) for layer in out.past_key_values.layers]


def _takes_positions(model: nn.Module) -> bool:
    return "position_ids" in signature(model.forward).parameters


def _kept(name: str, layers: int) -> list[str]:
    return [name.format(layer, part) for layer in range(layers) for part in ("key", "value")]


def to_onnx_with_cache(model: PreTrainedModel, path: Path, shape: CacheShape) -> list[str]:
    """Write ``model`` as an ONNX file, and give the names of its inputs.

    They are ``input_ids`` ``[B, T]``, ``attention_mask`` ``[B, P + T]`` of all that was and is read, ``position_ids``
    ``[B, T]`` where the model takes them, and keys and values ``[B, H, P, D]`` by :data:`PAST`. The outputs are
    ``logits`` ``[B, T, V]``, and keys and values ``[B, H, P + T, D]`` by :data:`PRESENT`.

    Raises:
        UserError: if the exporter cannot follow the model.
    """
    model = prepared(model)  # type: ignore[assignment]
    positions = _takes_positions(model)
    ids = torch.zeros(2, _LENGTH, dtype=torch.long)
    mask = torch.ones(2, _BEFORE + _LENGTH, dtype=torch.long)
    kept = torch.randn(2, shape.heads, _BEFORE, shape.width, generator=torch.Generator().manual_seed(0))
    past = [(kept.clone(), kept.clone()) for _ in range(shape.layers)]
    free = {0: "batch", 2: "past"}
    inputs = ["input_ids", "attention_mask", *(["position_ids"] if positions else [])]
    inputs += _kept(PAST, shape.layers)
    save_graph(
        _Cached(model).eval(),
        (ids, mask, count_positions(mask)[:, _BEFORE:] if positions else None, past),
        path,
        inputs=inputs,
        outputs=["logits", *_kept(PRESENT, shape.layers)],
        shapes={
            "input_ids": {0: "batch", 1: "length"},
            "attention_mask": {0: "batch", 1: "total"},
            "position_ids": {0: "batch", 1: "length"} if positions else None,
            "past": [(free, free)] * shape.layers,
        },
        of=model,
    )
    return inputs


# ---------------------------------------------------------------------- read by such a file


def step(run: Any, ids_BT: Tensor, mask: Tensor, past: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Logits ``[B, T, V]`` of tokens after those that ``past`` is of, and the keys and values of all.

    Args:
        run: A session.
        ids_BT: The tokens.
        mask: Of all that was and is read, ``[B, P + T]``.
        past: From the step before, or :func:`~distill.export.onnx.runtime.no_past`.
    """
    names = {value.name for value in run.get_inputs()}
    inputs = {"input_ids": ids_BT.numpy(), "attention_mask": mask.numpy(), **past}
    if "position_ids" in names:
        inputs["position_ids"] = count_positions(mask)[:, -ids_BT.shape[1] :].numpy()
    asked = ["logits", *_kept(PRESENT, len(past) // 2)]
    logits, *kept = run.run(asked, inputs)
    return torch.from_numpy(logits), dict(zip(_kept(PAST, len(past) // 2), kept, strict=True))


@torch.no_grad()
def greedy(model: nn.Module, ids: Sequence[int], count: int, ends: Sequence[int]) -> tuple[list[int], list[float]]:
    """The most likely tokens after ``ids``, one after the other, in torch.

    Returns:
        ``count`` of them, or fewer where one of ``ends`` comes before; and by how much each one's logit is above the
        second, in parts of the largest magnitude.
    """
    cache, given, made, leads = DynamicCache(), torch.tensor([list(ids)]), list[int](), list[float]()
    while len(made) < count and not (made and made[-1] in ends):
        logits = model(input_ids=given, past_key_values=cache, use_cache=True).logits[0, -1].float()
        first, second = logits.topk(2).values.tolist()
        leads.append((first - second) / max(float(logits.abs().max()), 1e-30))
        made.append(int(logits.argmax()))
        given = torch.tensor([made[-1:]])
    return made, leads
