"""Packed documents as rows of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from distill.export.graph import feed
from distill.export.packed import apart
from distill.export.verify import compare, torch_logits
from distill.models import forward
from distill.signals import IGNORE, Batch, Request
from distill.tasks import CausalLM


def packed() -> Batch:
    """Two rows: documents of 3, 2 and 2 tokens; of 4, and two of padding."""
    torch.manual_seed(0)
    ids = torch.randint(1, 20, (2, 7))
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 0, 0, 0]])
    tokens = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    labels = torch.randint(1, 20, (2, 7)).masked_fill(~tokens, IGNORE)
    covered = torch.randint(1, 5, (2, 7)) * tokens
    inputs = {"input_ids": ids, "position_ids": positions}
    return Batch(inputs, labels=labels, mask=tokens, tokens=tokens, extras={"bytes": covered})


def test_every_document_gets_a_row() -> None:
    batch = packed()
    found = apart(batch)
    ids = batch.inputs["input_ids"]
    assert found.tokens is not None
    assert found.tokens.sum(1).tolist() == [3, 2, 2, 4]
    for row, document in enumerate((ids[0, :3], ids[0, 3:5], ids[0, 5:], ids[1, :4])):
        assert found.inputs["input_ids"][row, : len(document)].tolist() == document.tolist()
    assert found.extras["bytes"].sum() == batch.extras["bytes"].sum()
    assert int((found.labels != IGNORE).sum()) == int((batch.labels != IGNORE).sum()) == 11  # type: ignore[union-attr]
    assert apart(found) is found


def test_a_packed_language_model_is_verified_with_the_score_of_its_validation() -> None:
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model: nn.Module = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", vocab_size=20, initializer_range=0.5, **sizes)
    ).eval()
    task, batch = CausalLM(), packed()
    metrics = task.metrics()
    with torch.no_grad():
        logits = forward(model, batch.inputs, Request(logits=True)).logits
    assert logits is not None
    task.update(metrics, logits, batch)
    found = compare(task, [batch], torch_logits(model), torch_logits(model))
    assert found.predictions == 11
    assert found.trained == pytest.approx(float(metrics[task.monitor].compute()), rel=1e-5)
    with torch.no_grad():  # joined to one text they are another task
        joined = forward(model, feed(batch), Request(logits=True)).logits
    other = task.metrics()
    task.update(other, joined, batch)  # type: ignore[arg-type]
    assert abs(float(other[task.monitor].compute()) - found.trained) > 0.01
