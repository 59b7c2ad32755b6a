"""What a model is: its layers, their widths, and where its attention is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from distill.core.internals.transformers import attention_in_use
from distill.core.model_call import of_transformers
from distill.core.record import steps_of
from distill.core.stacks import Stack
from distill.core.utils.errors import UserError, nearest

__all__ = ["Features", "ModelSpec", "megabytes", "parameter_count", "spread"]

# The names under which the architectures keep the self-attention's linear maps.
_PROJECTIONS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"))
# GPT-2, ModernBERT: one map whose output is queries, keys and values side by side.
_FUSED_PROJECTIONS = (("c_attn",), ("Wqkv",))

_CROSS = re.compile("cross|encoder_attn|EncDecAttention")
"""In the name of an attention whose keys are another text's."""

# Under which names layers give the width of their output: convolutions, batch and group norms, whose channels follow
# the batch; linear maps and embeddings, whose features come last.
_CHANNELS_FIRST = ("out_channels", "num_features", "num_channels")
_FEATURES_LAST = ("out_features", "embedding_dim", "nf")


@dataclass(frozen=True)
class Features:
    """Where a module's output has its features.

    Attributes:
        width: How many there are.
        first: Whether its last layer puts them behind the batch, as convolutions do, and not last.
        settled: Whether that layer is the module itself, after which nothing can have moved them.
    """

    width: int
    first: bool
    settled: bool = False


