"""Calling a model, of transformers or not, and which of its outputs are the logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from distill.core.utils.errors import UserError

__all__ = ["call", "logits_of", "of_transformers", "one_tensor"]


def of_transformers(model: nn.Module) -> bool:
    """Whether a model is called and answers as those of transformers do: one of them, or a wrapper of one (PEFT).

    An attribute ``config`` alone does not make one: it must be a configuration of transformers, and ``forward`` must
    take ``output_hidden_states``.
    """
    if isinstance(model, PreTrainedModel):
        return True
    if not isinstance(getattr(model, "config", None), PreTrainedConfig):
        return False
    _, names, any_name = _reads(type(model).forward)
    return any_name or "output_hidden_states" in names


def call(model: nn.Module, inputs: Mapping[str, Any], flags: Mapping[str, Any] | None = None) -> Any:
    """Whatever ``model`` gives for ``inputs``.

    Models of transformers are called by names. Others are called by position, in the order of ``inputs``; where
    ``forward`` has their names in another order, or has some of them and takes any other name, by names too.

    Args:
        model: The model.
        inputs: By name, in order.
        flags: More arguments, for models of transformers alone.

    Raises:
        UserError: if the inputs would be given by position, and a parameter of an input's name stands elsewhere.
    """
    if of_transformers(model):
        config: Any = model.config
        flags = dict(flags or {})
        if hasattr(config.get_text_config(), "use_cache"):
            flags["use_cache"] = False
        return model(**inputs, **flags)
    places, names, any_name = _reads(type(model).forward)
    known = [name for name in inputs if name in names]
    if known and places[: len(inputs)] != tuple(inputs):
        if len(known) == len(inputs) or any_name:
            return model(**inputs)
        name = next((one for place, one in enumerate(inputs) if one in known and names.index(one) != place), None)
        if name is not None:
            raise UserError(
                f"{type(model).__name__}.forward takes {', '.join(names)}, and a batch has {', '.join(inputs)}: by "
                f"position {name} would be taken for another, and not all have parameters of their names",
                key="model",
                hint="give forward a parameter for each, or **kwargs",
            )
    return model(*inputs.values())


@lru_cache(maxsize=256)
def _reads(forward: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The parameters of a ``forward`` that have places and names, all that have names, and if any other will do."""
    try:
        parameters = list(signature(forward).parameters.values())[1:]  # without self
    except (TypeError, ValueError):  # of compiled code
        return (), (), False
    places = tuple(p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD)
    others = tuple(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)
    return places, places + others, any(p.kind is Parameter.VAR_KEYWORD for p in parameters)


def logits_of(model: nn.Module, output: Any) -> Tensor:
    """The logits among what ``model`` gave: the tensor itself, or what is called ``logits`` (key or attribute).

    Of a nameless tuple or list, the one tensor that is no scalar: ``(logits,)``, ``(loss, logits)``. Where a span's
    start and end have logits of their own over the positions (``start_logits``, ``end_logits``), both, ``[B, 2, T]``.

    Raises:
        UserError: if that gives none, or more than one, or what is found is no floating-point tensor, as decisions are.
    """
    found: Any = None
    if isinstance(output, Tensor):
        found = output
    elif isinstance(output, Mapping) and isinstance(output.get("start_logits"), Tensor):
        found = torch.stack([output["start_logits"], output["end_logits"]], 1)
    elif isinstance(output, Mapping):
        found = output.get("logits")
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, Sequence):
        tensors = [part for part in output if isinstance(part, Tensor) and part.dim() > 0]
        found = tensors[0] if len(tensors) == 1 else None
    if isinstance(found, Tensor):
        return _floating(model, found)
    raise UserError(
        f"{type(model).__name__} gives {_described(output)}, and nothing says which of it are the logits",
        key="model",
        hint="return them alone, under the key logits, or in a tuple with no other tensor than a scalar loss",
    )


def _floating(model: nn.Module, logits: Tensor) -> Tensor:
    if logits.is_floating_point():
        return logits
    kind = str(logits.dtype).removeprefix("torch.")
    problem = f"{type(model).__name__} gives a tensor of {kind} {list(logits.shape)}, and logits are floating-point"
    hint = "return the scores before argmax, threshold or rounding: a number for each class"
    raise UserError(problem, key="model", hint=hint)


def one_tensor(name: str, output: Any) -> Tensor:
    """What a module gave, or the first of several (recurrent layers, blocks that also give a cache).

    Raises:
        UserError: if that is no tensor.
    """
    found = output[0] if isinstance(output, (tuple, list)) and output else output
    if isinstance(output, Mapping) and output:
        found = next(iter(output.values()))
    if not isinstance(found, Tensor):
        problem = f"this module gives {_described(output)}, and no tensor"
        raise UserError(problem, key="taps", value=name, hint="name a module inside it")
    return found


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a mapping of {', '.join(map(str, output)) or 'nothing'}"
    if isinstance(output, (tuple, list)):
        kinds = (str(list(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in output)
        return f"a {type(output).__name__} of {', '.join(kinds) or 'nothing'}"
    return f"a {type(output).__name__}"
