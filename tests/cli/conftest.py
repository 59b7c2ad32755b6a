"""A small run that works, for tests that change one thing about it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from distill.cli import main

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
}


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: str) -> str:
    """A classifier of two classes, four layers deep, with the tokenizer beside it."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    names = ["negative", "positive"]
    config = AutoConfig.for_model(
        **{**BERT, "num_hidden_layers": 4, "hidden_size": 32},
        vocab_size=len(tokenizer),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    folder = tmp_path_factory.mktemp("teacher")
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def recipe(teacher_dir: str, text_folder: str) -> dict[str, Any]:
    """A configuration, to be copied before it is changed: two steps of Hinton's distillation."""
    return {
        "model": {
            "task": "text-classification",
            "teacher": {"path": teacher_dir},
            "student": {"layers": "uniform", "num_layers": 2},
            "losses": [
                {"class_path": "HintonKL", "init_args": {"temperature": 2.0, "weight": 0.5}},
                {"class_path": "CrossEntropy"},
            ],
            "optimizer": {"lr": 1e-3},
        },
        "data": {"path": text_folder, "batch_size": 8},
        "trainer": {"max_steps": 2, "limit_val_batches": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "logging": {"tensorboard": False},
    }


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]) -> dict[str, Any]:
    """The configuration of ``base.yaml`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    config = copy.deepcopy(recipe)
    Path("base.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return config


@pytest.fixture
def distill(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command in this process."""

    def run(*argv: str) -> Result:
        code = main(list(argv))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run
