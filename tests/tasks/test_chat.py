from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distill.core.signals import IGNORE
from distill.core.utils.errors import UserError
from distill.tasks import CausalLM
from distill.tasks.chat import instructed, messages_of, readable, tools_of

MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}<think>\n"
    "{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT = [
    {"role": "user", "content": "x = é?"},
    {"role": "assistant", "content": "def 漢(x):\n    return x"},
    {"role": "user", "content": "and\n\nthen"},
    {"role": "assistant", "content": "🙂 pass "},
]


def by_hand(tokenizer: Any, pieces: list[tuple[str, bool]]) -> tuple[list[int], list[int], list[int]]:
    """Inputs, labels and bytes of a text in pieces that count or do not, with each token's place found by decoding."""
    text = "".join(piece for piece, _ in pieces)
    counts = "".join(("y" if counted else "n") * len(piece.encode()) for piece, counted in pieces)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    raw = [token_bytes(tokenizer, number) for number in ids]
    assert b"".join(raw) == text.encode()
    labels, sizes, place = [], [], 0
    for number, part in zip(ids, raw, strict=True):
        counted = counts[place : place + len(part)] == "y" * len(part)
        special = number in (tokenizer.eos_token_id, tokenizer.bos_token_id)
        labels.append(number if counted else IGNORE)
        sizes.append(len(part) if counted and not special else 0)
        place += len(part)
    last = max(i for i, label in enumerate(labels) if label != IGNORE)
    return ids[:last], labels[1 : last + 1], sizes[1 : last + 1]


def token_bytes(tokenizer: Any, number: int) -> bytes:
    """What a token of a byte-level vocabulary stands for: GPT-2's table of bytes, written down anew."""
    token = tokenizer.convert_ids_to_tokens(number)
    if token in tokenizer.all_special_tokens or token in ("<|im_start|>", "<|im_end|>"):
        return token.encode()
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    table = {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}
    return bytes(table[sign] for sign in token)


Make = Callable[..., Any]


def encoded(tokenizer: Any, columns: dict[str, list[Any]], **settings: Any) -> tuple[list[int], list[int], list[int]]:
    made = CausalLM(**settings).encode(tokenizer, None)(columns)
    (ids,), (labels,), (sizes,) = made["input_ids"], made["labels"], made["bytes"]
    return ids.tolist(), labels.tolist(), sizes.tolist()


TURNS = {
    "": [
        ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nx = é?<|im_end|>\n<|im_start|>assistant\n", False),
        ("def 漢(x):\n    return x<|im_end|>", True),
        ("\n<|im_start|>user\nand\n\nthen<|im_end|>\n<|im_start|>assistant\n", False),
        ("🙂 pass <|im_end|>", True),
        ("\n", False),
    ],
    MARKED: [
        ("<|im_start|>user\nx = é?<|im_end|>\n<|im_start|>assistant\n", False),
        ("def 漢(x):\n    return x<|im_end|>", True),
        ("\n<|im_start|>user\nand\n\nthen<|im_end|>\n<|im_start|>assistant\n", False),
        ("🙂 pass <|im_end|>", True),
        ("\n", False),
    ],
    BRACKETS: [
        ("<|im_start|>[INST] x = é? [/INST]", False),
        (" def 漢(x):\n    return x<|im_end|>", True),
        ("[INST] and\n\nthen [/INST]", False),
        (" 🙂 pass <|im_end|>", True),
    ],
}


@pytest.mark.parametrize("template", TURNS, ids=["chatml", "marked", "brackets"])
def test_of_a_chat_the_assistants_turns_count_token_by_token_with_their_ends(
    chat_tokenizer: Make, template: str
) -> None:
    tokenizer = chat_tokenizer(*([template] if template else []))
    found = encoded(tokenizer, {"messages": [CHAT]})
    ids, labels, sizes = by_hand(tokenizer, TURNS[template])
    assert found[:2] == (ids, labels)
    ends = [i + 1 for i, label in enumerate(labels) if label == tokenizer.eos_token_id]
    # Of a character in several tokens the bytes are the first one's that completes it; of a turn they are the same.
    assert [sum(part) for part in np.split(found[2], ends)] == [sum(part) for part in np.split(sizes, ends)]
    whole = tokenizer.apply_chat_template(CHAT, tokenize=True)["input_ids"]
    assert whole[: len(found[0])] == found[0]
    assert sum(found[2]) == sum(len(t["content"].encode()) for t in CHAT[1::2]) + 2 * (template == BRACKETS)


