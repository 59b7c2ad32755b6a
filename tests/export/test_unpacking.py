"""Packed documents as rows of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from distill.core.forward import forward
from distill.core.signals import IGNORE, Batch, Request
from distill.export.onnx.graph import feed
from distill.export.unpacking import unpack
from distill.export.verify import compare, torch_logits
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
    parts, ids = unpack(batch), batch.inputs["input_ids"]
    rows = [row[real] for part in parts for row, real in zip(part.inputs["input_ids"], part.tokens, strict=True)]  # type: ignore[arg-type]
    documents = [ids[0, :3], ids[0, 3:5], ids[0, 5:], ids[1, :4]]
    assert [row.tolist() for row in rows] == [document.tolist() for document in documents]
    assert sum(int(part.extras["bytes"].sum()) for part in parts) == batch.extras["bytes"].sum()
    labels = [int((part.labels != IGNORE).sum()) for part in parts]  # type: ignore[union-attr]
    assert sum(labels) == int((batch.labels != IGNORE).sum()) == 11  # type: ignore[union-attr]
    assert unpack(parts[0]) == [parts[0]]


def test_what_pads_a_document_is_no_prediction_where_its_row_was_full() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2]])  # of 2 and 3 tokens, which are one batch
    ids = torch.arange(1, 9)[None]
    full = Batch({"input_ids": ids, "position_ids": positions}, labels=ids + 1, extras={"bytes": torch.ones_like(ids)})
    parts = unpack(full)
    assert int(full.count) == sum(int(part.count) for part in parts) == 8
    torch.manual_seed(2)
    table = torch.randn(20, 20)
    found = compare(
        CausalLM(), [full], lambda inputs: table[inputs["input_ids"]], lambda inputs: table[inputs["input_ids"]]
    )
    assert (found.predictions, found.samples) == (8, 1)


def test_one_long_document_beside_many_short_ones_needs_no_more_than_twice_the_room() -> None:
    lengths = [64, *[3] * 20, 4]
    positions = torch.cat([torch.arange(n) for n in lengths]).view(2, 64)
    parts = unpack(Batch({"input_ids": torch.ones(2, 64, dtype=torch.long), "position_ids": positions}))
    assert sum(int(part.tokens.sum()) for part in parts) == 128  # type: ignore[union-attr]
    assert sum(part.inputs["input_ids"].numel() for part in parts) <= 2 * 128


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
