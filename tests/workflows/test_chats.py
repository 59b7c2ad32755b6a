"""A run on chats, from the dry run to answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

Distill = Callable[..., Any]


@pytest.fixture
def recipe_file(chat_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for split, rows in (("train", range(12)), ("validation", range(12, 16))):
        lines = [
            {
                "messages": [
                    {"role": "user", "content": f"x = {n}"},
                    {"role": "assistant", "content": f"return {n}\n" * (n + 1)},
                ]
            }
            for n in rows
        ]
        Path(f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {
        "name": "chat",
        "model": {
            "task": "causal-lm",
            "teacher": str(chat_dir),
            "student": {"layers": "uniform", "num_layers": 1},
            "losses": [{"class_path": "HintonKL"}, {"class_path": "CrossEntropy"}],
        },
        "data": {"files": {"train": "train.jsonl", "validation": "validation.jsonl"}, "batch_size": 2},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False},
        "logging": {"tensorboard": False},
    }
    Path("chat.yaml").write_text(yaml.safe_dump(config))
    return "chat.yaml"


def test_a_chat_is_shown_trained_on_and_answered_by_the_template(
    recipe_file: str, chat_dir: Path, distill: Distill, chat_tokenizer: Callable[..., Any]
) -> None:
    from transformers import AutoModelForCausalLM

    shown = distill("fit", "-c", recipe_file, "--dry-run")
    assert shown.code == 0, shown.err
    assert "data: chats through the tokenizer's chat template; answers count (" in shown.out
    assert "\n  reads    <|im_start|>│" in shown.out
    assert "│<|im_end|>\n" in shown.out.split("  predicts ")[1]
    fitted = distill("fit", "-c", recipe_file, "--id", "one")
    assert fitted.code == 0, fitted.err
    student = Path("runs/chat/one/student")
    task = json.loads((student / "task.json").read_text())
    assert task["settings"]["chat_template"] is True
    assert task["columns"] == {}
    assert (
        'print(model([{"role": "user", "content": "a text"}], max_new_tokens=20))'
        in (student / "README.md").read_text()
    )
    tokenizer = chat_tokenizer()
    model: Any = AutoModelForCausalLM.from_pretrained(student)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id

    Path("asked.txt").write_text("x = 3\n")
    answered = distill("predict", str(student), "asked.txt", "--jsonl", "--max-new-tokens", "6")
    assert answered.code == 0, answered.err
    asked = [{"role": "user", "content": "x = 3"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    made = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert json.loads(answered.out)["completion"] == tokenizer.decode(made, skip_special_tokens=True)
    validated = distill("validate", "runs/chat/one")
    assert validated.code == 0, validated.err
    scores = json.loads(Path("runs/chat/one/result.json").read_text())["scores"]
    accepted = scores["student"]["acceptance"]
    assert accepted == pytest.approx(
        overlap(model, AutoModelForCausalLM.from_pretrained(chat_dir), tokenizer), rel=1e-4
    )
    assert f"{accepted:.4f}"[:6] in validated.out.split("acceptance")[1]
    assert "val/acceptance" not in Path("runs/chat/one/metrics.csv").read_text()


def overlap(student: Any, teacher: Any, tokenizer: Any) -> float:
    """sum over tokens of min(p, q), the mean over all tokens of the answers, each chat by itself and in float64."""
    found = []
    for line in Path("validation.jsonl").read_text().splitlines():
        messages = json.loads(line)["messages"]
        whole, before = (
            tokenizer.apply_chat_template(part, add_generation_prompt=asks, return_tensors="pt")["input_ids"]
            for part, asks in ((messages, False), (messages[:1], True))
        )
        end = int((whole[0] == tokenizer.eos_token_id).nonzero()[-1])  # the template's line break counts no more
        with torch.no_grad():
            q, p = (model.double()(whole).logits[0].softmax(-1) for model in (student, teacher))
        found.append(torch.minimum(p, q).sum(-1)[before.shape[1] - 1 : end])
    return float(torch.cat(found).mean())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--model.on_policy.max_new_tokens", "0"), "model.on_policy.max_new_tokens = 0: must be 1 or more"),
        (("--model.on_policy.share", "2"), "model.on_policy.share = 2"),
        (("--model.on_policy.share", "0.5", "--trainer.strategy", "sharded"), "model.on_policy: cannot be had under"),
    ],
)
def test_a_student_that_cannot_write_is_refused_before_anything_is_written(
    argv: tuple[str, ...], said: str, recipe_file: str, distill: Distill
) -> None:
    refused = distill("fit", "-c", recipe_file, *argv)
    assert refused.code == 2
    assert said in refused.err
    assert not Path("runs").exists()


def test_a_teacher_of_another_chat_template_is_told_of(recipe_file: str, distill: Distill) -> None:
    Path("other.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
        "{{ 'assistant: ' if add_generation_prompt else '' }}"
    )
    shown = distill("fit", "-c", recipe_file, "--dry-run", "--data.chat_template", "other.jinja")
    assert shown.code == 0, shown.err
    assert "warning: the teacher's chat template is another one" in shown.out
