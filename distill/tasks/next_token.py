"""Rows of a language model's data as tokens, and which of them are to be predicted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.core.signals import IGNORE
from distill.core.token_bytes import token_bytes
from distill.core.token_paths import token_paths
from distill.core.utils.errors import UserError
from distill.tasks.alignment import partners, read_up_to, spells_another, within_tokens
from distill.tasks.chat import (
    Messages,
    Span,
    answers,
    instructed,
    marks_answers,
    messages_of,
    readable,
    render,
    special_tokens,
    tools_of,
)

__all__ = ["Encode", "byte_lengths"]


@dataclass(frozen=True)
class _Written:
    """A row as one text.

    Attributes:
        text: What is tokenized.
        spans: Which characters are to be predicted; ``None`` for all.
        complete: Whether the text has its own start and end, as a template writes them.
        marked: Of a template that marks answers, the chat that says which tokens are to be predicted.
    """

    text: str
    spans: list[Span] | None = None
    complete: bool = False
    marked: tuple[Messages, Any, int] | None = None


_Sample = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], int, int]
"""Inputs, labels and bytes of a row, how many of its tokens were cut off, and how many stand before its text."""


@dataclass(frozen=True)
class Encode:
    """Rows by role to ``input_ids``, ``labels`` and ``bytes``, cut to ``max_length`` if there is one.

    ``beyond`` then says of each row how many tokens were cut off.

    A row becomes one sequence of tokens s. Inputs are s without its last token, labels s without its first one:
    each stands where it is predicted, and is :data:`~distill.core.signals.IGNORE` where it does not count. What
    follows the last token that counts is left out; a row of which nothing counts has no tokens.

    * ``text``: s is ``BOS text EOS``, and everything after BOS counts.
    * ``prompt`` and ``completion``: through the template as a user's and an assistant's turn, or joined as they are,
      ``BOS prompt completion EOS``. The completion counts, with its end.
    * ``messages`` (and ``tools``): s is what the template writes. The assistant's turns count, each with its end.

    Bytes are those of the text that is predicted: special tokens have none.

    Args:
        tokenizer: Of transformers.
        start: Id of BOS.
        end: Id of EOS.
        max_length: Longer rows are cut.
        completion_only_loss: Whether prompts and other turns than the assistant's do not count.
        add_special_tokens: Whether a text is put between BOS and EOS; ``None``: but for one that begins, or ends, with
            a special token of its own.
        template: Whether prompts, and texts to go on with, are put through the tokenizer's template.
        teacher_system: What the teacher is told besides (context distillation): ``teacher_input_ids`` are then what it
            reads of a row, and ``teacher_at`` says of each position that counts where the teacher predicts it, and is
            -1 at others.
        teacher: Reads the same texts with the teacher's tokenizer, where that is another: ``teacher_input_ids`` are
            then what it reads of a row as far as the student does, with its own ``teacher_labels`` and
            ``teacher_bytes``; ``teacher_at`` is the teacher's position that has read up to the same byte, or that
            predicts the token within which the student's position is, and -1 where there is none; ``teacher_path``
            says how far within (:func:`~distill.tasks.alignment.within_tokens`). ``apart`` says of each row whether
            one of the two tokenizers spells another text.
    """

    tokenizer: Any
    start: int
    end: int
    max_length: int | None
    completion_only_loss: bool = True
    add_special_tokens: bool | None = None
    template: bool = False
    teacher_system: str | None = None
    teacher: Encode | None = None
    _special: Mapping[int, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_special", special_tokens(self.tokenizer))

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        features: dict[str, list[Any]] = {"input_ids": [], "labels": [], "bytes": []}
        features |= {} if self.max_length is None else {"beyond": []}
        rows = [row for row in self._written(columns, None) if row.text]
        samples = list(self._samples(rows, self.max_length))
        for made in samples:
            for name, values in zip(features, made, strict=False):  # the fourth only where there is a limit
                features[name].append(values)
        if self.teacher_system is not None:
            theirs = [row for row in self._written(columns, self.teacher_system) if row.text]
            found = [_aligned(*pair) for pair in zip(features["labels"], self._samples(theirs, None), strict=True)]
            features |= {"teacher_input_ids": [ids for ids, _ in found], "teacher_at": [at for _, at in found]}
        if self.teacher is not None:
            features |= self._beside(self.teacher, rows, samples)
        return features

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text that a model is to go on with: as those of ``text``, without an end."""
        rows = list(self._written({"text": texts}, None))
        encoded = self.tokenizer([row.text for row in rows], add_special_tokens=False, verbose=False)["input_ids"]
        around = (self._surrounded(row, np.asarray(ids, np.int32)) for row, ids in zip(rows, encoded, strict=True))
        return [[self.start] * starts + list(ids) for (starts, _), ids in zip(around, encoded, strict=True)]

    def _beside(self, teacher: Encode, rows: Sequence[_Written], samples: Sequence[_Sample]) -> dict[str, list[Any]]:
        """The rows in the teacher's tokens, and where these end with the student's.

        Args:
            teacher: Reads them.
            rows: Texts.
            samples: What the student makes of each.
        """
        found: dict[str, list[Any]] = {f"teacher_{name}": [] for name in ("at", "path", "input_ids", "labels", "bytes")}
        apart = []
        tables = token_bytes(self.tokenizer), token_bytes(teacher.tokenizer, "data.teacher_tokenizer")
        steps = token_paths(self.tokenizer, teacher.tokenizer).steps
        for row, *both in zip(rows, samples, teacher._samples(rows, None), strict=True):
            text = row.text.encode("utf-8", "surrogatepass")
            ours, theirs = (
                read_up_to(ids, starts, table, text) for (ids, _, _, _, starts), table in zip(both, tables, strict=True)
            )
            at, path = within_tokens(partners(ours, theirs), ours, theirs, both[0][0], steps)
            upto = int(at.max(initial=-1)) + 1
            for name, values in zip(found, (at, path, *(part[:upto] for part in both[1][:3])), strict=True):
                found[name].append(values)
            apart.append(int(spells_another(ours) or spells_another(theirs)))
        return found | {"apart": apart}

    # ------------------------------------------------------------------ rows to texts

    def _written(self, columns: Mapping[str, Sequence[Any]], system: str | None) -> Iterable[_Written]:
        tools = columns.get("tools") or [None] * len(next(iter(columns.values())))
        if "messages" in columns:
            for chat, offered in zip(columns["messages"], tools, strict=True):
                yield self._chat(messages_of(chat), tools_of(offered), 0, system)
        elif "prompt" in columns:
            for prompt, completion, offered in zip(columns["prompt"], columns["completion"], tools, strict=True):
                yield self._pair(prompt, completion, tools_of(offered), system)
        else:
            for text in columns["text"]:
                yield self._prompt(text) if self.template and text else _Written(text)

    def _chat(self, messages: Messages, tools: Any, first: int, system: str | None) -> _Written:
        if system is not None:
            count, messages = len(messages), instructed(messages, system)
            first += (len(messages) - count) * (first > 0)
        messages = readable(self.tokenizer, messages, tools)
        if not self.completion_only_loss:
            return _Written(render(self.tokenizer, messages, tools), complete=True)
        if marks_answers(self.tokenizer):
            text = render(self.tokenizer, messages, tools)
            return _Written(text, complete=True, marked=(messages, tools, first))
        text, spans = answers(self.tokenizer, messages, tools, first)
        return _Written(text, spans, complete=True)

    def _pair(self, prompt: Any, completion: Any, tools: Any, system: str | None) -> _Written:
        plain = isinstance(prompt, str) and isinstance(completion, str)
        if plain and not self.template:
            prompt = (system or "") + prompt
            whole = prompt + completion
            return _Written(whole, [(len(prompt), len(whole))] if self.completion_only_loss else None)
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else messages_of(prompt)
        after = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else None
        return self._chat(before + (after or messages_of(completion)), tools, len(before), system)

    def _prompt(self, text: str) -> _Written:
        messages = readable(self.tokenizer, [{"role": "user", "content": text}])
        return _Written(render(self.tokenizer, messages, prompt=True))

    # ------------------------------------------------------------------ texts to tokens

    def _samples(self, rows: Sequence[_Written], limit: int | None) -> Iterator[_Sample]:
        if not rows:
            return
        encoded = self.tokenizer(
            [row.text for row in rows],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        for row, ids, offsets in zip(rows, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            yield self._sample(row, np.asarray(ids, np.int32), np.asarray(offsets, np.int64).reshape(-1, 2), limit)

    def _sample(self, row: _Written, ids: NDArray[np.int32], offsets: NDArray[np.int64], limit: int | None) -> _Sample:
        spans = [(0, len(row.text))] if row.spans is None else row.spans
        counts = np.zeros(len(ids), bool)
        sizes = np.zeros(len(ids) + 1, np.int32)
        for first, last in spans:
            inside = (offsets[:, 1] > first) & (offsets[:, 0] < last)
            counts |= inside
            sizes += byte_lengths(row.text[first:last], (offsets - first).clip(0, last - first))
        if row.spans is None:
            counts[:] = True
        if row.marked is not None:
            counts = self._marked(row.marked, ids, offsets)
            sizes[:-1] *= counts
        sizes[:-1][np.isin(ids, list(self._special))] = 0
        starts, ends = self._surrounded(row, ids)
        around = (starts, ends)
        tokens = np.pad(ids, around, constant_values=(self.start, self.end))
        predicted = np.pad(counts, around, constant_values=(False, True))[1:]
        sizes = np.pad(sizes[: len(ids) + ends], (starts, 0))[1:]
        last = _until(predicted)
        length = _until(predicted[:limit])
        labels = np.where(predicted, tokens[1:], np.int32(IGNORE))
        return tokens[:length], labels[:length], np.where(predicted, sizes, 0)[:length], last - length, starts

    def _surrounded(self, row: _Written, ids: NDArray[np.int32]) -> tuple[int, int]:
        """How many BOS to put before the tokens, and how many EOS behind them."""
        if row.complete:
            return 0, 0
        if self.template:  # a prompt of a template, which begins as it must, and ends where the answer begins
            return 0, 1
        if self.add_special_tokens is not None:
            return int(self.add_special_tokens), int(self.add_special_tokens)
        begun = len(ids) > 0 and int(ids[0]) in self._special
        ended = row.text.rstrip().endswith(tuple(self._special.values()))
        return int(not begun), int(not ended)

    def _marked(
        self, chat: tuple[Messages, Any, int], ids: NDArray[np.int32], offsets: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which tokens a template that marks answers says are one."""
        messages, tools, first = chat
        made = self.tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        if list(made["input_ids"]) != ids.tolist():
            problem = "the chat template writes another text every time"
            raise UserError(problem, key="data.chat_template", hint="give one that depends on the chat alone: FILE")
        counts = np.asarray(made["assistant_masks"], bool)
        if first:
            before = len(render(self.tokenizer, messages[:first], tools))
            counts &= offsets[:, 1] > before
        return counts


def _aligned(labels: NDArray[np.int32], theirs: _Sample) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What a teacher reads of a row, as far as the student reads it, and where it predicts what counts.

    Args:
        labels: The student's.
        theirs: The row as the teacher reads it, whole.

    Raises:
        UserError: if other tokens count there.
    """
    ids, their_labels, *_ = theirs
    here = np.flatnonzero(labels != IGNORE)
    there = np.flatnonzero(their_labels != IGNORE)[: len(here)]
    if len(here) != len(there) or (labels[here] != their_labels[there]).any():
        problem = "with this instruction the chat template writes the answers otherwise"
        raise UserError(problem, key="data.teacher_system", hint="give a template: data.chat_template: FILE")
    at = np.full(len(labels), -1, np.int32)
    at[here] = there
    return ids[: int(there[-1]) + 1] if len(there) else ids[:0], at


def _until(counts: NDArray[np.bool_]) -> int:
    """Positions up to the last that counts."""
    found = np.flatnonzero(counts)
    return int(found[-1]) + 1 if len(found) else 0


def byte_lengths(text: str, offsets: Any) -> NDArray[np.int32]:
    """The bytes of UTF-8 that each token adds to the text before it, and what is left for the end of text.

    Tokens may share a character (parts of one outside ASCII) or skip some (white space dropped by a
    normalizer): each byte goes to the first token that reaches it, so the sum is exactly the text's size.

    Args:
        text: The text.
        offsets: First and last (exclusive) character of each token, n of them.

    Returns:
        ``[n + 1]``.
    """
    ends = np.asarray(offsets, np.int64).reshape(-1, 2)[:, 1]
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    upto = np.append(0, np.cumsum(sizes))
    reached = np.maximum.accumulate(np.concatenate([[0], upto[ends], [upto[-1]]]))
    return np.diff(reached).astype(np.int32)
