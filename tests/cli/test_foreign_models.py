"""A model folder from a stranger is one message at once, or a model; never a traceback, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# What is changed in config.json of a teacher, and what the message says; None removes an entry.
CASES: dict[str, tuple[Any, list[str]]] = {
    "text for a size": ({"hidden_size": "16"}, ["hidden_size must be a number and is the text '16'"]),
    "a million layers": ({"num_hidden_layers": 1_000_000}, ["num_hidden_layers is 1,000,000", "up to 1,000"]),
    "a billion classes": (
        {"num_labels": 10**9, "id2label": None, "label2id": None},
        ["num_labels is 1,000,000,000", "up to 100,000"],
    ),
    "more layers than weights": ({"num_hidden_layers": 6}, ["lack"]),
    "a width of 100,000": ({"hidden_size": 100_000}, ["describes", "and the weights are"]),
    "a vocabulary of billions": ({"vocab_size": 4_000_000_000}, ["vocab_size is 4,000,000,000"]),
    "negative epsilon": ({"layer_norm_eps": -1e-12}, ["in its config.json layer_norm_eps is -1e-12, and must be"]),
    "no floats": ({"dtype": 32}, ["in its config.json dtype is 32, and must be a type of floating-point numbers"]),
    "no layers": ({"num_hidden_layers": 0}, ["num_hidden_layers must be at least 1 and is 0"]),
    "negative size": ({"hidden_size": -16}, ["hidden_size must be at least 1 and is -16"]),
    "not a number": ({"hidden_size": float("nan")}, ["hidden_size must be an integer and is nan"]),
    "infinity": ({"intermediate_size": float("inf")}, ["intermediate_size must be at least 1 and is inf"]),
    "a fraction": ({"num_attention_heads": 1.5}, ["num_attention_heads must be an integer and is 1.5"]),
    "true": ({"vocab_size": True}, ["vocab_size must be an integer and is True"]),
    "heads that do not divide": (
        {"num_attention_heads": 3},
        ["num_attention_heads is 3, which does not divide hidden_size"],
    ),
    "half the width": ({"hidden_size": 16}, ["do not fit the model's config.json"]),
    "a list for an activation": ({"hidden_act": ["gelu"]}, ["cannot read its config.json", "'hidden_act'"]),
    "unknown activation": ({"hidden_act": "gulp"}, ["hidden_act is 'gulp', which is no activation", "'gelu'"]),
    "no model type": ({"model_type": None}, ["has no model_type"]),
    "unknown model type": ({"model_type": "bret"}, ["model_type is bret", "did you mean 'bert'"]),
    "model type that is a list": ({"model_type": ["bert"]}, ["model_type is ['bert']"]),
    "encoder-decoder": ({"model_type": "t5"}, ["T5"]),
    "vision": ({"model_type": "vit"}, ["ViT", "cannot do this task"]),
    "code of its own": (
        {"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}},
        ["auto_map", "no code of a model is run here"],
    ),
    "a list": ([1, 2], ["its config.json is a list, not a mapping"]),
    "no JSON": ("{", ["its config.json is no JSON"]),
    "nested 100,000 deep": ("[" * 100_000, ["its config.json is no JSON (nested too deeply)"]),
    "nested 100 deep": ({"more": json.loads("[" * 100 + "]" * 100)}, ["nested more than 32 deep"]),
}


@pytest.mark.parametrize(("change", "said"), CASES.values(), ids=CASES)
def test_a_strange_configuration_of_a_teacher_is_one_message(
    change: Any,
    said: list[str],
    base: dict[str, Any],
    distill: Callable[..., Any],
    teacher_dir: str,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(teacher_dir, folder)
    file = folder / "config.json"
    if isinstance(change, dict):
        entries = json.loads(file.read_text()) | change
        change = json.dumps({name: value for name, value in entries.items() if value is not None})
    file.write_text(change if isinstance(change, str) else json.dumps(change))
    refused(distill("fit", "-c", "base.yaml", "--model.teacher", "./m"), "model.teacher", said, tmp_path)


def refused(result: Any, key: str, said: list[str], folder: Path) -> None:
    assert result.code == 2, result
    assert f"distill: error: {key}" in result.err
    assert "Traceback" not in result.err
    for words in said:
        assert words in result.err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("layer_norm_eps: -1.0", "layer_norm_eps is -1.0, and must"),
        ("hidden_dropout_prob: 2.0", "is 2.0, and must lie"),
    ],
)
def test_an_entry_of_a_students_configuration_that_cannot_be_is_refused(
    entry: str, said: str, base: dict[str, Any], distill: Callable[..., Any], tmp_path: Path
) -> None:
    sizes = "{model_type: bert, hidden_size: 16, num_attention_heads: 2, num_hidden_layers: 1, intermediate_size: 16"
    config = f"{{config: {sizes}, {entry}}}, layers: null, num_layers: null}}"
    result = distill("fit", "-c", "base.yaml", "--model.student", config)
    refused(result, "model.student.config", [said], tmp_path)


def test_a_student_that_would_not_fit_into_memory_is_refused_at_once(
    base: dict[str, Any], distill: Callable[..., Any], tmp_path: Path
) -> None:
    sizes = "{model_type: bert, hidden_size: 98304, num_attention_heads: 8, num_hidden_layers: 24}"
    result = distill(
        "fit", "-c", "base.yaml", "--model.student", f"{{config: {sizes}, layers: null, num_layers: null}}"
    )
    refused(result, "model.student.config", ["parameters take", "GB, and this machine has"], tmp_path)
