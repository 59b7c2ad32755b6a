"""A student's depth, widths and frozen parameters, judged by the configuration of what it is made of.

Reading the data and the weights takes minutes; a mistake in these shows before.
"""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel

from distill.core.layer_config import keep_in_config
from distill.core.utils.quiet import quiet_transformers
from distill.models.folder import check_sizes
from distill.models.outline import configuration_at, without_weights
from distill.models.students.build import freeze
from distill.models.students.config import StudentConfig
from distill.models.students.layers import kept_by_stack
from distill.models.students.width import target_widths

__all__ = ["check_outline"]

_KEY = "model.student"


def check_outline(
    student: StudentConfig, auto_model: Any, teacher: str | None, *, named: bool = False
) -> PreTrainedModel | None:
    """Refuse layers, widths and frozen names that the student's origin does not have; no weight is read.

    An origin that cannot be read, or whose structure its configuration does not give, is left to be judged when it
    is loaded.

    Args:
        student: What is wanted.
        auto_model: The ``AutoModelFor...`` class of the task.
        teacher: The path of the (first) teacher, where it has one.
        named: Whether others name layers of it, so that it is made in any case.

    Returns:
        The student without weights, with all of its layers, as wide as its origin; ``None`` where nothing asks for it,
        or it cannot be told.

    Raises:
        UserError: as :func:`~distill.models.students.build.build_student`, for what this finds.
    """
    if not (named or student.cuts_layers or student.narrows or student.freeze):
        return None
    config, attention = _configuration(student, teacher), student.attn_implementation
    model = None if config is None else without_weights(auto_model, config, attention)
    if model is None:
        return None
    if student.cuts_layers:
        cut = deepcopy(config)
        for stack, (kept, _) in kept_by_stack(student, model).items():
            keep_in_config(cut, kept, stack)
        model = without_weights(auto_model, cut, attention)
    if student.narrows:
        target_widths(config, student.hidden_size, student.num_heads, student.intermediate_size)
    if model is not None:
        freeze(model, student.freeze)
    return model


def _configuration(student: StudentConfig, teacher: str | None) -> Any:
    """That of the model which the student is, or is cut out of; ``None`` where it does not say all of its structure."""
    if student.config is None:
        path = student.path or teacher
        return None if path is None else configuration_at(path, _KEY)
    with suppress(Exception), quiet_transformers():
        wanted = dict(student.config)
        kind = wanted.pop("model_type")
        check_sizes(wanted, lambda problem, hint: ValueError(problem))
        return AutoConfig.for_model(kind, **wanted) if kind in CONFIG_MAPPING else None
    return None
