"""Each thing that transformers keeps to itself does what we count on."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
)

from distill.core.internals.transformers import attention_in_use, class_made_by, saved_once

BERT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 11}


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_the_attention_in_use_is_known_and_changes(kind: str) -> None:
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **BERT))
    model.set_attn_implementation(kind)
    assert attention_in_use(model.config) == kind
    assert attention_in_use(nn.Linear(1, 1)) is None


def test_an_auto_class_tells_what_it_makes() -> None:
    config = AutoConfig.for_model("bert", **BERT)
    assert class_made_by(AutoModelForSequenceClassification, config) is BertForSequenceClassification
    assert class_made_by(AutoModelForCausalLM, AutoConfig.for_model("vit")) is None
    assert class_made_by(AutoModelForCausalLM, None) is None


def test_parameters_of_layers_that_are_shared_are_saved_once(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **BERT))
    layers = model.bert.encoder.layer
    layers[1].output.dense.weight = layers[0].output.dense.weight
    saved_once(layers, {r"1\.": r"0\."})
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if "output.dense.weight" in name and "attention" not in name]  # noqa: SIM118
    assert names == ["bert.encoder.layer.0.output.dense.weight"]
