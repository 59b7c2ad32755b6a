"""What a turn of a chat holds besides a text: parts in a list, calls of tools; which of it a template writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["plain_contents", "unwritten_calls", "wrong_content"]

_PROBES = "a1b2", "c3d4"
_TEXT = "text"


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


def plain_contents(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The turns, with lists of text parts joined to a text unless the template writes the parts of a list.

    Others print such a list as Python has it (``[{'type': ...``).

    Args:
        tokenizer: Of transformers, with a chat template.
        messages: Of which every part is a text (:func:`wrong_content`).
    """
    listed = any(isinstance(message.get("content"), list) for message in messages)
    if not listed or _takes_parts(tokenizer):
        return [_in_parts(message) for message in messages] if listed else [*map(dict, messages)]
    return [
        {**message, "content": "".join(map(_text_of, content))} if isinstance(content, list) else dict(message)
        for message in messages
        for content in [message.get("content")]
    ]


def _in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """The turn, with texts in a list written as mappings."""
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    return {**message, "content": [{"type": _TEXT, _TEXT: _text_of(part)} for part in content]}


def _takes_parts(tokenizer: Any) -> bool:
    """Whether the template writes the texts of parts, and not the list as Python or JSON has it."""
    try:
        parts = [{"type": _TEXT, _TEXT: one} for one in _PROBES]
        shown = str(tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False))
    except Exception:  # a template raises whatever it likes
        return False
    return all(one in shown and f"'{one}'" not in shown and f'"{one}"' not in shown for one in _PROBES)


def unwritten_calls(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> int | None:
    """The first turn of the assistant whose calls of tools the template does not write; ``None`` where it writes all.

    Args:
        tokenizer: Of transformers, with a chat template.
        messages: The turns.
        tools: What the row offers.
    """
    for index, message in enumerate(messages):
        if not message.get("tool_calls"):
            continue
        without = {name: value for name, value in message.items() if name != "tool_calls"}
        written = [_rendered(tokenizer, [*messages[:index], one], tools) for one in (message, without)]
        if written[0] is not None and written[0] == written[1]:
            return index
    return None


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Any) -> str | None:
    """The chat; ``None`` where the template refuses it, which whoever renders it meets again."""
    try:
        return str(tokenizer.apply_chat_template([*messages], tools=tools, tokenize=False))
    except Exception:  # as above
        return None
