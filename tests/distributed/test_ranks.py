"""The promises that hold over several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).parent / "run.py"


def gradients(ranks: int, folder: Path) -> list[torch.Tensor]:
    out = folder / f"gradient-{ranks}"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(ranks), str(out)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(ranks)]


def test_gradient_over_two_ranks_equals_that_of_one_process(tmp_path: Path) -> None:
    (alone,) = gradients(1, tmp_path)
    first, second = gradients(2, tmp_path)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-8)
