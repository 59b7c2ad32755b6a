"""Movement's scores are of the objective, however its predictions were divided into micro-batches and ranks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.core.signals import IGNORE

SCRIPT = Path(__file__).parent / "scores.py"


@pytest.fixture(scope="module")
def module() -> Any:
    spec = importlib.util.spec_from_file_location("scores_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def whole(module: Any) -> dict[str, Tensor]:
    return module.scores(8)  # type: ignore[no-any-return]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert {name for name in expected if name.endswith("weight_score")} == {"1.weight_score", "3.weight_score"}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("size", [4, 2, 1])
def test_micro_batches_give_the_scores_of_one_batch(module: Any, whole: dict[str, Tensor], size: int) -> None:
    same(module.scores(size), whole)


def test_two_ranks_give_the_scores_of_one_process(
    script: Callable[..., Any], whole: dict[str, Tensor], tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    script(SCRIPT, 2, 2, out)
    for rank in (0, 1):
        same(torch.load(f"{out}.{rank}", weights_only=True), whole)


def test_they_are_minus_weight_times_gradient_of_the_mean(module: Any) -> None:
    torch.manual_seed(0)
    student, teacher = module.net().double(), module.net().double()
    ids, labels = (part[:8] for part in module.sequences())
    valid = labels != IGNORE
    ours, theirs = student(ids)[valid].log_softmax(-1), teacher(ids)[valid].log_softmax(-1)
    cross_entropy = -ours.gather(-1, labels[valid][:, None]).mean()
    kl = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    (0.5 * cross_entropy + kl).backward()
    found = module.scores(2, steps=1)
    for name in ("1", "3"):
        weight = student[int(name)].weight
        expected = -weight.detach() * weight.grad
        torch.testing.assert_close(found[f"{name}.weight_score"].double(), expected, rtol=1e-4, atol=1e-8)
