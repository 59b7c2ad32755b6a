"""The promise that names of layers are judged before data and weights are read, and as they would be later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from distill.callbacks import (
    GradualMagnitudePruning,
    LowRank,
    QuantizationAwareTraining,
    ShareParameters,
    StructuredPruning,
)
from distill.compression.quantization.scheme import WeightScheme
from distill.core.model_spec import ModelSpec
from distill.core.utils.errors import UserError
from distill.losses import L1, CosineHidden, DistillationLoss, FeatureAttention, FitNetHint, HintonKL, RelationTransfer
from distill.models.students import StudentConfig
from distill.models.students.layers import keep_layers
from distill.models.students.outline import check_outline
from distill.training.names import check_names, name_layers, outline_of_teacher
from distill.workflows.job.build import build

LAYER = "bert.encoder.layer"
Part = DistillationLoss | Callback
Models = tuple[nn.Module, ModelSpec]

TYPOS: list[Callable[[], Any]] = [
    lambda: FitNetHint({3: 1}),  # of four layers the student keeps two
    lambda: FitNetHint({1: 5}),
    lambda: FitNetHint(taps={f"{LAYER}.2": f"{LAYER}.2"}),
    lambda: FitNetHint(taps={f"{LAYER}.1": "bert.encoder.layr.2"}),
    lambda: FeatureAttention({f"{LAYER}.1": f"{LAYER}.4"}),
    lambda: CosineHidden(teacher_layer=7),
    lambda: RelationTransfer(student_layer=3),
    lambda: L1(include=["atention"]),
    lambda: GradualMagnitudePruning(include=["query", "atention"]),
    lambda: GradualMagnitudePruning(exclude=[r"layer\.2"]),
    lambda: GradualMagnitudePruning(overrides={"embeddings": 0.5}),
    lambda: GradualMagnitudePruning(scope=["qury"]),
    lambda: QuantizationAwareTraining(include=["["]),
    lambda: QuantizationAwareTraining(overrides={"atention": 4}),
    lambda: LowRank(rank=2, exclude=["qury"]),
    lambda: StructuredPruning(layers=[1, 3]),
    lambda: StructuredPruning(heads=0.5, layers=2),  # one must stay
    lambda: StructuredPruning(heads=0.1),  # of four heads a layer it is none
    lambda: StructuredPruning(heads=0.05, scope="global"),  # of eight in two layers
    lambda: StructuredPruning(neurons=0.001),
    lambda: StructuredPruning(heads=0.5, hidden=0.001),
    lambda: ShareParameters([[1, 3]]),
    lambda: ShareParameters([[1, 2], [2, 1]]),
]


@pytest.fixture(scope="module")
def bare(teacher_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher's folder without its weights."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "config.json").write_bytes(Path(teacher_dir, "config.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def outlines(bare: Path) -> Models:
    auto_model = AutoModelForSequenceClassification
    student = check_outline(StudentConfig(num_layers=2), auto_model, str(bare), named=True)
    teacher = outline_of_teacher({"path": str(bare)}, auto_model)
    assert student is not None
    assert teacher is not None
    return student, teacher


@pytest.fixture(scope="module")
def models(teacher_dir: str) -> Models:
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_dir)
    return keep_layers(teacher, [2, 4]), ModelSpec(teacher, "model.teacher")


def judge(outlines: Models, *parts: Part) -> None:
    losses = [part for part in parts if isinstance(part, DistillationLoss)]
    check_names(*outlines, losses, [part for part in parts if isinstance(part, Callback)])


def meet(models: Models, part: Any) -> None:
    """As it is done where the models themselves are there."""
    if isinstance(part, DistillationLoss):
        part.bind(ModelSpec(models[0], "model.student"), models[1])
    else:
        part.prepare(models[0])


@pytest.mark.parametrize("part", TYPOS)
def test_a_name_that_no_layer_has_is_told_of_a_configuration_as_it_is_of_the_model(
    part: Callable[[], Any], outlines: Models, models: Models
) -> None:
    with pytest.raises(UserError) as later:
        meet(models, part())
    with pytest.raises(UserError) as before:
        judge(outlines, HintonKL(), part())
    hint = isinstance(part(), DistillationLoss)
    assert str(before.value) == str(later.value.within("model.losses.1") if hint else later.value)


@pytest.mark.parametrize(
    "parts",
    [
        (FitNetHint({1: 2, -1: 4}), L1(include=["query"])),
        (FitNetHint(taps={f"{LAYER}.1": f"{LAYER}.3"}), HintonKL()),
        (
            GradualMagnitudePruning(include=["query"], overrides={r"layer\.1": 0.5}),
            QuantizationAwareTraining(include=["query", "embeddings"], exclude=["pooler"]),
        ),
        (StructuredPruning(heads=0.5, layers=[2]),),
        (ShareParameters([[2, 1]]), StructuredPruning(layers=[9])),
        # Left to be judged where the student is as it then is: of factors, of its own width.
        (LowRank(rank=2), GradualMagnitudePruning(include=[r"query\.down"])),
        (QuantizationAwareTraining(WeightScheme(granularity="group", group_size=12)),),
    ],
)
def test_names_that_fit_are_passed_and_nothing_is_done_to_losses_and_callbacks(
    parts: tuple[Part, ...], outlines: Models
) -> None:
    names = [name for name, _ in outlines[0].named_modules()]
    judge(outlines, *parts)
    assert [name for name, _ in outlines[0].named_modules()] == names
    assert not [p for part in parts if isinstance(part, FitNetHint) for p in (*part.parameters(), *part.pairs)]


def test_a_teacher_that_cannot_be_told_leaves_its_names_to_be_judged_later(bare: Path, outlines: Models) -> None:
    several: list[Any] = [[str(bare), str(bare)], {"path": str(bare), "recorded": "there"}, "./no-such-teacher", None]
    for written in several:
        assert outline_of_teacher(written, AutoModelForSequenceClassification) is None
    check_names(outlines[0], None, [FitNetHint({1: 9})], [])


def test_a_head_that_is_tied_to_the_embeddings_is_tied_without_weights_too() -> None:
    small = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 20}
    student = check_outline(StudentConfig(config=small), AutoModelForCausalLM, None, named=True)
    assert student is not None
    check_names(student, None, [], [QuantizationAwareTraining(overrides={"lm_head": 8})])


def test_what_stands_behind_a_callback_of_ones_own_is_judged_once_that_has_had_the_student(outlines: Models) -> None:
    class Renames(Callback): ...

    judge(outlines, Renames(), GradualMagnitudePruning(include=["atention"]))
    assert not name_layers([HintonKL()], [Renames(), GradualMagnitudePruning()])


@pytest.mark.parametrize(
    ("section", "part", "key"),
    [
        ("losses", {"class_path": "FitNetHint", "init_args": {"layers": {1: 9}}}, "layers"),
        ("callbacks", {"class_path": "GradualMagnitudePruning", "init_args": {"include": ["atention"]}}, "include.0"),
        ("callbacks", {"class_path": "StructuredPruning", "init_args": {"heads": 0.05}}, "heads"),
    ],
)
@pytest.mark.parametrize("lora", [False, True])
def test_a_run_is_told_before_data_and_weights_are_read(
    section: str, part: dict[str, Any], key: str, lora: bool, bare: Path
) -> None:
    # An adapter moves names, so they are judged once it is there.
    model = {"teacher": str(bare), "student": {"path": str(bare), "lora": {}} if lora else str(bare)}
    config: dict[str, Any] = {"model": model, "data": {"init_args": {"path": "./no-such-data"}}, "callbacks": []}
    (model if section == "losses" else config)[section] = [part]
    with pytest.raises(UserError) as error:
        build(config | {"trainer": {"max_steps": 2}})
    assert error.value.key.endswith("data.path" if lora else key), error.value
