"""Movement's scores are of the objective, however its predictions were divided into micro-batches and ranks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.signals import IGNORE

SCRIPT = Path(__file__).parent / "scores.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("scores_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def whole(script: Any) -> dict[str, Tensor]:
    return script.scores(8)  # type: ignore[no-any-return]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert {name for name in expected if name.endswith("weight_score")} == {"1.weight_score", "3.weight_score"}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("size", [4, 2, 1])
def test_micro_batches_give_the_scores_of_one_batch(script: Any, whole: dict[str, Tensor], size: int) -> None:
    same(script.scores(size), whole)


def test_two_ranks_give_the_scores_of_one_process(whole: dict[str, Tensor], tmp_path: Path) -> None:
    out = tmp_path / "scores"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "2", "2", str(out)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in (0, 1):
        same(torch.load(f"{out}.{rank}", weights_only=True), whole)


def test_they_are_minus_weight_times_gradient_of_the_mean(script: Any) -> None:
    torch.manual_seed(0)
    student, teacher = script.net().double(), script.net().double()
    ids, labels = (part[:8] for part in script.sequences())
    valid = labels != IGNORE
    ours, theirs = student(ids)[valid].log_softmax(-1), teacher(ids)[valid].log_softmax(-1)
    cross_entropy = -ours.gather(-1, labels[valid][:, None]).mean()
    kl = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    (0.5 * cross_entropy + kl).backward()
    found = script.scores(2, steps=1)
    for name in ("1", "3"):
        weight = student[int(name)].weight
        expected = -weight.detach() * weight.grad
        torch.testing.assert_close(found[f"{name}.weight_score"].double(), expected, rtol=1e-4, atol=1e-8)
