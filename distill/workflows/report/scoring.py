"""What the models of a report say of the same samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torchmetrics import MeanMetric

from distill.core.signals import Batch, Signals
from distill.core.tally import Counts, Tally, counted_positions
from distill.core.task import Scored, TokenTask
from distill.core.teacher_inputs import of_teacher
from distill.core.token_scores import TokenScores
from distill.core.utils.console import wide
from distill.core.utils.errors import UserError, first_line
from distill.core.utils.progress import spoken
from distill.export.student import limited
from distill.workflows.job.build import Job
from distill.workflows.report.predictions import Options, Predictions, Subject
from distill.workflows.report.sample_scores import SampleScores

__all__ = ["Answers", "batches_of", "data_fingerprint", "score"]


@dataclass
class Answers:
    """What one model said.

    Attributes:
        scores: Of each sample.
        found: Its predictions, once all batches are there.
        counts: Of labels and predictions.
        acceptance: Of a language model: how likely the teacher takes a token that it proposes; ``None`` if unknown.
        of_text: Whether it reads tokens of its own, so that only metrics of the text can be compared.
    """

    scores: SampleScores
    counts: Counts = field(default_factory=Counts)
    acceptance: float | None = None
    of_text: bool = False
    found: Predictions | None = None


def batches_of(job: Job, options: Options, what: str = "") -> tuple[Iterator[Batch], int]:
    """The batches of the split that a run's validation, or test, reads, and how many samples the split holds.

    Args:
        job: The run.
        options: Which split, and how many samples.
        what: Happens to them, where it is to be shown how far that is.
    """
    hook = "val_dataloader" if options.split == "validate" else "test_dataloader"
    if not is_overridden(hook, job.data):
        problem = f"there is no data to {options.split}"
        raise UserError(problem, key="data", hint="name the split in data.splits")
    loader: Any = getattr(job.data, hook)()
    share = job.arguments.get("limit_val_batches" if options.split == "validate" else "limit_test_batches")
    try:
        every = len(loader)
    except TypeError:
        every = 0
    count = every if share is None else share if isinstance(share, int) else int(every * share)
    read: Iterable[Any] = islice(loader, count) if every else loader
    if every and what:
        read = spoken(read, what, min(count, every), wide())
    held = len(loader.dataset) if hasattr(loader, "dataset") and hasattr(loader.dataset, "__len__") else 0
    task = job.module.task
    judged = (task.for_evaluation(task.batch(raw)) for raw in read)
    return limited(judged, options.samples), held


def data_fingerprint(job: Job, options: Options) -> str:
    """Tells samples and labels from others, in whichever order they come."""
    rows: list[bytes] = []
    for batch in batches_of(job, options)[0]:
        digests = batch.input_digests.cpu().numpy()
        for row in range(batch.size):
            label = b"" if batch.labels is None else batch.labels[row].cpu().numpy().tobytes()
            rows.append(digests[row].tobytes() + hashlib.sha256(label).digest())
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()[:16]


@torch.no_grad()
def score(subjects: Sequence[Subject], options: Options, notes: list[str]) -> tuple[dict[str, Answers], int, int]:
    """Have all models say what they do of the samples of the first one's run.

    An export that cannot be asked, as of samples longer than it takes, is left out, and ``notes`` get why.

    Returns:
        What each said, by its key; samples that were scored; and those that the split holds.

    Raises:
        UserError: if there is none.
    """
    job = subjects[0].job
    task = job.module.task
    asked = [subject for subject in subjects if subject.answers is not None]
    answers = {subject.key: Answers(SampleScores(task)) for subject in asked}
    tallies = {subject.key: Tally() for subject in asked}
    parts: dict[str, list[_Part]] = {subject.key: [] for subject in asked}
    accepted = {subject.key: MeanMetric() for subject in asked}
    samples = 0
    batches, held = batches_of(job, options, "scored")
    for batch in batches:
        teacher: Signals | None = None
        for subject in list(asked):
            theirs = of_teacher(batch) if subject.role == "teacher" else None
            read = batch if theirs is None else theirs
            assert subject.answers is not None
            try:
                found = subject.answers(read)
            except (UserError, RuntimeError) as error:
                if subject.role != "exported":
                    raise
                notes.append(f"{subject.key} was not measured: {first_line(error)}")
                asked.remove(subject)
                del answers[subject.key]
                continue
            one = answers[subject.key]
            one.of_text = theirs is not None
            scored = one.scores.add(found, read)
            if subject.role == "teacher":
                teacher = found if theirs is None and isinstance(found, Signals) else None
            elif isinstance(task, TokenTask) and teacher is not None and isinstance(found, Signals):
                kept = TokenScores.of(found, batch, teacher).acceptance
                assert kept is not None
                accepted[subject.key].update(kept if batch.mask is None else kept[batch.mask])
            if theirs is None:
                tallies[subject.key].add(scored.classes, batch, scored.by)
                parts[subject.key].append(_part(scored, batch, samples))
        samples += batch.size
    if not samples:
        raise UserError("leaves no sample to score", key="data", hint="name another split, or give more --samples")
    for subject in asked:
        one = answers[subject.key]
        one.counts = tallies[subject.key].take(1)
        one.acceptance = float(accepted[subject.key].compute()) if accepted[subject.key].update_called else None
        one.found = _joined(parts[subject.key]) if parts[subject.key] else None
    return answers, samples, max(held, samples)


@dataclass(frozen=True)
class _Part:
    """The predictions of one batch, as :class:`Predictions` has those of all."""

    ids: list[int]
    lengths: Tensor | None
    labels: Tensor | None
    decisions: Tensor | None
    logits: Tensor | None
    sample: Tensor


def _part(scored: Scored, batch: Batch, before: int) -> _Part:
    """The predictions of a batch, after ``before`` samples of others."""
    classes, labels = scored.classes, batch.labels
    sets = classes is not None and classes.dtype is torch.bool and labels is not None and labels.is_floating_point()
    shape = _shape(scored, sets)
    if labels is None:
        valid = torch.ones(shape, dtype=torch.bool) if batch.mask is None else batch.mask.cpu()
    else:
        valid = counted_positions(labels, batch.mask, sets).cpu()
    logits = scored.by if isinstance(scored.by, Tensor) else None
    rows = torch.arange(batch.size).view(-1, *[1] * (valid.dim() - 1)).expand_as(valid)
    return _Part(
        ids=batch.ids or list(range(before, before + batch.size)),
        lengths=None if batch.tokens is None else batch.tokens.sum(1).cpu(),
        labels=None if labels is None else labels.cpu()[valid],
        decisions=None if classes is None else classes.cpu()[valid],
        logits=None if logits is None else logits.float().cpu()[valid],
        sample=rows[valid] + before,
    )


def _shape(scored: Scored, sets: bool) -> torch.Size:
    if isinstance(scored.by, TokenScores):
        return scored.by.nats.shape
    return scored.by.shape[:1] if sets else scored.by.shape[:-1]


def _joined(parts: Sequence[_Part]) -> Predictions:
    def of(name: str) -> Tensor | None:
        tensors = [getattr(part, name) for part in parts]
        return None if any(tensor is None for tensor in tensors) else torch.cat(tensors)

    sample = of("sample")
    assert sample is not None
    return Predictions(
        ids=[number for part in parts for number in part.ids],
        lengths=of("lengths"),
        labels=of("labels"),
        decisions=of("decisions"),
        logits=of("logits"),
        sample=sample,
    )
