"""A setting that another one leaves without effect is refused, whatever class it is of."""

from __future__ import annotations

from typing import Any

import pytest

from distill.callbacks import GradualMagnitudePruning, QuantizationAwareTraining, StructuredPruning
from distill.compression.quantization.scheme import ActivationScheme, LayerScheme, WeightScheme
from distill.core.idle_settings import Idle, refuse_idle
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.losses import DIST, DecoupledKD, RelationalKD
from distill.models.teachers import TeacherConfig
from distill.models.teachers.build import build_teacher
from distill.tasks import make_task
from distill.training.optimizer import OptimizerConfig

DYNAMIC = ActivationScheme(kind="dynamic")


def inputs(**settings: Any) -> QuantizationAwareTraining:
    return QuantizationAwareTraining(activations=ActivationScheme(**settings))


def data(**settings: Any) -> Any:
    return TextData(**{"tokenizer": "none", "files": {"train": "none.txt"}} | settings)._checked_task()


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (OptimizerConfig, {"name": "sgd", "betas": (0.8, 0.9)}, "optimizer.betas = (0.8, 0.9): has no effect with sgd"),
        (OptimizerConfig, {"momentum": 0.5}, "momentum = 0.5: has no effect with adamw"),
        (OptimizerConfig, {"schedule": "constant", "end": 0.5}, "end = 0.5: has no effect with schedule: constant"),
        (inputs, {"kind": "dynamic", "observer": "mse"}, "activations.observer = 'mse': has no effect with kind: dyn"),
        (inputs, {"kind": "dynamic", "momentum": 0.5}, "activations.momentum = 0.5: has no effect"),
        (inputs, {"kind": "none", "bits": 4}, "activations.bits = 4: has no effect with kind: none"),
        (inputs, {"observer": "minmax", "momentum": 0.5}, "momentum = 0.5: has no effect with observer: minmax"),
        (inputs, {"percentile": 99.0}, "percentile = 99.0: has no effect with observer: moving_average"),
        (QuantizationAwareTraining, {"activations": DYNAMIC, "observe": 0.05}, "observe = 0.05: has no effect with"),
        (QuantizationAwareTraining, {"activations": None, "freeze_observers": 0.8}, "freeze_observers = 0.8: has no"),
        (GradualMagnitudePruning, {"schedule": "one_shot", "end": 0.9}, "end = 0.9: has no effect with schedule: one"),
        (GradualMagnitudePruning, {"schedule": "one_shot", "initial_sparsity": 0.2}, "initial_sparsity = 0.2: has no"),
        (GradualMagnitudePruning, {"schedule": {0.1: 0.5}, "final_sparsity": 0.8}, "final_sparsity = 0.8: has no eff"),
        (GradualMagnitudePruning, {"schedule": {0.1: 0.5}, "every_n_steps": 8}, "every_n_steps = 8: has no effect"),
        (GradualMagnitudePruning, {"freeze": 0.9}, "freeze = 0.9: has no effect with regrow: 0"),
        (GradualMagnitudePruning, {"granularity": "2:4", "scope": ["query"]}, "scope = ['query']: has no effect with"),
        (GradualMagnitudePruning, {"granularity": "2:4", "max_layer_sparsity": 0.9}, "max_layer_sparsity = 0.9: has"),
        (StructuredPruning, {"heads": 0.5, "schedule": "one_shot", "every_n_steps": 3}, "every_n_steps = 3: has no"),
        (StructuredPruning, {"layers": [1], "criterion": "taylor"}, "criterion = 'taylor': has no effect with layers"),
        (StructuredPruning, {"hidden": 0.5, "scope": "global"}, "scope = 'global': has no effect with neither heads"),
        (data, {"name": "sst2"}, "data.name = 'sst2': has no effect with data.files"),
        (data, {"task": "causal-lm", "max_length": 64}, "data.max_length = 64: has no effect with documents packed"),
        (data, {"isolate_documents": False}, "data.isolate_documents = False: has no effect with documents that"),
        (
            data,
            {"task": "causal-lm", "pack_length": 0, "isolate_documents": False},
            "isolate_documents = False: has no",
        ),
        (DIST, {"beta": 0, "gamma": 0}, "beta and gamma are 0, so the loss is"),
        (DecoupledKD, {"alpha": 0, "beta": 0}, "alpha and beta are 0, so the loss is"),
        (RelationalKD, {"distance_weight": 0, "angle_weight": 0}, "distance_weight and angle_weight are 0"),
    ],
)
def test_it_is_refused(make: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        make(**settings)
    assert said in str(error.value)


def test_what_has_an_effect_is_taken() -> None:
    inputs(observer="percentile", percentile=99.0, momentum=0.5)
    QuantizationAwareTraining(activations=None, observe=0.0, freeze_observers=0.9)  # the defaults, written out
    GradualMagnitudePruning(schedule="one_shot", regrow=0.2, freeze=0.9, every_n_steps=3)
    GradualMagnitudePruning(granularity="2:4", scope="layer")  # as it is
    StructuredPruning(layers=2, criterion="taylor")
    data(task="causal-lm", pack_length=0, max_length=64)


def test_an_artifact_may_tell_of_settings_without_effect() -> None:
    scheme = ActivationScheme(kind="dynamic", momentum=0.5)
    assert LayerScheme.of(LayerScheme(weights=WeightScheme(), activations=scheme).record()).activations == scheme


@pytest.mark.parametrize(("several", "key"), [(False, "model.teacher.weight"), (True, "model.teacher.0.weight")])
def test_the_weight_of_a_single_teacher_is_refused(several: bool, key: str) -> None:
    teacher = TeacherConfig(path="nowhere", weight=3.0)
    with pytest.raises(UserError, match=rf"{key} = 3\.0: has no effect with a single teacher"):
        build_teacher([teacher] if several else teacher, make_task("text-classification"))


class _Settings:
    def __init__(self, kind: str = "a", width: float | None = None, on: bool = False) -> None: ...


def test_a_setting_without_effect_is_refused_unless_it_is_the_default() -> None:
    def judge(**given: Any) -> None:
        idle = given.get("kind") == "b"
        rules = [Idle("width", idle, "kind: b", "take a"), Idle("on", idle, "kind: b", "take a")]
        refuse_idle(_Settings, {"kind": "a", "width": None, "on": False} | given, rules, "callbacks.0.")

    judge(width=3.0, on=True)
    judge(kind="b")
    judge(kind="b", width=None)
    with pytest.raises(UserError, match=r"callbacks\.0\.width = 3\.0: has no effect with kind: b"):
        judge(kind="b", width=3.0)
    with pytest.raises(UserError, match=r"callbacks\.0\.on = True: has no effect"):
        judge(kind="b", on=True)
