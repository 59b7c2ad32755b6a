"""What is reported of a teacher when a run begins: one that has nothing to teach, and nothing that changes the run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from distill.core.signals import IGNORE, Batch
from distill.core.tally import Counts
from distill.core.verdict import Verdict
from distill.losses import CrossEntropy, HintonKL
from distill.tasks import CausalLM, Plain
from distill.tasks.metrics import unigram
from distill.training.module import Distillation
from distill.workflows.teacher_check import TeacherCheck, _labeled


class Knows(nn.Module):
    """A teacher that finds the class, 0 or 1, in the sign of the first feature; ``order`` is that of its labels."""

    def __init__(self, order: tuple[int, int] = (0, 1)) -> None:
        super().__init__()
        self.order = order

    def forward(self, input: Tensor) -> Tensor:
        classes = torch.stack([-input[:, 0], input[:, 0]], 1)
        return classes[:, list(self.order)]


def rows(count: int, labelled: bool = True) -> TensorDataset:
    """Sorted by their class, of which the first is that of two thirds."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    labels = (torch.arange(count) >= 2 * count // 3).long()
    x[:, 0] = x[:, 0].abs() * (2 * labels - 1)
    return TensorDataset(x, labels if labelled else torch.full_like(labels, IGNORE), torch.arange(count))


def trainer(folder: Path, check: TeacherCheck) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        default_root_dir=folder,
        callbacks=[check],
        num_sanity_val_steps=0,
    )


def run(
    folder: Path, teacher: nn.Module, validation: Any, check: TeacherCheck | None = None, **options: Any
) -> tuple[TeacherCheck, Distillation]:
    """Two epochs with dropout and an order of samples that a generator of the whole program draws."""
    check = check or TeacherCheck()
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2))
    module = Distillation(student, Plain(), teacher, [HintonKL(), CrossEntropy()])
    trainer(folder, check).fit(module, DataLoader(rows(24), 8, shuffle=True, **options), validation)
    return check, module


def test_a_teacher_is_reported_where_it_is_no_better_than_a_constant_guess(tmp_path: Path) -> None:
    validation = DataLoader(rows(3000), 500)
    good, _ = run(tmp_path, Knows(), validation)
    assert good.score == "accuracy 1 (constant guess 0.6875), on 256 of 3,000 validation samples"
    assert good.lines == []
    other, _ = run(tmp_path, Knows((1, 0)), validation)
    (line,) = other.lines
    found = re.fullmatch(r"the teacher's accuracy is 0 on 256 of 3,000 validation samples, no better than (.*)", line)
    assert found
    assert found[1].startswith("a constant guess (0.6875")
    assert Verdict.of_teacher(other.found).bad


@pytest.mark.parametrize("count", [40, 257])
def test_of_few_samples_all_are_scored_once(tmp_path: Path, count: int) -> None:
    check, _ = run(tmp_path, Knows(), DataLoader(rows(count), 16))
    seen, every = check.found["samples"]
    assert (seen, every) == (min(count, 256), count) if count < 256 else seen <= 256
    assert check.found["measured"]["predictions"] == seen


