"""The promises that hold over several processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parent

Script = Callable[..., Any]


def gradients(script: Script, ranks: int, folder: Path, of: str) -> list[torch.Tensor]:
    out = folder / f"gradient-{ranks}"
    script(FOLDER / "run.py", ranks, out, of)
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(ranks)]


@pytest.mark.parametrize("of", ["tables", "language models a block at a time", "encoder-decoders"])
def test_gradient_over_two_ranks_equals_that_of_one_process(script: Script, tmp_path: Path, of: str) -> None:
    (alone,) = gradients(script, 1, tmp_path, of)
    first, second = gradients(script, 2, tmp_path, of)
    assert bool(first.any())
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-8)
    found = [
        json.loads((tmp_path / f"gradient-{ranks}.{rank}.json").read_text()) for ranks, rank in ((1, 0), (2, 0), (2, 1))
    ]
    assert found[0]["predictions"] == sum(range(1, 9))  # of both ranks, not of one
    assert [evidence.pop("batches") for evidence in found] == [[4, 4], [2, 2], [2, 2]]
    errors = [evidence.pop("standard_error") for evidence in found]
    assert errors == pytest.approx([errors[0]] * 3)
    contexts = [evidence.pop("by_context", {}) for evidence in found]  # sums of other orders
    assert contexts[1] == contexts[2]
    for who, parts in contexts[0].items():
        assert {key: pytest.approx(values) if key != "context" else values for key, values in parts.items()} == (
            contexts[1][who]
        )
    assert found[1] == found[2] == found[0]


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