@pytest.mark.parametrize("template", [None, MARKED], ids=["chatml", "marked"])
def test_a_prompt_and_its_completion_are_a_turn_of_the_user_and_one_of_the_assistant(
    chat_tokenizer: Make, template: str
) -> None:
    tokenizer = chat_tokenizer(*([template] if template else []))
    pair = {"prompt": [CHAT[0]["content"]], "completion": [CHAT[1]["content"]]}
    assert encoded(tokenizer, pair, chat_template=True) == encoded(tokenizer, {"messages": [CHAT[:2]]})
    lists = {"prompt": [CHAT[:3]], "completion": [CHAT[3:]]}
    ids, labels, _ = encoded(tokenizer, lists, chat_template=True)
    whole_ids, whole_labels, _ = encoded(tokenizer, {"messages": [CHAT]})
    assert ids == whole_ids
    first = sum(label != IGNORE for label in encoded(tokenizer, {"messages": [CHAT[:2]]})[1])
    counted = [label for label in whole_labels if label != IGNORE]
    assert [label for label in labels if label != IGNORE] == counted[first:]  # the prompt's own answer does not count


def test_without_a_template_a_completion_follows_its_prompt_and_ends(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer(None)
    ids, labels, sizes = encoded(tokenizer, {"prompt": ["x ="], "completion": [" é"]})
    x, equals, *completion = tokenizer("x = é", add_special_tokens=False)["input_ids"]
    assert ids == [tokenizer.bos_token_id, x, equals, *completion]
    assert labels == [IGNORE, IGNORE, *completion, tokenizer.eos_token_id]
    assert sum(sizes) == len(" é".encode())


def test_all_turns_count_where_the_user_says_so(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer()
    ids, labels, sizes = encoded(tokenizer, {"messages": [CHAT]}, completion_only_loss=False)
    whole = tokenizer.apply_chat_template(CHAT, tokenize=True)["input_ids"]
    assert (ids, labels) == (whole[:-1], whole[1:])
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    plain = text.replace("<|im_start|>", "").replace("<|im_end|>", "")
    assert sum(sizes) == len(plain.encode())


def test_a_template_that_changes_earlier_turns_is_refused(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer(THINKING)
    assert encoded(tokenizer, {"messages": [CHAT[:2]]})[1][-1] == tokenizer.eos_token_id
    with pytest.raises(UserError, match=r"writes turn 2 of the chat \"x = é\?\".*otherwise where the chat goes on"):
        encoded(tokenizer, {"messages": [CHAT]})


def test_a_chat_that_a_template_refuses_is_shown(chat_tokenizer: Make) -> None:
    with pytest.raises(UserError, match=r"cannot render the chat.*only users"):
        encoded(chat_tokenizer("{{ raise_exception('only users here') }}"), {"messages": [CHAT]})


def test_a_greeting_answers_nothing_and_a_chat_without_an_answer_is_left_out(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer()
    greeting = [{"role": "assistant", "content": "hello"}, *CHAT[:2]]
    labels = encoded(tokenizer, {"messages": [greeting]})[1]
    assert [n for n in labels if n != IGNORE] == [
        n for n in encoded(tokenizer, {"messages": [CHAT[:2]]})[1] if n != IGNORE
    ]
    made = CausalLM().encode(tokenizer, None)({"messages": [CHAT[:1], CHAT[:2]]})
    assert [len(ids) > 0 for ids in made["input_ids"]] == [False, True]


def test_tools_reach_the_template(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer("{% if tools %}{{ tools[0]['name'] }}{% endif %}" + chat_tokenizer().chat_template)
    tools = [{"name": "look", "parameters": {"a": {"type": "string"}, "b": None}}]
    for given in (tools, '[{"name": "look"}]'):
        text = tokenizer.decode(encoded(tokenizer, {"messages": [CHAT], "tools": [given]})[0])
        assert text.startswith("look<|im_start|>")
    assert tools_of(tools) == [{"name": "look", "parameters": {"a": {"type": "string"}}}]
    assert tools_of(None) is tools_of("") is tools_of([]) is None


def test_turns_are_read_under_other_names_and_without_what_is_null() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert messages_of(turns) == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    turn = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 1, "y": None}}]}
    assert messages_of([turn]) == [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}]


@pytest.mark.parametrize(("given", "starts", "ends"), [(None, 0, 0), (True, 1, 1), (False, 0, 0)])
def test_a_text_with_special_tokens_of_its_own_gets_no_second_ones(
    chat_tokenizer: Make, given: Any, starts: int, ends: int
) -> None:
    tokenizer = chat_tokenizer()
    text = "<|im_start|>user\nx<|im_end|>\n"
    ids, labels, _ = encoded(tokenizer, {"text": [text]}, add_special_tokens=given)
    own = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = [tokenizer.bos_token_id] * starts + own + [tokenizer.eos_token_id] * ends
    assert (ids, labels) == (whole[:-1], whole[1:])
    plain = tokenizer("x = 1", add_special_tokens=False)["input_ids"]
    whole = plain if given is False else [tokenizer.bos_token_id, *plain, tokenizer.eos_token_id]
    assert encoded(tokenizer, {"text": ["x = 1"]}, add_special_tokens=given)[:2] == (whole[:-1], whole[1:])


