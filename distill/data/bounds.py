"""Settings of data that cannot be: numbers out of bounds, and what others leave without effect."""

from __future__ import annotations

from typing import Any

from distill.core.idle_settings import Idle, refuse_idle
from distill.core.task import TextTask
from distill.core.utils.errors import UserError

__all__ = ["check_numbers", "check_packing", "refuse_idle_settings"]

_LEAST = {"max_length": 2, "batch_size": 1, "eval_batch_size": 1, "num_workers": 0, "train_samples": 1, "seed": 0}
_LEAST |= {"doc_stride": 0, "max_target_length": 2}

_LANGUAGE = (
    *("completion_only_loss", "chat_template", "add_special_tokens", "join", "eval_stride"),
    *("teacher_system", "teacher_tokenizer"),
)
"""For causal language models alone."""

_TARGETS = ("prefix", "max_target_length")
"""For tasks whose rows have a text that is to be written."""


def check_numbers(settings: Any) -> None:
    """Refuse a number that is too small.

    Args:
        settings: Has them as attributes.

    Raises:
        UserError: naming it.
    """
    for key, bound in _LEAST.items():
        value = getattr(settings, key)
        if value is not None and value < bound:
            raise UserError(f"must be at least {bound}", key=f"data.{key}", value=value, hint="raise it")
    length = settings.pack_length
    if length is not None and (length < 0 or length == 1):
        raise UserError("must be at least 2, or 0", key="data.pack_length", value=length, hint="raise it")


def check_packing(task: TextTask, pack_length: int | None) -> None:
    """Refuse blocks of documents for a task whose samples are whole texts.

    Raises:
        UserError: naming the key.
    """
    if pack_length and not task.packs:
        problem, hint = f"{task.name} cannot be packed into blocks", "leave it out, or set it to 0"
        raise UserError(problem, key="data.pack_length", value=pack_length, hint=hint)


def refuse_idle_settings(
    owner: type, settings: Any, packs: bool, several: bool, pictures: bool = False, targets: bool = False
) -> None:
    """Refuse settings that others leave without effect.

    Args:
        owner: The class whose arguments they are.
        settings: Has them as attributes.
        packs: Whether the task joins documents into blocks, if it is let.
        several: Whether it reads long texts in windows.
        pictures: Whether it reads pictures.
        targets: Whether a row has a text that is to be written.

    Raises:
        UserError: naming the first.
    """
    blocks = packs and settings.pack_length != 0
    packed, whole = "documents packed into blocks", "documents that share no block"
    other, change = "a task that is no causal language model", "set model.task: causal-lm"
    rules = (
        Idle("name", settings.files is not None, "data.files", "name a data set in data.path"),
        Idle("max_length", blocks, packed, "set data.pack_length"),
        Idle("isolate_documents", not blocks, whole, "set data.pack_length"),
        Idle("max_length", pictures, "pictures, which have no length", "give data.images.size, or a processor's size"),
        Idle("bucketing", pictures, "pictures, which are all of one size", "leave it out"),
        Idle("doc_stride", not several, "a task whose texts are cut", "leave it out"),
        *(Idle(name, not targets, "a task that writes no text of its own", "leave it out") for name in _TARGETS),
        *(Idle(name, not packs, other, change) for name in _LANGUAGE),
    )
    refuse_idle(owner, vars(settings), rules, "data.")
