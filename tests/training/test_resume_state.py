"""What a checkpoint holds of a teacher comes back on another number of processes too."""

from __future__ import annotations

import torch

from distill.training.resume_state import _joined


def test_what_one_rank_found_of_its_teacher_all_of_another_number_know() -> None:
    rows = [{"ids": torch.tensor([i]), "random": torch.tensor(i == 2), "shared": torch.tensor(i)} for i in (1, 2)]
    found = _joined([*rows, {"0.changed": torch.tensor(7)}, {}])
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"ids": [1, 2], "random": True, "0.changed": 7}
