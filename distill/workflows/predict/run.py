"""Rows in, answers out, in their order, as soon as they are there."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, islice
from typing import Any

from distill.core.answer import Answer
from distill.core.broken_rows import BrokenRows
from distill.core.idle_settings import idle
from distill.core.task import PART, WritingTask
from distill.core.utils.console import duration
from distill.core.utils.errors import UserError
from distill.core.utils.progress import due
from distill.core.utils.words import amount
from distill.data.features import main_feature
from distill.models.compatibility import positions_of
from distill.workflows.data_overrides import data_overrides
from distill.workflows.predict.answers import Show, as_json, as_text
from distill.workflows.predict.complete import answer, complete
from distill.workflows.predict.opened import Opened, open_folder
from distill.workflows.predict.rows import Row, file_rows, line_rows, roles_of, standard_input

__all__ = ["predict"]

_TOGETHER = 64  # batches whose rows are sorted by length together
_READ = ("columns", "reader", "max_length")


def predict(
    folder: str,
    file: str | None = None,
    *,
    jsonl: bool = False,
    top: int | None = None,
    batch_size: int = 32,
    new_tokens: int | None = None,
    beams: int | None = None,
    overrides: Sequence[tuple[str, str]] = (),
) -> None:
    """Print what a model says of each row: its class and probability, its words with their tags, its continuation.

    Args:
        folder: A run, a saved student, an export, or a folder of transformers.
        file: csv, tsv, json, jsonl, parquet or txt; lines of the standard input if not given, or ``-``.
        jsonl: Print an object a row instead of fields with tabs between them.
        top: How many alternatives to name.
        batch_size: The most rows that are read at once.
        new_tokens: The most tokens that a language model adds to a text.
        beams: Of how many texts at a time an encoder-decoder finds the most likely; 1 if not given.
        overrides: Keys and YAML texts: ``data.columns.ROLE``, ``data.reader.OPTION``, ``data.max_length``.

    Raises:
        UserError: if the folder holds no model for texts, or the rows cannot be read.
    """
    data = data_overrides(overrides, _READ, "a model that has been trained", " alone")
    counts = {"--batch-size": batch_size, "--top": top, "--max-new-tokens": new_tokens, "--beams": beams}
    for key, value in counts.items():
        if value is not None and value < 1:
            raise UserError("must be at least 1", key=key, value=value, hint="give a larger number")
    length = data.get("max_length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        raise UserError("must be an integer above 0", key="data.max_length", value=length, hint="give tokens")
    opened = open_folder(folder, length)
    _refuse_idle(opened, top, new_tokens, beams)
    rows, total = _rows(opened, file, data)
    predicting = _Predicting(opened, top, batch_size, new_tokens, beams or 1)
    show: Show = as_json if jsonl else as_text
    with_terminal = file in (None, "-") and sys.stdin.isatty()
    started = said = time.monotonic()
    done = 0
    for some in _chunks(rows, 1 if with_terminal else batch_size, 1 if with_terminal else _TOGETHER):
        answers = predicting(some)
        print("\n".join(map(partial(show, opened.task), some, answers)), flush=True)
        done, now = done + len(some), time.monotonic()
        if not sys.stdout.isatty() and due(done, total or done, now - said):
            said = now
            left = f" of {total:,}, {duration((now - started) / done * (total - done))} left" if total else ""
            print(f"{amount(done, 'row')}{left}", file=sys.stderr, flush=True)
    if predicting.full:
        seen = amount(predicting.seen, "row")
        cut = f"{predicting.full} of {seen} fill {opened.max_length} tokens: longer ones were cut"
        print(f"{cut} (--data.max_length)", file=sys.stderr)


def _refuse_idle(opened: Opened, top: int | None, new_tokens: int | None, beams: int | None) -> None:
    """Refuse options that would change nothing of what the model says."""
    if new_tokens is not None and not isinstance(opened.task, WritingTask):
        raise idle("--max-new-tokens", new_tokens, f"the task {opened.task.name}", "name a language model")
    apart = isinstance(opened.task, WritingTask) and opened.task.reads_apart
    if beams is not None and not apart:
        raise idle("--beams", beams, f"the task {opened.task.name}", "name an encoder-decoder that writes")
    if beams is not None and opened.model is None:
        raise idle("--beams", beams, "an export, which takes the most likely token", "name the run, or its student/")
    if top is not None and not opened.task.ranks:
        raise idle("--top", top, f"the task {opened.task.name} with one answer", "name a classifier")


def _rows(opened: Opened, file: str | None, data: dict[str, Any]) -> tuple[Iterable[Row], int | None]:
    """The rows, and how many there are, where that is known."""
    if file not in (None, "-"):
        assert file is not None
        rows, notes = file_rows(file, opened.task, opened.columns, data.get("columns") or {}, data.get("reader"))
        for note in notes:
            print(f"data: {note}", file=sys.stderr)
        return rows, len(rows)
    for key in ("columns", "reader"):
        if data.get(key):
            raise idle(f"--data.{key}", data[key], "lines of the standard input", "give a FILE")
    if sys.stdin.isatty():
        what = "a text" if opened.task.reads == "tokens" else "the path of a picture"
        print(f"{what} a line; Ctrl-D ends it", file=sys.stderr)
    return line_rows(standard_input(), opened.task, roles_of(opened.task, opened.columns or {}), "-"), None


def _chunks(rows: Iterable[Row], batch_size: int, most: int) -> Iterator[list[Row]]:
    """Rows that are sorted by length together: few at first, so that there soon is an answer, then more."""
    remaining, batches = iter(rows), 1
    while some := list(islice(remaining, batch_size * batches)):
        yield some
        batches = min(2 * batches, most)


class _Predicting:
    """Answers of rows, in batches of rows of one length: what a model says of a text then depends on nothing beside it.

    Attributes:
        seen: Rows so far.
        full: Those of them that are as long as they may be.
    """

    def __init__(
        self, opened: Opened, top: int | None, batch_size: int, new_tokens: int | None, beams: int = 1
    ) -> None:
        self.opened, self.top, self.batch_size, self.beams = opened, top, batch_size, beams
        self.seen = self.full = 0
        limit = opened.max_length
        self.writer = opened.task if isinstance(opened.task, WritingTask) else None
        self.apart = self.writer is not None and self.writer.reads_apart
        usual = 0 if self.writer is None else self.writer.longest_answer
        self.new_tokens = usual if new_tokens is None else new_tokens
        room = None if opened.model is None or not self.apart else positions_of(opened.model)
        if room is not None and self.new_tokens > room:
            hint = f"give {room} or less"
            raise UserError(
                f"the model writes at most {room}", key="--max-new-tokens", value=self.new_tokens, hint=hint
            )
        if self.writer is not None and not self.apart and self.new_tokens >= limit:
            problem = f"leaves no room for a text: the model reads {limit} tokens"
            raise UserError(problem, key="--max-new-tokens", value=self.new_tokens, hint="give fewer")
        self.encode = opened.task.encode(opened.tokenizer, limit)

    def __call__(self, rows: Sequence[Row]) -> list[Answer]:
        task = self.opened.task
        samples = self._samples(rows)
        self._refuse(samples)
        parts: dict[int, dict[int, Answer]] = {number: {} for number in range(len(rows))}

        def length(of: tuple[int, int]) -> int:
            return len(samples[of]["input_ids"]) if task.reads == "tokens" else 1

        for _, group in groupby(sorted(samples, key=length), key=length):
            alike = list(group)
            for start in range(0, len(alike), self.batch_size):
                numbers = alike[start : start + self.batch_size]
                some = [rows[number] for number, _ in numbers]
                answers = self._answers([samples[number] for number in numbers], some)
                for (number, part), said in zip(numbers, answers, strict=True):
                    parts[number][part] = said
        if task.reads == "tokens" and not task.several:  # what is longer was cut
            self.full += sum(length(number) >= self.opened.max_length for number in samples)
        self.seen += len(rows)
        return [
            task.joined([said[part] for part in sorted(said)]) if said else task.nothing(rows[number])
            for number, said in parts.items()
        ]

    def _answers(self, samples: list[dict[str, Any]], rows: Sequence[Row]) -> list[Answer]:
        """What the model says of rows of one length."""
        task, tokenizer = self.opened.task, self.opened.tokenizer
        batch = task.ask(samples, tokenizer)
        if self.apart:
            return [{"completion": text} for text in answer(self.opened, batch, self.new_tokens, self.beams)]
        answers = task.answers(self.opened.logits(batch), batch, rows, tokenizer, self.top)
        if self.writer is not None:
            texts = complete(self.opened, [sample["prompt"] for sample in samples], self.new_tokens)
            answers = [{"completion": text} | said for text, said in zip(texts, answers, strict=True)]
        return answers

    def _refuse(self, samples: Mapping[tuple[int, int], Mapping[str, Any]]) -> None:
        """Refuse a row that cannot be answered."""
        for (number, _), sample in samples.items():
            if why := self.opened.task.refuse_row(sample, self.opened.tokenizer):
                hint = f"{why[1]}, within {self.opened.max_length} tokens"
                raise UserError(f"row {self.seen + number + 1} {why[0]}", key="FILE", hint=hint)

    def _samples(self, rows: Sequence[Row]) -> dict[tuple[int, int], dict[str, Any]]:
        """Row and which of its samples -> features; without rows of which the tokenizer makes nothing."""
        task = self.opened.task
        predicts_tokens = task.predicted is not None  # such tasks leave empty texts out, and others read them
        numbers = [number for number, row in enumerate(rows) if row.get("text") or not predicts_tokens]
        if not numbers:
            return {}
        columns = {role: [rows[number][role] for number in numbers] for role in rows[0]}
        if task.words:  # the number of the word at each word's first token
            columns["label"] = [list(range(len(words))) for words in columns["text"]]
        try:
            made = self.encode(columns)
        except BrokenRows as error:
            raise error.told(self.seen, "FILE", "FILE", "mend it, or leave it out") from None
        if self.writer is not None and not self.apart:
            prompt = self.opened.max_length - self.new_tokens
            prompts = self.writer.prompts(self.opened.tokenizer, columns["text"])
            made = {**made, "prompt": [ids[-prompt:] for ids in prompts]}
        parts = made.get(PART, [0] * len(numbers))
        firsts = iter(numbers)
        number, samples = -1, {}
        for i, part in enumerate(parts):
            number = next(firsts) if part == 0 else number
            features = {name: values[i] for name, values in made.items()}
            if len(features[main_feature(features)]):
                samples[number, part] = features | {"id": number, "epoch": 0, "seed": 0}
        return samples
