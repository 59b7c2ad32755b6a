"""Settings of quantization-aware training: how a YAML says them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback

from distill.callbacks import QuantizationAwareTraining
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core.utils.errors import UserError

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"begin": 0.95}, r"QuantizationAwareTraining\.begin = 0\.95: must not lie after freeze_observers"),
        ({"begin": 100, "observe": 0, "freeze_observers": 50}, "begin = 100: must not lie after freeze"),
        ({"observe": 0.5}, r"observe = 0\.5: must not lie after begin"),
        ({"observe": 0.0, "begin": 0.0, "freeze_observers": 0.0}, "freeze_observers = 0.0: must lie after observe"),
        ({"begin": 1.5}, r"begin = 1\.5: must be a step"),
        ({"observe": -1}, "observe = -1: must be a step"),
        ({"lr_factor": 0.0}, r"lr_factor = 0\.0"),
        ({"overrides": {"query": 9}}, r"QuantizationAwareTraining\.overrides\.query = 9: must be .*one of"),
        ({"store": "int8"}, "store = 'int8'"),
        ({"weights": {"bits": 8}}, r"must be a WeightScheme.*from Python write WeightScheme\(bits=8\)"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        QuantizationAwareTraining(**settings)


def test_without_static_inputs_observers_have_no_milestones() -> None:
    QuantizationAwareTraining(activations=None, begin=0.95)
    QuantizationAwareTraining(activations=ActivationScheme(kind="dynamic"), begin=0.95)


def test_a_pattern_that_matches_nothing_is_refused_before_training(module: Make, fit: Make) -> None:
    with pytest.raises(UserError, match=r"callbacks\.QuantizationAwareTraining\.overrides\.intermedate.*did you mean"):
        fit(module(), QuantizationAwareTraining(overrides={"intermedate": 4}))


def test_yaml_says_all_of_it_and_what_is_resolved_says_the_same() -> None:
    text = """
    - class_path: QuantizationAwareTraining
      init_args:
        weights: {bits: 4, granularity: group, group_size: 32}
        activations: {kind: dynamic}
        embeddings: null
        overrides: {query: 8, key: null, dense: {bits: 2, learned: true}}
        begin: 100
    - class_path: QuantizationAwareTraining
      init_args: {activations: null}
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback], sub_configs=False)
    values = parser.parse_object({"callbacks": yaml.safe_load(text)})
    again = parser.parse_object(yaml.safe_load(parser.dump(values, skip_unset=False)))
    for parsed in (values, again):
        first, second = parser.instantiate(parsed).callbacks
        assert first.weights == WeightScheme(bits=4, granularity="group", group_size=32)
        assert first.activations == ActivationScheme(kind="dynamic")
        assert first.embeddings is None
        assert first.overrides == {"query": 8, "key": None, "dense": WeightScheme(bits=2, learned=True)}
        assert first.begin == 100
        assert second.activations is None
        assert second.weights == second.embeddings == WeightScheme()
