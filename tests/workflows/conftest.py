"""A run that has saved and exported its student, for tests of what is shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer, BertConfig

from distill.cli.main import main


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, recipe: dict[str, Any], text_folder: str) -> tuple[Path, Path]:
    """The folder of a run that learned to tell its classes apart, with exports, and its validation data."""
    folder = tmp_path_factory.mktemp("predict")
    trainer = recipe["trainer"] | {"max_steps": 40, "limit_val_batches": 1.0}
    quantization = {"class_path": "QuantizationAwareTraining", "init_args": {"activations": None}}
    config = {**recipe, "trainer": trainer, "callbacks": [quantization], "runs": str(folder)}
    config["model"] = recipe["model"] | {"optimizer": {"lr": 1e-2}, "losses": ["CrossEntropy"], "teacher": None}
    student = {"model_type": "bert", "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tokenizer = recipe["model"]["teacher"]["path"]
    config["model"]["student"] = {"config": {**student, "hidden_size": 16}, "tokenizer": tokenizer}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "-c", str(folder / "run.yaml"), "--id", "one"]) == 0
    run = folder / "run" / "one"
    for to in ("hf", "onnx-int8"):
        assert main(["export", str(run), "--to", to]) == 0
    return run, Path(text_folder, "validation.jsonl")


@pytest.fixture
def saved(tmp_path: Path, tiny_tokenizer_dir: str) -> Callable[..., Path]:
    """The folder of a small model with random weights, large enough that its answers differ."""

    def save(auto_model: Any, **settings: Any) -> Path:
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
        sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 1.0}
        config = settings.pop("config", None) or BertConfig(**sizes, **settings)
        auto_model.from_config(config).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save
