"""Answers of a language model as a data set: which, against a loop of one's own; after a kill; and learned from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill.workflows import generate as generating

Distill = Callable[..., Any]
ROWS = [{"prompt": f"x = {'1 + ' * n}{n}"} for n in range(6)]


@pytest.fixture
def teacher(chat_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A chat model of whose tokens one in five is an end, and prompts beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(chat_dir, "teacher")
    settings = Path("teacher/generation_config.json")
    written = json.loads(settings.read_text())
    ends = [written["eos_token_id"]] if isinstance(written["eos_token_id"], int) else written["eos_token_id"]
    settings.write_text(json.dumps(written | {"eos_token_id": sorted({*ends, *range(3, 2000, 5)})}))
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return "teacher"


def rows_of(file: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def test_each_answer_is_the_model_s_own_and_a_student_learns_from_them(
    teacher: str, distill: Distill, chat_tokenizer: Callable[..., Any]
) -> None:
    from transformers import AutoModelForCausalLM

    done = distill("generate", teacher, "prompts.jsonl", "--to", "all.jsonl", "--batch-size", "4", "--keep-unfinished")
    assert done.code == 0, done.err
    assert "6 answers to 6 prompts" in done.out
    tokenizer, model = chat_tokenizer(), AutoModelForCausalLM.from_pretrained(teacher)
    ends = set(model.generation_config.eos_token_id)
    found, ended = rows_of("all.jsonl"), 0
    assert [row["prompt"] for row in found] == [row["prompt"] for row in ROWS]
    for row in found:
        asked = [{"role": "user", "content": row["prompt"]}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
        made: list[int] = []
        with torch.no_grad():
            while len(made) < 256:
                made.append(int(model(torch.tensor([ids + made])).logits[0, -1].argmax()))
                if made[-1] in ends:
                    break
        text = tokenizer.decode(made[:-1] if made[-1] in ends else made, skip_special_tokens=True)
        assert row["completion"] == text
        ended += made[-1] in ends and len(made) > 1
    assert ended
    assert not Path(".all.jsonl.part").exists()

    config = {
        "name": "student",
        "model": {"task": "causal-lm", "teacher": teacher, "student": {"layers": "uniform", "num_layers": 1}},
        "data": {"files": {"train": "all.jsonl", "validation": "all.jsonl"}, "batch_size": 2},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "logging": {"tensorboard": False},
    }
    Path("student.yaml").write_text(yaml.safe_dump(config))
    fitted = distill("fit", "-c", "student.yaml", "--id", "one")
    assert fitted.code == 0, fitted.err
    assert "prompts and completions through the tokenizer's chat template" in fitted.out


def test_what_was_killed_goes_on_and_ends_with_the_same_answers(
    teacher: str, distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ("generate", teacher, "prompts.jsonl", "--batch-size", "2", "--temperature", "1.5", "--max-new-tokens", "40")
    assert distill(*argv, "--to", "whole.jsonl").code == 0
    original, calls = generating.continuations, list[int]()

    def dying(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*given, **named)

    monkeypatch.setattr(generating, "continuations", dying)
    assert distill(*argv, "--to", "cut.jsonl").code == 130
    part = Path(".cut.jsonl.part")
    part.write_text(part.read_text() + '[{"row": 1, "comp')  # as a kill leaves a line
    assert not Path("cut.jsonl").exists()
    other = distill(*argv, "--to", "cut.jsonl", "--seed", "1")
    assert other.code == 2
    assert "was begun with another seed" in other.err
    calls.clear()
    calls.extend([1, 1])  # it no longer dies
    assert distill(*argv, "--to", "cut.jsonl").code == 0
    assert len(calls) == 2 + 2
    assert Path("cut.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    again = distill(*argv, "--to", "cut.jsonl")
    assert again.code == 2
    assert "is there already" in again.err


def test_answers_without_an_end_are_left_out_and_told(teacher: str, distill: Distill) -> None:
    argv = ("generate", teacher, "prompts.jsonl", "--max-new-tokens", "4", "--temperature", "1.0")
    kept = distill(*argv, "--to", "kept.jsonl", "--keep-unfinished")
    assert kept.code == 0, kept.err
    ended = distill(*argv, "--to", "ended.jsonl")
    assert ended.code == 0, ended.err
    few = rows_of("ended.jsonl")
    assert 0 < len(few) < 6
    assert f"; without an end, and left out (--keep-unfinished keeps them): {6 - len(few)} answer" in ended.out
    assert f"; without an end, and kept: {6 - len(few)} answer" in kept.out
    assert [row for row in rows_of("kept.jsonl") if row in few] == few


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("teacher", "prompts.jsonl"), "--to: must be given"),
        (("teacher", "prompts.jsonl", "--to", "out.csv"), "must be a .jsonl file"),
        (("teacher", "prompts.jsonl", "--to", "out.jsonl", "--temperature", "0"), "must be greater than 0"),
        (("teacher", "prompts.jsonl", "--to", "out.jsonl", "--batch-size", "0"), "must be at least 1"),
        (("nowhere", "prompts.jsonl", "--to", "out.jsonl"), "no such folder"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(
    argv: tuple[str, ...], said: str, teacher: str, distill: Distill
) -> None:
    before = set(Path().iterdir())
    done = distill("generate", *argv)
    assert done.code == 2
    assert said in done.err
    assert set(Path().iterdir()) == before


def test_a_classifier_writes_nothing(teacher_dir: str, teacher: str, distill: Distill) -> None:
    done = distill("generate", teacher_dir, "prompts.jsonl", "--to", "out.jsonl")
    assert done.code == 2
    assert "its task is text-classification, which writes no text" in done.err
