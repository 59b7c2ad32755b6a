"""Settings of structured pruning: its schedule, a YAML, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback
from transformers import AutoConfig, AutoModelForCausalLM

from distill.callbacks import StructuredPruning
from distill.core.utils.errors import UserError

Make = Callable[..., Any]


def test_schedule_is_reported_in_advance() -> None:
    pruning = StructuredPruning(heads=0.5, layers=2, begin=0.1, end=0.5, every_n_steps=10)
    # (1 - (1 - 20/40)^3) = 0.875 at step 30 of 10 ... 50.
    assert pruning.timeline([0, 30, 39, 50, 100], 100) == {
        "heads removed": [0.0, 0.4375, 0.4375, 0.5, 0.5],
        "layers removed": [0.0, 1.75, 1.75, 2.0, 2.0],
    }
    assert [pruning.target_reached(step, 100) for step in (0, 49, 50, 100)] == [False, False, True, True]


def test_a_configuration_can_name_it() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    arguments = {"heads": 0.5, "layers": [2], "begin": 100, "end": 0.5, "criterion": "taylor"}
    spec = {"callbacks": [{"class_path": "distill.callbacks.StructuredPruning", "init_args": arguments}]}
    made = parser.instantiate(parser.parse_object(spec)).callbacks[0]
    assert (made.plan.layers, made.schedule.begin, made.schedule.end) == ([2], 100, 0.5)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"heads": 1.0}, "heads"),
        ({"neurons": -0.1}, "neurons"),
        ({"hidden": 1.0}, "hidden"),
        ({"heads": float("nan")}, "heads"),
        ({}, ""),
        ({"heads": 0.5, "every_n_steps": 0}, "every_n_steps"),
        ({"heads": 0.5, "begin": 0.6, "end": 0.5}, "begin"),
        ({"heads": 0.5, "end": 1.5}, "end"),
        ({"heads": 0.5, "criterion": "magnitud"}, "criterion"),
        ({"heads": 0.5, "scope": "model"}, "scope"),
        ({"heads": 0.5, "schedule": "cube"}, "schedule"),
    ],
)
def test_values_out_of_range_are_refused_at_once(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        StructuredPruning(**arguments)
    assert caught.value.key == f"callbacks.StructuredPruning.{key}".rstrip(".")


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"heads": 0.1}, "heads"),  # of four heads it is none
        ({"layers": 3}, "layers"),
        ({"layers": -1}, "layers"),
        ({"layers": [0]}, "layers"),
        ({"layers": [4]}, "layers"),
        ({"layers": [1, 1]}, "layers"),
        ({"heads": 0.5, "end": 100}, "end"),  # the run has 8 steps
        ({"heads": 0.5, "begin": 0.9, "end": 2}, "begin"),
        ({"heads": 0.5, "schedule": "one_shot", "criterion": "taylor"}, "criterion"),  # before anything is measured
    ],
)
def test_what_does_not_fit_the_student_is_refused_before_training(
    arguments: dict[str, Any], key: str, classifier: Make, pair: Make, fit: Make
) -> None:
    module = pair(classifier())
    before = {name: value.clone() for name, value in module.student.state_dict().items()}
    with pytest.raises(UserError) as caught:
        fit(module, StructuredPruning(**arguments))
    assert caught.value.key == f"callbacks.StructuredPruning.{key}"
    assert all(torch.equal(value, module.student.state_dict()[name]) for name, value in before.items())


def _llama() -> Any:
    config = {"hidden_size": 12, "num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 2}
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **config, intermediate_size=20, vocab_size=30)
    )


def test_heads_that_go_in_groups_are_reported_with_their_true_part(caplog: pytest.LogCaptureFixture) -> None:
    student, pruning = _llama(), StructuredPruning(heads=0.5)
    with caplog.at_level(logging.WARNING, logger="distill"):
        pruning.prepare(student)
    # Half of 3 groups is 2 of them, which are 4 of 6 heads.
    assert "a layer has 3 groups of 2 query heads that share one of keys and values" in caplog.text
    assert "66.7 % of the heads go" in caplog.text
    (step,) = pruning.finish(student)
    assert step["heads_in_group"] == 2
    assert {len(kept) for kept in step["heads"].values()} == {3}


def test_heads_that_go_in_groups_are_reported_where_the_part_is_as_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="distill"):
        StructuredPruning(heads=0.5, scope="global").prepare(_llama())
    assert "3 groups of 2 query heads" in caplog.text
    assert "50 % of the heads go" in caplog.text


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"heads": 0.99}, "heads = 0.99: a layer has 4, whole ones go, and one stays: 75 % of the heads go"),
        ({"heads": 0.4}, "50 % of the heads go"),  # of four 1.6, which is two
        ({"heads": 0.4, "scope": "global"}, "41.7 % of the heads go"),  # of twelve 4.8
        ({"heads": 0.5}, ""),
        ({"neurons": 0.5}, ""),
    ],
)
def test_another_part_than_was_asked_for_is_said(
    asked: dict[str, Any], said: str, classifier: Make, caplog: pytest.LogCaptureFixture
) -> None:
    student = classifier()
    with caplog.at_level(logging.WARNING, logger="distill"):
        StructuredPruning(**asked).prepare(student)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


def test_fewer_heads_than_a_group_are_refused_with_the_groups() -> None:
    with pytest.raises(UserError, match=r"heads = 0\.1: this is none of 3 groups of 2 query heads"):
        StructuredPruning(heads=0.1).prepare(_llama())
