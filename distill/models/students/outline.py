"""A student's depth, widths and frozen parameters, judged by the configuration of what it is made of.

Reading the data and the weights takes minutes; a mistake in these shows before.
"""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel

from distill.core.layer_config import keep_in_config
from distill.core.model_spec import ModelSpec
from distill.core.record import read_steps, structural
from distill.core.utils.paths import resolve
from distill.core.utils.quiet import quiet_transformers
from distill.models.folder import check_sizes, read_config
from distill.models.students.build import freeze
from distill.models.students.config import StudentConfig
from distill.models.students.layers import choose_layers
from distill.models.students.width import target_widths

__all__ = ["check_outline"]

_KEY = "model.student"


def check_outline(student: StudentConfig, auto_model: Any, teacher: str | None) -> None:
    """Refuse layers, widths and frozen names that the student's origin does not have; no weight is read.

    An origin that cannot be read, or whose structure its configuration does not give, is left to be judged when it
    is loaded.

    Args:
        student: What is wanted.
        auto_model: The ``AutoModelFor...`` class of the task.
        teacher: The path of the (first) teacher, where it has one.

    Raises:
        UserError: as :func:`~distill.models.students.build.build_student`, for what this finds.
    """
    if not (student.cuts_layers or student.narrows or student.freeze):
        return
    config = _configuration(student, teacher)
    model = None if config is None else _without_weights(auto_model, config)
    if model is None:
        return
    if student.cuts_layers:
        kept = choose_layers(student.layers, student.num_layers, ModelSpec(model, _KEY).num_layers)
        cut = deepcopy(config)
        keep_in_config(cut, kept)
        model = _without_weights(auto_model, cut)
    if student.narrows:
        target_widths(config, student.hidden_size, student.num_heads, student.intermediate_size)
    if model is not None:
        freeze(model, student.freeze)


def _configuration(student: StudentConfig, teacher: str | None) -> Any:
    """That of the model which the student is, or is cut out of; ``None`` where it does not say all of its structure."""
    with suppress(Exception), quiet_transformers():
        if student.config is not None:
            wanted = dict(student.config)
            kind = wanted.pop("model_type")
            check_sizes(wanted, lambda problem, hint: ValueError(problem))
            return AutoConfig.for_model(kind, **wanted) if kind in CONFIG_MAPPING else None
        path = student.path or teacher
        location = None if path is None else resolve(path, f"{_KEY}.path")
        if location is None or (Path(location).is_dir() and structural(read_steps(location, f"{_KEY}.path"))):
            return None
        return read_config(location, str(path), _KEY)
    return None


def _without_weights(auto_model: Any, config: Any) -> PreTrainedModel | None:
    with suppress(Exception), quiet_transformers(), torch.device("meta"):
        made: PreTrainedModel = auto_model.from_config(config)
        return made
    return None
