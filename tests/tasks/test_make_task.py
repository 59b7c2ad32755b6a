from __future__ import annotations

import pytest

from distill.core.utils.errors import UserError
from distill.tasks import TASKS, Task, TextClassification, make_task


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_monitored_metric_and_a_mode(name):
    task = make_task(name, ["a", "b"])
    assert isinstance(task, Task)
    assert task.name == name
    assert task.monitor in task.metrics()
    assert task.mode in ("min", "max")


def test_a_name_that_is_near_is_offered():
    with pytest.raises(UserError, match=r"model\.task = 'casual-lm': no such task\. did you mean 'causal-lm'"):
        make_task("casual-lm")


def test_a_ready_task_learns_its_classes_from_the_data_and_keeps_its_own():
    assert make_task(TextClassification(), ["a", "b"]).labels == ["a", "b"]
    assert make_task(TextClassification(["x"]), ["a", "b"]).labels == ["x"]
