"""What a turn of a chat holds besides a text: parts in a list, calls of tools, reasoning; what a template writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["plain_contents", "unwritten", "wrong_content"]

_PROBES = {"user": "4815162342", "assistant": "1123581321"}
"""Role -> a text that a template writes as it is, unless it leaves it out."""
_TEXT = "text"
_PLAIN = frozenset({"role", "content", "name"})
_SAID = frozenset({"function_call", "reasoning", "reasoning_content", "thinking", "tool_calls"})
"""Keys of what is said in a turn beside its content."""


def wrong_content(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """What a turn holds that is no text: in words; ``None`` where all is."""
    for number, message in enumerate(messages, start=1):
        content = message.get("content", "")
        parts = content if isinstance(content, list) else [content]
        for part in parts:
            if not isinstance(_text_of(part), str):
                kind = part.get("type", "mapping") if isinstance(part, Mapping) else type(part).__name__
                return f"turn {number} of a chat holds a part that is no text ({kind})"
    return None


def _text_of(part: Any) -> Any:
    """The text of a part, ``{"type": "text", "text": "hi"}`` or ``"hi"``; anything else is none."""
    if isinstance(part, Mapping):
        return part.get(_TEXT) if part.get("type", _TEXT) == _TEXT else None
    return part


def plain_contents(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """The turns in the form of which the template writes the text: a text, or a list of parts; ``None`` if neither.

    Others print a list of parts as Python has it (``[{'type': ...``), and leave texts out where they look for parts.
    A template that cannot write the probes is given texts.

    Args:
        tokenizer: Of transformers, with a chat template.
        messages: Of which every part is a text (:func:`wrong_content`).
    """
    as_text = _written(tokenizer, _joined)
    if not as_text and _written(tokenizer, _in_parts):
        return [_with_content(message, _in_parts) for message in messages]
    return None if as_text is False else [_with_content(message, _joined) for message in messages]


def _joined(content: Any) -> str:
    return content if isinstance(content, str) else "".join(map(_text_of, content))


def _in_parts(content: Any) -> list[dict[str, Any]]:
    parts = content if isinstance(content, list) else [content]
    return [{"type": _TEXT, _TEXT: _text_of(part)} for part in parts]


def _with_content(message: Mapping[str, Any], form: Callable[[Any], Any]) -> dict[str, Any]:
    return {**message, "content": form(message["content"])} if "content" in message else dict(message)


def _written(tokenizer: Any, form: Callable[[Any], Any]) -> bool | None:
    """Whether the template writes texts of this form, and not as Python or JSON has a list; ``None`` if it raises."""
    chat = [{"role": role, "content": form(text)} for role, text in _PROBES.items()]
    shown = _rendered(tokenizer, chat, None)
    if shown is None:
        return None
    quoted = form is not _joined and any(f"{mark}{text}{mark}" in shown for text in _PROBES.values() for mark in "'\"")
    return all(text in shown for text in _PROBES.values()) and not quoted


def unwritten(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Any = None
) -> tuple[int, frozenset[str]] | None:
    """The first turn of which the template leaves something out, and its keys; ``None`` where it writes all.

    Each key of :data:`_SAID` must change the text of the chat up to its turn. Other keys (``id``, ``weight``) say
    something of a turn, and are looked at where an answer has nothing else. Turns of the same keys are tried once.

    Args:
        tokenizer: Of transformers, with a chat template.
        messages: The turns.
        tools: What the row offers.
    """
    tried = set()
    for index, message in enumerate(messages):
        more = frozenset(name for name, value in message.items() if value and name not in _PLAIN)
        silent = message["role"] == "assistant" and not _joined(message.get("content", ""))
        kind = message["role"], silent, more
        if kind in tried:
            continue
        tried.add(kind)
        groups = [frozenset({name}) for name in sorted(more & _SAID)] or [more] * (silent and bool(more))
        for names in groups:
            without = {name: value for name, value in message.items() if name not in names}
            written = [_rendered(tokenizer, [*messages[:index], one], tools) for one in (message, without)]
            if written[0] is not None and written[0] == written[1]:
                return index, names
    return None


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Any) -> str | None:
    """The chat; ``None`` where the template refuses it, which whoever renders it meets again."""
    try:
        return str(tokenizer.apply_chat_template([*messages], tools=tools, tokenize=False))
    except Exception:  # a template raises whatever it likes
        return None