@pytest.mark.parametrize("limit", [5, 26, 30, 1000])
def test_what_is_cut_off_is_counted_and_ends_with_a_token_that_counts(chat_tokenizer: Make, limit: int) -> None:
    tokenizer = chat_tokenizer()
    ids, labels, sizes = encoded(tokenizer, {"messages": [CHAT]})
    made = CausalLM().encode(tokenizer, limit)({"messages": [CHAT]})
    kept = max((i + 1 for i, label in enumerate(labels[:limit]) if label != IGNORE), default=0)
    assert made["input_ids"][0].tolist() == ids[:kept]
    assert made["labels"][0].tolist() == labels[:kept]
    assert made["bytes"][0].tolist() == sizes[:kept]
    assert made["beyond"] == [len(ids) - kept]


def test_prompts_begin_as_texts_do_and_have_no_end(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer()
    encode: Any = CausalLM().encode(tokenizer, None)
    own = tokenizer("x<|im_end|>", add_special_tokens=False)["input_ids"]
    assert encode.prompts(["x<|im_end|>"]) == [[tokenizer.bos_token_id, *own]]
    asked: Any = CausalLM(chat_template=True).encode(tokenizer, None)
    rendered = tokenizer.apply_chat_template([CHAT[0]], add_generation_prompt=True, tokenize=True)["input_ids"]
    assert [np.asarray(ids).tolist() for ids in asked.prompts([CHAT[0]["content"]])] == [rendered]


PARTS = (
    "{% for m in messages %}<{{ m['role'] }}>{% for p in m['content'] %}{{ p['text'] }}{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
CALLS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ m['tool_calls'] | tojson if m['tool_calls'] }}"
CALLS += "<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def in_parts(chat: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Each turn's text cut after its first letter."""
    texts = [(turn["role"], [turn["content"][:1], turn["content"][1:]]) for turn in chat]
    return [{"role": role, "content": [{"type": "text", "text": one} for one in both]} for role, both in texts]


@pytest.mark.parametrize("template", TURNS, ids=["chatml", "marked", "brackets"])
def test_a_turn_in_parts_is_the_text_that_they_are(chat_tokenizer: Make, template: str) -> None:
    tokenizer = chat_tokenizer(*([template] if template else []))
    assert encoded(tokenizer, {"messages": [in_parts(CHAT)]}) == encoded(tokenizer, {"messages": [CHAT]})
    pair = {"prompt": [in_parts(CHAT[:1])], "completion": [in_parts(CHAT[1:2])]}
    assert encoded(tokenizer, pair) == encoded(tokenizer, {"messages": [CHAT[:2]]})


