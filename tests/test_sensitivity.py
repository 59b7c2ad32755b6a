"""The promises of the sensitivity scan, on a net small enough to compress by hand."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from torch import nn
from torchmetrics import Metric
from transformers.pytorch_utils import Conv1D

from distill.sensitivity import Point, draw, layers, overrides, pruned, rounded, scan, write
from distill.signals import Batch
from distill.tasks import Plain


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


def test_a_weight_that_layers_share_is_scanned_once() -> None:
    model = net()
    shared = nn.Linear(10, 10)
    shared.weight = model[2].weight
    model = nn.Sequential(*model[:3], nn.ReLU(), shared, nn.ReLU(), model[4])
    assert layers(model) == {"0": ["0"], "2": ["2", "4"]}
    _, points = scan(model, Plain(), batches(), sparsities=[0.5], bits=[])
    assert [(p.layer, p.weights) for p in points] == [("0", 60), ("2", 100)]


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
    """Layer a minds, b does not."""
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


def test_points_are_written_and_drawn(tmp_path: Path) -> None:
    write(points(), tmp_path / "points.csv")
    lines = (tmp_path / "points.csv").read_text().splitlines()
    assert lines[0] == "layer,weights,kind,level,metric,divergence"
    assert lines[1] == "a,100,sparsity,0.5,0.9,0.25"
    draw(points(), tmp_path / "points.png")
    assert (tmp_path / "points.png").stat().st_size > 10_000
