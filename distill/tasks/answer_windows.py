"""Questions with contexts as samples of bounded length: windows that overlap, and where in them the answer stands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distill.core.candidates import CANDIDATES
from distill.core.signals import IGNORE
from distill.core.task import PART
from distill.core.utils.errors import UserError
from distill.tasks.answers import Place, given_answers, place, span_within

__all__ = ["NO_ANSWER", "Windows", "packed", "places", "unpacked", "window_overlap"]

NO_ANSWER = 0
"""The position at which start and end of no answer stand: that of the tokenizer's first token of its own."""

_BYTES = 4  # of an int32, as which texts are kept beside the tokens


def window_overlap(max_length: int, given: int | None) -> int:
    """Tokens that a window shares with the one before."""
    return min(128, max_length // 3) if given is None else given


@dataclass(frozen=True)
class Windows:
    """Questions and contexts to windows, in their order. Rows of which either holds no token are left out.

    Args:
        tokenizer: A fast one.
        max_length: Tokens of a window at the most.
        stride: Those of the context that it shares with the one before.
    """

    tokenizer: Any
    max_length: int
    stride: int

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        questions, contexts = columns["text"], columns["text_pair"]
        self._refuse_long(questions)
        made = self.tokenizer(
            questions,
            contexts,
            truncation="only_second",
            max_length=self.max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        given = (columns.get(role) or [None] * len(questions) for role in ("label", "answer_start"))
        answers = [places(*row) for row in zip(contexts, *given, strict=True)]
        rows = made["overflow_to_sample_mapping"]
        windows: list[dict[str, Any]] = []
        before = None
        for number, row in enumerate(rows):
            first = row != before
            windows.append(self._window(made, number, contexts[row], answers[row], None if first else windows[-1]))
            before = row
        _mark_lost(windows, rows, answers)
        return {name: [window[name] for window in windows] for name in windows[0]}

    def _window(
        self, made: Any, number: int, context: str, answers: list[Place] | None, before: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """The features of a window, behind the one ``before`` it where that is of the same question."""
        parts = made.sequence_ids(number)
        _refuse_beginning(parts)
        inside = np.array([part == 1 for part in parts])
        starts, ends = np.array(made["offset_mapping"][number], np.int64).T * inside
        tokens = np.flatnonzero(inside)
        span = span_within(answers[0], starts, ends, inside) if answers else None
        at, behind = (int(starts[tokens[0]]), int(ends[tokens[-1]])) if len(tokens) else (0, 0)
        references = None if answers is None else [answer.text for answer in answers]
        some = len(tokens) and parts.count(0)
        return {
            **{name: made[name][number] if some else [] for name in ("input_ids", "token_type_ids") if name in made},
            CANDIDATES: [1, *inside[1:].astype(int)],
            "starts": starts,
            "ends": ends,
            "labels": [IGNORE] * 2 if answers is None else list(span or (NO_ANSWER, NO_ANSWER)),
            "said": packed({"at": at, "text": context[at:behind], "answers": references}),
            PART: 0 if before is None else before[PART] + 1,
            "asked": int(before is None and answers is not None),
            "unanswerable": int(before is None and answers == []),
        }

    def _refuse_long(self, questions: Sequence[str]) -> None:
        """Refuse a question beside which a window has no room for what it is to show of the context."""
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        made = self.tokenizer(questions, add_special_tokens=False, verbose=False)["input_ids"]
        for question, ids in zip(questions, made, strict=True):
            room = self.max_length - special - len(ids)
            if room <= self.stride:
                problem = (
                    f"leaves {max(0, room)} tokens for the context beside the question {question[:60]!r} of {len(ids)}"
                    f", and windows share {self.stride} (data.doc_stride)"
                )
                hint = f"give at least {special + len(ids) + self.stride + 1}, or a smaller data.doc_stride"
                raise UserError(problem, key="data.max_length", value=self.max_length, hint=hint)


def _refuse_beginning(parts: Sequence[int | None]) -> None:
    """Refuse a tokenizer that puts no token of its own before a text: no answer would be one of the question's."""
    if parts[0] is not None:
        problem = "puts no token of its own before a question, at which no answer could stand"
        hint = "name an encoder's, such as BERT's or RoBERTa's"
        raise UserError(problem, key="data.tokenizer", hint=hint)


def places(context: str, value: Any, start: Any) -> list[Place] | None:
    """Where a row's answers stand; ``None`` where it has no label.

    Raises:
        ValueError: as :func:`given_answers` and :func:`place`.
    """
    given = given_answers(value, start)
    return None if given is None else [place(context, *one) for one in given]


def _mark_lost(windows: list[dict[str, Any]], rows: Sequence[int], answers: Sequence[list[Place] | None]) -> None:
    """Mark the first window of each question whose answer no window holds wholly."""
    held = {row for window, row in zip(windows, rows, strict=True) if any(window["labels"])}
    for window, row in zip(windows, rows, strict=True):
        window["lost"] = int(window[PART] == 0 and bool(answers[row]) and row not in held)


def packed(value: Any) -> NDArray[np.int32]:
    """A value as JSON, four bytes a number: as text beside tokens takes least."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return np.frombuffer(text + b" " * (-len(text) % _BYTES), np.int32)


def unpacked(said: Tensor) -> list[Any]:
    """What :func:`packed` has of each row, zeros behind it."""
    rows = said.cpu().numpy().astype(np.int32)
    return [json.loads(row.tobytes().rstrip(b"\0").decode("utf-8", "surrogatepass")) for row in rows]
