"""``distill generate``: the answers of a language model to prompts, as data for a student.

Reference:
    Kim, Rush: Sequence-Level Knowledge Distillation, EMNLP 2016.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from distill.core.generators import forked, seed_at
from distill.core.idle_settings import idle
from distill.core.task import WritingTask
from distill.core.utils.errors import UserError
from distill.core.utils.files import make, replace
from distill.core.utils.paths import at_home
from distill.core.utils.progress import track
from distill.core.utils.words import amount
from distill.data.targets import TARGET
from distill.models.compatibility import positions_of
from distill.models.sampling import continuations, reads_padding_beside
from distill.models.teachers import fingerprint
from distill.models.tokens import ends_of
from distill.workflows.data_overrides import data_overrides
from distill.workflows.predict.complete import text_of
from distill.workflows.predict.opened import KEY, Opened, open_folder
from distill.workflows.predict.rows import file_rows

__all__ = ["Writing", "generate", "language_model"]


@dataclass(frozen=True)
class Writing:
    """How answers are written.

    Attributes:
        max_new_tokens: Of an answer, at most.
        beams: Of how many texts at a time the most likely is found.
        temperature: Of the softmax that is drawn from; ``None`` takes the most likely token.
        batch_size: Prompts that are answered at once.
        seed: Of what is drawn.
        keep_unfinished: Whether answers that come to no end are kept.
    """

    max_new_tokens: int = 256
    beams: int = 1
    temperature: float | None = None
    batch_size: int = 16
    seed: int = 0
    keep_unfinished: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "beams"):
            if (value := getattr(self, name)) < 1:
                key = f"--{name.replace('_', '-')}"
                raise UserError("must be at least 1", key=key, value=value, hint="give a larger number")
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            hint = "leave it out for the most likely tokens"
            raise UserError("must be greater than 0", key="--temperature", value=self.temperature, hint=hint)
        if self.beams > 1 and self.temperature is not None:
            raise idle("--beams", self.beams, "--temperature, which draws one text", "leave --temperature out")


def generate(
    model: str, file: str, to: str | Path, writing: Writing, overrides: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write the answers of ``model`` to the prompts of ``file``, each as ``prompt`` and ``completion``, in their order.

    Those of an encoder-decoder are ``source`` and ``target``, or as the columns are called that it was trained on.

    Until all are there they lie beside it (``.NAME.part``), from which the same command goes on. Prompts that leave no
    room for an answer are left out, and answers without an end, unless these are to be kept. How many, is said.

    Args:
        model: A run, a saved student, or a folder of transformers.
        file: Rows with a column ``prompt`` or ``text``; lines of a .txt.
        to: The file to write, ``NAME.jsonl``.
        writing: How.
        overrides: Keys and YAML texts: ``data.columns.text``, ``data.reader.OPTION``.

    Returns:
        The file.

    Raises:
        UserError: if that is no language model, there are no prompts, or the file is there already.
    """
    path = at_home(to)
    if path.suffix != ".jsonl":
        raise UserError("must be a .jsonl file", key="--to", value=str(to), hint="write --to answers.jsonl")
    if path.exists():
        raise UserError("is there already", key="--to", value=str(to), hint="remove it, or name another")
    data = data_overrides(overrides, ("columns", "reader"), "prompts", " alone")
    opened = language_model(model)
    given = data.get("columns") or {}
    rows, notes = file_rows(file, opened.task, opened.columns, given, data.get("reader"))
    for note in notes:
        print(f"data: {note}", file=sys.stderr)
    answering = _Answering(opened, [str(row["text"] or "") for row in rows], writing)
    make(path.parent)
    part = path.with_name(f".{path.name}.part")
    answers = _all_answers(answering, part, str(to))
    kept = _kept(answering.texts, answers, writing)
    empty = 0
    if columns := _columns(opened, given):  # a target in which nothing stands teaches nothing, and is refused
        empty = len(kept) - len(kept := [row for row in kept if row[1].strip()])
    unfinished = sum(not answer["finished"] for answer in answers.values())
    long = len(answering.texts) - len(answers)
    _say(len(answering.texts), long, unfinished, empty, len(kept), writing, path)
    if not kept:
        hint = "raise --max-new-tokens, or give --keep-unfinished"
        problem = "every answer is empty" if empty else "no answer came to its end"
        raise UserError(problem, key="--max-new-tokens", value=writing.max_new_tokens, hint=hint)
    lines = [dict(zip(columns or ("prompt", "completion"), row, strict=True)) for row in kept]
    replace(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    part.unlink()
    return path


def _kept(texts: Sequence[str], answers: Mapping[int, Mapping[str, Any]], writing: Writing) -> list[tuple[str, str]]:
    """Texts, and what was written for them, in their order."""
    found = [(text, answers[number]) for number, text in enumerate(texts) if number in answers]
    return [(text, one["completion"]) for text, one in found if one["finished"] or writing.keep_unfinished]


def _columns(opened: Opened, given: Mapping[str, str]) -> tuple[str, str] | None:
    """What source and target of an encoder-decoder are called; ``None`` of what goes on with a prompt."""
    task = opened.task
    if not (isinstance(task, WritingTask) and task.reads_apart):
        return None
    trained = opened.columns or {}
    return given.get("text") or trained.get("text", "source"), given.get(TARGET, TARGET)


def _say(rows: int, long: int, unfinished: int, empty: int, kept: int, writing: Writing, path: Path) -> None:
    left = f"; too long for an answer, or empty: {amount(long, 'prompt')}" if long else ""
    what = "kept" if writing.keep_unfinished else "left out (--keep-unfinished keeps them)"
    left += f"; without an end, and {what}: {amount(unfinished, 'answer')}" if unfinished else ""
    left += f"; empty, and left out: {amount(empty, 'answer')}" if empty else ""
    print(f"{amount(kept, 'answer')} to {amount(rows, 'prompt')}{left}: {path}", flush=True)


def language_model(model: str) -> Opened:
    """A model that writes, with its tokenizer.

    Raises:
        UserError: if that is none.
    """
    try:
        opened = open_folder(model)
    except UserError as error:
        if error.key != KEY:
            raise
        raise UserError(error.problem, key="MODEL", value=error.value, hint=error.hint) from error
    if not isinstance(opened.task, WritingTask):
        hint = "name a causal language model, or an encoder-decoder"
        raise UserError(f"its task is {opened.task.name}, which writes no text", key="MODEL", value=model, hint=hint)
    if opened.model is None:
        problem, hint = "an export for onnxruntime reads all anew for each token", "name the run, or its student/"
        raise UserError(problem, key="MODEL", value=model, hint=hint)
    if opened.task.chat_template is None and not opened.task.reads_apart:
        opened.task.chat_template = bool(getattr(opened.tokenizer, "chat_template", None))
    return opened


class _Answering:
    """Prompts in batches, the longest first: what lacks memory shows at once.

    Attributes:
        texts: The prompts.
        batches: Numbers of those that are answered at once.
    """

    def __init__(self, opened: Opened, texts: Sequence[str], writing: Writing) -> None:
        task, tokenizer = opened.task, opened.tokenizer
        assert isinstance(task, WritingTask)
        self.opened, self.texts, self.writing = opened, list(texts), writing
        self._apart = task.reads_apart
        self._prompts = [torch.tensor(ids, dtype=torch.long) for ids in task.prompts(tokenizer, self.texts)]
        model: Any = opened.model
        room = positions_of(model)
        fits = [
            number
            for number, prompt in enumerate(self._prompts)
            if self.texts[number] and len(prompt) and self._fits(len(prompt), room)
        ]
        if not fits:
            hint = "give shorter prompts, or fewer --max-new-tokens"
            raise UserError(f"none of {amount(len(self.texts), 'prompt')} can be answered", key="FILE", hint=hint)
        order = sorted(fits, key=lambda number: -len(self._prompts[number]))
        size = writing.batch_size
        self.batches = [order[start : start + size] for start in range(0, len(order), size)]
        self._ends = ends_of(model)
        self._together = reads_padding_beside(model)

    def _fits(self, read: int, room: int | None) -> bool:
        """Whether the model has positions for a prompt of so many tokens, and an answer."""
        written = self.writing.max_new_tokens
        return room is None or (max(read, written) if self._apart else read + written) <= room

    @property
    def plan(self) -> dict[str, Any]:
        """What the answers follow from."""
        read = hashlib.sha256(json.dumps([prompt.tolist() for prompt in self._prompts]).encode()).hexdigest()
        model: Any = self.opened.model
        settings = {name: value for name, value in asdict(self.writing).items() if name != "keep_unfinished"}
        return {"model": fingerprint(model, self.opened.tokenizer), "prompts": read, **settings}

    def answer(self, place: int) -> list[dict[str, Any]]:
        """The answers to the batch of that place."""
        numbers, most = self.batches[place], self.writing.max_new_tokens
        model: Any = self.opened.model
        with forked(seed_at(self.writing.seed, place, 0)):
            prompts = [self._prompts[number] for number in numbers]
            temperature = self.writing.temperature
            beams = self.writing.beams
            made = continuations(model, prompts, most, temperature=temperature, together=self._together, beams=beams)
        return [self._answer(number, answer) for number, answer in zip(numbers, made, strict=True)]

    def _answer(self, number: int, answer: Tensor) -> dict[str, Any]:
        prompt, ids = self._prompts[number].tolist(), answer.tolist()
        finished = bool(ids) and ids[-1] in self._ends
        text = text_of(self.opened.task, self.opened.tokenizer, prompt, ids[:-1] if finished else ids)
        return {"row": number, "completion": text, "finished": finished}


def _all_answers(answering: _Answering, part: Path, to: str) -> dict[int, dict[str, Any]]:
    """Row -> answer; those that lie in ``part`` are not written once more."""
    plan, done = answering.plan, list[list[dict[str, Any]]]()
    with suppress(FileNotFoundError):
        done = _done(part, plan, to)
    content = "".join(json.dumps(line) + "\n" for line in [plan, *done])
    replace(part, content.encode())  # without a line that a kill has cut
    places = range(len(done), len(answering.batches))
    with part.open("a", encoding="utf-8") as file:
        for place in track(places, "batches of prompts", Console(stderr=True)):
            done.append(answering.answer(place))
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
    return {answer["row"]: answer for batch in done for answer in batch}


def _done(part: Path, plan: dict[str, Any], to: str) -> list[list[dict[str, Any]]]:
    """The batches that lie in ``part``.

    Raises:
        FileNotFoundError: if it is not there.
        UserError: if these are answers of another model, to other prompts, or written otherwise.
    """
    lines = part.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # behind the last break it was cut
    try:
        found, *done = [json.loads(line) for line in lines] or [plan]
    except ValueError as error:
        hint = f"remove {part.name}, or name another"
        raise UserError("what was begun of it cannot be read", key="--to", value=to, hint=hint) from error
    if found != plan:
        other = ", ".join(name for name in plan if found.get(name) != plan[name])
        hint = f"give them as they were, or remove {part.name}"
        raise UserError(f"was begun with another {other}", key="--to", value=to, hint=hint)
    return done