def test_a_template_that_writes_parts_is_given_them(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer(PARTS)
    ids, labels, _ = encoded(tokenizer, {"messages": [in_parts(CHAT[:2])]})
    assert tokenizer.decode(ids).startswith("<user>x = é?<|im_end|><assistant>def 漢(x):")
    assert tokenizer.decode([n for n in labels if n != IGNORE]) == "def 漢(x):\n    return x<|im_end|>"
    mixed = [{"role": "user", "content": ["x ", {"type": "text", "text": "= é?"}]}, *in_parts(CHAT[1:2])]
    assert encoded(tokenizer, {"messages": [mixed]})[0] == ids


def test_a_template_that_writes_parts_alone_is_given_texts_as_parts(chat_tokenizer: Make) -> None:
    tokenizer = chat_tokenizer(PARTS)
    whole = "<user>x = é?<|im_end|><assistant>def 漢(x):\n    return x<|im_end|>"
    for chat in (CHAT[:2], [CHAT[0], *in_parts(CHAT[1:2])]):
        ids, labels, _ = encoded(tokenizer, {"messages": [chat]})
        assert [*ids, labels[-1]] == tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode([n for n in labels if n != IGNORE]) == "def 漢(x):\n    return x<|im_end|>"
    encode: Any = CausalLM(chat_template=True).encode(tokenizer, None)
    assert tokenizer.decode(encode.prompts(["x = é?"])[0]) == "<user>x = é?<|im_end|><assistant>"
    told: Any = CausalLM(teacher_system="Be brief.").encode(tokenizer, None)
    (ids,) = told({"messages": [CHAT[:2]]})["teacher_input_ids"]
    assert tokenizer.decode(ids).startswith("<system>Be brief.<|im_end|><user>x = é?")


@pytest.mark.parametrize(
    "said",
    [
        "{{ m['text'] }}",
        "{{ m['content'] if m['content'] is not string }}",
        "{{ m['content'] if m['role'] == 'user' }}",
    ],
)
@pytest.mark.parametrize("chat", [CHAT[:2], [{"role": t["role"], "content": [t["content"]]} for t in CHAT[:2]]])
def test_a_template_that_leaves_contents_out_is_refused(chat_tokenizer: Make, said: str, chat: Any) -> None:
    tokenizer = chat_tokenizer("{% for m in messages %}<{{ m['role'] }}>" + said + "<|im_end|>{% endfor %}")
    with pytest.raises(UserError, match="writes contents neither as texts nor as lists of parts"):
        encoded(tokenizer, {"messages": [chat]})


@pytest.mark.parametrize(
    ("content", "kind"),
    [([{"type": "image", "url": "x"}], "image"), ([{"type": "text"}], "text"), ({"a": 1}, "mapping"), (5, "int")],
)
def test_a_part_of_a_turn_that_is_no_text_is_refused(chat_tokenizer: Make, content: Any, kind: str) -> None:
    chat = [{"role": "user", "content": content}, *CHAT[1:2]]
    with pytest.raises(UserError, match=rf"turn 1 of a chat holds a part that is no text \({kind}\)"):
        encoded(chat_tokenizer(), {"messages": [chat]})


@pytest.mark.parametrize("content", [None, "", "I look it up."])
@pytest.mark.parametrize("counts", [True, False])
def test_calls_of_tools_that_the_template_leaves_out_are_refused(
    chat_tokenizer: Make, content: str | None, counts: bool
) -> None:
    call = {"role": "assistant", "content": content, "tool_calls": [{"function": {"name": "look"}}]}
    rows = {"messages": [[CHAT[0], call]]}
    with pytest.raises(UserError, match=r"does not write the tool_calls of turn 2 of a chat"):
        encoded(chat_tokenizer(), rows, completion_only_loss=counts)
    tokenizer = chat_tokenizer(CALLS)
    written = tokenizer.decode([n for n in encoded(tokenizer, rows, completion_only_loss=counts)[1] if n != IGNORE])
    assert '{"function": {"name": "look"}}' in written


@pytest.mark.parametrize(
    ("more", "left"),
    [
        ({"function_call": {"name": "look"}}, "function_call"),
        ({"reasoning_content": "so"}, "reasoning_content"),
        ({"content": "yes", "reasoning_content": "so"}, "reasoning_content"),
        ({"content": [{"type": "text", "text": ""}], "plan": "so", "id": 3}, "id, plan"),
        ({"content": "yes", "id": 3}, None),
        ({"tool_calls": [{"name": "look"}], "id": 3}, None),
        ({"tool_calls": [{"name": "look"}], "thinking": "so"}, "thinking"),
    ],
)
def test_what_an_answer_says_beside_its_content_is_written_or_refused(
    chat_tokenizer: Make, more: dict[str, Any], left: str | None
) -> None:
    tokenizer = chat_tokenizer(CALLS)
    rows = {"messages": [[CHAT[0], {"role": "assistant", "content": "", **more}]]}
    if left is None:
        written = tokenizer.decode([n for n in encoded(tokenizer, rows)[1] if n != IGNORE])
        assert written == {True: '[{"name": "look"}]<|im_end|>', False: "yes<|im_end|>"}["tool_calls" in more]
        return
    with pytest.raises(UserError, match=f"does not write the {left} of turn 2 of a chat"):
        encoded(tokenizer, rows)


def test_calls_are_tried_once_for_turns_of_the_same_keys(chat_tokenizer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "look"}]}
    tokenizer, asked = chat_tokenizer(CALLS), []
    rendered = tokenizer.apply_chat_template

    def counted(chat: Any, **given: Any) -> Any:
        asked.append(chat)
        return rendered(chat, **given)

    monkeypatch.setattr(tokenizer, "apply_chat_template", counted)
    for pairs in (1, 20):
        asked.clear()
        readable(tokenizer, [CHAT[0], call] * pairs)
        assert len(asked) == 3  # one whether texts are written, two of the first call
    tokenizer.chat_template = CALLS.replace("if m['tool_calls']", "if not m['content']")  # left out beside a content
    with pytest.raises(UserError, match="tool_calls of turn 4"):
        readable(tokenizer, [CHAT[0], call, CHAT[0], {**call, "content": "yes"}])


def test_what_the_teacher_is_told_stands_before_a_system_turn_in_parts() -> None:
    system = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]
    (turn,) = instructed(system, "Think.")
    assert "".join(part["text"] for part in turn["content"]) == "Think.\n\nBe brief."
