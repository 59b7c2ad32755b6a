"""What counts as the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distill.core.signals import IGNORE, Batch
from distill.core.utils.errors import UserError
from distill.export.verify import Comparison, check_float, check_integer, compare
from distill.tasks import CausalLM, TextClassification

SAME = Comparison(
    predictions=1000,
    relative_error=0.0,
    mean_error=0.0,
    agreement=1.0,
    metric="accuracy",
    trained=0.9,
    exported=0.9,
)


def batch(rows: int, labels: Sequence[int]) -> Batch:
    return Batch(inputs={"input_ids": torch.zeros(rows, 2, dtype=torch.long)}, labels=torch.tensor(labels))


def turns(*logits: list[list[float]]):  # type: ignore[no-untyped-def]
    """Gives one answer after the other."""
    answers = iter(logits)
    return lambda inputs: torch.tensor(next(answers))


def test_the_metrics_are_over_all_batches(task: TextClassification) -> None:
    found = compare(
        task,
        [batch(2, [0, 1]), batch(2, [1, 1])],
        turns([[4.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]),
        turns([[4.0, 0.5], [0.0, 2.0]], [[0.0, 1.0], [0.0, 1.0]]),
    )
    # Of 4 0 0 2 1 0 0 1, whose mean is 1, the squares around it add up to 14; the differences are 0.5, 1 and 1.
    assert found == Comparison(
        predictions=4,
        relative_error=0.25,
        mean_error=pytest.approx((2.25 / 14) ** 0.5),
        agreement=0.75,
        metric="accuracy",
        trained=0.75,
        exported=1.0,
        differ=1,
        samples=4,
    )


def test_it_is_reported_where_all_decisions_are_one_class(task: TextClassification) -> None:
    same = [[4.0, 0.0], [3.0, 2.0]]
    assert compare(task, [batch(2, [0, 1])], turns(same), turns(same)).one_class
    two = [same, [[4.0, 0.0], [0.0, 1.0]]]
    assert not compare(task, [batch(2, [0, 1])] * 2, turns(*two), turns(*two)).one_class


def test_positions_that_do_not_count_are_not_compared() -> None:
    labels = torch.tensor([[0, 1], [1, IGNORE]])
    data = Batch(
        inputs={"input_ids": torch.zeros(2, 2, dtype=torch.long)},
        labels=labels,
        mask=labels != IGNORE,
        tokens=labels != IGNORE,
        extras={"bytes": torch.ones(2, 2, dtype=torch.int32)},
    )
    trained = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [5.0, 5.0]]])
    exported = trained.clone()
    exported[1, 1] = torch.tensor([0.0, torch.nan])
    seen: list[dict[str, Tensor]] = []

    def predict(inputs: dict[str, Tensor]) -> Tensor:
        seen.append(inputs)
        return exported

    found = compare(CausalLM(), [data], lambda inputs: trained, predict)
    assert (found.predictions, found.relative_error, found.agreement) == (3, 0.0, 1.0)
    assert seen[0]["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_what_is_no_number_is_no_agreement(task: TextClassification) -> None:
    nothing = torch.nan
    found = compare(task, [batch(1, [0])], turns([[1.0, 0.0]]), turns([[nothing, nothing]]))
    with pytest.raises(UserError, match="differ"):
        check_float(found)


def test_regression_is_judged_by_its_metric_alone() -> None:
    task = TextClassification()
    data = Batch(inputs={"input_ids": torch.zeros(3, 2, dtype=torch.long)}, labels=torch.tensor([1.0, 2.0, 4.0]))
    scores = [[1.0], [2.0], [4.0]]
    found = compare(task, [data], turns(scores), turns([[4.0], [2.0], [1.0]]))
    assert found.agreement is None
    assert found.trained == pytest.approx(1.0)
    with pytest.raises(UserError, match="pearson"):
        check_integer(found)


def test_no_data_is_no_proof(task: TextClassification) -> None:
    with pytest.raises(UserError, match="nothing to verify"):
        compare(task, [], turns(), turns())
    unlabelled = replace(batch(1, [0]), mask=torch.tensor([False]))
    with pytest.raises(UserError, match="nothing to verify"):
        compare(task, [unlabelled], turns([[1.0, 0.0]]), turns([[1.0, 0.0]]))


def test_the_bounds() -> None:
    check_float(replace(SAME, relative_error=1e-4))
    check_integer(replace(SAME, agreement=0.995, exported=0.8971, relative_error=0.3))
    check_integer(replace(SAME, agreement=None))
    with pytest.raises(UserError, match=r"1\.1e-04"):
        check_float(replace(SAME, relative_error=1.1e-4))
    with pytest.raises(UserError, match=r"99\.40%"):
        check_integer(replace(SAME, agreement=0.994))
    with pytest.raises(UserError, match=r"accuracy is 0\.8969"):
        check_integer(replace(SAME, exported=0.8969))
    check_integer(replace(SAME, mean_error=0.02))
    with pytest.raises(UserError, match=r"off by 5\.0% of their spread"):  # whatever the decisions
        check_integer(replace(SAME, mean_error=0.05))
    with pytest.raises(UserError, match="accuracy is nan"):
        check_integer(replace(SAME, exported=float("nan")))


def test_one_decision_may_differ_however_few_there_are(task: TextClassification) -> None:
    labels = [0] * 50
    sure = [[0.0, 0.01], *[[4.0, 0.0], [0.0, 4.0]] * 24, [4.0, 0.0]]
    close = [[0.01, 0.0], *sure[1:]]
    found = compare(task, [batch(50, labels)], turns(sure), turns(close))
    assert (found.differ, found.agreement) == (1, 0.98)  # and so is the accuracy 2 points off
    check_integer(found)
    with pytest.raises(UserError, match="off by"):  # but not because its logits are others
        check_integer(replace(found, mean_error=0.03))
    with pytest.raises(UserError, match="accuracy is nan"):
        check_integer(replace(found, exported=float("nan")))
    with pytest.raises(UserError, match=r"98\.00% of its decisions.*accuracy"):
        check_integer(replace(found, differ=2))
    with pytest.raises(UserError, match="accuracy"):  # a metric that moves although no decision does
        check_integer(replace(found, differ=0, agreement=1.0))


def test_differences_are_reported_beside_the_largest_logit_of_the_trained_model(task: TextClassification) -> None:
    found = compare(task, [batch(2, [0, 1])], turns([[1.0, 0.5], [0.0, 2.0]]), turns([[1.0, 0.5], [0.0, 8.0]]))
    assert found.relative_error == pytest.approx(3.0)


def test_a_metric_that_is_much_better_is_not_that_of_the_same_model() -> None:
    with pytest.raises(UserError, match=r"accuracy is 0\.95"):
        check_integer(replace(SAME, exported=0.95))


def test_tokens_are_compared_a_few_rows_at_a_time_and_judged_by_their_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (5, 300), generator=generator)
    trained = torch.randn(5, 300, 7, generator=generator)
    exported = trained + 0.05 * torch.randn(5, 300, 7, generator=generator)
    data = Batch({"input_ids": labels}, labels, extras={"bytes": torch.ones(5, 300, dtype=torch.int32)})
    rows: list[int] = []

    def part(of: Tensor, at: int) -> Tensor:
        return of[at : at + 1]

    def first(inputs: dict[str, Tensor]) -> Tensor:
        rows.append(len(inputs["input_ids"]))
        return part(trained, len(rows) - 1)

    found = compare(CausalLM(), [data], first, lambda inputs: part(exported, len(rows) - 1))
    assert rows == [1] * 5  # of 300 positions each
    p, q = trained.double().softmax(-1), exported.double().softmax(-1)
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)
    nats = -trained.double().log_softmax(-1).gather(-1, labels[..., None]).mean()
    assert found.trained == pytest.approx(float(nats / torch.log(torch.tensor(2.0))), rel=1e-5)
    assert found.agreement is not None
    assert found.agreement < 0.99
    check_integer(found)  # though not all of the most likely tokens are equal


def test_tokens_whose_distributions_differ_are_refused() -> None:
    tokens = replace(SAME, metric="bits_per_byte", trained=1.2, exported=1.2, agreement=0.9, mean_error=0.05)
    check_integer(replace(tokens, divergence=0.01))
    with pytest.raises(UserError, match=r"0\.011 nats from the trained model's, and 0\.01 are allowed"):
        check_integer(replace(tokens, divergence=0.011))
    with pytest.raises(UserError, match=r"bits_per_byte is 1\.21"):
        check_integer(replace(tokens, divergence=0.0, exported=1.21))
