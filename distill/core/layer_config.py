"""What a configuration says of single layers, and whether a layer is still what it was in another place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.internals.torch import own_buffers, unsaved_buffers
from distill.core.stacks import Stack
from distill.core.utils.errors import UserError

__all__ = ["SHARED_FROM_THE_FIRST", "keep_in_config", "refuse_changed_layers"]

_VALUES = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "indexer_types",
    "attention_layers",
    "attn_layers",
    "attention_window",
    "no_rope_layers",
    "layer_rope_theta",
    "num_attention_heads_per_layer",
    "layers_num_experts",
    "intermediate_size",
    "activation_sparsity_pattern",
)
"""One value a layer."""

_NUMBERS = (
    "mlp_only_layers",
    "attn_layer_indices",
    "full_attn_idxs",
    "hybrid_layer_ids",
    "moe_layers",
    "local_layer_ids",
    "ple_layer_ids",
    "cross_attention_layers",
)
"""Numbers of the layers of one kind; 0 is the first."""

_PREFIXES = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "num_hash_layers")
"""How many layers at the beginning are of one kind."""

_PATTERNS: Mapping[str, tuple[str, Callable[[list[Any]], Any]]] = {
    "attention_types": ("attention_layers", lambda kinds: [[kinds, 1]]),  # GPT-Neo: [[[a, b], times], ...]
    # RecurrentGemma: repeated over the depth, and read under other words
    "block_types": (
        "layers_block_type",
        lambda kinds: ["recurrent" if kind == "linear_attention" else "attention" for kind in kinds],
    ),
}
"""What one value a layer is derived from -> its name, and how to write all values out."""

SHARED_FROM_THE_FIRST = "relative_attention_bias"
"""In the names of what the first layer of a stack computes for all of them (T5), or each for itself (UMT5)."""

_PLACE = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx", "block_id", "num_hidden_layers")
"""What a layer's modules call its number and how many there are, which is all that may change with its place."""


def keep_in_config(config: Any, kept: Sequence[int], stack: Stack | None = None) -> None:
    """Let ``config`` describe the layers ``kept`` (1 is the first) of the model that it describes, in place.

    Of an encoder-decoder they are those of one ``stack``.

    What is written layer by layer is selected, not cut off. Where only a rule says which layer is of which kind (every
    fourth, say), it stays, and :func:`refuse_changed_layers` judges what it makes of the layers' new places.

    Raises:
        UserError: if the configuration does not take it.
    """
    text = config.get_text_config()
    if stack == "decoder":
        names = ("decoder_layers", "num_decoder_layers")
        _write(text, {name: len(kept) for name in names if isinstance(getattr(text, name, None), int)})
        return
    depth, place = text.num_hidden_layers, {number - 1: i for i, number in enumerate(kept)}
    changed: dict[str, Any] = {}
    for name in _VALUES:
        values = getattr(text, name, None)
        if isinstance(values, list | tuple) and len(values) == depth:
            changed[name] = type(values)(values[number - 1] for number in kept)
    for name, (values, written_out) in _PATTERNS.items():
        if values in changed and hasattr(text, name):
            changed[name] = written_out(list(changed[values]))
    for name in _NUMBERS:
        numbers = getattr(text, name, None)
        if isinstance(numbers, list | tuple):
            changed[name] = type(numbers)(place[number] for number in numbers if number in place)
    for name in _PREFIXES:
        count = getattr(text, name, None)
        if isinstance(count, int):
            changed[name] = sum(number <= count for number in kept)
    changed["num_hidden_layers"] = len(kept)
    if getattr(text, "is_decoder", False) and hasattr(text, "decoder_layers"):
        changed["decoder_layers"] = len(kept)
    _write(text, changed)


def _write(config: Any, changed: Mapping[str, Any]) -> None:
    for name, value in changed.items():
        found = getattr(type(config), type(config).attribute_map.get(name, name), None)
        if isinstance(found, property) and found.fset is None:
            continue  # derived of what else the configuration holds
        try:
            setattr(config, name, value)
        except Exception as error:  # configurations check themselves, each in its own way
            raise UserError(
                f"a {type(config).__name__} cannot say which layers were kept ({' '.join(str(error).split())[:200]})",
                key="model.student.layers",
                hint="give the student by path or config",
            ) from error


def refuse_changed_layers(before: nn.Module, after: nn.Module, kept: Sequence[int]) -> None:
    """Refuse a student in which a layer's place makes it compute something else with the same weights.

    Compared are the classes of the layer's modules, their settings (numbers, words, truth values) and what they hold
    besides weights (slopes by depth, say).

    Args:
        before: The list of the layers that there were.
        after: The list of those that were kept, in their new places.
        kept: Their numbers before; 1 is the first.

    Raises:
        UserError: naming the first layer and setting that would change.
    """
    for place, number in enumerate(kept, start=1):
        old = _settings(before[number - 1])  # type: ignore[index]
        new = _settings(after[place - 1])  # type: ignore[index]
        different = sorted(name for name in old.keys() | new.keys() if not _same(old.get(name), new.get(name)))
        if not different:
            continue
        name = different[0]
        raise UserError(
            f"layer {number} would be another kind of layer in place {place} of the student: its {name} would be "
            f"{_said(new.get(name))} and not {_said(old.get(name))}, which this architecture derives from the place",
            key="model.student.layers",
            value=list(kept),
            hint="keep layers whose places are of their kinds, or give the student by path or config",
        )


def _settings(layer: nn.Module) -> dict[str, Any]:
    """All that a layer's modules are and hold besides weights, by name; not their number."""
    found: dict[str, Any] = {}
    for path, module in layer.named_modules():
        at = f"{path}." if path else ""
        if SHARED_FROM_THE_FIRST not in at:
            found[f"{at}class"] = type(module).__name__
        for name, value in vars(module).items():
            scalar = isinstance(value, bool | int | float | str | tuple | torch.Size | None)
            shared = SHARED_FROM_THE_FIRST in at + name  # by all layers, wherever they stand
            if scalar and not shared and not name.startswith("_") and name not in ("training", *_PLACE):
                found[at + name] = value
        for name in unsaved_buffers(module):
            found[at + name] = own_buffers(module)[name]
    return found


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one.cpu(), other.cpu()))
    return type(one) is type(other) and bool(one == other)


def _said(value: Any) -> str:
    return "another tensor" if isinstance(value, Tensor) else repr(value)
