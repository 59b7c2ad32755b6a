"""Chats as the tokenizer's own template renders them, and where the answers stand in the text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill.core.utils.errors import UserError, first_line
from distill.tasks.chat_content import plain_contents, unwritten, wrong_content

__all__ = [
    "Messages",
    "Span",
    "answers",
    "instructed",
    "marks_answers",
    "messages_of",
    "readable",
    "render",
    "special_tokens",
    "tools_of",
]

Messages = list[dict[str, Any]]
"""Turns of a chat, each with its ``role`` and ``content``."""

Span = tuple[int, int]
"""First and last (exclusive) character."""

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant"}
_MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_ANSWER = "assistant"


def messages_of(turns: Sequence[Mapping[str, Any]]) -> Messages:
    """The turns as templates read them: without keys that are null, as a table has them where only other rows do.

    ``from`` and ``value`` are read as ``role`` and ``content``, and the roles ``human`` and ``gpt`` as ``user`` and
    ``assistant``.
    """
    found = []
    for turn in turns:
        message = _without_nulls(turn)
        if "role" not in message and "from" in message:
            message = {"role": message.pop("from"), "content": message.pop("value", ""), **message}
        message["role"] = _ROLES.get(message.get("role", ""), message.get("role"))
        found.append(message)
    return found


def readable(tokenizer: Any, messages: Messages, tools: Any = None) -> Messages:
    """The chat as the template can write it: each content as one text, or in parts where it writes nothing else.

    Raises:
        UserError: if a turn holds what is no text, or the template leaves out contents, calls of tools or reasoning.
    """
    if problem := wrong_content(messages):
        hint = "give each turn a text: chats here are of text alone"
        raise UserError(problem, key="data.columns", hint=hint)
    found = plain_contents(tokenizer, messages)
    if found is None:
        problem = "the chat template writes contents neither as texts nor as lists of parts"
        raise UserError(problem, key="data.chat_template", hint="give a template that does: FILE")
    if (left := unwritten(tokenizer, found, tools)) is not None:
        names = ", ".join(sorted(left[1]))
        problem = (
            f"the chat template does not write the {names} of turn {left[0] + 1} of a chat: nothing of it is learned"
        )
        hint = f"give a template that does (data.chat_template: FILE), or leave such rows, or their {names}, out"
        raise UserError(problem, key="data.chat_template", hint=hint)
    return found


def instructed(messages: Messages, instruction: str) -> Messages:
    """The chat with an instruction as its system turn, before what that turn says already."""
    if messages and messages[0].get("role") == "system":
        said = messages[0].get("content", "")
        parts = [{"type": "text", "text": f"{instruction}\n\n"}, *said] if isinstance(said, list) else None
        first = {**messages[0], "content": parts or f"{instruction}\n\n{said}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]


def tools_of(given: Any) -> list[dict[str, Any]] | None:
    """The tools that a row offers to the model: a list of JSON schemas, or its text; ``None`` where it has none."""
    found = json.loads(given) if isinstance(given, str) and given.strip() else given
    return [_without_nulls(tool) for tool in found] if found else None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def render(tokenizer: Any, messages: Messages, tools: Any = None, *, prompt: bool = False) -> str:
    """The chat as the tokenizer's template writes it.

    Args:
        tokenizer: Of transformers, with a chat template.
        messages: The turns.
        tools: What :func:`tools_of` found.
        prompt: Whether what begins an answer comes last.

    Raises:
        UserError: if the template refuses the chat, or there is none.
    """
    try:
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # a template raises whatever it likes
        shown = json.dumps(messages, ensure_ascii=False, default=str)
        problem = f"the chat template cannot render the chat {shown[:80]}... ({first_line(error)})"
        raise UserError(problem, key="data.chat_template", hint="correct the chat, or give a template: FILE") from error
    return str(text)


def marks_answers(tokenizer: Any) -> bool:
    """Whether the template says itself what of its text are answers, by ``{% generation %}``."""
    template = tokenizer.chat_template
    return isinstance(template, str) and _MARK.search(template) is not None


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Id -> token, of those that are no text."""
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def answers(tokenizer: Any, messages: Messages, tools: Any = None, first: int = 0) -> tuple[str, list[Span]]:
    """The rendered chat, and where the assistant's turns stand in it: from what begins an answer to its end token.

    A turn stands between the renderings of the chat before it (with what begins an answer) and of the chat up to it.
    Both must begin the rendering of the whole chat. White space behind an end token belongs to no turn, and a chat's
    opening by the assistant answers nothing.

    Args:
        tokenizer: Of transformers, with a chat template.
        messages: The turns.
        tools: What :func:`tools_of` found.
        first: Turns before this one do not count.

    Raises:
        UserError: if the template writes earlier turns otherwise once later ones follow.
    """
    whole = render(tokenizer, messages, tools)
    ends = tuple(special_tokens(tokenizer).values())
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != _ANSWER or index < max(first, 1):
            continue
        before = render(tokenizer, messages[:index], tools, prompt=True)
        upto = render(tokenizer, messages[: index + 1], tools)
        if not (whole.startswith(before) and whole.startswith(upto) and len(before) <= len(upto)):
            raise _not_found(messages, index)
        turn = whole[len(before) : len(upto)]
        shorter = turn.rstrip()
        end = len(before) + len(shorter if shorter.endswith(ends) else turn)
        spans.append((len(before), end))
    return whole, spans


def _not_found(messages: Messages, index: int) -> UserError:
    shown = json.dumps(messages[0].get("content"), ensure_ascii=False, default=str)[:60]
    problem = (
        f"the chat template writes turn {index + 1} of the chat {shown}... otherwise where the chat goes on (it drops "
        "reasoning of earlier turns, say), so that its text in the whole chat is not known"
    )
    hint = (
        "give a template that marks answers by {% generation %}, rows that end with the one answer to learn (prompt "
        "and completion), or data.completion_only_loss: false"
    )
    return UserError(problem, key="data.chat_template", hint=hint)
