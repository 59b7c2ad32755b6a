"""The promises that hold over several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent

Script = Callable[..., Any]


def gradients(script: Script, ranks: int, folder: Path) -> list[torch.Tensor]:
    out = folder / f"gradient-{ranks}"
    script(FOLDER / "run.py", ranks, out)
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(ranks)]


def test_gradient_over_two_ranks_equals_that_of_one_process(script: Script, tmp_path: Path) -> None:
    (alone,) = gradients(script, 1, tmp_path)
    first, second = gradients(script, 2, tmp_path)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-8)


def test_every_rank_remembers_the_samples_of_all_after_an_epoch_and_on_resuming(script: Script, tmp_path: Path) -> None:
    script(FOLDER / "remember.py", tmp_path)
    recalled = [torch.load(tmp_path / f"recalled.{rank}", weights_only=True) for rank in range(2)]
    assert [sorted(state["ids"].tolist()) for state in recalled] == [list(range(8))] * 2
    torch.manual_seed(0)
    torch.nn.Linear(4, 3)
    teacher = torch.nn.Linear(4, 3)
    for state in recalled:
        expected = teacher(torch.arange(4.0).repeat(8, 1) + state["ids"][:, None])
        torch.testing.assert_close(state["logits"], expected)
