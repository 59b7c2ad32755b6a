from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest

from distill.core.signals import IGNORE
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.data.language import touching

ROWS = 24


def sentence(row: int) -> str:
    return " ".join(f"{'ab' * (1 + (row + i) % 4)}{row}" for i in range(1 + row * 5 % 9))


def turns(row: int) -> list[dict[str, str]]:
    talk = [{"role": "user", "content": sentence(row)}, {"role": "assistant", "content": sentence(row + 7)}]
    return talk * (1 + row % 3)


FORMS: dict[str, Any] = {
    "messages": lambda row: {"messages": turns(row)},
    "pairs": lambda row: {"prompt": sentence(row), "completion": sentence(row + 7)},
    "lists": lambda row: {"prompt": turns(row)[:1], "completion": turns(row)[1:2]},
    "texts": lambda row: {"text": sentence(row)},
}


@pytest.fixture
def tokenizer(chat_dir: Path) -> str:
    return str(chat_dir)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Callable[[str | None], Any]) -> str:
    folder = tmp_path_factory.mktemp("plain")
    chat_tokenizer(None).save_pretrained(folder)
    return str(folder)


def made(folder: Path, tokenizer: str, form: str, **options: Any) -> TextData:
    parts = {"train": range(ROWS), "validation": range(ROWS, ROWS + 6)}
    for use, rows in parts.items():
        (folder / f"{use}.jsonl").write_text("".join(json.dumps(FORMS[form](row)) + "\n" for row in rows))
    files: Any = {use: str(folder / f"{use}.jsonl") for use in parts}
    return TextData(files=files, task="causal-lm", tokenizer=tokenizer, batch_size=4, **options)


def predicted(data: TextData) -> list[str]:
    """What is to be predicted in the training batches, each run of tokens as a text."""
    found = []
    for batch in data.train_dataloader():
        assert batch.labels is not None
        assert (batch.labels != IGNORE).equal(batch.mask if batch.mask is not None else (batch.labels == batch.labels))
        for row in batch.labels.tolist():
            text = data.tokenizer.decode([n for n in row if n != IGNORE])
            found += [part for part in text.split("<|im_end|>") if part]
    return sorted(found)


@pytest.mark.parametrize("packed", [0, 300, None])
@pytest.mark.parametrize("form", ["messages", "pairs", "lists"])
def test_every_answer_is_predicted_once_packed_or_not(
    tmp_path: Path, tokenizer: str, form: str, packed: int | None
) -> None:
    data = made(tmp_path, tokenizer, form, pack_length=packed, **({"max_length": 1000} if packed == 0 else {}))
    times = (lambda row: 1 + row % 3) if form == "messages" else (lambda row: 1)
    assert predicted(data) == sorted(sentence(row + 7) for row in range(ROWS) for _ in range(times(row)))


def test_no_chat_is_cut_by_the_end_of_a_block(tmp_path: Path, tokenizer: str) -> None:
    data = made(tmp_path, tokenizer, "messages", pack_length=96)
    for batch in data.train_dataloader():
        ids, positions = batch.inputs["input_ids"], batch.inputs["position_ids"]
        assert ids.shape[1] <= 96
        assert "attention_mask" not in batch.inputs
        begins = (ids == data.tokenizer.bos_token_id) & (positions == 0)
        assert begins[:, 0].all()
        real = batch.tokens if batch.tokens is not None else begins | ~begins
        for row, count in zip(positions, real.sum(1).tolist(), strict=True):  # up to each start, one chat alone
            assert ((row[1:count] == row[: count - 1] + 1) | (row[1:count] == 0)).all()


