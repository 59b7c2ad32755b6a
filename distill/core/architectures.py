"""How transformers are built: where the layers stand, and which axis of which parameter is what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from distill.core.model_spec import ModelSpec
from distill.core.stacks import Stack
from distill.core.utils.errors import UserError

__all__ = ["FAMILIES", "Axes", "Family", "Role", "Widths", "layer_list"]

Role = Literal["hidden", "heads", "kv_heads", "fused", "ffn"] | None
"""What an axis runs over: the residual stream; features of query heads, of key and value heads, or of queries,
keys and values side by side; feed-forward neurons; ``None``: something that keeps its size."""

Axes = tuple[tuple[Role, ...], Role]
"""The roles of a module's weight, axis by axis, and of its bias."""


def _linear(out: Role, into: Role) -> Axes:
    return (out, into), out


def _transposed(into: Role, out: Role) -> Axes:
    return (into, out), out


_NORM: Axes = (("hidden",), "hidden")
_TABLE: Axes = _linear(None, "hidden")  # embeddings and heads: one row an entry
_FIXED: Axes = ((None,), None)

_BERT: dict[str, Axes] = {
    r"embeddings\.\w+_embeddings": _TABLE,
    r"attention\.self\.(query|key|value)": _linear("heads", "hidden"),
    r"attention\.output\.dense": _linear("hidden", "heads"),
    r"intermediate\.dense": _linear("ffn", "hidden"),
    r"layer\.\d+\.output\.dense": _linear("hidden", "ffn"),
    r"LayerNorm|layer_norm": _NORM,
    r"(pooler|transform|lm_head|classifier)\.dense": _linear("hidden", "hidden"),
    r"decoder|classifier|classifier\.out_proj|qa_outputs": _TABLE,
    r"cls\.predictions|lm_head": _FIXED,  # the bias beside the tied decoder
}
_DISTILBERT: dict[str, Axes] = {
    r"embeddings\.\w+_embeddings": _TABLE,
    r"attention\.[qkv]_lin": _linear("heads", "hidden"),
    r"attention\.out_lin": _linear("hidden", "heads"),
    r"ffn\.lin1": _linear("ffn", "hidden"),
    r"ffn\.lin2": _linear("hidden", "ffn"),
    r"LayerNorm|sa_layer_norm|output_layer_norm|vocab_layer_norm": _NORM,
    r"pre_classifier|vocab_transform": _linear("hidden", "hidden"),
    r"classifier|vocab_projector|qa_outputs": _TABLE,
}
_GPT2: dict[str, Axes] = {
    r"wte|wpe|lm_head|score|classifier": _TABLE,
    r"attn\.c_attn": _transposed("hidden", "fused"),
    r"attn\.c_proj": _transposed("heads", "hidden"),
    r"mlp\.c_fc": _transposed("hidden", "ffn"),
    r"mlp\.c_proj": _transposed("ffn", "hidden"),
    r"ln_\w+": _NORM,
}
_LLAMA: dict[str, Axes] = {
    r"embed_tokens|lm_head|score": _TABLE,
    r"self_attn\.q_proj": _linear("heads", "hidden"),
    r"self_attn\.[kv]_proj": _linear("kv_heads", "hidden"),
    r"self_attn\.o_proj": _linear("hidden", "heads"),
    r"self_attn\.[qk]_norm": _FIXED,  # over the features of one head
    r"mlp\.(gate|up)_proj": _linear("ffn", "hidden"),
    r"mlp\.down_proj": _linear("hidden", "ffn"),
    r"norm|input_layernorm|post_attention_layernorm": _NORM,
}


@dataclass(frozen=True)
class Family:
    """Architectures whose parameters have the same names.

    Attributes:
        table: Pattern of the end of a module's name -> what its axes are.
        ffn: The configuration's name for the number of feed-forward neurons.
        free_heads: Whether the heads together may be wider or narrower than the residual stream.
    """

    table: Mapping[str, Axes]
    ffn: str = "intermediate_size"
    free_heads: bool = False

    def axes(self, parameter: str) -> tuple[Role, ...]:
        """What the axes of ``parameter`` are.

        Raises:
            UserError: if no pattern covers it.
        """
        module, _, kind = parameter.rpartition(".")
        for pattern, (weight, bias) in self.table.items():
            if re.search(rf"(?:^|\.)(?:{pattern})$", module):
                return weight if kind == "weight" else (bias,)
        raise UserError(
            f"how to narrow {parameter} is not known", key="model.student.hidden_size", hint="leave the widths out"
        )


_BERTS, _LLAMAS = Family(_BERT), Family(_LLAMA, free_heads=True)
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), _BERTS),
    "distilbert": Family(_DISTILBERT, ffn="hidden_dim"),
    "gpt2": Family(_GPT2, ffn="n_inner"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _LLAMAS),
}
"""``model_type`` -> how its parameters are named."""


@dataclass(frozen=True)
class Widths:
    """The sizes of a transformer's axes.

    Attributes:
        hidden: Coordinates of the residual stream.
        heads: Query heads.
        kv_heads: Heads of keys and values; fewer than ``heads`` under grouped-query attention.
        head_dim: Features of a head.
        ffn: Neurons of a feed-forward block.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int

    @classmethod
    def of(cls, config: Any, family: Family) -> Widths:
        """The sizes that a configuration states."""
        hidden, heads = config.hidden_size, config.num_attention_heads
        return cls(
            hidden=hidden,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or hidden // heads,
            ffn=getattr(config, family.ffn) or 4 * hidden,  # GPT-2's n_inner is None for four times the width
        )


def layer_list(model: nn.Module, stack: Stack | None = None) -> str:
    """The name of the module list that holds the layers.

    Args:
        model: Of transformers.
        stack: Of an encoder-decoder, whose layers are meant.

    Raises:
        UserError: if it is not known.
    """
    spec = ModelSpec(model, "the model to copy from", stack)
    if spec.has_two_stacks and stack is None:
        raise UserError(
            f"layers can be taken out of models with one stack of them, and {type(model).__name__} has an encoder and "
            "a decoder",
            key="model.student.layers",
            hint="give the student by path or config",
        )
    depth = spec.num_layers
    lists: list[str] = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    lists = [name for name in lists if stack is None or f".{stack}." in f".{name}"]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        found = "none" if not outer else " and ".join(outer)
        of = "" if stack is None else f" of its {stack}"
        raise UserError(
            f"layers can be copied where one list holds all {depth} of them; {type(model).__name__} has {found}{of}",
            key="model.student.layers",
            hint="give the student by path or config",
        )
    return outer[0]
