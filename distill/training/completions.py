"""What language models are to write after held-out prompts when a run ends: to be read, and to be scored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from distill.core.task import Task, WritingTask
from distill.core.utils.errors import UserError

__all__ = ["CompletionsConfig", "settle_completions"]

_KEY = "model.completions"


@dataclass(frozen=True, kw_only=True)
class CompletionsConfig:
    """How many held-out prompts student and teacher answer, always with the most likely token.

    Attributes:
        shown: Answers that are kept to be read, in the run's ``completions.jsonl``; 0 for none.
        scored: Answers that are held against what stands there (ROUGE-L, chrF, exact match); 0 for none.
        prompt_length: How many tokens of a text are its prompt. Of prompts and chats it is what comes before the first
            answer, whatever its length.
        max_new_tokens: How many are written at most; an end of text ends an answer before.
    """

    shown: int = 4
    scored: int = 0
    prompt_length: int = 64
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        for name, least in (("shown", 0), ("scored", 0), ("prompt_length", 1), ("max_new_tokens", 1)):
            if (value := getattr(self, name)) < least:
                raise UserError(f"must be {least} or more", key=f"{_KEY}.{name}", value=value, hint="give a larger one")


def settle_completions(given: CompletionsConfig | None, task: Task, student: nn.Module) -> CompletionsConfig | None:
    """What a student is to write; ``None`` where it writes nothing.

    Raises:
        UserError: if it is to write, and cannot.
    """
    writing = isinstance(task, WritingTask)
    writes = writing and getattr(student, "can_generate", lambda: False)()
    if given is not None and not writes:
        what = f"{type(student).__name__} cannot generate" if writing else f"this is {task.name}"
        problem = f"is for causal language models that can generate, and {what}"
        raise UserError(problem, key=_KEY, hint="leave it out")
    return (given or CompletionsConfig()) if writes else None
