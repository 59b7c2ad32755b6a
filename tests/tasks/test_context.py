"""A teacher that is told more than the student."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distill.core.signals import IGNORE, Request
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.models.teachers import LiveTeacher

SYSTEM = "Answer as a pirate."


def chat(row: int) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": f"x = {row}"}, {"role": "assistant", "content": f"return {row * 37}"}]
    return ([{"role": "system", "content": "short"}] if row % 2 else []) + turns * (1 + row % 3)


FORMS: dict[str, Callable[[int], dict[str, Any]]] = {
    "messages": lambda row: {"messages": chat(row)},
    "pairs": lambda row: {"prompt": f"x = {row}", "completion": f"return {row}"},
    "lists": lambda row: {"prompt": chat(row)[:-1], "completion": chat(row)[-1:]},
}


def made(folder: Path, chat_dir: Path, form: str = "messages", **options: Any) -> TextData:
    for use in ("train", "validation"):
        rows = [json.dumps(FORMS[form](row)) + "\n" for row in range(9)]
        (folder / f"{use}.jsonl").write_text("".join(rows))
    files: Any = {use: str(folder / f"{use}.jsonl") for use in ("train", "validation")}
    given: dict[str, Any] = {"batch_size": 3, "teacher_system": SYSTEM, **options}
    return TextData(files=files, task="causal-lm", tokenizer=str(chat_dir), **given)


def instructed(tokenizer: Any, messages: list[dict[str, str]]) -> Any:
    """The chat as the teacher is to read it, written down anew."""
    own = messages[0]["content"] if messages[0]["role"] == "system" else ""
    rest = messages[1:] if own else messages
    system = {"role": "system", "content": f"{SYSTEM}\n\n{own}" if own else SYSTEM}
    return tokenizer.apply_chat_template([system, *rest])["input_ids"]


@pytest.mark.parametrize("packed", [0, 200])
@pytest.mark.parametrize("lazy", [False, True])
def test_the_teachers_logits_for_a_token_are_those_after_its_own_longer_text(
    tmp_path: Path, chat_dir: Path, packed: int, lazy: bool
) -> None:
    data = made(tmp_path, chat_dir, pack_length=packed, **({} if packed else {"max_length": 500}))
    model: Any = AutoModelForCausalLM.from_pretrained(chat_dir).eval()
    teacher = LiveTeacher(model, data.task)
    assert teacher.lazy  # which tries the head that is left out
    end = data.tokenizer.eos_token_id
    expected: dict[tuple[int, ...], list[Any]] = {}
    for row in range(9):
        ids = instructed(data.tokenizer, chat(row))
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        answers = [turn["content"] for turn in chat(row) if turn["role"] == "assistant"]
        place = 0
        for answer in answers:
            tokens = [*data.tokenizer(answer, add_special_tokens=False)["input_ids"], end]
            place = next(i for i in range(place, len(ids)) if ids[i : i + len(tokens)] == tokens)
            expected.setdefault(tuple(tokens), []).append(logits[place - 1 : place - 1 + len(tokens)])
            place += len(tokens)
    seen = 0
    for batch in data.train_dataloader():
        found = teacher.signals(batch, Request(logits=True, lazy=lazy))
        assert (found.lazy_logits is not None) == lazy
        logits = found.logits if found.lazy_logits is None else found.lazy_logits.whole()
        assert batch.labels is not None
        assert logits is not None
        counted = batch.labels != IGNORE
        runs = torch.tensor_split(logits[counted], (batch.labels[counted] == end).nonzero()[:, 0] + 1)[:-1]
        names = torch.tensor_split(batch.labels[counted], (batch.labels[counted] == end).nonzero()[:, 0] + 1)[:-1]
        for run, name in zip(runs, names, strict=True):
            likely = expected[tuple(name.tolist())]
            assert any(run.shape == one.shape and (run - one).abs().max() < 1e-4 for one in likely)
            seen += 1
    assert seen == sum(1 + row % 3 for row in range(9))


@pytest.mark.parametrize("form", FORMS)
def test_the_student_reads_what_it_reads_without(tmp_path: Path, chat_dir: Path, form: str) -> None:
    told, plain = made(tmp_path, chat_dir, form), made(tmp_path, chat_dir, form, teacher_system=None)
    for one, other in zip(told.train_dataloader(), plain.train_dataloader(), strict=True):
        assert one.inputs["input_ids"].equal(other.inputs["input_ids"])
        assert one.labels is not None
        assert one.labels.equal(other.labels)
        decoded = told.tokenizer.decode(one.extras["teacher_input_ids"][0])
        assert SYSTEM in decoded
        assert "teacher_input_ids" not in other.extras
    assert f"data: the teacher is told besides, and the student is not: '{SYSTEM}'" in told.account


def test_without_a_template_the_instruction_stands_before_the_prompt(tmp_path: Path, chat_dir: Path) -> None:
    data = made(tmp_path, chat_dir, "pairs", chat_template=False, teacher_system="Be brief. ")
    batch = next(iter(data.train_dataloader()))
    read = data.tokenizer.decode(batch.extras["teacher_input_ids"][0], skip_special_tokens=True)
    assert read.startswith("Be brief. x = ")


def test_what_has_no_place_at_the_students_positions_is_refused(tmp_path: Path, chat_dir: Path) -> None:
    data = made(tmp_path, chat_dir)
    teacher = LiveTeacher(AutoModelForCausalLM.from_pretrained(chat_dir), data.task)
    with pytest.raises(UserError, match="the logits of answers alone"):
        teacher.signals(next(iter(data.train_dataloader())), Request(hidden_states=frozenset({1})))
    with pytest.raises(UserError, match="has no effect with prompts that count"):
        made(tmp_path, chat_dir, completion_only_loss=False).setup("fit")
