"""The promises of which weights gradual pruning takes, and that no setting is without effect."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from distill.callbacks import GradualMagnitudePruning
from distill.core.utils.errors import UserError

Make = Callable[..., Any]


def masked(student: nn.Module) -> list[str]:
    return [name.removesuffix(".weight_mask") for name, _ in student.named_buffers() if name.endswith("weight_mask")]


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        (
            {"overrides": {"classifier": 0.9}},
            "overrides.classifier",
            "not compressed: classifier. leave it out, or have",
        ),
        ({"overrides": {"LayerNorm": 0.9}}, "overrides.LayerNorm", "not compressed: bert.embeddings.LayerNorm, "),
        ({"overrides": {"word_embeddings": 0.9}}, "overrides.word_embeddings", "types and embeddings"),
        ({"exclude": ["attention"], "overrides": {"query": 0.9}}, "overrides.query", "attention.self.query"),
        ({"include": ["query"], "overrides": {"value": 0.9}}, "overrides.value", "attention.self.value"),
        ({"include": ["LayerNorm", "query"]}, "include.0", "name modules of type Linear or Conv1D or Conv1d"),
        ({"include": ["embeddings"]}, "include.0", "name modules of type"),
        ({"include": ["query"], "types": ["Conv1D"]}, "include.0", "name modules of type Conv1D."),
        ({"scope": ["query", "classifier"]}, "scope.1", "not compressed: classifier"),
        ({"scope": ["query", "query"]}, "scope.1", "earlier groups have left"),
        ({"types": ["Conv2d"]}, "", "no module of the student is chosen (Conv2d)"),
        ({"types": []}, "", "no module of the student is chosen (of no type)"),
    ],
)
def test_a_pattern_without_effect_is_refused(settings: Any, key: str, said: str, classifier: Make) -> None:
    with pytest.raises(UserError) as error:
        GradualMagnitudePruning(0.5, **settings).prepare(classifier())
    assert error.value.key == f"callbacks.GradualMagnitudePruning.{key}".rstrip(".")
    assert said in str(error.value)


def test_a_pattern_may_name_what_holds_a_layer_and_what_is_left_out_anything(classifier: Make) -> None:
    student = classifier()
    overrides = {r"layer\.0\.attention": 0.2, "classifier": 0.0, "LayerNorm|pooler": 0.3}
    GradualMagnitudePruning(0.5, include=["."], exclude=["LayerNorm"], overrides=overrides).prepare(student)
    assert "bert.encoder.layer.0.attention.self.query" in masked(student)
    assert "classifier" not in masked(student)


def test_overrides_of_tables_hold_once_tables_are_chosen(classifier: Make) -> None:
    student = classifier()
    GradualMagnitudePruning(0.5, embeddings=True, overrides={"word_embeddings": 0.9}, types=[]).prepare(student)
    assert masked(student) == [f"bert.embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")]


@pytest.mark.parametrize(
    ("types", "found"),
    [
        (["Conv1D"], {"turned"}),
        (["Conv1d"], {"wave"}),
        (["Linear", "Conv2d"], {"map", "image"}),
        (["Conv3d"], {"room"}),
    ],
)
def test_only_the_types_that_are_named_are_pruned(types: list[str], found: set[str], classifier: Make) -> None:
    from transformers.pytorch_utils import Conv1D

    student = nn.ModuleDict(
        {
            "map": nn.Linear(4, 4),
            "turned": Conv1D(4, 4),
            "wave": nn.Conv1d(4, 4, 1),
            "image": nn.Conv2d(4, 4, 1),
            "room": nn.Conv3d(4, 4, 1),
            "head": nn.Linear(4, 2),
        }
    )
    GradualMagnitudePruning(0.5, types=types).prepare(student)
    assert set(masked(student)) == found


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ({"types": ["Linear", "Conv4d"]}, "types.1", "did you mean 'Conv3d'"),
        ({"scope": "layer", "max_layer_sparsity": 0.75}, "max_layer_sparsity", "set scope: global"),
        (
            {"overrides": {"query": 0.9}, "max_layer_sparsity": 0.85},
            "overrides.query",
            "above max_layer_sparsity, 0.85",
        ),
    ],
)
def test_settings_that_cannot_have_an_effect_are_refused_at_once(settings: Any, key: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        GradualMagnitudePruning(0.5, **settings)
    assert error.value.key == f"callbacks.GradualMagnitudePruning.{key}"
    assert said in str(error.value)


def test_a_target_of_nothing_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    trainer: Any = SimpleNamespace(is_global_zero=True)
    module: Any = SimpleNamespace(total_steps=100)
    GradualMagnitudePruning(0.5).on_fit_start(trainer, module)
    assert not caplog.messages
    GradualMagnitudePruning(0.0).on_fit_start(trainer, module)
    assert caplog.messages == ["callbacks.GradualMagnitudePruning.final_sparsity = 0: nothing is pruned"]
