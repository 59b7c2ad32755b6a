"""Held-out prompts, what student and teacher write after them, and how near that comes to what stands there."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill.core.internals.peft import without_adapter
from distill.core.signals import IGNORE
from distill.core.task import TextTask, WritingTask
from distill.core.utils.errors import first_line
from distill.data import TextData
from distill.data.features import Samples
from distill.models.compatibility import positions_of
from distill.models.sampling import continuations, reads_padding_beside
from distill.models.tokens import ends_of
from distill.tasks.text_scores import TEXT_SCORES, text_scores
from distill.training.completions import CompletionsConfig
from distill.workflows.job.build import Job
from distill.workflows.predict.complete import text_of, written_text

__all__ = ["COMPLETIONS", "Completions", "Prompt", "complete_held_out", "held_out_prompts"]

COMPLETIONS = "completions.jsonl"
"""Where they lie in a run's folder, one a line."""

_AT_ONCE = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """What is to be gone on with.

    Attributes:
        ids: Tokens that the student reads.
        teacher_ids: Those that the teacher reads, which may be told more.
        expected: Tokens that stand there.
    """

    ids: NDArray[Any]
    teacher_ids: NDArray[Any]
    expected: NDArray[Any]


@dataclass(frozen=True)
class Completions:
    """What was written.

    Attributes:
        prompts: As texts.
        expected: What stands there.
        by: ``teacher`` and ``student`` -> what each wrote.
        unfinished: Who -> how many of its answers came to no end.
        shown: How many are to be read.
        config: How they were asked for.
    """

    prompts: list[str]
    expected: list[str]
    by: dict[str, list[str]]
    unfinished: dict[str, int]
    shown: int
    config: CompletionsConfig

    @property
    def lines(self) -> list[dict[str, str]]:
        """Those to read: ``prompt``, ``expected``, and what each wrote."""
        places = _evenly(len(self.prompts), self.shown)
        columns = {"prompt": self.prompts, "expected": self.expected, **self.by}
        return [{name: texts[place] for name, texts in columns.items()} for place in places]

    @property
    def jsonl(self) -> bytes:
        """The same as a file."""
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines).encode()

    @property
    def record(self) -> dict[str, Any] | None:
        """What ``result.json`` holds of the scores; ``None`` where nothing is scored."""
        if not self.config.scored:
            return None
        names = self.config.scores
        found = {who: text_scores(texts, self.expected, names) for who, texts in self.by.items()}
        errors = {
            who: {name: error for name, (_, error) in scores.items() if math.isfinite(error)}
            for who, scores in found.items()
        }
        return {
            "prompts": len(self.prompts),
            "max_new_tokens": self.config.max_new_tokens,
            "beams": self.config.beams,
            "unfinished": self.unfinished,
            "scores": {who: {name: value for name, (value, _) in scores.items()} for who, scores in found.items()},
            "standard_errors": errors,
            "means": {name: TEXT_SCORES[name].means for name in names},
        }


def complete_held_out(job: Job, split: str, student: nn.Module | None = None, shown: bool = True) -> Completions | None:
    """What student and teacher write after held-out prompts; ``None`` where nothing is to be written, or cannot be.

    What goes wrong in writing is a warning: a run that has been trained ends as it would without.

    Args:
        job: The run; its teacher, where it has one model, writes too.
        split: ``validation`` or ``test``.
        student: In place of the job's own.
        shown: Whether some are to be read, or all are for the scores alone.
    """
    config = job.module.completions
    if config is None or not isinstance(job.data, TextData) or split not in job.data.uses:
        return None
    count = max(config.shown if shown else 0, config.scored)
    models: dict[str, Any] = {"student": student if student is not None else job.module.student}
    tokenizers = {"student": job.data.tokenizer}
    teacher = job.module.teacher
    teachers = [] if teacher is None else teacher.models
    if teacher is not None and len(teachers) == 1 and getattr(teachers[0], "can_generate", lambda: False)():
        models = {"teacher": teachers[0], **models}
        tokenizers["teacher"] = teacher.tokenizers[0] or job.data.tokenizer
    if not count:
        return None
    rooms = [room for model in models.values() if (room := positions_of(model)) is not None]
    task = job.data.task
    apart = isinstance(task, WritingTask) and task.reads_apart
    prompts = held_out_prompts(job.data.samples(split), count, config, min(rooms, default=None), apart)
    if not prompts:
        return None
    try:
        with _placed(models["student"], job.arguments.get("accelerator", "auto")):
            return _written(models, prompts, (task, tokenizers), config, config.shown if shown else 0)
    except Exception as error:  # models of others can stumble anywhere
        _log.warning("no completions: the models could not write (%s)", first_line(error))
        return None


@contextmanager
def _placed(student: nn.Module, accelerator: Any) -> Iterator[None]:
    """The student where it was trained, which it has left when the training ended; the teacher is there."""
    there = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    before = next(student.parameters()).device
    try:
        student.to("cuda" if there else before)
        yield
    finally:
        student.to(before)


