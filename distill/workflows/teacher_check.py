"""What a teacher scores before anything is trained, on a small part of the validation data; and what answers of both
models depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import RunningStage
from pytorch_lightning.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, IterableDataset

from distill.core.document_masking import still
from distill.core.internals.lightning import on_device
from distill.core.signals import IGNORE, Batch, Request, Signals
from distill.core.steadiness import Unsteady, why_unsteady
from distill.core.tally import Tally
from distill.core.task import Task, TokenTask
from distill.core.teacher_inputs import of_teacher
from distill.core.utils.console import number
from distill.core.utils.errors import UserError, first_line
from distill.core.verdict import UNSTEADY, Verdict
from distill.training.evidence import counted
from distill.training.module import Distillation

__all__ = ["CHECK", "TeacherCheck"]

CHECK = "teacher_check"
"""In the plan, and in the result of a run without a validation: what the teacher scored before it."""

SAMPLES, PREDICTIONS = 256, 4096
"""At most so many samples are scored; no further ones after so many predictions."""

_AT_ONCE = 16

_LOGITS = Request(logits=True)


class TeacherCheck(Callback):
    """Scores the teacher when a run begins, on its first rank, so that one with nothing to teach is reported at once.

    Nothing of the run depends on it: it draws no random number that another would have drawn, and the teacher
    remembers nothing of it. It takes samples at even distances, as data may be sorted.

    Where the run validates nothing, the data is fetched for a teacher to score alone, and what fails there is no
    failure of the run.

    Args:
        validated: Whether the run validates, where the trainer's own ``limit_val_batches`` is a dry run's.

    Attributes:
        found: As far as it was scored: ``monitor``, ``mode``, ``scores`` and ``measured``, as in a ``result.json``,
            with the ``samples`` scored and all there are; else why it was not, ``skipped``. ``unsteady`` says of
            ``teacher`` and ``student`` whether what they answer is no function of a sample
            (:mod:`~distill.core.steadiness`). Empty where nothing is known.
    """

    def __init__(self, *, validated: bool = False) -> None:
        self.validated = validated
        self.found: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, Distillation):
            return
        validated = self.validated or bool(trainer.limit_val_batches)
        if not validated and not _is_scored(pl_module):
            return
        with isolate_rng(), _validating(trainer):
            try:
                chunks, samples = _chunks(trainer)
                if unsteady := _unsteady(pl_module, trainer, chunks[0]):
                    self.found = {"unsteady": unsteady}
                if _is_scored(pl_module):
                    self.found |= _scored(pl_module, trainer, chunks, samples)
            except (_NotScored, UserError) as error:  # there is no such split, say
                if _is_scored(pl_module):
                    self.found["skipped"] = error.problem if isinstance(error, UserError) else str(error)
            except Exception as error:  # whatever the data's own code raises
                if validated:
                    raise
                self.found["skipped"] = f"the validation data cannot be read ({first_line(error)})"

    @property
    def score(self) -> str:
        """The teacher's score beside the guess, and what it is of; nothing where it was not scored."""
        if "scores" not in self.found:
            return ""
        metric, scores = self.found["monitor"], self.found["scores"]
        seen, every = self.found["samples"]
        guess = f" (constant guess {number(scores['guess'][metric])})" if metric in scores.get("guess", {}) else ""
        return f"{metric} {number(scores['teacher'][metric])}{guess}, on {seen:,} of {every:,} validation samples"

    @property
    def lines(self) -> list[str]:
        """What must be said of it."""
        unsteady = [f"the {who} {UNSTEADY[why]}" for who, why in self.found.get("unsteady", {}).items()]
        if reason := self.found.get("skipped"):
            return [*unsteady, f"the teacher is not scored before training: {reason}"]
        return [*unsteady, *Verdict.of_teacher(self.found).lines]


class _NotScored(Exception):
    """Why not."""


@contextmanager
def _validating(trainer: Trainer) -> Iterator[None]:
    """Whoever changes batches in training alone leaves these as they are."""
    before, trainer.state.stage = trainer.state.stage, RunningStage.VALIDATING
    try:
        yield
    finally:
        trainer.state.stage = before


def _chunks(trainer: Trainer) -> tuple[list[tuple[DataLoader[Any], list[Any]]], int]:
    """The validation data in a few samples at a time, each with its loader, and how many samples there are.

    Raises:
        _NotScored: if they cannot be had without taking them from the validation.
    """
    loaders: Any = trainer.val_dataloaders
    data = getattr(trainer, "datamodule", None)
    if loaders is None and data is not None and is_overridden("val_dataloader", data):
        loaders = data.val_dataloader()
    chunks: list[tuple[DataLoader[Any], list[Any]]] = []
    for loader in loaders if isinstance(loaders, Sequence) else [loaders] if loaders is not None else []:
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            raise _NotScored("validation data that is a stream is read by the validation alone")
        if loader.batch_sampler is None:
            raise _NotScored("the validation data's loader makes no batches of samples")
        for rows in _rows(loader):
            chunks += [(loader, rows[at : at + _AT_ONCE]) for at in range(0, len(rows), _AT_ONCE)]
    if not chunks:
        raise _NotScored("there is no validation data")
    return chunks, sum(len(rows) for _, rows in chunks)


