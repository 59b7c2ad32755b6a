"""A shallower student: which layers to keep, and the model made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.core.architectures import layer_list
from distill.core.layer_config import SHARED_FROM_THE_FIRST, keep_in_config, refuse_changed_layers
from distill.core.model_spec import ModelSpec, spread
from distill.core.pooling import drop_pooler
from distill.core.stacks import STACKS, Stack
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount
from distill.models.students.config import StudentConfig

__all__ = ["choose_layers", "keep_layers", "kept_by_stack", "rebuilt"]


def choose_layers(layers: Sequence[int] | str | None, count: int | float | None, depth: int) -> list[int]:
    """The numbers of the layers to keep, in order; 1 is the first.

    ``uniform`` is :func:`~distill.core.model_spec.spread` over them, as it is for the layer maps of losses.

    Args:
        layers: Their numbers; or ``uniform`` (also ``None``), ``first`` or ``last``.
        count: How many, or which share of them (a float, the nearest number and at least one layer); needed for the
            words and only for them.
        depth: How many there are.

    Raises:
        UserError: if the model has no such layers, one is named twice, or the words have no count.
    """
    if not isinstance(layers, str | None):
        return _check_numbers(list(layers), count, depth)
    if count is None:
        raise UserError(
            f"{layers!r} does not say how many",
            key="model.student.num_layers",
            hint=f"give num_layers, 1 to {depth}",
        )
    if isinstance(count, float):
        # 2 may arrive as 2.0: what jsonargparse tries first of int | float depends on what typing has in its cache.
        count = int(count) if count >= 1 and count.is_integer() else _share(count, depth)
    if not 1 <= count <= depth:
        raise UserError(
            f"the model to copy from has {amount(depth, 'layer')}",
            key="model.student.num_layers",
            value=count,
            hint=f"choose 1 to {depth}",
        )
    if layers == "first":
        return list(range(1, count + 1))
    if layers == "last":
        return list(range(depth - count + 1, depth + 1))
    if layers in (None, "uniform"):
        return spread(count, depth)
    raise UserError(
        "must be a list of numbers, uniform, first or last", key="model.student.layers", value=layers, hint="choose one"
    )


def _share(share: float, depth: int) -> int:
    """How many of ``depth`` layers are the nearest to a share of them; a half is rounded up."""
    if not 0 < share < 1:
        hint = f"write 0.5 for half of them, or an integer from 1 to {depth}"
        raise UserError("a share must lie in (0, 1)", key="model.student.num_layers", value=share, hint=hint)
    return max(1, math.floor(share * depth + 0.5))


def _check_numbers(layers: list[int], count: int | float | None, depth: int) -> list[int]:
    key = "model.student.layers"
    if count is not None:
        raise UserError(
            "num_layers counts the layers of a word (uniform, first, last), not of a list",
            key="model.student.num_layers",
            value=count,
            hint="leave it out, or set it to null where a recipe gives it",
        )
    if not layers:
        raise UserError("at least one layer must be kept", key=key, value=layers, hint=f"choose of 1 to {depth}")
    for number in layers:
        if not 1 <= number <= depth:
            raise UserError(
                f"the model to copy from has layers 1 to {depth}, and no {number}",
                key=key,
                value=layers,
                hint="1 is the first layer; 0 would be the embeddings, which are always copied",
            )
    if len(set(layers)) < len(layers):
        raise UserError("a layer is named twice", key=key, value=layers, hint="name each once")
    if layers != sorted(layers):
        raise UserError("layers stand in their order", key=key, value=layers, hint=f"write {sorted(layers)}")
    return layers


def keep_layers(model: PreTrainedModel, kept: Sequence[int], stack: Stack | None = None) -> PreTrainedModel:
    """A new model of the layers ``kept`` (1 is the first), the embeddings and the head of ``model``.

    The values are copied, in float32; nothing is shared with ``model``.

    Args:
        model: Of transformers; left as it is.
        kept: Numbers of the layers, as of :func:`choose_layers`.
        stack: Of an encoder-decoder, whose layers these are; the other's stay.

    Raises:
        UserError: if the layers of this architecture cannot take one another's place.
    """
    prefix = layer_list(model, stack) + "."
    place = {str(number - 1): str(i) for i, number in enumerate(kept)}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith(prefix):
            state[name] = tensor
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        if number == "0" and SHARED_FROM_THE_FIRST in rest:
            state[name] = tensor  # a layer that comes into its place with one of its own writes over it
        elif number in place:
            state[f"{prefix}{place[number]}.{rest}"] = tensor
    config = deepcopy(model.config)
    keep_in_config(config, kept, stack)
    student = rebuilt(model, config, state)
    refuse_changed_layers(model.get_submodule(prefix[:-1]), student.get_submodule(prefix[:-1]), kept)
    return student


def rebuilt(model: PreTrainedModel, config: Any, state: dict[str, Tensor]) -> PreTrainedModel:
    """A model of the class of ``model`` with another configuration and these weights, in float32.

    Raises:
        UserError: if the weights are not those of this structure.
    """
    config.dtype = torch.float32
    try:
        student = type(model)(config)
        drop_pooler(student)
        student.load_state_dict(state)
    except Exception as error:  # the configuration's own checks, or whatever its modelling file stumbles on
        raise UserError(
            f"the layers of {type(model).__name__} differ in structure, so these cannot stand in others' places "
            f"({_reason(error)})",
            key="model.student.layers",
            hint="keep the first layer, or give the student by path or config",
        ) from error
    return student


def _reason(error: Exception) -> str:
    """The end of what was raised, where torch and the checks of configurations say what does not fit."""
    words = " ".join(str(error).split()).partition("Error(s) in loading state_dict for ")[2] or " ".join(
        str(error).split()
    )
    return words[:200]


def kept_by_stack(config: StudentConfig, origin: PreTrainedModel) -> dict[Stack | None, tuple[list[int], int]]:
    """Which layers a student has of its origin, and how many that has, by stack; ``None`` of one stack alone.

    Raises:
        UserError: as :func:`choose_layers`, or if the origin has no decoder of its own and settings are for one.
    """
    spec = ModelSpec(origin, "model.student")
    if not spec.has_two_stacks and (name := config.names_decoder) is not None:
        problem = f"is for encoder-decoders, and the model to copy from is a {type(origin).__name__}"
        raise UserError(problem, key=f"model.student.{name}", value=getattr(config, name), hint="leave it out")
    stacks: tuple[Stack | None, ...] = STACKS if spec.has_two_stacks else (None,)
    found: dict[Stack | None, tuple[list[int], int]] = {}
    for stack in stacks:
        layers, count = config.layers_of(stack or "encoder")
        depth = spec.of(stack).num_layers
        every = list(range(1, depth + 1))
        own = stack == "decoder" and config.names_decoder is not None
        try:
            kept = every if (layers, count) == (None, None) else choose_layers(layers, count, depth)
        except UserError as error:
            key = _OF_DECODER.get(error.key, error.key) if own else error.key
            raise UserError(error.problem, key=key, value=error.value, hint=error.hint) from None
        found[stack] = (kept, depth)
    return found


_OF_DECODER = {
    "model.student.layers": "model.student.decoder_layers",
    "model.student.num_layers": "model.student.num_decoder_layers",
}
