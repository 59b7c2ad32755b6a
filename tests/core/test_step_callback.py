"""A callback of one's own that breaks the contract is told so."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from distill.core.step_callback import StepCallback, finish_callback
from distill.core.utils.errors import UserError


class Says(StepCallback):
    def __init__(self, record: Any) -> None:
        self.record = record

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        return self.record  # type: ignore[no-any-return]


@pytest.mark.parametrize("record", [None, {"kind": "mine"}, ["mine"], [{"mine": 1}]])
def test_a_record_that_is_no_list_of_steps_is_refused(record: Any) -> None:
    with pytest.raises(UserError, match="Says: finish must return a list of steps"):
        finish_callback(Says(record), nn.Linear(1, 1))


def test_a_list_of_steps_is_the_record() -> None:
    assert finish_callback(Says([{"kind": "mine"}]), nn.Linear(1, 1)) == [{"kind": "mine"}]
