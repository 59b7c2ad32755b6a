import torch

from distill.core.signals import Batch, Signals
from distill.losses import LogitMSE
from distill.losses.logit_mse import logit_mse


def test_value_and_gradient_are_those_of_the_mean_square_over_classes(agrees):
    teacher = torch.randn(3, 4).double()

    def oracle(s):
        return sum(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / 4 for x, y in zip(s, teacher.numpy()))  # noqa: B905

    agrees(lambda s: logit_mse(s, teacher), oracle, torch.randn(3, 4))


def test_it_distils_a_regression_head():
    batch = Batch(inputs={"x": torch.zeros(2, 1)}, labels=torch.zeros(2))
    total, positions = LogitMSE()(
        Signals(logits=torch.tensor([[1.0], [2.0]])), Signals(logits=torch.tensor([[0.0], [4.0]])), batch
    )
    assert (total, positions) == (5.0, 2)


def test_of_a_padded_vocabulary_the_tokens_that_both_have_are_compared():
    student, teacher = torch.randn(3, 5), torch.randn(3, 7)
    batch = Batch({"input": student}, labels=torch.zeros(3, dtype=torch.long))
    for one, other, name in ((student, teacher, "teacher"), (teacher, student, "student")):
        loss = LogitMSE()(Signals(logits=one), Signals(logits=other), batch)
        expected = (student - teacher[:, :5]).square().mean(-1).sum()
        torch.testing.assert_close(loss.total, expected, msg=f"the {name} is padded")