def test_what_counts_and_what_is_cut_is_said(tmp_path: Path, tokenizer: str) -> None:
    data = made(tmp_path, tokenizer, "messages", pack_length=0, max_length=40)
    data.setup("fit")
    lines = "\n".join(data.account)
    assert "chats through the tokenizer's chat template; answers count (" in lines
    lengths = [len(data.tokenizer.apply_chat_template(turns(row))["input_ids"]) - 2 for row in range(ROWS)]
    asked = [data.tokenizer.apply_chat_template(turns(row)[:1], add_generation_prompt=True) for row in range(ROWS)]
    cut = [n for n, before in zip(lengths, asked, strict=True) if n > 40 >= len(before["input_ids"])]
    assert (
        f"{len(cut)} of 24 rows of train are cut to 40 tokens (data.max_length); the longest of them has {max(cut)}"
        in lines
    )
    assert "rows of train are left out: nothing of them counts, as they have no answer, or are cut" in lines
    whole = made(tmp_path, tokenizer, "messages", pack_length=0, max_length=1000)
    whole.setup("fit")
    assert not any(word in "\n".join(whole.account) for word in ("are cut", "left out", "learn to stop"))


def test_prompts_are_joined_with_their_completions_where_there_is_no_template(tmp_path: Path, plain: str) -> None:
    data = made(tmp_path, plain, "pairs")
    data.setup("fit")
    lines = "\n".join(data.account)
    assert "prompts and completions joined as they are; completions count" in lines
    seam = f"{sentence(0)[-20:]}{sentence(7)[:20]}"
    assert f"in 24 of 24 rows of train nothing stands between prompt and completion: {seam!r}" in lines
    assert data.task.chat_template is False  # type: ignore[attr-defined]
    row = data.samples("train")[0, 0]
    start = data.tokenizer.bos_token_id
    assert row["input_ids"][0] == start
    assert data.tokenizer.decode(row["input_ids"]).startswith(f"<|im_start|>{sentence(0)}{sentence(7)}")


def test_prompts_and_completions_that_touch_are_counted_and_shown() -> None:
    prompts = ["who?", "where? ", "when?", "", "what?\n", "why", None, "how?"]
    completions = ["me", "here", " now", "x", "this", "so", "z", ""]
    touch = [p and c and p == p.rstrip() and c == c.lstrip() for p, c in zip(prompts, completions, strict=True)]
    assert sum(map(bool, touch)) == 2
    [line] = touching(pa.chunked_array([prompts]), pa.chunked_array([completions]))
    assert line.startswith("in 2 of 8 rows of train nothing stands between prompt and completion: 'who?me';")
    assert touching(pa.chunked_array([["a "]]), pa.chunked_array([["b"]])) == []


def test_the_tokens_of_plain_texts_that_are_predicted_are_counted(tmp_path: Path, tokenizer: str) -> None:
    data = made(tmp_path, tokenizer, "texts", pack_length=0, max_length=1000)
    data.setup("fit")
    ids = [data.tokenizer(sentence(row), add_special_tokens=False)["input_ids"] for row in range(ROWS)]
    count = sum(len(one) + 1 for one in ids)  # and the end
    assert f"data: {count:,} tokens of train are predicted in an epoch" in data.account


def test_a_template_of_the_users_own_replaces_that_of_the_tokenizer(tmp_path: Path, plain: str) -> None:
    file = tmp_path / "chat.jinja"
    turn = "{{ m['role'][0] }}:{{ m['content'] }}<|im_end|>"
    template = "{% for m in messages %}" + turn + "{% endfor %}{{ 'a:' * add_generation_prompt }}"
    file.write_text(template)
    data = made(tmp_path, plain, "messages", chat_template=str(file))
    assert predicted(data) == sorted(sentence(row + 7) for row in range(ROWS) for _ in range(1 + row % 3))
    assert data.tokenizer.chat_template == template
    assert data.tokenizer.decode(data.samples("train")[0, 0]["input_ids"]).startswith(f"u:{sentence(0)}<|im_end|>a:")


