import math

import numpy as np
import pytest
import torch

from distill.core.schedules import Linear
from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import HintonKL
from distill.losses import blockwise as rows
from distill.losses.hinton import hinton_kl


def softmax(z):
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def oracle(student, teacher, t):
    total = 0.0
    for s_row, t_row in zip(student, teacher, strict=True):
        q, p = softmax([v / t for v in s_row]), softmax([v / t for v in t_row])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return t * t * total


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient_are_those_of_forward_kl_times_t_squared(agrees, temperature):
    teacher = torch.randn(3, 5, dtype=torch.float64)
    agrees(
        lambda s: hinton_kl(s, teacher, temperature),
        lambda s: oracle(s.tolist(), teacher.tolist(), temperature),
        torch.randn(3, 5),
    )


def test_gradient_is_t_times_the_difference_of_the_probabilities():
    student, teacher = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.randn(4, 6).double()
    hinton_kl(student, teacher, 3.0).backward()
    q, p = (np.array([softmax([v / 3 for v in row]) for row in x.tolist()]) for x in (student, teacher))
    np.testing.assert_allclose(student.grad.numpy(), 3 * (q - p), atol=1e-12)


def test_blocks_of_rows_give_the_value_and_gradient_of_the_whole(monkeypatch):
    teacher = torch.randn(7, 5)
    whole, blocks = (torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    (0.3 * hinton_kl(whole, teacher, 2.0)).backward()
    monkeypatch.setattr(rows, "_CPU_BLOCK", 10)
    value = hinton_kl(blocks, teacher, 2.0)
    (0.3 * value).backward()
    torch.testing.assert_close(blocks.grad, whole.grad)
    torch.testing.assert_close(value, hinton_kl(blocks.detach(), teacher, 2.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loss_scale_reaches_half_precision_gradients_before_they_are_rounded(monkeypatch, dtype):
    monkeypatch.setattr(rows, "_CPU_BLOCK", 4)
    student = (torch.randn(3, 4) * 1e-4).to(dtype).requires_grad_()
    teacher = torch.zeros(3, 4, dtype=dtype)
    scale = 2.0**14
    (hinton_kl(student, teacher, 1.0) * scale).backward()
    exact = student.detach().float().requires_grad_()
    (hinton_kl(exact, teacher.float(), 1.0) * scale).backward()
    torch.testing.assert_close(student.grad, exact.grad.to(dtype), rtol=0, atol=0)


def test_softmax_is_over_the_classes_of_token_predictions():
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    batch = Batch(inputs={"x": torch.zeros(2, 3)}, labels=torch.zeros(2, 3, dtype=torch.long))
    total, positions = HintonKL(2.0)(Signals(logits=student), Signals(logits=teacher), batch)
    assert positions == 6
    np.testing.assert_allclose(total, oracle(student.view(6, 4).tolist(), teacher.view(6, 4).tolist(), 2.0), rtol=1e-5)


def test_a_padded_vocabulary_is_compared_over_the_shared_tokens():
    student, teacher = torch.randn(2, 4), torch.randn(2, 6)
    batch = Batch(inputs={"x": torch.zeros(2, 1)})
    total = HintonKL(1.0)(Signals(logits=student), Signals(logits=teacher), batch).total
    torch.testing.assert_close(total, hinton_kl(student, teacher[:, :4]))
    other_way = HintonKL(1.0)(Signals(logits=teacher), Signals(logits=student), batch).total
    torch.testing.assert_close(other_way, hinton_kl(teacher[:, :4], student))


def test_temperature_follows_its_schedule():
    student, teacher = Signals(logits=torch.randn(2, 4)), Signals(logits=torch.randn(2, 4))
    loss = HintonKL(Linear(4.0, 2.0))
    batch = Batch(inputs={"x": torch.zeros(2, 1)}, step=5, total_steps=10)
    torch.testing.assert_close(loss(student, teacher, batch).total, hinton_kl(student.logits, teacher.logits, 3.0))


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), Linear(0.0, 2.0)])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(UserError, match=r"temperature = .*greater than 0"):
        HintonKL(temperature)


def test_a_head_of_one_output_is_refused_because_its_divergence_is_always_zero():
    signals = Signals(logits=torch.randn(2, 1))
    with pytest.raises(UserError, match="LogitMSE"):
        HintonKL()(signals, signals, Batch(inputs={"x": torch.zeros(2, 1)}))