class ModelSpec:
    """What losses may ask about a model: depth, widths, names. Works for transformers and plain modules.

    Args:
        model: The model.
        key: Where it stands in the configuration, for error messages (``model.student``).
        stack: Of an encoder-decoder, of which of its stacks layers and heads are meant.
    """

    def __init__(self, model: nn.Module, key: str, stack: Stack | None = None) -> None:
        self.model, self.key, self.stack = model, key, stack
        config: Any = model.config if of_transformers(model) else None
        # Encoder and decoder of one multimodal model have their own configurations; text comes first.
        self.config: Any = None if config is None else config.get_text_config()

    def _number(self, *names: str) -> int:
        for name in names:
            value = getattr(self.config, name, None)
            if isinstance(value, int):
                return value
        raise UserError(
            f"{type(self.model).__name__} does not give its {names[0]}",
            key=self.key,
            hint="use a loss on taps (module names) for models that are not of transformers",
        )

    def of(self, stack: Stack | None) -> ModelSpec:
        """The same of one stack of an encoder-decoder; as it is for ``None``.

        Raises:
            UserError: if the model has one stack alone.
        """
        if stack is None:
            return self
        if not self.has_two_stacks:
            problem = f"is for encoder-decoders, and {self.key} ({type(self.model).__name__}) has one stack of layers"
            raise UserError(problem, key="stack", value=stack, hint="leave it out")
        return ModelSpec(self.model, self.key, stack)

    @property
    def num_layers(self) -> int:
        if self.stack == "decoder":
            return self._number("decoder_layers", "num_decoder_layers")
        # A decoder taken out of an encoder-decoder keeps the configuration of both.
        alone = getattr(self.config, "is_decoder", False) and not self.has_two_stacks
        return self._number(*(("decoder_layers",) if alone else ()), "num_hidden_layers", "n_layer", "n_layers")

    @property
    def has_two_stacks(self) -> bool:
        """Whether the model is an encoder and a decoder, each with layers of its own."""
        return bool(getattr(self.config, "is_encoder_decoder", False))

    def _removed(self, kind: str) -> list[Mapping[str, Any]]:
        """For each removal of ``kind`` from the model, layer -> the units that stayed; its configuration gives none."""
        return [step[kind] for step in steps_of(self.model) if step["kind"] == "remove" and kind in step]

    @property
    def hidden_size(self) -> int:
        removed = self._removed("hidden")
        return len(removed[-1]["0"]) if removed else self._configured_width

    @property
    def _configured_width(self) -> int:
        return self._number("hidden_size", "n_embd", "dim")

    @property
    def _configured_heads(self) -> int:
        own = ("decoder_attention_heads",) if self.stack == "decoder" else ()
        return self._number(*own, "num_attention_heads", "n_head", "n_heads")

    @property
    def _head_size(self) -> int:
        """Features of a query head; not in every architecture do the heads together have the hidden size."""
        size = getattr(self.config, "head_dim", None)
        return size if isinstance(size, int) else self._configured_width // self._configured_heads

    def num_heads(self, layer: int) -> int:
        """Heads of the attention in ``layer``, 1 being the first and -1 the last."""
        if not self._removed("heads"):
            return self._configured_heads
        projections = self.projections(self.attention_layer(layer, "layer"), "layer")
        fused = 3 if len(projections) == 1 else 1
        return self.width(projections[0], "layer") // fused // self._head_size

    def attention_width(self, layer: int) -> int:
        """Features of the queries of all heads of ``layer`` together."""
        return self.num_heads(layer) * self._head_size

    def layer(self, number: int, key: str) -> int:
        """``number`` counted from the front: 0 is the embedding output, k the output of layer k.

        Raises:
            UserError: if the model has no such layer, or two of that number.
        """
        if self.has_two_stacks and self.stack is None:
            raise self._two_stacks("hidden states", key)
        depth = self.num_layers
        resolved = number if number >= 0 else depth + 1 + number
        if not 0 <= resolved <= depth:
            raise UserError(
                f"{self.key} has layers 0 (the embeddings) to {depth}",
                key=key,
                value=number,
                hint="choose one of these",
            )
        return resolved

    def _two_stacks(self, what: str, key: str) -> UserError:
        """Encoder and decoder number their layers alike; which one is meant is not known."""
        return UserError(
            f"has layers in its encoder and in its decoder, and it is not said of which of them {what} are to be kept",
            key=self.key,
            value=type(self.model).__name__,
            hint=f"say it beside {key}: stack: encoder, or stack: decoder",
        )

    def attention_layer(self, number: int, key: str) -> int:
        """``number`` counted from the front, for what only the layers have: 1 is the first.

        Raises:
            UserError: if the model has no such layer.
        """
        resolved = self.layer(number, key)
        if resolved == 0:
            raise UserError(
                f"{self.key} has attention in layers 1 to {self.num_layers}; 0 are the embeddings",
                key=key,
                value=number,
                hint="choose one of these",
            )
        return resolved

    def check_attentions(self, key: str) -> None:
        """Refuse a model that cannot return attention maps.

        Raises:
            UserError: if its attention implementation does not materialize them.
        """
        implementation = attention_in_use(self.config)
        if implementation != "eager":
            raise UserError(
                "attention maps exist only under the eager attention implementation",
                key=f"{self.key}.attn_implementation",
                value=implementation,
                hint=f"set {self.key}.attn_implementation: eager, or drop {key}",
            )

    def module(self, name: str, key: str) -> nn.Module:
        """The submodule called ``name``.

        Raises:
            UserError: if there is none, with the nearest names.
        """
        modules: dict[str, nn.Module] = dict(self.model.named_modules())
        if name not in modules:
            raise UserError(
                f"{self.key} has no module of that name", key=key, value=name, hint=nearest(name, filter(None, modules))
            )
        return modules[name]

    def width(self, name: str, key: str) -> int:
        """The number of features or channels that the submodule ``name`` puts out, read off its last layer.

        Raises:
            UserError: if no layer inside gives it.
        """
        return self.features(name, key).width

    def features(self, name: str, key: str) -> Features:
        """Where the submodule ``name`` has the features of its output, read off its last layer.

        Raises:
            UserError: if no layer inside gives it.
        """
        outer = self.module(name, key)
        for module in reversed(list(outer.modules())):
            # Of a class of its own, a layer may have moved them, as the "LayerNorm2d" of many vision models does.
            settled = module is outer and type(outer).__module__.startswith("torch.nn.")
            for attributes, first in ((_CHANNELS_FIRST, True), (_FEATURES_LAST, False)):
                for attribute in attributes:
                    if isinstance(getattr(module, attribute, None), int):
                        return Features(int(getattr(module, attribute)), first, settled)
            if (shape := getattr(module, "normalized_shape", None)) is not None:
                return Features(int(shape[-1]), False, settled)
        raise UserError(
            "the width of this module's output cannot be read off its layers",
            key=key,
            value=name,
            hint="name the layer before it",
        )

    def projections(self, layer: int, key: str) -> tuple[str, ...]:
        """Names of the modules that yield queries, keys and values in ``layer`` (1 is the first): three, or one fused.

        Raises:
            UserError: if the architecture keeps them under no known name.
        """
        if self.has_two_stacks and self.stack is None:
            raise self._two_stacks("queries, keys and values", key)
        begin = r"(?:^|\.)" if self.stack is None else rf"^(?:\w+\.)?{self.stack}\."
        inside = re.compile(rf"{begin}(?:layers?|h|blocks?)\.{layer - 1}\.(.+)$")
        found = {
            match.group(1).rsplit(".", 1)[-1]: name
            for name, _ in self.model.named_modules()
            if (match := inside.search(name)) and not _CROSS.search(name)
        }
        for names in (*_PROJECTIONS, *_FUSED_PROJECTIONS):
            if all(name in found for name in names):
                return tuple(found[name] for name in names)
        raise UserError(
            f"no queries, keys and values found in layer {layer} of {type(self.model).__name__}",
            key=key,
            value=layer,
            hint="use a loss on hidden states for this architecture",
        )

    def is_causal(self, layer: int, key: str) -> bool:
        """Whether a position of ``layer`` (1 is the first) sees only itself and those before it."""
        owner = self.projections(layer, key)[0].rpartition(".")[0]
        return bool(getattr(self.model.get_submodule(owner), "is_causal", False))

    def split_heads(self, outputs: tuple[Tensor, ...], layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of the :meth:`projections` of ``layer`` as queries, keys and values ``[B, heads, T, size]``.

        Under grouped-query attention each head of keys and values is repeated for its group.
        """
        parts = outputs[0].chunk(3, dim=-1) if len(outputs) == 1 else outputs
        heads = self.num_heads(layer)
        size = parts[0].shape[-1] // heads
        split = [part.view(*part.shape[:-1], -1, size).transpose(1, 2) for part in parts]
        query, key, value = (
            p if p.shape[1] == heads else p.repeat_interleave(heads // p.shape[1], dim=1) for p in split
        )
        return query, key, value


def spread(count: int, depth: int) -> list[int]:
    """``count`` layers spread over ``depth``: the nearest to k * depth / count for k = 1 ... count, half rounds up.

    The last is always among them. Where ``count`` is no greater than ``depth``, each is named once. A student's layers
    (``uniform``) and what hints it learns from are of this one rule.
    """
    return [(2 * k * depth + count) // (2 * count) for k in range(1, count + 1)]


def parameter_count(model: nn.Module, *, trained_only: bool = False) -> int:
    """The number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained_only)


def megabytes(model: nn.Module) -> float:
    """The size of its parameters as they are in memory, tied ones once, in 10^6 bytes."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
