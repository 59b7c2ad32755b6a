"""Masks over several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CRITERIA = ("magnitude", "movement", "wanda")


def test_masks_weights_and_statistics_are_equal_on_all_ranks(script: Callable[..., Any], tmp_path: Path) -> None:
    # Trap 23, with data of each rank's own; magnitude with regrowth by gradients.
    out = tmp_path / "state"
    script(Path(__file__).with_name("run.py"), out, *CRITERIA)
    for criterion in CRITERIA:
        first, second = (torch.load(f"{out}-{criterion}.{rank}", weights_only=True) for rank in (0, 1))
        for part in ("state", "average"):
            assert first[part].keys() == second[part].keys()
            for name, value in first[part].items():
                torch.testing.assert_close(second[part][name], value, rtol=0, atol=0, msg=f"{criterion} {name}")
        masks = [value for name, value in first["state"].items() if name.endswith("weight_mask")]
        assert len(masks) == 2
        assert sum(int((~mask).sum()) for mask in masks) == 154  # 0.6 of 256, 153.6
