"""Scores by the length of the context: against sums by hand, and of a run against a plain loop over its texts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill.core import context_scores
from distill.core.context_scores import ContextScores
from distill.core.signals import IGNORE, Batch
from distill.core.token_scores import TokenScores

X = IGNORE


def scores(nats: torch.Tensor) -> TokenScores:
    return TokenScores(nats, torch.zeros_like(nats), torch.zeros_like(nats), None, 8)


def test_each_token_counts_by_what_was_read_of_its_own_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_scores, "EDGES", (2, 4))
    metric = ContextScores()
    labels = torch.tensor([[5, 5, 5, X, 5, 5, 5]])
    nats = torch.tensor([[1.0, 2.0, 4.0, 0.0, 8.0, 16.0, 32.0]])
    size = torch.tensor([[3, 1, 0, 0, 2, 1, 1]])
    blocks = torch.tensor([[0, 1, 2, 3, 4, 0, 1]])
    metric.update(scores(nats), Batch({"position_ids": blocks}, labels=labels, extras={"bytes": size}))
    metric.update(scores(nats), Batch({}, labels=labels, extras={"bytes": size}))
    # Of the block 0, 1, 5 and 6 have read at most two tokens, 2 (and 3, which counts nothing) at most four, and 4 five.
    nats_by, count_by = [1 + 2 + 16 + 32 + 1 + 2, 4 + 4, 8 + 8 + 16 + 32], [4 + 2, 1 + 1, 1 + 3]
    bytes_by = [3 + 1 + 1 + 1 + 3 + 1, 0, 2 + 2 + 1 + 1]
    found = metric.record()
    assert found["context"] == ["1-2", "3-4", "5 or more"]
    assert found["predictions"] == count_by
    assert found["perplexity"] == pytest.approx([math.exp(n / c) for n, c in zip(nats_by, count_by, strict=True)])
    assert found["bits_per_byte"][1] is None
    assert found["bits_per_byte"][0] == pytest.approx(nats_by[0] / math.log(2) / bytes_by[0])
    assert found["bits_per_byte"][2] == pytest.approx(nats_by[2] / math.log(2) / bytes_by[2])


def test_a_run_says_it_of_student_and_teacher(
    chat_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    distill: Callable[..., Any],
    chat_tokenizer: Callable[..., Any],
) -> None:
    import distill as package

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(context_scores, "EDGES", (4, 16))
    texts = [f"x = {n}" + f" + {n}" * (5 * n % 13) for n in range(12)]
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = {
        "name": "lm",
        "model": {
            "task": "causal-lm",
            "teacher": str(chat_dir),
            "student": {"layers": "uniform", "num_layers": 1},
            "losses": ["HintonKL"],
            "completions": {"shown": 0},
        },
        "data": {"files": {"train": "texts.jsonl", "validation": "texts.jsonl"}, "pack_length": 256, "batch_size": 1},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "logging": {"tensorboard": False, "csv": False},
    }
    Path("lm.yaml").write_text(yaml.safe_dump(config))
    done = distill("fit", "-c", "lm.yaml", "--id", "one")
    assert done.code == 0, done.err
    assert "tokens of context" in done.out
    found = json.loads(Path("runs/lm/one/result.json").read_text())["measured"]["by_context"]
    assert list(found) == ["teacher", "student"]
    tokenizer = chat_tokenizer()
    for who, folder in (("teacher", chat_dir), ("student", "runs/lm/one")):
        model, sums = package.load(folder), {"1-4": [0.0, 0], "5-16": [0.0, 0], "17 or more": [0.0, 0]}
        for text in texts:
            inside = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[tokenizer.bos_token_id, *inside, tokenizer.eos_token_id]])
            with torch.no_grad():
                nats = -model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            for read, value in enumerate(nats.tolist(), 1):
                part = sums["1-4" if read <= 4 else "5-16" if read <= 16 else "17 or more"]
                part[0], part[1] = part[0] + value, part[1] + 1
        assert found[who]["context"] == list(sums)
        assert found[who]["predictions"] == [count for _, count in sums.values()]
        assert found[who]["perplexity"] == pytest.approx([math.exp(n / c) for n, c in sums.values()], rel=1e-4)
