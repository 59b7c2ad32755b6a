"""What is written after held-out prompts: which prompts, by whom, and that the file and the scores say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from distill.core.signals import IGNORE
from distill.tasks.text_scores import text_scores
from distill.training.completions import CompletionsConfig
from distill.workflows import completions
from distill.workflows.completions import held_out_prompts

Distill = Callable[..., Any]
X = IGNORE


class Rows(list[dict[str, Any]]):
    """Samples that are asked for by epoch and row."""

    def __getitem__(self, key: Any) -> Any:
        return {name: np.array(values) for name, values in super().__getitem__(key[1]).items()}


def prompts(*rows: dict[str, Any], count: int = 9, room: int | None = None, **config: int) -> list[tuple[Any, ...]]:
    found = held_out_prompts(Rows(rows), count, CompletionsConfig(**config), room)  # type: ignore[arg-type]
    return [(p.ids.tolist(), p.teacher_ids.tolist(), p.expected.tolist()) for p in found]


def test_of_a_text_the_first_tokens_and_of_a_chat_all_before_the_first_answer() -> None:
    text = {"input_ids": [1, 2, 3, 4, 5, 6, 7, 8], "labels": [2, 3, 4, 5, 6, 7, 8, 9]}
    assert prompts(text, prompt_length=3, max_new_tokens=2) == [([1, 2, 3], [1, 2, 3], [4, 5])]
    assert prompts(text, prompt_length=64) == [([1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8, 9])]
    chat = {"input_ids": [1, 2, 3, 4, 5, 6, 7], "labels": [X, X, 4, 5, X, 7, 8]}
    assert prompts(chat) == [([1, 2, 3], [1, 2, 3], [4, 5])]
    assert prompts({"input_ids": [1, 2], "labels": [X, X]}, {"input_ids": [1], "labels": [2]}) == []


def test_each_document_of_a_block_is_one_and_a_teacher_reads_what_it_is_told() -> None:
    block = {
        "input_ids": [1, 2, 3, 4, 5, 6],
        "labels": [X, 3, X, X, 6, 7],
        "position_ids": [0, 1, 0, 1, 2, 3],
        "teacher_input_ids": [90, 1, 2, 90, 91, 3, 4, 5, 6],
        "teacher_position_ids": [0, 1, 2, 0, 1, 2, 3, 4, 5],
        "teacher_at": [0, 2, 0, 0, 7, 8],
    }
    assert prompts(block) == [([1, 2], [90, 1, 2], [3]), ([3, 4, 5], [90, 91, 3, 4, 5], [6, 7])]
    apart = {"input_ids": [1, 2, 3], "labels": [X, 3, 4], "teacher_input_ids": [7, 8, 9], "teacher_at": [-1, -1, 2]}
    assert prompts(apart) == []  # by its own tokenizer the teacher reads to another place
    assert prompts(block, room=12, max_new_tokens=8) == [([1, 2], [90, 1, 2], [3])]


def test_of_many_they_are_taken_at_even_distances() -> None:
    rows = [{"input_ids": [n, n], "labels": [n, n]} for n in range(100)]
    assert [ids for ids, _, _ in prompts(*rows, count=200)] == [[n] for n in range(100)]
    assert [ids for ids, _, _ in prompts(*rows, count=4)] == [[18], [43], [68], [93]]


def test_each_prompt_gets_its_own_answer_whatever_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []

    def last(model: Any, asked: list[torch.Tensor], most: int, **how: Any) -> list[torch.Tensor]:
        assert how == {"together": True, "beams": 2}
        read.append([len(one) for one in asked])
        return [one[-1:] for one in asked]

    monkeypatch.setattr(completions, "continuations", last)
    monkeypatch.setattr(completions, "reads_padding_beside", lambda model: True)
    asked = [torch.arange(1 + 7 * n % 40) + n for n in range(40)]
    answers = completions._answers(None, asked, CompletionsConfig(max_new_tokens=3, beams=2))  # type: ignore[arg-type]
    assert [int(answer) for answer in answers] == [int(one[-1]) for one in asked]
    assert [len(sizes) for sizes in read] == [16, 16, 8]
    assert [size for sizes in read for size in sizes] == sorted(map(len, asked), reverse=True)


@pytest.fixture
def pairs(chat_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for split, numbers in (("train", range(12)), ("validation", range(12, 20))):
        rows = [
            {"prompt": f"x = {n}" + " + y" * (n * 5 % 7), "completion": f"return {n}\u2028" * (1 + n % 3)}
            for n in numbers
        ]
        Path(f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "pairs",
        "model": {
            "task": "causal-lm",
            "teacher": str(chat_dir),
            "student": {"layers": "uniform", "num_layers": 1},
            "losses": [{"class_path": "HintonKL"}],
        },
        "data": {"files": {"train": "train.jsonl", "validation": "validation.jsonl"}, "batch_size": 4},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "logging": {"tensorboard": False},
    }
    Path("pairs.yaml").write_text(yaml.safe_dump(config))
    return "pairs.yaml"


def greedy(model: Any, tokenizer: Any, prompt: str, most: int) -> str:
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    made: list[int] = []
    while len(made) < most:
        with torch.no_grad():
            made.append(int(model(torch.tensor([ids + made])).logits[0, -1].argmax()))
        if made[-1] == tokenizer.eos_token_id:
            made.pop()
            break
    return str(tokenizer.decode(made, skip_special_tokens=True))


def test_a_run_keeps_what_both_write_and_scores_it_where_that_is_asked_for(
    pairs: str, chat_dir: Path, distill: Distill, chat_tokenizer: Callable[..., Any]
) -> None:
    import distill as package

    options = ("--model.completions", "{shown: 2, scored: 5, max_new_tokens: 6}")
    done = distill("fit", "-c", pairs, "--id", "one", *options)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in Path("runs/pairs/one/completions.jsonl").read_text().split("\n")[:-1]]
    assert len(lines) == 2
    models = {"teacher": package.load(chat_dir), "student": package.load("runs/pairs/one")}
    tokenizer = chat_tokenizer()
    for line in lines:
        assert list(line) == ["prompt", "expected", "teacher", "student"]
        number = int(line["prompt"].split("x = ")[1].split("<")[0].split()[0])
        assert line["prompt"].endswith("<|im_start|>assistant\n")
        assert line["expected"] == f"return {number}\u2028" * (1 + number % 3)
        for who, model in models.items():
            assert line[who] == greedy(model, tokenizer, line["prompt"], 6)
    result = json.loads(Path("runs/pairs/one/result.json").read_text())
    assert result["completions"]["prompts"] == 5
    assert "rouge_l" in done.out
    assert "completions: 5 answers of up to 6 tokens" in done.out
    assert "completions of 2 held-out prompts: runs/pairs/one/completions.jsonl" in done.out

    asked = ("--model.completions", "{scored: 8, max_new_tokens: 6}", "--trainer.limit_val_batches", "1.0")
    scored = distill("validate", "runs/pairs/one", *asked)
    assert scored.code == 0, scored.err
    assert "completions: 8 answers" in scored.out


def test_the_scores_are_of_the_answers(pairs: str, distill: Distill, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    plain = completions.text_scores
    monkeypatch.setattr(completions, "text_scores", lambda *texts: kept.append(texts) or plain(*texts))
    done = distill("fit", "-c", pairs, "--id", "one", "--model.completions", "{scored: 8, shown: 0, max_new_tokens: 4}")
    assert done.code == 0, done.err
    assert not Path("runs/pairs/one/completions.jsonl").exists()
    scores = json.loads(Path("runs/pairs/one/result.json").read_text())["scores"]
    assert len(kept) == 2
    for who, (written, expected, _) in zip(("teacher", "student"), kept, strict=True):
        assert len(written) == 8
        for name, (value, _) in text_scores(written, expected).items():
            assert scores[who][name] == pytest.approx(value)


def test_models_that_cannot_write_end_no_run(
    pairs: str, distill: Distill, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no cache")

    monkeypatch.setattr("distill.workflows.completions.continuations", broken)
    done = distill("fit", "-c", pairs, "--id", "one")
    assert done.code == 0, done.err
    assert "no completions: the models could not write (no cache)" in caplog.text + done.err
    assert Path("runs/pairs/one/result.json").is_file()


@pytest.mark.parametrize(
    ("task", "value", "says"),
    [
        ("text-classification", "{scored: 4}", "is for models that can write"),
        ("causal-lm", "{shown: -1}", "must be 0 or more"),
        ("causal-lm", "{max_new_tokens: 0}", "must be 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(
    task: str, value: str, says: str, pairs: str, base: dict[str, Any], distill: Distill
) -> None:
    file = pairs if task == "causal-lm" else "base.yaml"
    done = distill("fit", "-c", file, "--model.completions", value)
    assert done.code == 2
    assert says in done.err
    assert not Path("runs").exists()