@pytest.mark.parametrize(
    ("form", "options", "key", "problem"),
    [
        ("messages", {}, "data.chat_template", "chats need a chat template, and the tokenizer has none"),
        ("lists", {"chat_template": False}, "data.chat_template", "chats need a chat template"),
        ("pairs", {"chat_template": True}, "data.chat_template", "the tokenizer has no chat template"),
        ("pairs", {"chat_template": "none.jinja"}, "data.chat_template", "cannot be read"),
        ("texts", {"completion_only_loss": True}, "data.completion_only_loss", "has no effect with plain texts"),
        ("texts", {"chat_template": False}, "data.chat_template", "has no effect with plain texts"),
        ("pairs", {"columns": {"text": "prompt", "messages": "prompt"}}, "data.columns", "reads messages or prompt"),
        ("pairs", {"columns": {"messages": "prompt"}}, "data.columns.messages", "lists of turns"),
        ("texts", {"columns": {"prompt": "text"}}, "data.columns.completion", "prompt and completion"),
    ],
)
def test_settings_that_do_not_fit_the_rows_are_refused(
    tmp_path: Path, plain: str, form: str, options: dict[str, Any], key: str, problem: str
) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        made(tmp_path, plain, form, **options).setup("fit")
    assert refused.value.key == key


def test_the_users_columns_say_which_form_is_read(tmp_path: Path, tokenizer: str) -> None:
    FORMS["both"] = lambda row: {"messages": turns(row), "text": sentence(row)}
    assert set(made(tmp_path, tokenizer, "both").training_columns) == {"messages"}
    assert set(made(tmp_path, tokenizer, "both", columns={"text": "text"}).training_columns) == {"text"}


def test_special_tokens_are_for_texts_alone(tmp_path: Path, tokenizer: str) -> None:
    with pytest.raises(UserError, match="has no effect with a chat template"):
        made(tmp_path, tokenizer, "pairs", add_special_tokens=True).setup("fit")
    with pytest.raises(UserError, match="has no effect with a task that is no causal language model"):
        TextData("x", task="masked-lm", tokenizer=tokenizer, add_special_tokens=True).setup("fit")


def test_calls_and_tools_that_differ_from_row_to_row_are_each_read_as_written(tmp_path: Path, plain: str) -> None:
    def row(name: str, argument: dict[str, Any]) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": name, "arguments": argument}}
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        tool = {"name": name, "properties": {key: {"type": type(one).__name__} for key, one in argument.items()}}
        return {"messages": [{"role": "user", "content": "go"}, answer], "tools": [tool]}

    rows = [row("f", {"x": 1}), row("g", {"y": "a"}), {"messages": turns(0)}]
    call = "{{ call.function.name }}({{ call.function.arguments | tojson }})"
    calls = "{% if m.tool_calls is defined %}{% for call in m.tool_calls %}" + call + "{% endfor %}{% endif %}"
    turn = "{{ m.role[0] }}:{{ m.content }}" + calls + "<|im_end|>"
    tools = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    (tmp_path / "tools.jinja").write_text(
        tools + "{% for m in messages %}" + turn + "{% endfor %}{{ 'a:' * add_generation_prompt }}"
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    files: Any = dict.fromkeys(("train", "validation"), str(tmp_path / "rows.jsonl"))
    template = str(tmp_path / "tools.jinja")
    data = TextData(
        files=files, task="causal-lm", tokenizer=plain, pack_length=0, max_length=500, chat_template=template
    )
    read = [data.samples("train")[0, number] for number in range(3)]
    texts = [data.tokenizer.decode(sample["input_ids"]) for sample in read]
    assert texts[0] == '{"name": "f", "properties": {"x": {"type": "int"}}}u:go<|im_end|>a:f({"x": 1})'
    assert texts[1] == '{"name": "g", "properties": {"y": {"type": "str"}}}u:go<|im_end|>a:g({"y": "a"})'
    assert texts[2] == f"u:{sentence(0)}<|im_end|>a:{sentence(7)}"
