"""What the models of a report predict, sample by sample: beside the report in memory, and not in its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from distill.core.signals import Batch, Signals
from distill.core.teacher import TeacherSource
from distill.core.token_scores import TokenScores
from distill.export.base import ExportTarget
from distill.run.folder import Run
from distill.workflows.job.build import Job
from distill.workflows.report.schema import Report, Role

__all__ = ["Built", "Options", "Predictions", "Subject"]


@dataclass(frozen=True)
class Predictions:
    """One model's, of all samples that were scored, in their order; the same for every model of a report.

    Attributes:
        ids: The samples' row in their split, ``N``.
        lengths: Their real tokens, int64 ``[N]``; ``None`` of what is no text.
        labels: Of every prediction that counts, ``[P]`` (``[P, C]`` of sets, float of numbers); ``None`` without.
        decisions: The task's classes, ``[P]`` (boolean ``[P, C]`` of sets); ``None`` where predictions are numbers.
        logits: ``[P, C]``; ``None`` where they are tokens of a vocabulary.
        sample: Of which of the N samples each prediction is, int64 ``[P]``.
    """

    ids: Sequence[int]
    lengths: Tensor | None
    labels: Tensor | None
    decisions: Tensor | None
    logits: Tensor | None
    sample: Tensor


@dataclass(frozen=True)
class Subject:
    """A model of the report, still open.

    Attributes:
        key: Its name there.
        role: What it is to the others.
        run: Of which it is.
        job: That run's data, task and module.
        answers: What it says of a batch: signals with logits, or what is known of a language model's.
        model: In torch, in eval mode; ``None`` of an export for another runtime, and of a teacher that cannot run.
        source: Its folder, or what names it.
        runtime: That ``answers`` computes in.
        of: The key of the model that it was made of.
        compressed: What was done to it, in a few words.
        teacher: Of a teacher: what it is asked through.
        target: Of an export: its format.
    """

    key: str
    role: Role
    run: Run
    job: Job
    answers: Callable[[Batch], Signals | TokenScores] | None
    model: nn.Module | None
    source: str = ""
    runtime: str = "torch"
    of: str | None = None
    compressed: str = ""
    teacher: TeacherSource | None = None
    target: ExportTarget | None = None


@dataclass(frozen=True)
class Built:
    """A report and what it was made of.

    Attributes:
        report: What was found.
        predictions: By the models' keys.
        subjects: Likewise.
    """

    report: Report
    predictions: Mapping[str, Predictions]
    subjects: Mapping[str, Subject]


@dataclass(frozen=True)
class Options:
    """What ``build_report(runs, options) -> Built`` is asked for.

    Attributes:
        samples: How many samples are scored; all that the validation reads if not given.
        split: ``validate`` or ``test``.
        overrides: Keys and YAML texts that replace parts of the runs' configuration.
        allow: Packages whose classes these may name.
        timed: Whether latencies and memory are measured.
        draws: Of each bootstrap.
        seed: Of the draws.
        seconds: That the timing may take, about.
        check: Judges what was opened, before it is asked anything.
    """

    samples: int | None = None
    split: str = "validate"
    overrides: Sequence[tuple[str, str]] = ()
    allow: Sequence[str] = ()
    timed: bool = True
    draws: int = 1000
    seed: int = 0
    seconds: float = 10.0
    check: Callable[[Sequence[Subject]], None] | None = None
