"""Which layer of the student learns from which layer of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from distill.core.model_spec import ModelSpec, spread
from distill.core.utils.errors import UserError, check_choice
from distill.core.utils.words import amount

__all__ = ["LayerMap", "check_layers", "layer_pairs"]

LayerMap = dict[int, int] | Literal["uniform", "last"]
"""Student layer -> teacher layer, or a rule that makes such a map of the two depths."""


def check_layers(layers: LayerMap, key: str = "layers") -> None:
    """Refuse what is no layer map.

    Raises:
        UserError: if it is empty or an unknown rule.
    """
    if isinstance(layers, str):
        check_choice(key, layers, ("uniform", "last"))
    elif not isinstance(layers, Mapping) or not layers:
        raise UserError(
            "must map at least one student layer to a teacher layer",
            key=key,
            value=layers,
            hint="write {1: 2, 2: 4}, uniform or last",
        )


def layer_pairs(
    layers: LayerMap, student: ModelSpec, teacher: ModelSpec, key: str = "layers", *, attention: bool = False
) -> list[tuple[int, int]]:
    """(student layer, teacher layer), counted from the front, in the order of the student's.

    ``uniform`` maps the layers 1 to S of the student to the nearest of k * T / S
    (:func:`~distill.core.model_spec.spread`), the layers that a student of ``layers: uniform`` is made of; ``last``
    maps them to the last S of the teacher.

    Args:
        layers: The map or the rule.
        student: The student, of S layers.
        teacher: The teacher, of T layers.
        key: The argument's name, for messages.
        attention: Whether layer 0, the embeddings, is out of the question.

    Raises:
        UserError: if a layer does not exist, or a student layer is named twice.
    """
    if isinstance(layers, str):
        layers = _by_rule(layers, student.num_layers, teacher.num_layers, key)
    pairs = []
    for ours, theirs in layers.items():
        if attention:
            pairs.append((student.attention_layer(ours, key), teacher.attention_layer(theirs, key)))
        else:
            pairs.append((student.layer(ours, key), teacher.layer(theirs, key)))
    if len(dict(pairs)) < len(pairs):
        raise UserError("names one student layer twice", key=key, value=layers, hint="name each layer once")
    return sorted(pairs)


def _by_rule(rule: str, depth: int, teacher_depth: int, key: str) -> dict[int, int]:
    if rule == "uniform":
        return dict(enumerate(spread(depth, teacher_depth), start=1))
    if depth > teacher_depth:
        raise UserError(
            f"the student has {amount(depth, 'layer')} and the teacher only {teacher_depth}",
            key=key,
            value=rule,
            hint="use uniform",
        )
    return {k: teacher_depth - depth + k for k in range(1, depth + 1)}
