"""The example of docs/compression.md, 80 % pruned and quantized, run short on few rows: it still reads its input."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

FILLERS = ["with", "and", "without", "any", "it", "is"]
KEYS = {
    "two": {"negative": ["bad", "dull"], "positive": ["good", "bright"]},
    "six": {name: [name] for name in ("bad", "dull", "good", "bright", "film", "story")},
}
"""Data set -> class -> words of which one stands in its sentences."""


def rows(keys: dict[str, list[str]], count: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        label = draw.choice(list(keys))
        words = [draw.choice(keys[label]), *draw.choices(FILLERS, k=draw.randint(2, 6))]
        draw.shuffle(words)
        made.append({"sentence": " ".join(words), "label": label})
    return made


def taught(folder: Path, tokenizer_folder: str, train: list[dict[str, str]], names: list[str]) -> None:
    """A teacher whose pooler is of a smaller scale than its layers, as that of a pretrained MiniLM is."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    model = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    model.bert.pooler.dense.weight.data.mul_(0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for step in range(90):
        batch = [train[(32 * step + i) % len(train)] for i in range(32)]
        inputs = tokenizer([row["sentence"] for row in batch], padding=True, return_tensors="pt")
        labels = torch.tensor([names.index(row["label"]) for row in batch])
        cross_entropy(model(**inputs).logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["two", pytest.param("six", marks=pytest.mark.slow)])
def test_the_example_ends_above_a_constant_guess_when_it_is_run_short(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer_dir: str, distill: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs/compression.md").read_text(encoding="utf-8")
    example = re.search(r'title="small\.yaml"\n(.*?)```', text, re.DOTALL)
    assert example
    Path("small.yaml").write_text(example[1])
    keys = KEYS[data]
    splits = {"train": rows(keys, 3000, 0), "validation": rows(keys, 300, 1)}
    Path("data").mkdir()
    for split, made in splits.items():
        Path(f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    taught(Path("teacher"), tiny_tokenizer_dir, splits["train"], sorted(keys))
    settings = {
        "model.teacher": "./teacher",
        "model.student.num_layers": 2,
        "model.optimizer.lr": 2e-3,
        "data.path": "./data",
        "data.train_samples": "null",
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "logging.tensorboard": "false",
    }
    given = itertools.chain.from_iterable((f"--{key}", str(value)) for key, value in settings.items())
    code, _, err = distill("fit", "-c", "sst2/hinton", "-c", "small.yaml", "--id", "one", *given)
    assert code == 0, err
    [folder] = Path("runs").glob("*/one")
    result = json.loads((folder / "result.json").read_text())
    labels = [row["label"] for row in splits["validation"]]
    guess = max(labels.count(name) for name in keys) / len(labels)
    error = (guess * (1 - guess) / len(labels)) ** 0.5
    assert result["steps"] == 94
    assert result["scores"]["student"]["accuracy"] > guess + 5 * error
    record = json.loads((folder / "student/compression.json").read_text())
    [pruned] = [step for step in record["steps"] if step["kind"] == "sparsity"]
    assert pruned["actual"] == pytest.approx(0.8, abs=1e-3)
    assert all(of["zeros"] <= 0.96 * of["weights"] for of in pruned["layers"].values())
