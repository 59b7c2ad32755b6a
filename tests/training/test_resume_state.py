"""What a checkpoint holds of teacher and data: it comes back on another number of processes, and says what changed."""

from __future__ import annotations

import pytest
import torch

from distill.core.utils.errors import UserError
from distill.training.resume_state import _joined, refuse_changed


def test_what_one_rank_found_of_its_teacher_all_of_another_number_know() -> None:
    rows = [{"ids": torch.tensor([i]), "random": torch.tensor(i == 2), "shared": torch.tensor(i)} for i in (1, 2)]
    found = _joined([*rows, {"0.changed": torch.tensor(7)}, {}])
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"ids": [1, 2], "random": True, "0.changed": 7}


@pytest.mark.parametrize(
    ("began", "now", "said"),
    [
        ("a-b-c", "a-b-d", "the tokenizer is not the one"),
        ("a-b-c", "x-b-c", "the training samples"),
        ("a-b-c", "a-x-c", "the validation samples, or the classes,"),
        ("a", "x", "the data is not that of the run"),
    ],
)
def test_what_has_changed_of_the_data_is_named(began: str, now: str, said: str) -> None:
    refuse_changed({"data": began}, None, began)
    with pytest.raises(UserError, match=said):
        refuse_changed({"data": began}, None, now)
