"""The promise that mistakes in keys and values are told before data and models are looked for."""

from __future__ import annotations

import gc
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.config.files import apply_override
from distill.core.utils.errors import UserError
from distill.losses import DistillationLoss
from distill.workflows.job.build import build
from distill.workflows.job.explain import prefer_ours

MISTAKES: dict[str, Any] = {
    "callbacks.0.final_sparsiti": 0.5,
    "callbacks.0.final_sparsity": 1.5,
    "callbacks.0.begin": "early",
    "model.losses.0.temprature": 2,
    "model.losses.0.temperature": -1,
    "model.losses.0.weight": "half",
    "model.losses.0.class_path": "HintonKl",
    "model.optimizer.lr": -1,
    "model.optimizer.betas": [2, 3],
    "model.optimizer.schedule": "linnear",
    "model.student.num_layer": 2,
    "model.student.config": {"model_type": "bert"},
    "model.task": "text-clasification",
    "data.max_lenght": 128,
    "data.max_length": "long",
    "trainer.max_step": 2,
    "trainer.max_steps": "1:30",
    "trainer.accumulate_grad_batches": "1:30",
    "trainer.limit_train_batches": "0:30",
    "logging.wandb.projekt": "p",
}


def mistaken() -> dict[str, Any]:
    return {
        "model": {
            "teacher": "./no-such-teacher",
            "student": {"num_layers": 2},
            "losses": [{"class_path": "HintonKL", "init_args": {"temperature": 2.0}}],
        },
        "data": {"init_args": {"path": "./no-such-data"}},
        "callbacks": [{"class_path": "GradualMagnitudePruning", "init_args": {"final_sparsity": 0.5}}],
        "trainer": {"max_steps": 2},
        "logging": {},
    }


@pytest.mark.parametrize("key", MISTAKES)
def test_a_mistake_is_told_before_data_and_models_are_looked_for(key: str) -> None:
    config = mistaken()
    apply_override(config, key, MISTAKES[key])
    with pytest.raises(UserError) as error:
        build(config)
    named = error.value.key.replace("callbacks.GradualMagnitudePruning", "callbacks.0")
    assert named in (key, key.removesuffix(".class_path"))


@pytest.mark.parametrize(("text", "key"), [("12", "data.path"), ("012", "data.path"), ("0", "trainer.max_steps")])
def test_a_number_that_is_quoted_is_judged_as_one(text: str, key: str) -> None:
    with pytest.raises(UserError) as error:
        build({**mistaken(), "trainer": {"max_steps": text, "min_steps": "1"}})
    assert error.value.key.startswith(key)


@pytest.mark.parametrize(
    ("student", "key"),
    [
        ({"num_layers": 9}, "num_layers"),
        ({"layers": [1, 7]}, "layers"),
        ({"hidden_size": 64}, "hidden_size"),
        ({"num_layers": 2, "freeze": ["embedings"]}, "freeze.0"),
        ({"num_layers": 2, "freeze": [r"layer\.3"]}, "freeze.0"),  # of four layers two are kept
        ({"config": {"model_type": "bert", "num_hidden_layers": 1}, "freeze": [r"layer\.1\."]}, "freeze.0"),
    ],
)
def test_what_the_teacher_does_not_have_is_told_before_data_and_weights_are_read(
    student: dict[str, Any], key: str, teacher_dir: str, tmp_path: Path
) -> None:
    # No weights, and no data.
    (tmp_path / "config.json").write_bytes(Path(teacher_dir, "config.json").read_bytes())
    config = {
        "model": {"teacher": str(tmp_path), "student": student},
        "data": {"init_args": {"path": "./no-such-data"}},
        "trainer": {"max_steps": 2},
    }
    with pytest.raises(UserError) as error:
        build(config)
    assert error.value.key == f"model.student.{key}"


def test_a_student_that_fits_goes_on_to_the_data(teacher_dir: str) -> None:
    for student in ({"num_layers": 0.5, "freeze": [r"layer\.1"]}, {"hidden_size": 16, "layers": [1, 4]}):
        config = {
            "model": {"teacher": teacher_dir, "student": student},
            "data": {"init_args": {"path": "./no-such-data"}},
            "trainer": {"max_steps": 2},
        }
        with pytest.raises(UserError, match="no-such-data"):
            build(config)


def test_a_bare_name_stays_ours_beside_a_class_of_ones_own_with_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine_too.py").write_text("import distill.losses as l\nclass HintonKL(l.HintonKL): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("mine_too")
    try:
        losses = [{"class_path": "HintonKL", "init_args": {"weight": 0.5}}, "mine_too.HintonKL", "CrossEntropy"]
        assert prefer_ours(losses, [DistillationLoss]) == [
            {"class_path": "distill.losses.HintonKL", "init_args": {"weight": 0.5}},
            "mine_too.HintonKL",
            "CrossEntropy",
        ]
        assert "another one is named by its path: mine_too.HintonKL" in caplog.text
    finally:
        del sys.modules["mine_too"]
        gc.collect()  # or it would be known to the tests after this one
    assert prefer_ours(["HintonKL"], [DistillationLoss]) == ["HintonKL"]