@pytest.mark.parametrize("source", ["the program's", "one for both loaders"])
def test_nothing_of_the_training_depends_on_it(tmp_path: Path, source: str) -> None:
    class Silent(TeacherCheck):
        def on_train_start(self, *_: Any) -> None: ...

    ended = []
    for check in (TeacherCheck(), Silent()):
        shared = torch.Generator().manual_seed(3) if source != "the program's" else None
        teacher = Knows()
        _, module = run(
            tmp_path, teacher, DataLoader(rows(64), 16, shuffle=True, generator=shared), check, generator=shared
        )
        source_state = shared.get_state() if shared is not None else torch.get_rng_state()
        ended.append((module.student.state_dict(), source_state, module.teacher.state_dict()))  # type: ignore[union-attr]
    for one, other in zip(*ended, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


class Stream(IterableDataset[Any]):
    """Whoever reads a row takes it from the others."""

    def __iter__(self) -> Iterator[Any]:
        return iter(rows(16))


@pytest.mark.parametrize(
    ("validation", "why"),
    [
        (DataLoader(rows(30, labelled=False), 8), "none of 30 validation samples has a label"),
        (DataLoader(Stream(), 8), "a stream is read by the validation alone"),
        (None, "there is no validation data"),
        (DataLoader(rows(30), None, collate_fn=lambda row: tuple(part[None] for part in row)), "makes no batches"),
    ],
)
def test_why_it_is_not_scored_is_said(tmp_path: Path, validation: Any, why: str) -> None:
    check, _ = run(tmp_path, Knows(), validation)
    (line,) = check.lines
    assert check.score == ""
    assert line.startswith("the teacher is not scored before training: ")
    assert why in line


def test_of_one_class_among_the_samples_nothing_is_claimed(tmp_path: Path) -> None:
    check, _ = run(tmp_path, Knows((1, 0)), DataLoader(torch.utils.data.Subset(rows(60), range(20)), 8))
    (line,) = check.lines
    assert line == "the teacher is not judged before training: all labels are class 0: no score says anything"
    assert not Verdict.of_teacher(check.found).bad


def test_a_data_module_that_changes_its_training_batches_does_not_change_these(tmp_path: Path) -> None:
    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(rows(24), 8)

        def val_dataloader(self) -> Any:
            return DataLoader(rows(48), 8)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            assert self.trainer is not None
            return [-batch[0], *batch[1:]] if self.trainer.training else batch

    check = TeacherCheck()
    module = Distillation(nn.Linear(4, 2), Plain(), Knows(), [CrossEntropy()])
    trainer(tmp_path, check).fit(module, datamodule=Data())
    assert check.found["scores"]["teacher"]["accuracy"] == 1


class Unvalidated(LightningDataModule):
    """Its validation data cannot be had; ``fetched`` says how often it was asked for."""

    fetched = 0

    def train_dataloader(self) -> Any:
        return DataLoader(rows(24), 8)

    def val_dataloader(self) -> Any:
        self.fetched += 1
        raise RuntimeError("no such split")


@pytest.mark.parametrize("teacher", [None, Knows()])
def test_of_a_run_that_validates_nothing_data_is_fetched_for_a_teacher_alone(
    teacher: nn.Module | None, tmp_path: Path
) -> None:
    check, data = TeacherCheck(), Unvalidated()
    module = Distillation(nn.Linear(4, 2), Plain(), teacher, [CrossEntropy()])
    unvalidated = trainer(tmp_path, check)
    unvalidated.limit_val_batches = 0
    unvalidated.fit(module, datamodule=data)
    assert data.fetched == (teacher is not None)
    why = "the teacher is not scored before training: the validation data cannot be read (no such split)"
    assert check.lines == ([] if teacher is None else [why])


def test_a_dry_run_of_one_that_validates_fetches_them(tmp_path: Path) -> None:
    dry = trainer(tmp_path, TeacherCheck(validated=True))
    dry.limit_val_batches = 0
    with pytest.raises(RuntimeError, match="no such split"):
        dry.fit(Distillation(nn.Linear(4, 2), Plain(), None, [CrossEntropy()]), datamodule=Unvalidated())


@pytest.mark.parametrize(
    ("labels", "count"),
    [
        (None, 0),
        (torch.tensor([1, IGNORE, 0]), 2),
        (torch.tensor([0.5, torch.nan, torch.nan]), 1),
        (torch.tensor([[IGNORE, IGNORE], [IGNORE, 4], [1, 2]]), 2),
        (torch.tensor([[torch.nan, torch.nan], [0.0, 1.0], [1.0, 1.0]]), 2),
    ],
)
def test_only_samples_that_have_a_label_count_as_scored(labels: torch.Tensor | None, count: int) -> None:
    assert _labeled(Batch({"input": torch.zeros(3, 2)}, labels=labels)) == count


def test_a_language_model_is_held_against_the_token_frequencies() -> None:
    often, tokens = torch.tensor([5, 3, 2]), torch.tensor([50, 30, 20])
    scores, _ = unigram(Counts(10, often), tokens)
    found = {
        "monitor": "perplexity",
        "mode": "min",
        "samples": [10, 10],
        "scores": {"teacher": {"perplexity": scores["perplexity"]}, "guess": scores},
        "measured": {"predictions": 10, "standard_error": 0.1},
    }
    (line,) = Verdict.of_teacher(found).lines
    assert "it has nothing to teach" in line
    found["scores"]["teacher"]["perplexity"] -= 0.2  # type: ignore[index]
    assert Verdict.of_teacher(found).lines == []
    assert CausalLM.monitor == "bits_per_byte"


class Noisy(Knows):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(input))


class Centred(Knows):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input - input.mean(0))


def test_a_teacher_whose_answers_are_no_function_of_a_sample_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check, module = run(tmp_path, Noisy(), DataLoader(rows(64), 16))
    assert check.lines[0].startswith("the teacher gives other answers to the same inputs in evaluation (dropout")
    assert module.teacher is not None
    assert set(module.teacher.state_dict()) == {"random"}  # nothing is remembered of it
    assert caplog.text.count("nothing that it said is remembered") == 1
    check, module = run(tmp_path, Centred(), DataLoader(rows(64), 16))
    assert check.lines[0].startswith("the teacher answers otherwise where a sample is alone in its batch")
    check, _ = run(tmp_path, Knows(), DataLoader(rows(64), 16))
    assert "unsteady" not in check.found


@pytest.mark.parametrize(
    ("compute", "why"), [(nn.functional.dropout, "random"), (lambda x: x - x.mean(0), "mixes"), (nn.Identity(), None)]
)
@pytest.mark.parametrize("teacher", [None, Knows()])
def test_so_is_a_student_with_a_teacher_or_without(
    compute: Any, why: str | None, teacher: nn.Module | None, tmp_path: Path
) -> None:
    class Student(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return compute(super().forward(input))  # type: ignore[no-any-return]

    check = TeacherCheck()
    losses = [CrossEntropy()] if teacher is None else [CrossEntropy(), HintonKL()]
    module = Distillation(Student(4, 2), Plain(), teacher, losses)
    trainer(tmp_path, check).fit(module, DataLoader(rows(24), 8), DataLoader(rows(64), 16))
    assert check.found.get("unsteady") == (None if why is None else {"student": why})
    assert module.student.training  # as it was
    assert any("the student" in line for line in check.lines) == (why is not None)
