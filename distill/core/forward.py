"""One forward pass of a model, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.document_masking import hide_documents, must_run_unpacked
from distill.core.lazy_head import headless, within_taps
from distill.core.lazy_logits import LazyLogits
from distill.core.model_call import call, logits_of, one_tensor
from distill.core.model_spec import ModelSpec
from distill.core.pooling import pooled, pooling_of
from distill.core.signals import Request, Signals
from distill.core.unpacked_run import run_unpacked
from distill.core.utils.errors import UserError, nearest

__all__ = ["detached", "forward"]


def forward(model: nn.Module, inputs: Mapping[str, Tensor], request: Request) -> Signals:
    """Run ``model`` once and keep what ``request`` names.

    Models of transformers are asked for hidden states and attentions only when some are requested. Documents in a block
    are hidden from each other (:func:`~distill.core.document_masking.hide_documents`), or each is run by itself.
    Logits that may be lazy are, of a model that :func:`~distill.core.lazy_head.why_not_lazy` has tried, unless what the
    head gives is asked for by its name too.
    How other modules are called, and which of their outputs are the logits, says :mod:`distill.core.model_call`.

    Raises:
        UserError: if the model does not give what is requested.
    """
    inputs = _readable(model, inputs)
    names = {name: name for name in request.taps}
    spec = ModelSpec(model, "model")
    if spec.config is not None and must_run_unpacked(model, inputs):
        return run_unpacked(lambda documents: forward(model, documents, request), inputs)
    plain = _Layers(spec.of("encoder") if spec.has_two_stacks else spec, request)
    parts = [plain, *([] if request.decoder is None else [_Layers(spec.of("decoder"), request.decoder)])]
    for part in parts:
        names |= {path: path for paths in part.projections.values() for path in paths}
    flags = {"output_hidden_states": True} if any(part.request.hidden_states for part in parts) else {}
    flags |= {"output_attentions": True} if any(part.request.attentions for part in parts) else {}
    may_be_lazy = request.logits and request.lazy and not within_taps(model, request.taps)
    lazy = headless(model) if may_be_lazy else nullcontext(list[LazyLogits]())
    with _kept(model, names) as kept, lazy as taken:
        output = call(model, inputs if spec.config is None else hide_documents(model, inputs), flags)
    return Signals(
        logits=_logits(model, output, inputs) if request.logits and not taken else None,
        lazy_logits=taken[0] if taken else None,
        taps={name: kept[name] for name in request.taps},
        **plain.signals(output, kept),
        decoder=Signals(**parts[1].signals(output, kept)) if request.decoder is not None else None,
    )


class _Layers:
    """What is kept of the layers of a model, or of one of its two stacks.

    Args:
        spec: Of the model, or of that stack.
        request: Of its layers.
    """

    def __init__(self, spec: ModelSpec, request: Request) -> None:
        self.spec, self.request = spec, request
        self.projections = {k: spec.projections(spec.attention_layer(k, "layer"), "layer") for k in request.projections}
        self._maps = {k: spec.attention_layer(k, "layer") for k in request.attentions}

    def signals(self, output: Any, kept: Mapping[str, Tensor]) -> dict[str, Any]:
        """Hidden states, attentions and projections, of what the model gave and what was kept of it."""
        request, model, prefix = self.request, self.spec.model, "" if self.spec.stack is None else f"{self.spec.stack}_"
        hidden = _layers(model, output, f"{prefix}hidden_states") if request.hidden_states else ()
        attentions = _layers(model, output, f"{prefix}attentions") if request.attentions else ()
        split = self.spec.split_heads
        return {
            "hidden_states": {k: _layer(model, hidden, k) for k in request.hidden_states},
            "attentions": {k: attentions[number - 1] for k, number in self._maps.items()},
            "projections": {k: split(tuple(kept[p] for p in paths), k) for k, paths in self.projections.items()},
        }


def _logits(model: nn.Module, output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of an output, or the vectors of a model that has them in their place."""
    pooling = pooling_of(model)
    return logits_of(model, output) if pooling is None else pooled(model, output, inputs, pooling)


def detached(signals: Signals) -> Signals:
    """The same values as ordinary tensors outside inference mode, which autograd may save."""

    def copy(tensor: Tensor) -> Tensor:
        return tensor.clone() if tensor.is_inference() else tensor.detach()

    with torch.no_grad():
        return Signals(
            logits=None if signals.logits is None else copy(signals.logits),
            hidden_states={k: copy(v) for k, v in signals.hidden_states.items()},
            attentions={k: copy(v) for k, v in signals.attentions.items()},
            projections={k: (copy(q), copy(k_), copy(v)) for k, (q, k_, v) in signals.projections.items()},
            taps={k: copy(v) for k, v in signals.taps.items()},
            lazy_logits=None if signals.lazy_logits is None else signals.lazy_logits.detached(),
            decoder=None if signals.decoder is None else detached(signals.decoder),
        )


@contextmanager
def _kept(model: nn.Module, names: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """Keep the outputs of the modules ``names`` (name -> module name) of the forward passes inside the block."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            kept[name] = one_tensor(name, output)

        return hook

    modules = dict(model.named_modules()) if names else {}
    for path in names.values():
        if path not in modules:
            problem = f"{type(model).__name__} has no module of this name"
            raise UserError(problem, key="taps", value=path, hint=nearest(path, modules))
    handles = [modules[path].register_forward_hook(keep(name)) for name, path in names.items()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _readable(model: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``inputs`` without the types of tokens (first text, second text) where ``model`` has no embeddings of them.

    RoBERTa has one for all tokens, some take none, and GPT-2 would look them up among the words.
    """
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    known = hasattr(config, "get_text_config") and kind != "xlnet" and not hasattr(config, "type_vocab_sizes")
    if "token_type_ids" not in inputs or not known:
        return inputs
    if (getattr(config.get_text_config(), "type_vocab_size", None) or 0) > 1:
        return inputs
    return {name: tensor for name, tensor in inputs.items() if name != "token_type_ids"}


def _layer(model: nn.Module, hidden: tuple[Tensor, ...], k: int) -> Tensor:
    if not -len(hidden) <= k < len(hidden):
        problem = f"a loss reads layer {k} of {type(model).__name__}, which has {len(hidden) - 1}"
        raise UserError(problem, key="model.losses", hint="0 is the embeddings' output; -1 is the last layer's")
    return hidden[k]


def _layers(model: nn.Module, output: Any, name: str) -> tuple[Tensor, ...]:
    found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    if found is None:
        problem = f"{type(model).__name__} gives no {name.replace('_', ' ')}"
        raise UserError(problem, key="model", hint="use a loss on taps (module names) for it")
    return tuple(found)
