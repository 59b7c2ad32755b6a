"""Where two configurations differ."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from distill.config.diff import MISSING, config_diff
from distill.config.files import apply_override

CONFIG: dict[str, Any] = {
    "seed": 0,
    "model": {
        "teacher": [{"path": "a", "weight": 0.5}, {"path": "b", "weight": 0.5}],
        "student": {"layers": [1, 3]},
        "losses": [
            {"class_path": "distill.losses.CrossEntropy"},
            {"class_path": "distill.losses.HintonKL", "init_args": {"temperature": 2.0}},
        ],
        "optimizer": {"lr": 1e-3},
    },
    "data": {"class_path": "distill.data.TextData", "init_args": {"batch_size": 8}},
    "callbacks": [],
}
PRUNING = {"class_path": "distill.callbacks.GradualMagnitudePruning", "init_args": {"final_sparsity": 0.8}}
LOW_RANK = {"class_path": "distill.callbacks.LowRank", "init_args": {"rank": 4}}


def changed(**parts: Any) -> dict[str, Any]:
    return copy.deepcopy(CONFIG) | parts


def test_a_configuration_does_not_differ_from_itself() -> None:
    assert config_diff(CONFIG, copy.deepcopy(CONFIG)) == {}
    assert config_diff({"x": math.nan, "y": 1}, {"x": math.nan, "y": 1.0}) == {}
    bare = {"class_path": "LowRank"}
    assert config_diff({"callbacks": [bare]}, {"callbacks": [{**bare, "init_args": {}}]}) == {}


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("seed", 0, 1),
        ("model.optimizer.lr", 1e-3, 2e-3),
        ("model.losses.1.temperature", 2.0, 4.0),
        ("model.losses.0.weight", MISSING, 0.5),
        ("model.student.layers", [1, 3], [1, 2]),
        ("model.student.num_layers", MISSING, 2),
        ("model.teacher.1.weight", 0.5, 0.25),
        ("data.batch_size", 8, 16),
        ("trainer", MISSING, {"max_steps": 3}),
    ],
)
def test_a_difference_has_the_key_that_makes_it(key: str, old: Any, new: Any) -> None:
    other = copy.deepcopy(CONFIG)
    apply_override(other, key, new)
    assert config_diff(CONFIG, other) == {key: (old, new)}
    assert config_diff(other, CONFIG) == {key: (new, old)}


def test_a_truth_value_is_no_number() -> None:
    assert config_diff({"x": 1}, {"x": True}) == {"x": (1, True)}


def test_a_callback_that_came_first_leaves_the_others_alone() -> None:
    assert config_diff(changed(callbacks=[PRUNING]), changed(callbacks=[LOW_RANK, PRUNING])) == {
        "callbacks.LowRank": (MISSING, LOW_RANK)
    }
    sparser = {**PRUNING, "init_args": {"final_sparsity": 0.9}}
    assert config_diff(changed(callbacks=[PRUNING]), changed(callbacks=[LOW_RANK, sparser])) == {
        "callbacks.GradualMagnitudePruning.final_sparsity": (0.8, 0.9),
        "callbacks.LowRank": (MISSING, LOW_RANK),
    }


def test_another_order_is_a_difference() -> None:
    assert config_diff({"callbacks": [PRUNING, LOW_RANK]}, {"callbacks": [LOW_RANK, PRUNING]}) == {
        "callbacks": (["GradualMagnitudePruning", "LowRank"], ["LowRank", "GradualMagnitudePruning"])
    }


def test_several_of_one_class_are_told_apart() -> None:
    second = {**LOW_RANK, "init_args": {"rank": 2}}
    assert config_diff({"callbacks": [LOW_RANK]}, {"callbacks": [LOW_RANK, second]}) == {
        "callbacks.LowRank (2)": (MISSING, second)
    }


def test_classes_of_one_name_in_two_modules_are_two() -> None:
    mine = {**LOW_RANK, "class_path": "mine.LowRank"}
    assert config_diff({"callbacks": [LOW_RANK]}, {"callbacks": [mine]}) == {
        "callbacks.0.class_path": ("distill.callbacks.LowRank", "mine.LowRank")
    }


def test_lists_of_other_lengths_differ_whole() -> None:
    one, two = [{"path": "a"}], [{"path": "a"}, {"path": "b"}]
    assert config_diff({"teacher": one}, {"teacher": two}) == {"teacher": (one, two)}


def test_several_configurations_are_compared_at_once() -> None:
    configs = [changed(seed=seed, **more) for seed, more in ((0, {}), (0, {"name": "b"}), (2, {}))]
    assert config_diff(*configs) == {"seed": (0, 0, 2), "name": (MISSING, "b", MISSING)}
