from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from distill.callbacks import GradualMagnitudePruning, LowRank, QuantizationAwareTraining, ShareParameters
from distill.compression.coverage import Coverage, coverage, coverage_of


class Experts(nn.Module):
    """Two experts of a mixture in one parameter, as Mixtral keeps them."""

    def __init__(self) -> None:
        super().__init__()
        import torch

        self.down_proj = nn.Parameter(torch.ones(2, 10, 20))


def net() -> nn.Module:
    """1,000 weights: 400 of experts, 200 of a linear map, 290 of an LSTM, 50 of the head, and vectors."""
    model = nn.Module()
    model.embed = nn.Embedding(2, 10)
    model.experts, model.map, model.lstm = Experts(), nn.Linear(10, 20, bias=False), nn.LSTM(1, 8, bias=False)
    model.head = nn.Linear(5, 10)
    return model


def test_what_is_reached_and_what_is_left_is_counted_by_its_role() -> None:
    counted = coverage(net(), {"pruning": ["map.weight"], "quantization": ["map.weight", "embed.weight"]})
    assert (counted.weights, counted.compressed) == (400 + 200 + 288 + 60 + 20, 220)
    assert counted.by == {"pruning": 200, "quantization": 220}
    assert counted.left == {"experts": 400, "LSTM": 288, "head": 50, "norms and biases": 10}


def test_a_tied_weight_counts_once_by_whichever_name() -> None:
    model = net()
    model.other = nn.Linear(10, 20, bias=False)
    model.other.weight = model.map.weight
    assert coverage(model, {"pruning": ["other.weight"]}).compressed == 200
    assert coverage(model, {"pruning": ["other.weight", "map.weight"]}).weights == 968


def test_the_line_names_what_is_left_with_its_share() -> None:
    line = str(Coverage(1000, 90, {"pruning": 90}, {"experts": 810, "LSTM": 97, "head": 2, "norms and biases": 1}))
    assert line == "compressed: 9 % of the weights; left as they are: experts (81 %), LSTM (10 %), others (0.3 %)"
    assert str(Coverage(10, 10, {"pruning": 5, "quantization": 10})).endswith("(pruning 50 %, quantization 100 %)")


@pytest.mark.parametrize(
    "callback",
    [
        GradualMagnitudePruning(final_sparsity=0.5),
        LowRank(rank=2),
        ShareParameters(groups=[[1, 2]]),
        QuantizationAwareTraining(activations=None),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_the_record_tells_the_same_as_the_callback_did_before(callback: Any, classifier: Callable[..., Any]) -> None:
    student = classifier("bert")
    callback.prepare(student)
    before = coverage(student, {"it": callback.reached(student)})
    after = coverage_of(student, callback.finish(student))
    assert 0 < before.compressed < before.weights
    assert (after.compressed, after.left) == (before.compressed, before.left)


def test_sparsity_and_bits_are_of_all_weights() -> None:
    model = net()
    nn.init.zeros_(model.map.weight)
    steps = [
        {"kind": "sparsity", "layers": {"map": {}}},
        {"kind": "quantize", "modules": {"map": {"weights": {"bits": 8}}, "embed": {"weights": {"bits": 4}}}},
    ]
    counted = coverage_of(model, steps)
    assert counted.sparsity == 200 / 968
    assert counted.bits == (200 * 8 + 20 * 4 + 748 * 32) / 968


def test_a_run_says_what_it_leaves_and_records_it(
    base: dict[str, Any], distill: Callable[..., Any], tmp_path: Path
) -> None:
    callbacks = "[{class_path: GradualMagnitudePruning, init_args: {final_sparsity: 0.5, begin: 1, end: 2}}]"
    code, out, err = distill("fit", "-c", "base.yaml", "--id", "one", "--callbacks", callbacks)
    assert code == 0, err
    folder = Path("runs/base/one")
    told = next(line for line in out.splitlines() if line.startswith("compressed: "))
    record = json.loads((folder / "student/compression.json").read_text())["coverage"]
    assert told == str(Coverage(record["weights"], record["compressed"], {}, record["left"]))
    assert json.loads((folder / "result.json").read_text())["coverage"] == record
    assert record["sparsity"] == pytest.approx(0.5 * record["compressed"] / record["weights"], abs=1e-4)
    code, out, err = distill("fit", "-c", "base.yaml", "--dry-run", "--callbacks", callbacks)
    assert code == 0, err
    assert " ".join(told.split("compressed: ")[1].split()[:5]) in " ".join(out.split())
