"""The promises of the sensitivity scan, on a net small enough to compress by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax
from torchmetrics import Metric
from transformers.pytorch_utils import Conv1D

from distill.compression.sensitivity.scan import (
    Point,
    draw,
    layers,
    overrides,
    pruned,
    rounded,
    scan,
    scan_groups,
    tables,
    write,
)
from distill.core.signals import Batch
from distill.core.utils import plots
from distill.tasks import MaskedLM, Plain


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3))


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch({"input": torch.randn(8, 6, generator=generator)}, labels=torch.arange(8) % 3, ids=list(range(8)))
        for _ in range(2)
    ]


def test_each_point_is_the_model_with_one_layer_compressed_by_hand() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, points = scan(model, Plain(), batches(), sparsities=[0.5], bits=[4])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert [(p.layer, p.kind, p.level) for p in points] == [
        ("0", "sparsity", 0.5),
        ("0", "bits", 4),
        ("2", "sparsity", 0.5),
        ("2", "bits", 4),
    ]  # "4" is the head
    inputs = torch.cat([b.inputs["input"] for b in batches()])
    reference = model(inputs).double().softmax(-1).detach().numpy()
    by_hand = net()
    weight = by_hand[2].weight.detach().numpy()
    weight[numpy.abs(weight) < numpy.sort(numpy.abs(weight).ravel())[50]] = 0
    found = by_hand(inputs).double().softmax(-1).detach().numpy()
    expected = (reference * numpy.log(reference / found)).sum(1).mean()
    assert points[2].divergence == pytest.approx(expected, rel=1e-4)
    assert points[2].weights == 100


def test_divergence_is_over_the_predictions_that_count() -> None:
    inputs, labels = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3
    counts = torch.arange(8) < 3
    masked = Batch({"input": inputs}, labels=labels, mask=counts)
    alone = Batch({"input": inputs[counts]}, labels=labels[counts])
    found = [scan(net(), Plain(), [batch], sparsities=[0.5], bits=[])[1] for batch in (masked, alone)]
    assert [p.divergence for p in found[0]] == pytest.approx([p.divergence for p in found[1]], rel=1e-4)


@pytest.mark.parametrize("layer", [0, 2])
def test_the_metric_is_of_the_model_with_one_layer_compressed_by_hand(layer: int) -> None:
    inputs = torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(2))
    labels = net()(inputs).argmax(-1)
    labels[:, 0] = (labels[:, 0] + 1) % 3  # of 40 it has 38 right
    data = [Batch({"input": x}, labels=y, ids=list(range(20))) for x, y in zip(inputs, labels, strict=True)]
    whole, points = scan(net(), Plain(), data, sparsities=[0.25, 0.9], bits=[3, 2])

    def accuracy(weight: Any) -> float:
        by_hand: Any = net()
        by_hand[layer].weight.data = torch.tensor(weight)
        rows = zip(by_hand(inputs).flatten(0, 1).tolist(), labels.flatten().tolist(), strict=True)
        return sum(logits.index(max(logits)) == label for logits, label in rows) / 40

    weight = net().get_submodule(str(layer)).get_parameter("weight").detach().numpy()
    size, expected = numpy.abs(weight), [accuracy(weight)]
    for gone in (0.25, 0.9):
        least = numpy.sort(size.ravel())[: round(gone * size.size)]
        expected.append(accuracy(numpy.where(numpy.isin(size, least), 0, weight)))
    for most in (3, 1):
        step = size.max(1, keepdims=True) / most
        expected.append(accuracy(numpy.round(weight / step) * step))
    assert expected[0] == 0.95
    assert len(set(expected)) > 2
    assert [whole, *(p.metric for p in points if p.layer == str(layer))] == pytest.approx(expected)


def test_a_weight_that_layers_share_is_scanned_once() -> None:
    model = net()
    shared = nn.Linear(10, 10)
    shared.weight = model[2].weight
    model = nn.Sequential(*model[:3], nn.ReLU(), shared, nn.ReLU(), model[4])
    assert layers(model) == {"0": ["0"], "2": ["2", "4"]}
    _, points = scan(model, Plain(), batches(), sparsities=[0.5], bits=[])
    assert [(p.layer, p.weights) for p in points] == [("0", 60), ("2", 100)]


class Words(nn.Module):
    """Two tables, one of them the head's too, around a map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places, self.body = nn.Embedding(5, 6), nn.Embedding(8, 6), nn.Linear(6, 6)
        self.short, self.head = nn.Embedding(5, 6, max_norm=1.0), nn.Linear(6, 5)
        self.head.weight = self.words.weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        read = self.words(input) + self.places(torch.arange(len(input))) + 0 * self.short(input)
        return self.head(self.body(read))  # type: ignore[no-any-return]


