"""How a student's tokenizer spells each token of a teacher's, and what is known within one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from distill.core.token_bytes import token_bytes

__all__ = ["TokenPaths", "by_bytes", "special_ids", "token_paths"]


@dataclass(frozen=True, eq=False)
class TokenPaths:
    """The teacher's tokens in those of the student.

    A *node* is what both have read of the same text since they last read up to the same byte: 0 where that is now,
    another number for each sequence of the student's tokens that begins a token of the teacher's and does not end it.

    Attributes:
        spellings: Of each token of the teacher, ``[V]``, the student's tokens; none where nothing says which. Where
            only the first is known there is but that.
        steps: (node, token of the student) -> the node behind it, where that is one.
    """

    spellings: Sequence[tuple[int, ...]]
    steps: Mapping[tuple[int, int], int]

    def within(self) -> Iterator[tuple[int, int, int]]:
        """(node, token of the teacher, the student's token that it goes on with), of all nodes but 0."""
        for number, spelling in enumerate(self.spellings):
            node = 0
            for token, following in pairwise(spelling):
                node = self.steps[node, token]
                yield node, number, following


@lru_cache(maxsize=4)
def token_paths(student: Any, teacher: Any) -> TokenPaths:
    """Spell the tokens of one tokenizer in those of another.

    A token of equal bytes is one. Others are as the student's tokenizer cuts their text, where its tokens are these
    very bytes; of what is no text by itself (a part of a character), and of what stands within a word of
    SentencePiece, only the longest token that begins it is known.

    Args:
        student: A fast tokenizer of transformers.
        teacher: Likewise.
    """
    ours, theirs = token_bytes(student), token_bytes(teacher, "data.teacher_tokenizer")
    known, special = by_bytes(student, ours), special_ids(teacher)
    found: dict[int, tuple[int, ...]] = {number: (known[text],) for number, text in enumerate(theirs) if text in known}
    others = [number for number, text in enumerate(theirs) if text and number not in found and number not in special]
    found |= _spelled(student, ours, known, {number: theirs[number] for number in others})
    found[teacher.eos_token_id] = (student.eos_token_id,)
    spellings = [found.get(number, ()) for number in range(len(theirs))]
    steps: dict[tuple[int, int], int] = {}
    for spelling in spellings:
        node = 0
        for token in spelling[:-1]:
            node = steps.setdefault((node, token), len(steps) + 1)
    return TokenPaths(spellings, steps)


def by_bytes(tokenizer: Any, table: Sequence[bytes]) -> dict[bytes, int]:
    """Bytes -> the token that stands for them; of several one that is no single byte's makeshift."""
    names = tokenizer.convert_ids_to_tokens(range(len(table)))
    makeshift = [number for number, name in enumerate(names) if str(name).startswith("<0x")]
    others = sorted(set(range(len(table))) - set(makeshift), reverse=True)
    return {table[number]: number for number in [*makeshift, *others] if table[number]}


def special_ids(tokenizer: Any) -> set[int]:
    """Tokens that are no text."""
    return {n for n, token in tokenizer.added_tokens_decoder.items() if token.special} | set(tokenizer.all_special_ids)


def _spelled(
    tokenizer: Any, table: Sequence[bytes], known: Mapping[bytes, int], tokens: Mapping[int, bytes]
) -> dict[int, tuple[int, ...]]:
    """The tokens that spell the bytes of each of ``tokens``, or the one that begins them, where there are such."""
    texts = {number: text for number, data in tokens.items() if (text := _text(data)) is not None}
    found: dict[int, tuple[int, ...]] = {}
    for space in ("", " "):  # which SentencePiece puts before each text
        left = {n: text.removeprefix(space) for n, text in texts.items() if n not in found and text.startswith(space)}
        encoded = tokenizer(list(left.values()), add_special_tokens=False, verbose=False)["input_ids"] if left else []
        for number, ids in zip(left, encoded, strict=True):
            if ids and b"".join(table[i] for i in ids) == tokens[number]:
                found[number] = tuple(ids)
    for number, data in tokens.items():
        if number not in found:  # a part of a character, or within a word of SentencePiece
            begin = next((known[data[:n]] for n in range(len(data), 0, -1) if data[:n] in known), None)
            if begin is not None:
                found[number] = (begin,)
    return found


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
