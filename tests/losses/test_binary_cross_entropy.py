import math

import pytest
import torch

from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import BinaryCrossEntropy
from distill.losses.binary_cross_entropy import binary_cross_entropy

LABELS = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0.25, 1, 0, 0.5]], dtype=torch.float64)


def oracle(student, labels):
    total = 0.0
    for s_row, y_row in zip(student, labels, strict=True):
        if any(math.isnan(y) for y in y_row):
            continue
        terms = [y * math.log1p(math.exp(-s)) + (1 - y) * math.log1p(math.exp(s)) for s, y in zip(s_row, y_row)]  # noqa: B905
        total += sum(terms) / len(terms)
    return total


def test_value_and_gradient_are_those_of_the_formula(agrees):
    agrees(
        lambda s: binary_cross_entropy(s, LABELS),
        lambda s: oracle(s.tolist(), LABELS.tolist()),
        torch.randn(3, 4),
    )


def test_the_mean_over_classes_and_samples_is_torchs():
    student = torch.randn(3, 4, dtype=torch.float64)
    expected = torch.nn.BCEWithLogitsLoss()(student, LABELS)
    torch.testing.assert_close(binary_cross_entropy(student, LABELS) / 3, expected)


def test_samples_without_a_label_or_outside_the_mask_add_nothing_and_are_counted_where_they_are_distilled():
    labels = LABELS.clone()
    labels[1] = math.nan
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    batch = Batch(inputs={"input": torch.zeros(3)}, labels=labels, mask=torch.tensor([True, True, False]))
    total, positions = BinaryCrossEntropy()(Signals(student), Signals(), batch)
    total.backward()
    assert positions == 2
    assert total.item() == pytest.approx(oracle(student[:1].tolist(), labels[:1].tolist()))
    assert student.grad.isfinite().all()
    assert not student.grad[1:].any()


def test_without_labels_the_data_is_at_fault():
    with pytest.raises(UserError, match="BinaryCrossEntropy needs labels"):
        BinaryCrossEntropy()(Signals(torch.zeros(1, 2)), Signals(), Batch(inputs={"input": torch.zeros(1)}))


def test_large_logits_stay_finite():
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = binary_cross_entropy(student, torch.tensor([[0.0, 1.0]]))
    value.backward()
    assert value == 1e4
    assert student.grad.tolist() == [[0.5, -0.5]]


def test_one_batch_has_the_sum_and_count_of_its_parts():
    student, loss = torch.randn(3, 4, dtype=torch.float64), BinaryCrossEntropy()

    def of(rows):
        batch = Batch(inputs={"input": student[rows]}, labels=LABELS[rows], mask=torch.ones(3, dtype=torch.bool)[rows])
        return loss(Signals(student[rows]), Signals(), batch)

    whole, parts = of(slice(3)), [of(slice(1)), of(slice(1, 3))]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
    assert whole.positions == parts[0].positions + parts[1].positions == 3