def test_tables_are_rounded_and_not_pruned() -> None:
    model = Words()
    assert layers(model) == {"body": ["body"]}
    assert tables(model) == {"words": ["words"], "places": ["places"]}  # a table that shortens its rows is not rounded
    batch = Batch({"input": torch.arange(8) % 5}, labels=torch.arange(8) % 5, ids=list(range(8)))
    _, points = scan(model, Plain(), [batch], sparsities=[0.5], bits=[3])
    assert [(p.layer, p.kind, p.weights) for p in points] == [
        ("body", "sparsity", 36),
        ("body", "bits", 36),
        ("words", "bits", 30),
        ("places", "bits", 48),
    ]
    reference = model(batch.inputs["input"]).double().softmax(-1).detach().numpy()
    table = model.words.weight.detach().numpy()
    step = numpy.abs(table).max(1, keepdims=True) / 3
    model.words.weight.data = torch.tensor(numpy.round(table / step) * step)  # the head is rounded with it
    found = model(batch.inputs["input"]).double().softmax(-1).detach().numpy()
    assert points[2].divergence == pytest.approx((reference * numpy.log(reference / found)).sum(1).mean(), rel=1e-4)


def test_what_is_pruned_is_a_share_of_the_layers_that_can_be() -> None:
    points = [
        Point("body", 100, "sparsity", 0.5, 0.9, 0.1),
        Point("body", 100, "sparsity", 0.9, 0.5, 0.9),
        Point("table", 900, "bits", 8, 0.9, 0.0),
    ]
    assert overrides(points, "sparsity", 0.5) == {"body": 0.5}


def test_convolutions_are_scanned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    images = Batch({"input": torch.randn(6, 1, 4, 4)}, labels=torch.arange(6) % 3, ids=list(range(6)))
    _, points = scan(model, Plain(), [images], sparsities=[0.5], bits=[2])
    assert [(p.layer, p.weights) for p in points] == [("0", 36)] * 2
    assert all(p.divergence > 0 for p in points)


def test_metrics_are_on_the_device_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.device] = []
    to = Metric.to

    def spy(metric: Metric, device: torch.device) -> Metric:
        moved.append(device)
        return to(metric, device)

    monkeypatch.setattr(Metric, "to", spy)
    scan(net(), Plain(), batches(), sparsities=[], bits=[])
    assert set(moved) == {torch.device("cpu")}


@pytest.mark.parametrize("module", [nn.Linear(4, 3), Conv1D(3, 4), nn.Conv2d(2, 3, 2)])
def test_a_rounded_weight_lies_on_a_grid_for_each_output(module: nn.Module) -> None:
    nn.init.normal_(module.weight)  # type: ignore[arg-type]
    weight, found = module.weight.detach().numpy(), rounded(module, 4).numpy()  # type: ignore[union-attr,operator]
    if isinstance(module, Conv1D):
        weight, found = weight.T, found.T
    for row, on_grid in zip(weight.reshape(3, -1), found.reshape(3, -1), strict=True):
        step = numpy.abs(row).max() / 7
        numpy.testing.assert_allclose(on_grid, numpy.round(row / step) * step, rtol=1e-5, atol=1e-7)


def test_a_pruned_weight_has_lost_its_smallest_entries() -> None:
    module = nn.Linear(10, 10)
    found = pruned(module, 0.9)
    assert int((found == 0).sum()) == 90
    kept = module.weight.detach().abs().flatten().sort().values[90:]
    torch.testing.assert_close(found.abs()[found != 0].sort().values, kept)


def points() -> list[Point]:
    """Layer a is sensitive, b is not."""
    made = []
    for layer, cost in (("a", 1.0), ("b", 0.001)):
        made += [Point(layer, 100, "sparsity", level, 0.9, cost * level**2) for level in (0.5, 0.9)]
        made += [Point(layer, 100, "bits", level, 0.9, cost / level**2) for level in (8, 4, 2)]
    return made


