"""What models are to write for held-out prompts when a run ends: to be read, and to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from distill.core.task import Task, WritingTask
from distill.core.utils.errors import UserError, check_choice
from distill.tasks.text_scores import DEFAULT_SCORES, TEXT_SCORES

__all__ = ["CompletionsConfig", "settle_completions"]

_KEY = "model.completions"


@dataclass(frozen=True, kw_only=True)
class CompletionsConfig:
    """How many held-out prompts student and teacher answer: with the most likely tokens, or the most likely text found.

    Attributes:
        shown: Answers that are kept to be read, in the run's ``completions.jsonl``; 0 for none.
        scored: Answers that are held against what stands there; 0 for none.
        scores: By what: ``rouge_1``, ``rouge_2``, ``rouge_l``, ``bleu``, ``chrf``, ``word_error_rate`` (of blanks
            between phonemes: their error rate), ``exact_match``.
        prompt_length: How many tokens of a text are its prompt. Of prompts and chats it is what comes before the first
            answer, whatever its length.
        max_new_tokens: How many are written at most; an end of text ends an answer before.
        beams: Of how many texts at a time the most likely is found; 1 takes the most likely token each time.
    """

    shown: int = 4
    scored: int = 0
    scores: Sequence[str] = DEFAULT_SCORES
    prompt_length: int = 64
    max_new_tokens: int = 64
    beams: int = 1

    def __post_init__(self) -> None:
        counts = {"shown": 0, "scored": 0, "prompt_length": 1, "max_new_tokens": 1, "beams": 1}
        for name, least in counts.items():
            if (value := getattr(self, name)) < least:
                raise UserError(f"must be {least} or more", key=f"{_KEY}.{name}", value=value, hint="give a larger one")
        if not self.scores or len(set(self.scores)) < len(self.scores):
            hint = "leave it out for those of the default"
            raise UserError("must name scores, each once", key=f"{_KEY}.scores", value=list(self.scores), hint=hint)
        for name in self.scores:
            check_choice(f"{_KEY}.scores", name, tuple(TEXT_SCORES))


def settle_completions(given: CompletionsConfig | None, task: Task, student: nn.Module) -> CompletionsConfig | None:
    """What a student is to write; ``None`` where it writes nothing.

    Raises:
        UserError: if it is to write, and cannot.
    """
    writing = isinstance(task, WritingTask)
    writes = writing and getattr(student, "can_generate", lambda: False)()
    if given is not None and not writes:
        what = f"{type(student).__name__} cannot generate" if writing else f"this is {task.name}"
        problem = f"is for models that can write, and {what}"
        raise UserError(problem, key=_KEY, hint="leave it out")
    return (given or CompletionsConfig()) if writes else None
