"""How fast language models write: the first token, and those after it, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from distill.core.task import TokenTask
from distill.core.utils.errors import first_line
from distill.models.compatibility import positions_of
from distill.models.sampling import exactly
from distill.workflows.report.costs import Generation
from distill.workflows.report.predictions import Subject
from distill.workflows.report.timing import threads_of_torch, turns

__all__ = ["generation_of"]

PROMPT, TOKENS = 32, 32
"""Tokens that are read, and that are written after the first one, or as many as the models have positions for."""


def generation_of(
    subjects: Sequence[Subject], keys: Sequence[str], sample: Mapping[str, Tensor], seconds: float, notes: list[str]
) -> dict[str, list[Generation]]:
    """Have the models write greedily, in turns, on one thread: key -> how fast.

    Args:
        subjects: All models.
        keys: Of those that are timed in torch.
        sample: Inputs of one sample, of whose tokens the first are the prompt.
        seconds: For all, about.
        notes: Gets the models that cannot write.
    """
    task = subjects[0].job.module.task
    if not (isinstance(task, TokenTask) and task.reads_on) or "input_ids" not in sample:
        return {}
    models = {one.key: one.model for one in subjects if one.model is not None and one.key in keys}
    room = min([PROMPT + TOKENS + 1, *(most for one in models.values() if (most := positions_of(one)) is not None)])
    ids = sample["input_ids"][0, : min(PROMPT, room // 2)]
    count = min(TOKENS, room - len(ids) - 1)
    with threads_of_torch(1):
        runs: dict[str, list[Callable[[], object]]] = {}
        for key, model in models.items():
            try:
                exactly(model, ids, 1)
            except Exception as error:  # whatever a model raises that cannot write
                notes.append(f"{key} writes nothing: {first_line(error)}")
                continue
            runs[key] = [partial(exactly, model, ids, 1), partial(exactly, model, ids, 1 + count)]
        with torch.inference_mode():
            taken = turns([run for pair in runs.values() for run in pair], seconds) if runs else []
    found: dict[str, list[Generation]] = {}
    for place, key in enumerate(runs):
        first, whole = median(taken[2 * place]), median(taken[2 * place + 1])
        speed = 1000 * count / max(whole - first, 1e-9)
        found[key] = [Generation("torch", 1, len(ids), count, speed, first)]
    return found