def test_what_minds_least_gives_most_and_the_target_is_reached() -> None:
    assert overrides(points(), "sparsity", 0.45) == {"a": 0.0, "b": 0.9}
    assert overrides(points(), "sparsity", 0.7) == {"a": 0.5, "b": 0.9}
    assert overrides(points(), "bits", 5) == {"a": 8, "b": 2}
    with pytest.raises(ValueError, match="cannot be reached"):
        overrides(points(), "sparsity", 0.95)


def test_points_are_written(tmp_path: Path) -> None:
    write(points(), tmp_path / "points.csv")
    lines = (tmp_path / "points.csv").read_text().splitlines()
    assert lines[0] == "layer,weights,kind,level,metric,divergence"
    assert lines[1] == "a,100,sparsity,0.5,0.9,0.25"


def test_the_picture_has_divergence_and_metric_against_sparsity_and_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, _: drawn.append(figure))
    made = [Point(f"{i}", 9, "sparsity", at, 0.8 - at * i / 10, i * at) for i in range(8) for at in (0.5, 0.9)]
    made += [Point(f"{i}", 9, "bits", at, 0.8 - i / at / 10, i / at) for i in range(8) for at in (8, 2)]
    draw(made, tmp_path / "points.png", metric=0.8, task=Plain())
    drawn[0].savefig(tmp_path / "points.png")  # what cannot be laid out fails here
    divergence, divergence_of_bits, metric, metric_of_bits = drawn[0].axes
    assert divergence.get_ylabel() == "divergence from the model as it is, nats"
    assert (metric.get_ylabel(), metric.get_yscale()) == ("accuracy", "linear")
    assert (metric.get_xlabel(), metric_of_bits.get_xlabel()) == (
        "sparsity of the layer",
        "bits of the layer's weights",
    )
    for panel, expected in (
        (divergence, [[0.5, 3.5], [0.9, 6.3]]),
        (divergence_of_bits, [[8, 7 / 8], [2, 3.5]]),
        (metric, [[0, 0.8], [0.5, 0.45], [0.9, 0.17]]),
        (metric_of_bits, [[8, 0.8 - 0.7 / 8], [2, 0.45]]),
    ):
        numpy.testing.assert_allclose(panel.lines[7].get_xydata(), expected, atol=1e-12)
    whole = metric_of_bits.lines[8]
    assert (whole.get_linestyle(), set(whole.get_ydata())) == ("--", {0.8})
    colours = [[str(line.get_color()) for line in panel.lines[:8]] for panel in drawn[0].axes]
    assert colours == [colours[0]] * 4
    assert len(set(colours[0][5:])) == 3
    assert set(colours[0][:5]) == {"0.8"}
    for panel in (metric, metric_of_bits):
        assert {text.get_text() for text in panel.get_legend().get_texts()} - {"the model as it is"} == {"5", "6", "7"}


def test_a_metric_that_may_explode_has_a_logarithmic_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, _: drawn.append(figure))
    draw(points(), tmp_path / "points.png", metric=20.0, task=MaskedLM())
    assert (drawn[0].axes[2].get_ylabel(), drawn[0].axes[2].get_yscale()) == ("perplexity", "log")


def test_a_group_is_compressed_at_once_as_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(12, 6), torch.randint(3, (12,))
    batches = [Batch({"input": x}, labels=y, ids=list(range(12)))]
    modules = [model[0], model[2]]
    kept = [module.weight.detach().clone() for module in modules]
    tries = [("both", "sparsity", 0.5, modules), ("both", "bits", 4, modules)]
    for point, compress in zip(scan_groups(model, Plain(), batches, tries), (pruned, rounded), strict=True):
        by_hand = copy.deepcopy(model)
        for place in (0, 2):
            by_hand[place].weight.data = compress(by_hand[place], 0.5 if compress is pruned else 4)
        theirs, ours = log_softmax(model(x), -1), log_softmax(by_hand(x), -1)
        expected = (theirs.exp() * (theirs - ours)).sum().item() / 12
        assert point.divergence == pytest.approx(expected, rel=1e-4)
        assert (point.layer, point.weights) == ("both", 45)
    for module, before in zip(modules, kept, strict=True):
        assert torch.equal(module.weight, before)
