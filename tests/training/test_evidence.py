"""What a validation measures besides scores: layers that say nothing, and counts that add up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from distill.core.signals import IGNORE, Batch
from distill.core.tally import Counts, Moments, Tally, most_common
from distill.core.verdict import Verdict
from distill.tasks import CausalLM, MultiLabelClassification, Plain, Task, TextClassification, TokenClassification
from distill.training.evidence import Spreads, counted, empty_layers


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.Tanh(), nn.Linear(5, 3))


def constant(model: nn.Module, inputs: torch.Tensor) -> list[str]:
    spreads = Spreads()
    with spreads.watching(model), torch.no_grad():
        model(inputs)
    return spreads.constant()


@pytest.mark.parametrize("layer", ["0", "3", "5"])
def test_the_layer_that_lets_nothing_through_is_named_and_no_other(layer: str) -> None:
    model, inputs = net(), torch.randn(6, 2, 8)
    assert constant(model, inputs) == []
    with torch.no_grad():
        model.get_submodule(layer).weight.zero_()
    assert constant(model, inputs) == [layer]
    assert empty_layers(model) == [layer]


def test_layers_of_one_input_or_of_inputs_that_are_the_same_are_not_accused() -> None:
    assert constant(nn.Linear(4, 2), torch.randn(1, 4)) == []
    assert constant(nn.Linear(4, 2), torch.ones(5, 4)) == []


def test_looking_leaves_no_hook() -> None:
    model = net()
    constant(model, torch.randn(6, 2, 8))
    assert not any(module._forward_hooks for module in model.modules())


def test_labels_that_do_not_count_are_not_counted() -> None:
    tally, ids, logits = Tally(), torch.zeros(2, 3), torch.zeros(2, 3, 4)
    labels = torch.tensor([[0, 2, IGNORE], [2, 2, 1]])
    mask = torch.tensor([[True, True, True], [True, False, True]])
    predicted = torch.tensor([[1, 1, 0], [1, 0, 2]])
    logits[1, 1], logits[0, 1, 3] = torch.nan, torch.nan  # of which one has no label that counts
    tally.add(predicted, Batch({"x": ids}, labels=labels, mask=mask, extras={"bytes": torch.ones(2, 3)}), logits)
    counts = tally.take(1)
    assert counts.labels.tolist() == [1, 1, 2, 0]
    assert counts.predictions.tolist() == [0, 3, 1, 0]
    assert (counts.total, counts.sums, counts.undefined) == (4, {"bytes": 6.0}, 1)
    assert tally.take(1).total == 0


def test_a_rank_without_a_batch_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Counts(3, torch.tensor([1, 2]), torch.tensor([3, 0]), {"bytes": 2.0})

    def gather(parts: list[Counts], mine: Counts) -> None:
        parts[:] = [mine, other]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    counts = Tally().take(2)
    assert (counts.total, counts.labels.tolist(), counts.sums) == (3, [1, 2], {"bytes": 2.0})


def test_rows_without_a_label_are_counted_nowhere_without_a_mask_too() -> None:
    tally = Tally()
    batch = Batch({"x": torch.zeros(3, 1)}, labels=torch.tensor([0, IGNORE, 2]))
    tally.add(torch.tensor([0, 2, 1]), batch, torch.zeros(3, 3))
    counts = tally.take(1)
    assert (counts.total, counts.labels.tolist(), counts.predictions.tolist()) == (2, [1, 0, 1], [1, 1, 0])


def found(task: Task, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """What two batches of a validation tell, and its scores."""
    tally, metrics, rows = Tally(), task.metrics(), torch.arange(len(labels))
    for part in (rows[::3], rows[rows % 3 > 0]):
        extras = {"bytes": torch.ones_like(labels[part])}
        batch = Batch({"x": rows[part]}, labels=labels[part], extras=extras)
        task.update(metrics, logits[part], batch)
        tally.add(task.predict(logits[part]), batch, logits[part])
    counts = tally.take(1)
    student = {name: float(metric.compute()) for name, metric in metrics.items()}
    tokens = torch.bincount(TOKENS.flatten()) if isinstance(task, CausalLM) else None
    measured = counted(task, counts, metrics, tokens)
    scores = {"student": student, "guess": measured.pop("guess", {})}
    return {"monitor": task.monitor, "mode": task.mode, "scores": scores, "measured": measured}


def sets(said: str, rows: int = 60) -> torch.Tensor:
    """Logits of three yes or no, the same for every row."""
    return torch.tensor([1.0 if name in said else -1.0 for name in "abc"]).expand(rows, 3).clone()


DRAW = torch.Generator().manual_seed(0)
TAGS = torch.tensor([[0, 0, 1, 0, 2]] * 30)
PAIRS = torch.randint(2, (60, 3), generator=DRAW).float()
RATINGS = torch.rand(60, generator=DRAW) * 5
TOKENS = torch.randint(7, (20, 11), generator=DRAW) ** 2 // 7


@pytest.mark.parametrize(
    ("task", "logits", "labels", "said"),
    [
        (MultiLabelClassification(list("abc")), sets("ac"), PAIRS, "predicts classes 'a' and 'c' for every input"),
        (MultiLabelClassification(list("abc")), sets(""), PAIRS, "predicts no class for every input"),
        (MultiLabelClassification(list("abc")), PAIRS - 0.5, (sets("b") > 0).float(), "all labels are class 'b'"),
        (TextClassification(), torch.full((60, 1), 2.5), RATINGS, "predicts 2.5 ± 0 for every input"),
        (TextClassification(), 2.5 + RATINGS[:, None] / 500, RATINGS, "for every input, where the labels are"),
        (TextClassification(), RATINGS[:, None], torch.full((60,), 3.0), "all labels are 3: no score"),
        (
            TokenClassification(["O", "PER", "LOC"]),
            torch.tensor([1.0, 0, 0]).expand(30, 5, 3),
            TAGS,
            "predicts class 'O'",
        ),
        (CausalLM(), torch.bincount(TOKENS.flatten(), minlength=6).log().expand(20, 11, 6), TOKENS, "predicts token 0"),
        (Plain(), torch.full((60, 3), torch.nan), torch.arange(60) % 3, "NaN in 60 of 60 predictions"),
        (TextClassification(), torch.full((60, 1), torch.nan), RATINGS, "NaN in 60 of 60 predictions"),
        (TextClassification(), torch.rand(60, 1), torch.full((60,), torch.nan), "has no labels"),
        (Plain(), torch.rand(60, 3), torch.full((60,), IGNORE), "has no labels"),
    ],
)
def test_a_student_that_does_not_read_its_input_is_reported(
    task: Task, logits: torch.Tensor, labels: torch.Tensor, said: str
) -> None:
    (line,) = Verdict.of(found(task, logits, labels)).bad
    assert said in line


def test_a_student_that_reads_its_input_is_not_accused() -> None:
    for task, logits, labels in (
        (MultiLabelClassification(list("abc")), PAIRS - 0.5, PAIRS),
        (TextClassification(), 2.5 + RATINGS[:, None] / 20, RATINGS),
    ):
        assert Verdict.of(found(task, logits, labels)).lines == []


@pytest.mark.parametrize("row", [[], [1], [0, 2]])
@pytest.mark.parametrize("others", [0, 1, 7])
def test_as_many_rows_have_the_commonest_set_as_are_said_to_or_more(row: list[int], others: int) -> None:
    table = torch.zeros(20, 3, dtype=torch.bool)
    table[others:, row] = True
    table[:others] = torch.rand(others, 3, generator=DRAW) > 0.5
    classes, share = most_common(table.sum(0), 20, sets=True)
    assert classes == row
    assert share <= (table == table[-1]).all(-1).float().mean()
    assert share == 1 or others


@pytest.mark.parametrize(
    ("labels", "few"), [((39, 17, 4), ""), ((40, 17, 3), "class '10' (3"), ((2, 57, 1), "classes '10' and 'good' (3")]
)
def test_classes_of_a_few_labels_are_named_the_rarest_first(labels: tuple[int, ...], few: str) -> None:
    classes = torch.arange(3).repeat_interleave(torch.tensor(labels))
    lines = Verdict.of(found(TextClassification(["good", "NA", "10"]), one_hot(classes, 3).float(), classes)).lines
    said = [f"there is little of {few} labels of 60): scores of so few say nothing of a class"] if few else []
    assert [line for line in lines if "little" in line] == said
    absent = Verdict.of(found(TextClassification(["good", "NA", "10", "rest"]), one_hot(classes, 4).float(), classes))
    assert "no label of class 'rest' was scored: no score tells of it" in absent.lines
    assert not any("no label of" in line for line in lines)
    part = classes[torch.linspace(0, 59, 19).long()]
    assert (
        "few_labels" not in found(TextClassification(["good", "NA", "10"]), one_hot(part, 3).float(), part)["measured"]
    )


def test_numbers_of_batches_add_up_as_numpy_has_it() -> None:
    numbers = 1e6 + torch.rand(50, generator=DRAW, dtype=torch.float64)
    total = sum((Moments.of(part) for part in numbers.split([1, 0, 30, 19])), Moments())
    assert (total.count, total.mean) == (50, pytest.approx(numbers.numpy().mean(), rel=1e-12))
    assert total.deviation == pytest.approx(numbers.numpy().std(), rel=1e-9)


def test_a_class_that_is_never_predicted_is_named_with_its_labels() -> None:
    labels = torch.tensor([0] * 39 + [1] * 17 + [2] * 4)
    task, logits = TextClassification(["good", "NA", "10"]), one_hot(labels, 3).float()
    assert Verdict.of(found(task, logits, labels)).lines == []
    logits[56:] = torch.tensor([1.0, 0, 0.5])
    assert Verdict.of(found(task, logits, labels)).lines == ["the student never predicts class '10' (4 labels of 60)"]
    sets = MultiLabelClassification(list("abc"))
    assert Verdict.of(found(sets, PAIRS * torch.tensor([1.0, 0, 1]) - 0.5, PAIRS)).lines == [
        f"the student never predicts class 'b' ({int(PAIRS[:, 1].sum())} labels of 60)"
    ]
