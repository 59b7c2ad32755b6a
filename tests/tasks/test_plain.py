from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from distill.core.signals import IGNORE, Batch, Request, Signals
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy
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


def read(logits, labels):
    task = Plain()
    batch = task.batch((logits, labels))
    made = task.forward(nn.Identity(), batch, Request(logits=True))
    metrics = task.metrics()
    task.update(metrics, made.logits, batch)
    return float(metrics["accuracy"].compute())


LOGITS = torch.tensor([[2.0, 1, 0], [0, 1, 2], [1, 2, 0], [0, 0, 3]])


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
def test_classes_are_integers_of_any_width(dtype):
    labels = torch.tensor([0, 2, 1, 1], dtype=dtype)
    assert read(LOGITS, labels) == 0.75
    assert Plain().batch((LOGITS, labels)).labels.dtype == torch.int64
    assert Plain().batch((LOGITS, labels > 1)).labels.tolist() == [0, 1, 0, 0]


def test_minus_1_is_no_label_as_minus_100_is_none():
    assert read(LOGITS, torch.tensor([0, -1, IGNORE, 1])) == 0.5


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([1, 2, 3, 1]), "a label is 3, and 3 outputs are for the classes 0 to 2"),
        (torch.tensor([1, 2, -2, 1]), "a label is -2"),
        (torch.tensor([[0], [1], [2], [0]]), r"labels are \[4, 1\] for logits of \[4, 3\], and must be \[4\]"),
        (torch.eye(3).long()[[0, 1, 2, 0]], r"labels are \[4, 3\] .* take labels\.argmax"),
        (torch.tensor([0.5, 1, 2, 0]), "accuracy is of classes, and the labels are numbers"),
    ],
)
def test_labels_that_are_not_one_class_for_each_row_of_logits_are_refused(labels, said):
    with pytest.raises(UserError, match=said):
        read(LOGITS, labels)


def test_a_model_that_gives_its_loss_alone_is_refused():
    with pytest.raises(UserError, match="a single number, and must give logits"):
        read(torch.tensor(0.3), torch.tensor([0, 1]))


def test_images_whose_classes_do_not_come_last_are_refused():
    with pytest.raises(UserError, match=r"must be \[2, 3, 4\].*classes come last"):
        read(torch.randn(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.long))


def test_outputs_that_are_probabilities_are_warned_of_once_a_model(caplog):
    task, batch, model = Plain(), Plain().batch((LOGITS, torch.zeros(4, dtype=torch.long))), nn.Softmax(-1)
    for _ in range(2):
        task.forward(model, batch, Request(logits=True))
    task.forward(nn.LogSoftmax(-1), batch, Request(logits=True))
    assert [message.split()[0] for message in caplog.messages] == ["Softmax"]


@pytest.mark.parametrize("ids", [("a.png", "b.png", "c.png", "d.png"), torch.rand(4), torch.arange(8).view(4, 2)])
def test_what_is_no_number_of_a_sample_is_no_id(ids):
    with pytest.raises(UserError, match="is an integer for each sample"):
        Plain().batch((LOGITS, torch.zeros(4, dtype=torch.long), ids))
    assert Plain().batch((LOGITS, torch.zeros(4, dtype=torch.long), torch.arange(4)[:, None])).ids == [0, 1, 2, 3]


@pytest.mark.parametrize("whole", [True, False])
def test_a_row_of_probabilities_is_one_label_whatever_the_adaptor(whole):
    logits, rows = torch.randn(4, 3).double(), torch.rand(4, 3).double().softmax(-1)
    rows[1] = torch.nan
    made = Batch({"input": logits}, labels=rows)
    batch = (
        Plain().batch(made)
        if whole
        else Plain(adaptor=lambda raw: Batch({"input": raw[0]}, labels=raw[1])).batch((logits, rows))
    )
    assert batch.mask.tolist() == [True, False, True, True]
    assert int(batch.count) == 3
    found = CrossEntropy()(Signals(logits), Signals(), batch)
    known = [0, 2, 3]
    expected = nn.functional.cross_entropy(logits[known], rows[known])  # the mean over rows
    torch.testing.assert_close(found.total / found.positions, expected)


def test_a_mask_that_is_given_stays_and_numbers_of_a_sample_are_left_alone():
    rows, mask = torch.full((2, 3), 1 / 3), torch.tensor([True, False])
    assert Plain().batch(Batch({"input": rows}, labels=rows, mask=mask)).mask is mask
    assert Plain().batch(Batch({"input": rows}, labels=rows[:, 0])).mask is None
