"""What is trained: a tiny model and its data, made on the spot, and the configurations over them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

__all__ = ["SWEEP", "in_float", "recipe"]

SWEEP = {
    "name": "killed",
    "method": "grid",
    "metric": {"name": "accuracy", "goal": "maximize"},
    "parameters": {"model.losses.0.temperature": {"values": [1.0, 3.0]}},
}
"""A sweep of two trials."""

WORDS = ["a", "good", "bad", "film", "story", "with", "and", "without", "any", "heart", "is", "dull", "never", "very"]


def recipe(folder: Path) -> dict[str, Any]:
    """Models and data are written to ``folder``; the configuration of 24 steps over them."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    vocabulary = {token: i for i, token in enumerate([*special.values(), *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=32, **special)  # type: ignore[no-untyped-call]
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", **sizes, vocab_size=len(vocabulary), max_position_embeddings=32)
    config.id2label, config.label2id = {0: "negative", 1: "positive"}, {"negative": 0, "positive": 1}
    teacher = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    teacher.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    draw = random.Random(0)
    (folder / "data").mkdir()
    for split, rows in (("train", 96), ("validation", 32)):
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(rows)]
        lines = [json.dumps({"text": t, "label": "positive" if "good" in t else "negative"}) + "\n" for t in texts]
        (folder / "data" / f"{split}.jsonl").write_text("".join(lines))
    pruning = {"final_sparsity": 0.8, "begin": 0.0, "end": 0.7, "every_n_steps": 1}
    quantization = {"observe": 0.2, "begin": 0.4, "freeze_observers": 0.8}
    return {
        "model": {
            "task": "text-classification",
            "teacher": str(folder / "teacher"),
            "student": {"layers": "uniform", "num_layers": 1},
            "losses": ["HintonKL", "CrossEntropy", {"class_path": "FitNetHint", "init_args": {"regressor": "always"}}],
            "optimizer": {"lr": 1e-3},
        },
        "data": {"path": str(folder / "data"), "batch_size": 8, "max_length": 32},
        "trainer": {
            "max_epochs": 2,
            "val_check_interval": 5,
            "log_every_n_steps": 1,
            "gradient_clip_val": 1.0,
            "accelerator": "cpu",
            "enable_progress_bar": False,
        },
        "callbacks": [
            {"class_path": "GradualMagnitudePruning", "init_args": pruning},
            {"class_path": "QuantizationAwareTraining", "init_args": quantization},
            {"class_path": "ExponentialMovingAverage", "init_args": {"decay": 0.9}},
            {"class_path": "ResumeCheckpoint", "init_args": {"every_n_steps": 2}},
        ],
    }


def in_float(config: dict[str, Any]) -> dict[str, Any]:
    """The same run, half as long and without quantization: what quantizes its student, or scans it, takes."""
    callbacks = [spec for spec in config["callbacks"] if spec["class_path"] != "QuantizationAwareTraining"]
    return config | {"trainer": config["trainer"] | {"max_epochs": 1}, "callbacks": callbacks}
