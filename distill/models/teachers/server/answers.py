"""What a server answers of the log-probabilities of given tokens, in the two forms that there are.

* vLLM: ``choices[0].prompt_logprobs`` is a list with an entry for each token of the prompt: ``null`` for the first,
  then ``{"ID": {"logprob": ..., "rank": ..., "decoded_token": ...}}`` of the k most likely tokens and of the prompt's.
* ``echo`` and ``logprobs`` of OpenAI's completions, which SGLang and others have too: ``choices[0].logprobs`` with
  ``tokens``, ``token_logprobs`` and ``top_logprobs``, ``null`` for the first; the latter is ``{"TEXT": ...}``. A text
  may be that of several tokens: which one is meant is then not known, and its probability is left to the tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Absent",
    "Answer",
    "Reader",
    "Refused",
    "Vocabulary",
    "echoed",
    "judge",
    "prompt_logprobs",
    "same_tokens",
    "unknown_tokens",
]

_MINUS_INFINITY = -9000.0
"""Below it lies what servers write for minus infinity, -9999."""

_UNKNOWN = 0.01
"""Of the mass, the most that may be of tokens that are not known, in the mean over the first answer."""


class Refused(ValueError):
    """An answer that cannot be used; the message says why, as the end of a sentence."""


class Absent(Refused):
    """The answer is in another form, or has not what was asked for."""


@dataclass(frozen=True)
class Answer:
    """What was said of each token of a prompt but the first.

    Attributes:
        rows: Id -> log-probability, of the most likely tokens and of the prompt's own.
        given: How many of the most likely ones the server gave.
        texts: What it calls the prompt's tokens; ``None`` where it does not say.
        unknown: The mass of those of which it is not known which tokens they are.
    """

    rows: Sequence[Mapping[int, float]]
    given: Sequence[int]
    texts: Sequence[str | None]
    unknown: Sequence[float]


class Vocabulary:
    """The tokens' texts.

    Args:
        tokenizer: Of transformers.
        size: Ids are below it.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self._tokenizer, self.size = tokenizer, size
        self._ids: dict[str, int] | None = None

    def text(self, i: int) -> str:
        """What a token stands for by itself."""
        return str(self._tokenizer.decode([i], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def id_of(self, text: str) -> int | None:
        """The token of a text; ``None`` where there is none, or several."""
        if text.startswith("token_id:"):  # as vLLM writes them where it is asked to
            number = text.removeprefix("token_id:")
            return int(number) if number.isdecimal() else None
        if self._ids is None:
            found: dict[str, int] = {}
            for i in range(self.size):
                one = self.text(i)
                found[one] = -1 if one in found else i
            self._ids = {one: i for one, i in found.items() if i >= 0 and "\ufffd" not in one}
        return self._ids.get(text)


def prompt_logprobs(choice: Mapping[str, Any], prompt: Sequence[int], vocabulary: Vocabulary) -> Answer:
    """vLLM's form.

    Raises:
        Refused: if it is none.
    """
    found = choice.get("prompt_logprobs")
    if not isinstance(found, list):
        raise Absent("has no prompt_logprobs")
    echo = choice.get("prompt_token_ids")
    if len(found) != len(prompt) or (echo is not None and list(echo) != list(prompt)):
        raise Refused(f"is of {len(found)} tokens, and {len(prompt)} were sent: it truncates, or adds some")
    rows, given, texts = [], [], []
    for i, entry in zip(prompt[1:], found[1:], strict=True):
        if not isinstance(entry, Mapping) or str(i) not in entry:
            raise Refused("lacks log-probabilities of tokens that were sent")
        rows.append({int(one): _number(said["logprob"]) for one, said in entry.items()})
        given.append(sum((said.get("rank") or 0) <= len(entry) for said in entry.values()))
        texts.append(entry[str(i)].get("decoded_token"))
    return Answer(rows, given, texts, [0.0] * len(rows))


def echoed(choice: Mapping[str, Any], prompt: Sequence[int], vocabulary: Vocabulary) -> Answer:
    """The form of ``echo`` and ``logprobs``; a token that was generated after the prompt is left out.

    Raises:
        Refused: if it is none.
    """
    found = choice.get("logprobs")
    if not isinstance(found, Mapping):
        raise Absent("has no logprobs")
    texts, own, top = (found.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not (isinstance(texts, list) and isinstance(own, list) and isinstance(top, list)):
        raise Refused("has no top_logprobs")
    if len(texts) not in (len(prompt), len(prompt) + 1) or not len(texts) == len(own) == len(top):
        raise Refused(f"is of {len(texts)} tokens, and {len(prompt)} were sent: it does not echo, or truncates")
    rows, given, unknown = [], [], []
    for i, text, value, entry in zip(prompt[1:], texts[1:], own[1:], top[1:], strict=False):
        if value is None or not isinstance(entry, Mapping):
            raise Refused("lacks log-probabilities of tokens that were sent")
        others = {other: _number(said) for other, said in entry.items() if other != text}
        known = {other: vocabulary.id_of(other) for other in others}
        row = {one: others[other] for other, one in known.items() if one is not None}
        rows.append(row | {i: _number(value)})
        given.append(len(entry))
        unknown.append(sum(math.exp(min(others[other], 0.0)) for other, one in known.items() if one is None))
    return Answer(rows, given, list(map(_plain, texts[1 : len(prompt)])), unknown)


def judge(answer: Answer, places: Sequence[int], k: int, size: int) -> None:
    """Refuse an answer of which something is missing, or is no probability.

    Args:
        answer: Of a prompt.
        places: Which of its rows are needed.
        k: How many log-probabilities were asked for.
        size: Ids are below it.

    Raises:
        Refused: with the reason.
    """
    if (most := max(answer.given[place] for place in places)) < k:
        only = "only that of the most likely token" if most <= 1 else f"only {most} a token"
        raise Refused(f"has {only}, and {k} were asked for")
    for place in places:
        row = answer.rows[place]
        if max(row) >= size or min(row) < 0:
            raise Refused(f"names the token {max(row)}, and the tokenizer has {size}: it is not the server's")
        if not all(math.isfinite(value) and value <= 1e-3 for value in row.values()):
            raise Refused("has log-probabilities that are none (NaN, or above 0)")
        if min(row.values()) < _MINUS_INFINITY:
            raise Refused("has probabilities of 0: the server cuts the distribution (top_k, top_p, allowed tokens)")
        if sum(map(math.exp, row.values())) > 1.001:
            raise Refused("has probabilities that add up to more than 1")


def same_tokens(answer: Answer, prompt: Sequence[int], vocabulary: Vocabulary) -> str:
    """What shows that the server's tokens are others than those of ``vocabulary``; empty where nothing does.

    Letters and digits are compared: how white space and parts of characters are written differs between servers.
    """
    wrong, compared = list[tuple[int, str, str]](), 0
    for i, theirs in zip(prompt[1:], answer.texts, strict=True):
        ours = _letters(vocabulary.text(i))
        if theirs is not None and ours and ours.isascii():
            compared += 1
            if ours != _letters(theirs):
                wrong.append((i, ours, theirs))
    if len(wrong) > compared / 10:
        i, ours, theirs = wrong[0]
        return f"calls token {i} {theirs!r}, and the tokenizer calls it {ours!r}"
    return ""


def unknown_tokens(answer: Answer, places: Sequence[int]) -> str:
    """Whether too much of the mass is of tokens that are not known; empty where it is not."""
    mean = sum(answer.unknown[place] for place in places) / len(places)
    if mean <= _UNKNOWN:
        return ""
    return f"names tokens by texts that fit several, or none: {100 * mean:.0f} % of the mass is of unknown tokens"


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.replace("Ġ", " ").replace("Ċ", " ")))


def _plain(text: Any) -> str | None:
    """A token's text, where it is one."""
    return None if str(text).startswith(("bytes:", "token_id:")) else str(text)


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Refused(f"has {value!r} for a log-probability")
    return float(value)


Reader = Callable[[Mapping[str, Any], Sequence[int], Vocabulary], Answer]
