"""The promises of what is said of models that read the padding beside a text."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import WeightScheme
from distill.core.signals import Request
from distill.data.features import Ragged, Samples
from distill.export.onnx.convert import frozen_layers
from distill.tasks import TextClassification, TokenClassification
from distill.training.padding_probe import meet_padding, padding_error, two_lengths

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
KINDS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "fnet": SIZES,
    "xlnet": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16},
}
TOKENIZER = SimpleNamespace(pad_token_id=0)
SHORT = {"input_ids": np.array([4, 5, 6], np.int32), "id": 0, "epoch": 0, "seed": 0}
LONG = {"input_ids": np.arange(4, 11, dtype=np.int32), "id": 1, "epoch": 0, "seed": 0}
TASK = TextClassification(["no", "yes"])


def model(kind: str, auto: Any = AutoModelForSequenceClassification) -> Any:
    torch.manual_seed(0)
    return auto.from_config(AutoConfig.for_model(kind, vocab_size=20, num_labels=2, pad_token_id=0, **KINDS[kind]))


@pytest.mark.parametrize(("kind", "reads"), [("bert", False), ("fnet", True), ("xlnet", True)])
def test_models_that_read_the_padding_are_told_by_their_logits(kind: str, reads: bool) -> None:
    error = padding_error(TASK, model(kind), SHORT, LONG, TOKENIZER)
    assert error is not None
    assert bool(error) is reads


def test_tags_are_compared_at_the_words_that_there_are() -> None:
    tags = [dict(sample, labels=np.zeros(len(sample["input_ids"]), np.int32)) for sample in (SHORT, LONG)]  # type: ignore[arg-type]
    tagger = model("bert", AutoModelForTokenClassification)
    assert padding_error(TokenClassification(["O", "X"]), tagger, *tags, TOKENIZER) == 0


def test_the_warning_names_the_model(caplog: pytest.LogCaptureFixture) -> None:
    data = data_of(SimpleNamespace(pad_token_id=0))
    with caplog.at_level(logging.WARNING):
        meet_padding([("model.student", model("bert"))], TASK, data)
        assert not caplog.text
        meet_padding([("model.student", model("fnet"))], TASK, data)
    assert "model.student (FNetForSequenceClassification) reads the padding beside a text" in caplog.text
    assert TASK.side == data.tokenizer.padding_side == "right"


@pytest.mark.parametrize(("kinds", "side"), [(["xlnet"], "left"), (["xlnet", "fnet"], "right"), (["bert"], "right")])
def test_padding_is_where_no_model_reads_it_and_the_tokenizer_says_so(kinds: list[str], side: str) -> None:
    """A text in a batch has the logits that transformers gives it alone, and the saved tokenizer makes such batches."""
    task = TextClassification(["no", "yes"])
    data = data_of(SimpleNamespace(pad_token_id=0, padding_side="left"))
    models = [(kind, model(kind).eval()) for kind in kinds]
    meet_padding(models, task, data)
    assert task.side == data.task.side == data.tokenizer.padding_side == side
    if "fnet" in kinds:
        return
    batch = task.collate([SHORT, LONG], data.tokenizer)
    together = task.forward(models[0][1], batch, Request(logits=True)).logits
    alone = models[0][1](input_ids=torch.tensor([[4, 5, 6]])).logits
    torch.testing.assert_close(together[:1], alone)  # type: ignore[index]
    assert batch.inputs["input_ids"][0].tolist() == ([0] * 4 + [4, 5, 6] if side == "left" else [4, 5, 6] + [0] * 4)


def test_rounding_is_not_taken_for_reading_the_padding(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A last digit that tips a rounded input over makes a step of 2 bits; the same model in float has none."""
    monkeypatch.setattr(
        "distill.training.padding_probe.padding_error", lambda _t, one, *_: 0.5 if frozen_layers(one) else 0.0
    )
    task, bert = TextClassification(["no", "yes"]), model("bert")
    quantize(bert, weights=WeightScheme(bits=2))
    meet_padding([("model.student", bert)], task, data_of(SimpleNamespace(pad_token_id=0)))
    assert task.side == "right"
    assert not caplog.text


def data_of(tokenizer: Any) -> Any:
    ids = Ragged(np.concatenate([SHORT["input_ids"], LONG["input_ids"]]), np.array([0, 3, 10]))  # type: ignore[list-item]
    return SimpleNamespace(
        tokenized={"train": Samples({"input_ids": ids}, 0)}, tokenizer=tokenizer, task=SimpleNamespace()
    )


def test_a_pair_of_samples_is_of_two_lengths() -> None:
    assert two_lengths(None) is None
    lengths = [5, 2, 9, 2, 4]
    values = Ragged(np.arange(sum(lengths), dtype=np.int32), np.cumsum([0, *lengths]))
    pair = two_lengths(Samples({"input_ids": values}, 0))
    assert pair is not None
    assert [len(sample["input_ids"]) for sample in pair] == [2, 4]
    assert two_lengths(Samples({"input_ids": Ragged(values.values[:4], np.array([0, 2, 4]))}, 0)) is None
