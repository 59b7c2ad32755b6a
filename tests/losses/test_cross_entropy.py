import numpy as np
import pytest
import torch

from distill.core.model_spec import ModelSpec
from distill.core.signals import IGNORE, Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy
from distill.losses.cross_entropy import cross_entropy, regression_mse


def batch_of(labels, mask=None):
    return Batch(inputs={"x": torch.zeros(len(labels), 1)}, labels=labels, mask=mask)


def oracle(student, labels, smoothing, weights):
    total = 0.0
    for s, y in zip(student, labels, strict=True):
        if y == IGNORE:
            continue
        logp = s - np.log(np.exp(s).sum())
        for c in range(len(s)):
            target = (1 - smoothing) * (c == y) + smoothing / len(s)
            total -= target * weights[c] * logp[c]
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_value_and_gradient_are_those_of_the_smoothed_weighted_formula(agrees, smoothing):
    labels, weights = torch.tensor([0, 3, IGNORE, 1]), torch.tensor([1.0, 2.0, 0.5, 3.0])
    agrees(
        lambda s: cross_entropy(s, labels, smoothing, weights),
        lambda s: oracle(s, labels.tolist(), smoothing, weights.tolist()),
        torch.randn(4, 4),
    )


def test_float_labels_and_a_head_of_one_output_make_it_the_squared_error(agrees):
    labels = torch.tensor([1.0, -2.0, 0.5])
    agrees(
        lambda s: regression_mse(s, labels),
        lambda s: sum((a - b) ** 2 for a, b in zip(s, labels.tolist(), strict=True)),
        torch.randn(3),
    )
    total, positions = CrossEntropy()(Signals(logits=torch.zeros(3, 1)), Signals(), batch_of(labels))
    assert (total, positions) == (5.25, 3)


def test_masked_and_ignored_positions_add_nothing():
    logits, labels = torch.randn(2, 3, 4), torch.tensor([[0, IGNORE, 1], [2, 3, IGNORE]])
    total, positions = CrossEntropy()(Signals(logits=logits), Signals(), batch_of(labels, labels != IGNORE))
    assert positions == 4
    expected = -sum(logits[i, j].log_softmax(-1)[labels[i, j]] for i, j in ((0, 0), (0, 2), (1, 0), (1, 1)))
    torch.testing.assert_close(total, expected)
    unmasked = CrossEntropy()(Signals(logits=logits), Signals(), batch_of(labels)).total
    torch.testing.assert_close(unmasked, expected)


def test_a_missing_label_outside_the_mask_does_not_reach_a_regression():
    labels, mask = torch.tensor([1.0, float("nan")]), torch.tensor([True, False])
    total, positions = CrossEntropy()(Signals(logits=torch.zeros(2, 1)), Signals(), batch_of(labels, mask))
    assert (total, positions) == (1.0, 1)


def test_it_needs_no_teacher():
    loss = CrossEntropy()
    loss.bind(ModelSpec(torch.nn.Linear(2, 2), "model.student"), None)
    assert not loss.needs.teacher


def test_class_weights_follow_the_device_but_stay_out_of_the_checkpoint():
    loss = CrossEntropy(class_weights=[1.0, 2.0])
    assert not loss.state_dict()
    assert loss.to("meta").class_weights.device.type == "meta"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"class_weights": []}, "class_weights"),
        ({"class_weights": [1.0, -1.0]}, "class_weights"),
        ({"class_weights": [0.0, 0.0]}, "class_weights"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, key):
    with pytest.raises(UserError) as error:
        CrossEntropy(**arguments)
    assert error.value.key == key


@pytest.mark.parametrize(
    ("loss", "width", "labels", "rule"),
    [
        (CrossEntropy(), 3, None, "needs labels"),
        (CrossEntropy(), 3, torch.zeros(2), "head of one output"),
        (CrossEntropy(label_smoothing=0.1), 1, torch.zeros(2), "is for classes"),
        (CrossEntropy(class_weights=[1.0, 1.0]), 3, torch.tensor([0, 1]), "one for each of the 3 classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(loss, width, labels, rule):
    batch = Batch(inputs={"x": torch.zeros(2, 1)}, labels=labels)
    with pytest.raises(UserError, match=rule):
        loss(Signals(logits=torch.randn(2, width)), Signals(), batch)


def test_numbers_that_are_missing_add_nothing_and_have_no_gradient():
    student = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    total = regression_mse(student, torch.tensor([0.0, float("nan"), 1.0]))
    total.backward()
    assert total.item() == 1.0 + 4.0
    assert student.grad.tolist() == [2.0, 0.0, 4.0]
