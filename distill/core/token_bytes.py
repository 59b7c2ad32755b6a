"""The bytes of text that a tokenizer's tokens stand for, and how far tokens spell a text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.core.utils.errors import UserError

__all__ = ["spelled_up_to", "token_bytes"]

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"


def token_bytes(tokenizer: Any, key: str = "data.tokenizer") -> list[bytes]:
    """The bytes of each token, by id; none where an id has no token, or its bytes are not known.

    Known are byte-level tokenizers (each character of a token stands for a byte) and those that write a space as
    U+2581, with or without tokens for single bytes. A special token stands for its own name.

    Args:
        tokenizer: A fast one of transformers.
        key: Where it stands in the configuration, for the error message.

    Raises:
        UserError: if it is of another kind.
    """
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
    kinds = set(_kinds(decoder))
    spaced = "Metaspace" in kinds or ("Replace" in kinds and _SPACE in json.dumps(decoder, ensure_ascii=False))
    if "ByteLevel" not in kinds and not spaced:
        problem = f"nothing says which bytes its tokens stand for (decoder: {', '.join(sorted(kinds)) or 'none'})"
        hint = "take a byte-level or a SentencePiece tokenizer, as language models have"
        raise UserError(problem, key=key, value=str(getattr(tokenizer, "name_or_path", "")), hint=hint)
    alphabet = _alphabet()
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    vocabulary = tokenizer.get_vocab()
    found = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        if number in added:
            found[number] = added[number].encode()
        elif "ByteLevel" in kinds:
            found[number] = _of_characters(token, alphabet)
        elif byte := _FALLBACK.fullmatch(token) if "ByteFallback" in kinds else None:
            found[number] = bytes([int(byte[1], 16)])
        else:
            found[number] = token.replace(_SPACE, " ").encode("utf-8", "surrogatepass")
    return found


def spelled_up_to(
    ids: Sequence[int] | NDArray[np.int32], table: Sequence[bytes], text: bytes
) -> tuple[NDArray[np.int64], bool]:
    """How many bytes of ``text`` the tokens up to each spell, ``[n]``; -1 from the first that spells another text.

    A space that the tokenizer puts before a text that has none counts for nothing. A normalizer that writes
    characters otherwise, and unknown tokens, thus show by themselves.

    Args:
        ids: Of one text, n of them.
        table: Of :func:`token_bytes`.
        text: In UTF-8.

    Returns:
        The bytes, and whether such a space is the beginning of the first token.
    """
    pieces = [table[number] for number in ids]
    spelled = b"".join(pieces)
    lead = int(spelled[:1] == b" " and _agreed(spelled[1:], text) > _agreed(spelled, text))
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64) - lead
    found = np.where(ends <= _agreed(spelled[lead:], text), ends, -1)
    return found, bool(lead and len(found) and found[0] > 0)


def _agreed(one: bytes, other: bytes) -> int:
    """Bytes at the beginning that are the same."""
    if one == other:
        return len(one)
    length = min(len(one), len(other))
    differ = np.frombuffer(one[:length], np.uint8) != np.frombuffer(other[:length], np.uint8)
    return int(differ.argmax()) if differ.any() else length


def _kinds(decoder: Any) -> Iterator[str]:
    """The types of a decoder, and of those that it is made of."""
    if isinstance(decoder, dict):
        yield decoder["type"]
        for part in decoder.get("decoders", ()):
            yield from _kinds(part)


def _alphabet() -> dict[str, int]:
    """Character -> byte, of byte-level tokenizers: those that can be printed stand for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _of_characters(token: str, alphabet: dict[str, int]) -> bytes:
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:  # added without having been marked so
        return token.encode("utf-8", "surrogatepass")
