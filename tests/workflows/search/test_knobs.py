"""What knobs may be, and the configurations that they make."""

from __future__ import annotations

from typing import Any

import pytest

from distill.core.utils.errors import UserError
from distill.workflows.search.knobs import Knob, bounded, parameters_of
from distill.workflows.trials.trial import changed

LAYERS = Knob("layers", "model.student.num_layers", 3, (1, 2, 3, 4), whole=True)
HEADS = Knob("heads", "callbacks.0.heads", 0.5, (0.0, 0.25, 0.5))
BITS = Knob("bits.ffn", "callbacks.1.overrides", 8, (4, 8), pattern="mlp")
WARM = Knob("temperature.HintonKL", "model.losses.0.temperature", 2.0, low=1.0, high=8.0, log=True)
FOUND = [LAYERS, HEADS, BITS, WARM]


def one(text: str) -> Knob:
    name = text.partition("=")[0]
    return next(knob for knob in bounded(FOUND, [text]) if knob.name == name)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("layers=2", (2,)),
        ("layers=3,2", (2, 3)),
        ("layers=2..3", (2, 3)),
        ("bits.ffn=4..8", (4, 8)),
        ("bits.ffn=2,4", (2, 4)),
        ("heads=0,0.5", (0, 0.5)),
        ("model.optimizer.lr=1e-4,1e-3", (1e-4, 1e-3)),
        ("data.batch_size=8..10", (8, 9, 10)),
        ("model.losses.0.layer_map=[uniform, last]", ("uniform", "last")),
    ],
)
def test_values_are_those_that_are_given(text: str, values: tuple[Any, ...]) -> None:
    assert one(text).values == values


@pytest.mark.parametrize(
    ("text", "low", "high", "log"),
    [
        ("temperature.HintonKL=2..4", 2.0, 4.0, False),
        ("model.optimizer.lr=1e-4..1e-3", 1e-4, 1e-3, True),
        ("heads=0..0.5", 0.0, 0.5, False),
    ],
)
def test_numbers_lie_in_the_range_that_is_given(text: str, low: float, high: float, log: bool) -> None:
    knob = one(text)
    assert (knob.values, knob.low, knob.high, knob.log) == ((), low, high, log)


def test_a_knob_may_stay_as_the_recipe_has_it() -> None:
    assert [knob.name for knob in bounded(FOUND, ["heads=recipe", "layers=recipe"])] == [BITS.name, WARM.name]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["heats=0.5"], r"--knob = 'heats': the recipe has no such knob.*heads"),
        (["nowhere.lr=1"], "the recipe has no such knob"),
        (["heads"], "must say what may be tried"),
        (["heads="], "must say what may be tried"),
        (["heads=0.1", "heads=0.2"], "is given twice"),
        (["heads=0.5,0.5"], "must be values, each once"),
        (["heads=0.5..0.1"], "the lower one first"),
        (["heads=a..b"], "must be two numbers"),
        (["bits.ffn=5..7"], "holds none of 4, 8"),
        (["layers=1..100000"], "must be few integers"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        bounded(FOUND, given)


CONFIG: dict[str, Any] = {
    "model": {"student": {"num_layers": 3}, "losses": [{"class_path": "HintonKL"}]},
    "callbacks": [
        {"class_path": "StructuredPruning", "init_args": {"heads": 0.5}},
        {"class_path": "QuantizationAwareTraining", "init_args": {"overrides": {"query": 16}}},
    ],
}


def applied(**values: Any) -> dict[str, Any]:
    chosen = {"layers": 2, "heads": 0.25, "bits.ffn": 4, "temperature.HintonKL": 3.0} | values
    return changed(CONFIG, parameters_of(FOUND, chosen, CONFIG))


def test_values_go_where_the_recipe_has_them() -> None:
    config = applied()
    assert config["model"]["student"]["num_layers"] == 2
    assert config["model"]["losses"][0]["init_args"]["temperature"] == 3.0
    assert config["callbacks"][0]["init_args"] == {"heads": 0.25}
    assert list(config["callbacks"][1]["init_args"]["overrides"].items()) == [("query", 16), ("mlp", 4)]


def test_pruning_that_removes_nothing_is_left_out() -> None:
    config = applied(heads=0.0)
    assert [callback["class_path"] for callback in config["callbacks"]] == ["QuantizationAwareTraining"]
    assert config["callbacks"][0]["init_args"]["overrides"]["mlp"] == 4


def test_layers_that_are_to_stay_are_removed_by_their_number() -> None:
    knob = Knob("layers", "callbacks.0.layers", 4, (1, 2, 3, 4, 5, 6), depth=6)
    assert parameters_of([knob], {"layers": 4}, CONFIG) == {"callbacks.0.layers": 2}


def test_groups_of_layers_share_one_mapping() -> None:
    both = [BITS, Knob("bits.attention", BITS.key, 8, (4, 8), pattern="attn")]
    found = parameters_of(both, {"bits.ffn": 4, "bits.attention": 8}, CONFIG)
    assert found == {"callbacks.1.overrides": {"mlp": 4, "attn": 8}}


def test_a_record_is_the_knob() -> None:
    for knob in FOUND:
        assert Knob.of(knob.record()) == knob


def test_the_nearest_value_is_one_that_it_may_have() -> None:
    assert (LAYERS.nearest(9), HEADS.nearest(0.3), WARM.nearest(20), WARM.nearest(3), BITS.nearest(None)) == (
        4,
        0.25,
        8.0,
        3.0,
        4,
    )
