"""The trials of a sweep."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest

from distill.core.utils.errors import UserError
from distill.workflows.sweep.file import SweepFile
from distill.workflows.sweep.search import trials


def sweep(method: str, cap: int | None = None, **parameters: Any) -> SweepFile:
    named = {key.replace("__", "."): value for key, value in parameters.items()}
    return SweepFile(name="mine", method=method, parameters=named, cap=cap)


def test_a_grid_holds_every_combination_once() -> None:
    found = trials(sweep("grid", b={"values": [1, 2, 3]}, a={"values": ["x", None]}, c={"value": 0.5}))
    expected = [{"b": b, "a": a, "c": 0.5} for b, a in itertools.product([1, 2, 3], ["x", None])]
    assert sorted(map(str, found)) == sorted(map(str, expected))  # the keys in the order of the file


def test_a_grid_takes_integers_between_two() -> None:
    assert trials(sweep("grid", n={"min": 2, "max": 4})) == [{"n": 2}, {"n": 3}, {"n": 4}]
    assert trials(sweep("grid", n={"distribution": "int_uniform", "min": 0, "max": 1})) == [{"n": 0}, {"n": 1}]


def test_values_may_be_lists_and_mappings() -> None:
    values = [[1, 3], [2, 4], {"layers": "uniform"}]
    assert [trial["x"] for trial in trials(sweep("grid", x={"values": values}))] == values


def test_a_cap_leaves_the_first() -> None:
    space = {"a": {"values": [1, 2]}, "b": {"values": [1, 2]}}
    assert trials(sweep("grid", 3, **space)) == trials(sweep("grid", **space))[:3]


def test_the_trials_are_a_function_of_file_and_seed() -> None:
    file = sweep("random", 5, lr={"min": 0.0, "max": 1.0}, n={"values": [1, 2, 3]})
    assert trials(file, 1) == trials(file, 1)
    assert trials(file, 1) != trials(file, 2)
    longer = sweep("random", 8, lr={"min": 0.0, "max": 1.0}, n={"values": [1, 2, 3]})
    assert trials(longer, 1)[:5] == trials(file, 1)


def test_a_random_search_of_a_finite_space_repeats_nothing(recwarn: pytest.WarningsRecorder) -> None:
    found = trials(sweep("random", 100, a={"values": [1, 2, 3]}, b={"min": 0, "max": 1}))
    assert sorted((trial["a"], trial["b"]) for trial in found) == list(itertools.product([1, 2, 3], [0, 1]))
    # scikit-learn has nothing to say of a number of trials that we asked it for.
    assert [str(warning.message) for warning in recwarn if issubclass(warning.category, UserWarning)] == []


def normal(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


@pytest.mark.parametrize(
    ("given", "cumulative"),
    [
        ({"min": 1.0, "max": 3}, lambda x: (x - 1) / 2),
        ({"distribution": "uniform", "min": -1, "max": 1}, lambda x: (x + 1) / 2),
        ({"distribution": "log_uniform", "min": -3, "max": 1}, lambda x: (math.log(x) + 3) / 4),
        ({"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1}, lambda x: math.log10(x / 1e-5) / 4),
        ({"distribution": "normal"}, normal),
        ({"distribution": "normal", "mu": 2, "sigma": 0.5}, lambda x: normal((x - 2) / 0.5)),
        ({"distribution": "log_normal", "mu": -1, "sigma": 2}, lambda x: normal((math.log(x) + 1) / 2)),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_draws_follow_their_distribution(given: dict[str, Any], cumulative: Callable[[float], float]) -> None:
    count = 1000
    drawn = sorted(trial["x"] for trial in trials(sweep("random", count, x=given)))
    assert {type(x) for x in drawn} == {float}
    # Kolmogorov's distance; 1.95 / sqrt(count) is exceeded once in a thousand seeds.
    distance = max(abs(cumulative(x) - (i + 0.5) / count) for i, x in enumerate(drawn))
    assert distance < 1.95 / math.sqrt(count)


@pytest.mark.parametrize(("q", "kind"), [(None, int), (8, int), (0.25, float)])
def test_rounded_draws_are_multiples(q: float | None, kind: type) -> None:
    given = {"distribution": "q_uniform", "min": 0, "max": 40} | ({} if q is None else {"q": q})
    drawn = {trial["x"] for trial in trials(sweep("random", 400, x=given))}
    step = 1 if q is None else q
    assert {type(x) for x in drawn} == {kind}
    assert all((x / step).is_integer() for x in drawn)
    assert {0, 40} <= drawn if q == 8 else len(drawn) > 20


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"parameters\.lr\.distribution: no such.*values"),
        ({"distribution": "uniformm", "min": 0, "max": 1}, r"'uniformm': no such distribution.*'uniform'"),
        ({"values": []}, r"parameters\.lr\.values = \[\]: must be a list of one or more"),
        ({"values": "ab"}, r"parameters\.lr\.values = 'ab': must be a list"),
        ({"value": 1, "values": [2]}, r"parameters\.lr\.values = \[2\]: does not belong"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, r"parameters\.lr\.probabilities"),
        ({"parameters": {"x": {"value": 1}}}, r"parameters\.lr\.distribution: no such"),
        ({"distribution": "uniform", "min": 0}, r"parameters\.lr\.max: must be given"),
        ({"distribution": "constant"}, r"parameters\.lr\.value: must be given"),
        ({"distribution": "uniform", "min": 0, "max": "a"}, r"parameters\.lr\.max = 'a': must be a number"),
        ({"distribution": "uniform", "min": 1, "max": 1}, r"parameters\.lr\.min = 1: must be less"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 1}, r"parameters\.lr\.min = 0\.5: must be an integer"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, r"parameters\.lr\.min = 0: must be greater"),
        ({"distribution": "q_log_uniform_values", "min": 0, "max": 1}, r"parameters\.lr\.min = 0: must be greater"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, r"parameters\.lr\.q = 0: must be greater"),
        ({"distribution": ["uniform"]}, r"parameters\.lr\.distribution = \['uniform'\]: no such"),
        ({"distribution": "log_uniform", "min": 0, "max": 1e3}, r"parameters\.lr\.max = 1000\.0: must lie between"),
        ({"distribution": "log_normal", "mu": -1e3}, r"parameters\.lr\.mu = -1000\.0: must lie between"),
        ({"distribution": "uniform", "min": -1e308, "max": 1e308}, r"parameters\.lr = inf: draws what is no number"),
        ({"distribution": "q_normal", "mu": 1e308, "q": 1e-9}, r"parameters\.lr = inf: draws what is no number"),
        ({"distribution": "normal", "sigma": -1}, r"parameters\.lr\.sigma = -1: must be greater"),
    ],
    ids=str,
)
def test_what_is_no_distribution_is_refused_by_its_key(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        trials(sweep("random", 3, lr=given))


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_that_numpy_has_not_is_refused(seed: int) -> None:
    with pytest.raises(UserError, match=r"--seed = .*: must be from 0 to 4294967295"):
        trials(sweep("random", 3, lr={"min": 0.0, "max": 1.0}), seed)


def test_a_grid_of_draws_is_refused() -> None:
    with pytest.raises(UserError, match=r"parameters\.lr: a grid has no continuous.*random"):
        trials(sweep("grid", n={"values": [1]}, lr={"min": 0.0, "max": 1.0}))


def test_an_endless_search_is_refused() -> None:
    with pytest.raises(UserError, match="run_cap"):
        trials(sweep("random", n={"values": [1, 2]}))


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r'pip install "lightning-distill\[sweep\]"'):
        trials(sweep("grid", n={"values": [1, 2]}))


@pytest.mark.parametrize("cap", [None, 7])
def test_a_grid_is_in_the_order_that_its_trials_are_numbered_by(cap: int | None) -> None:
    """That of scikit-learn, by which sweeps were recorded."""
    from sklearn.model_selection import ParameterGrid

    space: dict[str, Any] = {"b": {"values": [3, 1, 2]}, "a": {"values": ["x", "y"]}, "c": {"min": 4, "max": 6}}
    expected = list(ParameterGrid({"b": [3, 1, 2], "a": ["x", "y"], "c": [4, 5, 6]}))
    assert trials(sweep("grid", cap, **space)) == expected[:cap]


def test_a_space_without_end_is_refused_or_drawn_from_at_once() -> None:
    ends = {"min": 0, "max": 10**12 - 1}
    with pytest.raises(UserError, match=r"parameters: make a grid of 1,000,000,000,000 trials"):
        trials(sweep("grid", x=ends))
    assert trials(sweep("grid", 3, x=ends)) == [{"x": 0}, {"x": 1}, {"x": 2}]
    with pytest.raises(UserError, match="run_cap = 1000000000: must be at most 10,000"):
        trials(sweep("random", 10**9, x=ends))
    wide = trials(sweep("random", 50, x=ends, y=ends, z={"values": [1, 2]}))
    assert len({tuple(trial.values()) for trial in wide}) == 50
    assert all(0 <= trial["x"] < 10**12 and 0 <= trial["y"] < 10**12 for trial in wide)
    assert max(trial["x"] for trial in wide) > 10**11
    with pytest.raises(UserError, match=r"parameters.x.max = 1000.*: must be less than"):
        trials(sweep("random", 3, x={"min": 0, "max": 10**30}))


@pytest.mark.parametrize("given", [{"min": 1e-5}, {"min": 1}, {"distribution": "uniform", "min": 0}])
def test_the_end_that_is_missing_is_named(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"parameters\.x\.max: must be given"):
        trials(sweep("random", 3, x=given))