def _rows(loader: DataLoader[Any]) -> list[list[Any]]:
    """The samples of every batch, with the generators that draw them left as they were."""
    sources = (loader.generator, getattr(loader.sampler, "generator", None))
    states = [(source, source.get_state()) for source in sources if isinstance(source, torch.Generator)]
    try:
        return [list(rows) for rows in loader.batch_sampler or ()]
    finally:
        for source, state in states:
            source.set_state(state)


def _is_scored(module: Distillation) -> bool:
    """Whether there is a teacher that no recording has scored, and whose vectors do not score the student."""
    return module.teacher is not None and module.teacher.known_scores is None and module.task.outputs != "vectors"


def _unsteady(module: Distillation, trainer: Trainer, chunk: tuple[DataLoader[Any], list[Any]]) -> dict[str, Unsteady]:
    """Which of the models answers what is no function of a sample, and why.

    Logits over a vocabulary would be as large as all else, and a sharded student is all ranks' to run: not asked.
    """
    if isinstance(module.task, TokenTask):
        return {}
    loader, rows = chunk
    task, teacher, student = module.task, module.teacher, module.student
    raw = next(iter(DataLoader(loader.dataset, batch_sampler=[rows], collate_fn=loader.collate_fn)))
    batch = _batch(raw, module, trainer)
    found: dict[str, Unsteady | None] = {}
    # What fails here fails in the validation, with an error of its own.
    if teacher is not None and teacher.known_scores is None:
        ask, theirs = teacher.evaluate, of_teacher(batch)
        with suppress(Exception):
            found["teacher"] = why_unsteady(lambda some: _answers(ask(some)), batch if theirs is None else theirs)
    if not any(isinstance(p, DTensor) for p in student.parameters()):
        with suppress(Exception), still(student), torch.no_grad():
            found["student"] = why_unsteady(lambda some: _answers(task.forward(student, some, _LOGITS)), batch)
    return {who: why for who, why in found.items() if why is not None}


def _answers(signals: Signals) -> Tensor:
    assert signals.logits is not None
    return signals.logits


def _scored(
    module: Distillation, trainer: Trainer, chunks: Sequence[tuple[DataLoader[Any], list[Any]]], samples: int
) -> dict[str, Any]:
    """What the teacher scores on some of ``chunks``, which hold ``samples`` samples.

    Raises:
        _NotScored: if they have no labels.
    """
    task, teacher, tally, seen, looked = module.task, module.teacher, Tally(), 0, 0
    assert teacher is not None
    metrics = {name: metric.to(module.device) for name, metric in task.metrics().items()}
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False  # the other ranks are not here
    most = min(len(chunks), SAMPLES // _AT_ONCE)
    predictions, theirs = 0, None
    for at in (int((i + 0.5) * len(chunks) / most) for i in range(most)):
        loader, rows = chunks[at]
        # One of its own, without workers, which would take longer to start than this takes.
        for raw in DataLoader(loader.dataset, batch_sampler=[rows], collate_fn=loader.collate_fn):
            batch = _batch(raw, module, trainer)
            theirs = of_teacher(batch)
            batch = batch if theirs is None else theirs
            with trainer.precision_plugin.val_step_context():
                scored = task.score(metrics, teacher.evaluate_lazily(batch), batch)
            tally.add(scored.classes, batch, scored.by)
            seen, predictions = seen + _labeled(batch), predictions + int(batch.count)
            looked += len(rows)
        if predictions >= PREDICTIONS:
            break
    counts = tally.take(1)
    scores = {name: float(metric.compute()) for name, metric in metrics.items()} if counts.total else {}
    tokens = module.evidence.token_counts(trainer)
    if theirs is not None:  # in tokens of its own
        scores, tokens = {name: scores[name] for name in scores.keys() & _of_text(task)}, None
    measured = counted(task, counts, metrics, tokens)
    if not scores:
        raise _NotScored(f"none of {looked:,} validation samples has a label")
    found: Mapping[str, Any] = {"teacher": scores, "guess": measured.pop("guess", {})}
    return {
        "monitor": task.monitor,
        "mode": task.mode,
        "scores": {who: scores for who, scores in found.items() if scores},
        "measured": measured,
        "samples": [seen, samples],
    }


def _of_text(task: Task) -> frozenset[str]:
    return task.of_text if isinstance(task, TokenTask) else frozenset()


def _labeled(batch: Batch) -> int:
    """How many of its samples have a label, which alone are scored."""
    if batch.labels is None:
        return 0
    labels = batch.labels.reshape(batch.size, -1)
    known = ~labels.isnan() if labels.is_floating_point() else labels != IGNORE
    return int(known.any(1).sum())


def _batch(raw: Any, module: Distillation, trainer: Trainer) -> Batch:
    """A loader's batch on the device, by the way of one that is validated."""
    return module.task.batch(on_device(trainer, module, raw))