def held_out_prompts(
    samples: Samples, count: int, config: CompletionsConfig, room: int | None, apart: bool = False
) -> list[Prompt]:
    """Prompts of documents at even distances, the same ones every time.

    Args:
        samples: Of a task that writes, packed or not.
        count: How many, at most.
        config: What of a text is its prompt.
        room: Most tokens that the models read; prompts that leave no room for an answer are left out.
        apart: Whether a sample's text is read by an encoder, and its labels are the text that is to be written.
    """
    size = len(samples)
    found: list[Prompt] = []
    for row in _evenly(size, size if size < 4 * count else 2 * count):
        sample = samples[0, row]
        if apart:
            prompts = [Prompt(sample["input_ids"], sample["input_ids"], sample["labels"])]
        else:
            prompts = [prompt for one in _documents(sample) if (prompt := _prompt(*one, config)) is not None]
        fits = [p for p in prompts if room is None or _positions(p, config, apart) <= room]
        # A text that was cut begins anywhere; in a large set one of each block is enough.
        found += fits if size < 4 * count else fits[1:2] or fits[:1]
    return [found[place] for place in _evenly(len(found), count)]


def _positions(prompt: Prompt, config: CompletionsConfig, apart: bool) -> int:
    """How many a model must have to read the prompt, and answer it."""
    read, written = len(prompt.teacher_ids), config.max_new_tokens
    return max(read, written) if apart else read + written


_Document = tuple[Mapping[str, NDArray[Any]], int, int]


def _documents(sample: Mapping[str, NDArray[Any]]) -> Iterator[_Document]:
    """A sample, and where each of its documents begins and ends."""
    length = len(sample["input_ids"])
    positions = sample.get("position_ids")
    firsts = [0] if positions is None else np.flatnonzero(positions == 0).tolist()
    for first, last in zip(firsts, [*firsts[1:], length], strict=True):
        yield sample, first, last


def _prompt(sample: Mapping[str, NDArray[Any]], first: int, last: int, config: CompletionsConfig) -> Prompt | None:
    ids, labels = sample["input_ids"][first:last], sample["labels"][first:last]
    counts = labels != IGNORE
    if not counts.any() or len(ids) < 2:
        return None
    if counts[0]:  # a text: half of it where it is short
        at = min(config.prompt_length, len(ids) // 2) - 1
        end = min(len(ids), at + config.max_new_tokens)
    else:
        at = int(counts.argmax())
        behind = np.flatnonzero(~counts[at:])
        end = at + int(behind[0]) if len(behind) else len(ids)
    theirs = ids[: at + 1]
    if "teacher_input_ids" in sample:
        place = int(sample["teacher_at"][first + at])
        begun = "teacher_path" in sample and sample["teacher_path"][first + at] > 0
        if place < 0 or begun:  # by its own tokenizer it reads to another place
            return None
        positions = sample.get("teacher_position_ids")
        begin = 0 if positions is None else place - int(positions[place])
        theirs = sample["teacher_input_ids"][begin : place + 1]
    return Prompt(ids[: at + 1], theirs, labels[at:end])


def _evenly(size: int, count: int) -> list[int]:
    """``count`` of ``size`` places at even distances; all where there are no more."""
    return list(range(size)) if size <= count else [int((place + 0.5) * size / count) for place in range(count)]


def _written(
    models: Mapping[str, Any],
    prompts: Sequence[Prompt],
    reading: tuple[TextTask, Mapping[str, Any]],
    config: CompletionsConfig,
    shown: int,
) -> Completions:
    task, tokenizers = reading
    by, unfinished = {}, {}
    for who, model in models.items():
        asked = [torch.tensor(p.teacher_ids if who == "teacher" else p.ids, dtype=torch.long) for p in prompts]
        # A teacher may be the student's own base: what it writes is without the adapter.
        with without_adapter(model) if who == "teacher" else nullcontext():
            answers, ends = _answers(model, asked, config), ends_of(model)
        by[who] = [_text(task, tokenizers[who], *pair, ends) for pair in zip(asked, answers, strict=True)]
        unfinished[who] = sum(not len(answer) or int(answer[-1]) not in ends for answer in answers)
    tokenizer = tokenizers["student"]
    read = [torch.tensor(prompt.ids, dtype=torch.long) for prompt in prompts]
    ends = ends_of(models["student"])
    expected = [
        _text(task, tokenizer, ids, torch.tensor(prompt.expected, dtype=torch.long), ends)
        for ids, prompt in zip(read, prompts, strict=True)
    ]
    apart = isinstance(task, WritingTask) and task.reads_apart
    texts = [written_text(tokenizer, ids.tolist()) if apart else str(tokenizer.decode(ids)) for ids in read]
    return Completions(texts, expected, by, unfinished, shown, config)


def _answers(model: nn.Module, prompts: Sequence[Tensor], config: CompletionsConfig) -> list[Tensor]:
    """The longest first, so that those of a batch are of a length."""
    together, answers = reads_padding_beside(model), dict[int, Tensor]()
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    for start in range(0, len(order), _AT_ONCE):
        places = order[start : start + _AT_ONCE]
        asked = [prompts[place] for place in places]
        made = continuations(model, asked, config.max_new_tokens, together=together, beams=config.beams)
        answers |= dict(zip(places, made, strict=True))
    return [answers[place] for place in range(len(prompts))]


def _text(task: TextTask, tokenizer: Any, prompt: Tensor, answer: Tensor, ends: Sequence[int]) -> str:
    """An answer as text, up to its end."""
    ended = [place for place, token in enumerate(answer.tolist()) if token in ends]
    return text_of(task, tokenizer, prompt.tolist(), answer.tolist()[: ended[0] if ended else None])
