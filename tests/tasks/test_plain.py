from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from distill.errors import UserError
from distill.signals import IGNORE, Batch, Request
from distill.tasks import Plain


def test_a_loaders_pairs_are_a_batch():
    x, y, ids = torch.randn(6, 3), torch.arange(6) % 2, torch.arange(6)
    task = Plain()
    batch = task.batch(next(iter(DataLoader(TensorDataset(x, y, ids), batch_size=6))))
    assert batch.inputs["input"].equal(x)
    assert batch.labels.equal(y)
    assert batch.ids == list(range(6))
    assert batch.mask is None
    assert task.batch((x, y)).ids is None


def test_labels_to_ignore_do_not_count():
    task = Plain()
    batch = task.batch((torch.zeros(3, 2), torch.tensor([0, IGNORE, 1])))
    assert batch.mask.tolist() == [True, False, True]
    metrics = task.metrics()
    task.update(metrics, torch.tensor([[1.0, 0], [1, 0], [1, 0]]), batch)
    assert metrics["accuracy"].compute() == 0.5


def test_plain_modules_are_read_through_their_adaptor():
    task = Plain(adaptor=lambda raw: Batch(inputs={"a": raw["a"], "b": raw["b"]}, labels=raw["y"]))
    raw = {"a": torch.randn(4, 3), "b": torch.randn(4, 2), "y": torch.zeros(4, dtype=torch.long)}
    logits = task.forward(nn.Bilinear(3, 2, 5), task.batch(raw), Request(logits=True)).logits
    assert logits.shape == (4, 5)


def test_what_is_no_pair_is_refused():
    with pytest.raises(UserError, match=r"must yield \(x, y\) or \(x, y, ids\), and this one yields dict"):
        Plain().batch({"x": 1})
