"""Losses over feature maps: each its paper's formula, whatever the layout, and what is trained is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill import Distillation, OptimizerConfig, tasks
from distill.core.model_spec import ModelSpec
from distill.core.signals import IGNORE, Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import (
    ContrastiveRepresentation,
    DistillationLoss,
    FeatureAttention,
    FitNetHint,
    FlowOfSolution,
    VariationalInformation,
)
from distill.losses.contrastive_representation import contrastive
from distill.losses.feature_attention import feature_attention
from distill.losses.feature_maps import of_one_size
from distill.losses.flow_of_solution import flow_matrix, flow_of_solution
from distill.losses.variational_information import negative_log_likelihood

Check = Callable[..., None]
B, H, W = 3, 2, 3
PER_SAMPLE: dict[str, Callable[..., DistillationLoss]] = {
    "attention": FeatureAttention,
    "flow": FlowOfSolution,
    "information": VariationalInformation,
    "hint": FitNetHint,
}
EVERY = PER_SAMPLE | {"contrastive": ContrastiveRepresentation}
TAPS = {"a": "a", "b": "b"}


# ---------------------------------------------------------------------- formulas


def test_attention_is_half_the_distance_of_squared_activations_of_length_1(agrees: Check) -> None:
    teacher = torch.randn(B, H, W, 5).double()

    def attention(a: Any) -> Any:
        q = np.array([[(a[h, w] ** 2).sum() for w in range(W)] for h in range(H)]).ravel()
        return q / np.sqrt((q**2).sum())

    def oracle(s: Any) -> float:
        pairs = zip(s, teacher.numpy(), strict=True)
        return float(sum(0.5 * np.sqrt(((attention(x) - attention(y)) ** 2).sum()) for x, y in pairs))

    agrees(lambda s: feature_attention(s, teacher).sum(), oracle, torch.randn(B, H, W, 4))


def test_attention_that_is_equal_has_no_loss_and_no_gradient() -> None:
    student = torch.randn(B, H, W, 4, requires_grad=True)
    loss = feature_attention(student, 3 * student.detach())
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.zeros(B), atol=1e-6, rtol=0)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_flow_is_the_mean_of_outer_products_and_its_loss_their_squares(agrees: Check) -> None:
    second, teacher = torch.randn(B, H, W, 4).double(), torch.randn(B, 2, 4).double()

    def oracle(s: Any) -> float:
        total = 0.0
        for b in range(B):
            places = [(h, w) for h in range(H) for w in range(W)]
            g = sum(np.outer(s[b][place], second.numpy()[b][place]) for place in places) / (H * W)
            total += float(((g - teacher.numpy()[b]) ** 2).sum())
        return total

    agrees(lambda s: flow_of_solution(flow_matrix(s, second), teacher).sum(), oracle, torch.randn(B, H, W, 2))


def test_the_larger_map_of_a_flow_is_max_pooled_to_the_smaller() -> None:
    first, second = torch.randn(B, 4, 6, 2), torch.randn(B, 2, 3, 5)
    pooled = first.unflatten(1, (2, 2)).unflatten(3, (3, 2)).amax((2, 4))
    torch.testing.assert_close(flow_matrix(first, second), flow_matrix(pooled, second))


def test_information_is_the_likelihood_under_a_gaussian(agrees: Check) -> None:
    teacher, variance = torch.randn(B, H, W, 4).double(), torch.tensor([0.5, 1.0, 2.0, 4.0]).double()

    def oracle(mean: Any) -> float:
        density = torch.distributions.Normal(torch.from_numpy(mean), variance.sqrt())
        constant = 0.5 * np.log(2 * np.pi)
        return float(-(density.log_prob(teacher) + constant).sum() / (H * W * 4))

    agrees(lambda m: negative_log_likelihood(m, teacher, variance).sum(), oracle, torch.randn(B, H, W, 4))


@pytest.mark.parametrize("variance", [1e-3, 1.0, 5.0, 709.0, 1000.0, 1e6])
def test_information_begins_at_the_variance_asked_for(variance: float) -> None:
    loss = VariationalInformation({"a": "a"}, variance=variance)
    loss.bind(*specs("first"))
    alpha = next(p for name, p in loss.named_parameters() if name.startswith("alphas")).detach().double().numpy()
    np.testing.assert_allclose(np.logaddexp(0, alpha) + 1e-5, np.full(5, variance), rtol=1e-5)


def test_contrast_is_the_papers_with_the_micro_batchs_other_samples(agrees: Check) -> None:
    teacher, valid = torch.randn(4, 5).double(), torch.tensor([True, True, False, True])
    negatives = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]).bool()
    tau, odds = 0.5, 0.33

    def oracle(s: Any) -> float:
        total, t = 0.0, teacher.numpy()
        for i in (0, 1, 3):
            for j in range(4):
                z = np.exp(s[i] @ t[j] / np.linalg.norm(s[i]) / np.linalg.norm(t[j]) / tau)
                h = z / (z + odds)
                if i == j:
                    total -= np.log(h)
                elif negatives[i, j] and valid[j]:
                    total -= np.log(1 - h)
        return total / 3

    agrees(lambda s: contrastive(s, teacher, negatives, valid, tau, odds), oracle, torch.randn(4, 5))


def test_samples_of_one_class_are_no_negatives_of_each_other_where_it_is_known() -> None:
    ours, theirs = {"a": torch.randn(4, 3)}, {"a": torch.randn(4, 5)}
    labels = torch.tensor([0, 0, IGNORE, IGNORE])
    loss = ContrastiveRepresentation({"a": "a"}, size=2)
    loss.bind(*specs("first"))
    with torch.no_grad():
        found = [
            float(value(loss, ours, theirs, Batch({"x": ours["a"]}, labels=given)))
            for given in (labels, torch.tensor([0, 1, IGNORE, IGNORE]), None)
        ]
    assert found[0] < found[1] == pytest.approx(found[2])


# ---------------------------------------------------------------------- layouts


def specs(layout: str, student: int = 3, teacher: int = 5) -> tuple[ModelSpec, ModelSpec]:
    """Modules of so many features, which a convolution puts behind the batch, and a norm last."""
    kind: Any = (lambda width: nn.Conv2d(width, width, 1)) if layout == "first" else nn.LayerNorm
    nets = [nn.ModuleDict({name: kind(width) for name in "ab"}) for width in (student, teacher)]
    return ModelSpec(nets[0], "model.student"), ModelSpec(nets[1], "model.teacher")


def bound(name: str, layout: str = "first", **settings: Any) -> DistillationLoss:
    models = specs(layout)
    torch.manual_seed(1)
    loss = EVERY[name](taps=TAPS, **settings)
    loss.bind(*models)
    return loss


def maps(seed: int, width: int, size: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(6, width, size, size, generator=generator) for name in TAPS}


def batch(rows: int = 6, **more: Any) -> Batch:
    return Batch({"input": torch.zeros(rows, 1)}, labels=torch.arange(rows) % 3, **more)


def value(loss: DistillationLoss, ours: dict[str, Tensor], theirs: dict[str, Tensor], given: Batch) -> Tensor:
    return loss(Signals(taps=ours), Signals(taps=theirs), given).total


@pytest.mark.parametrize("name", EVERY)
def test_features_are_found_where_the_layers_put_them(name: str) -> None:
    for size in (4, 3):  # a map that is as high as it has features, too
        ours, theirs = maps(0, 3, size), maps(1, 5, size)
        last = [{n: x.movedim(1, -1) for n, x in given.items()} for given in (ours, theirs)]
        with torch.no_grad():
            expected = value(bound(name), ours, theirs, batch())
            torch.testing.assert_close(value(bound(name, "last"), *last, batch()), expected)


@pytest.mark.parametrize("name", ["attention", "information", "hint"])
def test_maps_of_two_sizes_are_averaged_to_the_smaller_which_is_said_once(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.losses.feature_maps._told", set())
    caplog.set_level(logging.WARNING, logger="distill")
    ours, theirs = maps(0, 3, 4), maps(1, 5, 8)
    pooled = {n: x.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5)) for n, x in theirs.items()}
    with torch.no_grad():
        expected = value(bound(name), ours, pooled, batch())
        assert not caplog.records
        for _ in range(2):
            torch.testing.assert_close(value(bound(name), ours, theirs, batch()), expected)
    assert [r.getMessage() for r in caplog.records] == [
        f"the maps of {tap} are 4 x 4 and the teacher's 8 x 8: both are averaged to 4 x 4" for tap in TAPS
    ]


def test_each_side_is_pooled_where_it_is_the_larger() -> None:
    student, teacher = of_one_size(torch.randn(2, 4, 2, 3), torch.randn(2, 2, 4, 5), "here")
    assert (student.shape, teacher.shape) == ((2, 2, 2, 3), (2, 2, 2, 5))


@pytest.mark.parametrize("name", ["attention", "flow", "information", "contrastive"])
def test_tokens_are_maps_of_one_column_whose_padding_counts_nothing(name: str) -> None:
    tokens = torch.arange(4) < torch.tensor([4, 2, 1, 3, 4, 2])[:, None]
    ours, theirs = ({n: x.flatten(2).mT[:, :4] for n, x in maps(seed, w).items()} for seed, w in ((0, 3), (1, 5)))
    dirty = {n: x + 9 * ~tokens[..., None] for n, x in ours.items()}
    loss = bound(name, "last")
    with torch.no_grad():
        torch.testing.assert_close(
            value(loss, ours, theirs, batch(tokens=tokens)), value(loss, dirty, theirs, batch(tokens=tokens))
        )


@pytest.mark.parametrize("name", ["attention", "flow", "information", "contrastive"])
def test_padding_changes_neither_the_loss_nor_a_gradient(name: str) -> None:
    lengths, found = torch.tensor([4, 2, 1, 3, 4, 2]), []
    for padding in (0, 6):
        tokens = torch.arange(4 + padding) < lengths[:, None]
        ours, theirs = (
            {
                n: torch.cat([x.flatten(2).mT[:, :4], torch.full((6, padding, w), torch.nan)], 1)
                for n, x in given.items()
            }
            for given, w in ((maps(0, 3), 3), (maps(1, 5), 5))
        )
        loss, leaves = bound(name, "last"), {n: x.requires_grad_() for n, x in ours.items()}
        total = value(loss, leaves, theirs, batch(tokens=tokens))
        total.backward()
        found.append([total, *(x.grad[:, :4] for x in leaves.values()), *(p.grad for p in loss.parameters())])  # type: ignore[index]
    torch.testing.assert_close(found[1], found[0])


def test_a_flow_of_padded_tokens_is_that_of_each_sample_alone() -> None:
    lengths = [4, 6]
    first, second = torch.randn(2, 6, 1, 2), torch.randn(2, 3, 1, 5)
    valid = (torch.arange(6) < torch.tensor(lengths)[:, None])[:, :, None]
    found = flow_matrix(first - 9, second, valid, valid[:, ::2])
    for b, length in enumerate(lengths):
        pairs = [((first[b, 2 * t : 2 * t + 2, 0] - 9).amax(0), second[b, t, 0]) for t in range(length // 2)]
        torch.testing.assert_close(found[b], sum(torch.outer(x, y) for x, y in pairs) / len(pairs))


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        ((6, 3, 4, 4), (6, 16, 5), r"compares maps of one kind, and \{a: a\} are .*one of them tokens"),
        ((6, 3), (6, 5), "a feature map has a height and a width"),
        ((6, 4, 3), (6, 5, 5), "must have the same positions"),
    ],
)
def test_what_cannot_be_compared_is_refused(student: Any, teacher: Any, said: str) -> None:
    given = {n: torch.randn(student) for n in TAPS}, {n: torch.randn(teacher) for n in TAPS}
    with pytest.raises(UserError, match=said):
        value(bound("attention", "last"), *given, batch())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FeatureAttention({}), "taps = {}: must name at least one pair"),
        (lambda: FlowOfSolution({"a": "a"}), "must name at least 2 pairs"),
        (lambda: VariationalInformation(TAPS, variance=0.0), "variance = 0"),
        (lambda: ContrastiveRepresentation(TAPS, temperature=-1.0), "temperature = -1"),
        (lambda: FeatureAttention({"c": "a"}).bind(*specs("first")), "c"),
        (lambda: FeatureAttention(TAPS).bind(specs("first")[0], None), "FeatureAttention compares the student"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


# ---------------------------------------------------------------------- what every loss promises


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_a_batch_of_six_has_the_gradient_of_its_parts(name: str) -> None:
    ours, theirs, mask = maps(0, 3), maps(1, 5), torch.tensor([True, True, False, True, True, True])
    found = []
    for cuts in ([slice(0, 6)], [slice(0, 2), slice(2, 6)], [slice(i, i + 1) for i in range(6)]):
        loss, leaves = bound(name), {n: x.clone().requires_grad_() for n, x in ours.items()}
        for rows in cuts:
            part = Batch({"input": torch.zeros(6, 1)[rows]}, labels=torch.arange(6)[rows], mask=mask[rows])
            value(
                loss, {n: x[rows] for n, x in leaves.items()}, {n: x[rows] for n, x in theirs.items()}, part
            ).backward()
        found.append([x.grad for x in leaves.values()] + [p.grad for p in loss.parameters()])
        assert all(not x.grad[2].any() for x in leaves.values() if x.grad is not None)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_where_nothing_counts_there_is_no_loss_and_no_gradient(name: str) -> None:
    loss, leaves = bound(name), {n: x.requires_grad_() for n, x in maps(0, 3).items()}
    total = value(loss, leaves, maps(1, 5), batch(mask=torch.zeros(6, dtype=torch.bool)))
    total.backward()
    assert total == 0
    assert not any(x.grad.any() for x in leaves.values() if x.grad is not None)
    assert not any(p.grad.any() for p in loss.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", EVERY)
def test_half_precision_is_computed_in_float32_and_the_teacher_is_not_written_to(name: str) -> None:
    loss, theirs = bound(name), maps(1, 5)
    before = {n: x.clone() for n, x in theirs.items()}
    half = {n: x.bfloat16() for n, x in maps(0, 3).items()}
    with torch.autocast("cpu", torch.bfloat16):
        total = value(loss, half, theirs, batch())
    assert total.dtype is torch.float32
    torch.testing.assert_close(
        total, value(loss, {n: x.float() for n, x in half.items()}, theirs, batch()), rtol=0.05, atol=0.01
    )
    assert all(torch.equal(theirs[n], before[n]) for n in TAPS)


@pytest.mark.parametrize("name", EVERY)
def test_heads_of_bfloat16_give_nearly_the_loss_of_float32_and_are_trained(name: str) -> None:
    ours, theirs = maps(0, 3), maps(1, 5)
    half = bound(name).bfloat16()
    with torch.no_grad():
        expected = value(bound(name), ours, theirs, batch())
    low, other = ({n: x.bfloat16() for n, x in given.items()} for given in (ours, theirs))
    total = value(half, low, other, batch())
    assert total.dtype is torch.float32
    torch.testing.assert_close(total, expected, rtol=0.05, atol=0.01)
    parameters = list(half.parameters())
    if parameters:
        total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in parameters)


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.a, self.b = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize(("name", "trained"), [("attention", 0), ("flow", 4), ("information", 14), ("contrastive", 8)])
def test_what_a_loss_trains_is_in_the_optimizer_and_the_state_and_bound_once(name: str, trained: int) -> None:
    torch.manual_seed(0)
    loss = EVERY[name](taps=TAPS)
    module = Distillation(Net(3), tasks.Plain(), Net(5), [loss], OptimizerConfig(lr=0.1, warmup=0))
    assert len(list(loss.parameters())) == trained
    assert len([key for key in module.state_dict() if key.startswith("losses.0.")]) == trained
    made, before = list(loss.parameters()), [p.clone() for p in loss.parameters()]
    loss.bind(ModelSpec(module.student, "model.student"), ModelSpec(Net(5), "model.teacher"))
    assert all(a is b for a, b in zip(made, loss.parameters(), strict=True))
    rows = Batch({"input": torch.randn(6, 1, 4, 4)}, labels=torch.arange(6) % 3)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    totals = []
    for _ in range(8):
        optimizer.zero_grad()
        totals.append(module.terms(rows)[0])
        totals[-1].backward()
        optimizer.step()
    assert totals[-1] < totals[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, loss.parameters(), strict=True))
