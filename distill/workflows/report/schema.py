"""What a report holds: frozen records that become ``report.json`` and are read back from it. Light: no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from distill.core.utils.dataclass_json import read, to_json
from distill.workflows.report.costs import Generation, Latency, Machine, Memory, Size

__all__ = [
    "ROLES",
    "VERSION",
    "Bin",
    "Calibration",
    "Class",
    "Compared",
    "Difference",
    "Estimate",
    "Generation",
    "Latency",
    "LengthBin",
    "Machine",
    "McNemar",
    "Measured",
    "Memory",
    "Report",
    "Role",
    "Samples",
    "Size",
]

VERSION = 1
"""Of the format; a later version that means something else has a larger one."""

Role = Literal["guess", "teacher", "alone", "distilled", "compressed", "float", "exported"]
"""What a model is to the others: a constant guess; the teacher; the plainly trained twin; a student that was distilled,
and none of it compressed; one that was compressed; that one with its rounding taken out of the layers, computing in
float in the runtime of an export; an export."""

ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Estimate:
    """A score on some samples, and its 95 % interval as other samples are drawn; ``None`` where that is not known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Class:
    """How one class is predicted.

    Attributes:
        name: As it is shown.
        support: Labels that are it.
        predicted: Predictions that are it.
        precision: The part of these that is right; ``None`` without any.
        recall: The part of those that is found; ``None`` without any.
        f1: 2 right / (support + predicted); ``None`` without either.
    """

    name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class LengthBin:
    """Samples of ``low`` to ``high`` tokens, both included, and what they score."""

    low: int
    high: int
    samples: int
    scores: Mapping[str, Estimate]


@dataclass(frozen=True)
class Bin:
    """Predictions of similar confidence: their number, its mean, and the part of them that is right."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far a model's confidence can be believed.

    Attributes:
        ece: The expected calibration error, sum over bins of count / n |accuracy - confidence|.
        brier: The mean over predictions of sum over classes of (p - [label is it])^2; of two outcomes a label each,
            (p - label)^2.
        bins: Of equal width over the confidences from 0 to 1; those without a prediction are left out.
    """

    ece: float
    brier: float
    bins: Sequence[Bin] = ()


@dataclass(frozen=True)
class Measured:
    """One model.

    Attributes:
        key: Names it within the report: ``teacher``, ``reviews/small``, ``reviews/int8 onnx-int8``.
        role: What it is to the others.
        run: ``NAME/ID`` of the run that it comes of; of a teacher that several runs share, of the first.
        source: Its folder, or what names it.
        runtime: What its scores were computed in.
        scores: The task's metrics.
        classes: Of a task with classes, the most frequent first.
        lengths: By the number of tokens.
        calibration: Of a task with probabilities.
        size: How large it is.
        latency: All kinds of call that were timed.
        memory: Of the kinds of call of which it was measured.
        generation: Of language models.
        compressed: What was done to it, in a few words: ``50 % zero, int8``.
        of: The key of the model that it was made of: of an export, and of a student in float.
        notes: What must be said of it.
    """

    key: str
    role: Role
    run: str = ""
    source: str = ""
    runtime: str = "torch"
    scores: Mapping[str, Estimate] = field(default_factory=dict)
    classes: Sequence[Class] = ()
    lengths: Sequence[LengthBin] = ()
    calibration: Calibration | None = None
    size: Size = field(default_factory=Size)
    latency: Sequence[Latency] = ()
    memory: Sequence[Memory] = ()
    generation: Sequence[Generation] = ()
    compressed: str = ""
    of: str | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Difference:
    """One metric of two models, the second less the first.

    Attributes:
        value: On the samples that there are.
        low: Of its 95 % interval, as samples are drawn anew for both alike.
        high: Likewise.
        p: Twice the smaller part of those draws on either side of zero; ``None`` without draws.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class McNemar:
    """The exact test of McNemar: predictions that only the first, and that only the second model has right, and how
    probable a split at least as uneven is where both are as often right."""

    first: int
    second: int
    p: float


@dataclass(frozen=True)
class Compared:
    """Two models on the same samples, by their keys.

    Attributes:
        first: That is compared with.
        second: That is compared.
        differences: By metric.
        mcnemar: Of a task with one class a prediction.
        agreement: The part of the decisions that are equal.
        acceptance: Of language models: how likely the first takes a token that the second proposes.
        kept_percent: Of what the first has above a constant guess, by the metric that the task is judged by.
        smaller: Bytes of the first over those of the second.
        faster: Milliseconds of the first over those of the second, batch 1, one thread; in the runtime of the second if
            the first was timed in it.
    """

    first: str
    second: str
    differences: Mapping[str, Difference] = field(default_factory=dict)
    mcnemar: McNemar | None = None
    agreement: float | None = None
    acceptance: float | None = None
    kept_percent: float | None = None
    smaller: float | None = None
    faster: float | None = None


@dataclass(frozen=True)
class Samples:
    """What the scores are of.

    Attributes:
        task: Its name.
        split: ``validation`` or ``test``.
        scored: Samples that were scored.
        available: Samples that the split holds.
        predictions: Labels that were scored.
        fingerprint: Of the samples, by which reports of the same data know each other.
        source: What names the data.
        draws: Of each bootstrap.
        seed: Of the draws.
    """

    task: str
    split: str
    scored: int
    available: int
    predictions: int
    fingerprint: str
    source: str = ""
    draws: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """Models measured on the same samples.

    Attributes:
        runs: ``NAME/ID`` of the runs that were named.
        monitor: The metric that the task is judged by.
        mode: ``max`` or ``min``: which direction of it is better.
        samples: What the scores are of.
        machine: What it was measured on.
        models: In the order of :data:`ROLES`, each once.
        pairs: Those of them that were compared.
        verdict: What was gained and what lost, a sentence each; the first is the one to read.
        means: What metrics mean whose names leave it open.
        notes: What was not measured, and why.
        created: When, in UTC, as ISO 8601 has it.
        seconds: How long measuring took.
        distill: The version of this package.
        version: Of the format.
    """

    runs: Sequence[str]
    monitor: str
    mode: Literal["max", "min"]
    samples: Samples
    machine: Machine
    models: Sequence[Measured]
    pairs: Sequence[Compared] = ()
    verdict: Sequence[str] = ()
    means: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    created: str = ""
    seconds: float = 0.0
    distill: str = ""
    version: int = VERSION

    def model(self, key: str) -> Measured:
        """The model of that name.

        Raises:
            KeyError: if there is none.
        """
        return {model.key: model for model in self.models}[key]

    @property
    def keys(self) -> list[str]:
        """The models' names."""
        return [model.key for model in self.models]

    def with_role(self, role: Role) -> list[Measured]:
        """The models that are this to the others."""
        return [model for model in self.models if model.role == role]

    def to_json(self) -> str:
        """The content of ``report.json``. What is not finite is ``null`` there."""
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Likewise, read back: equal to what was written, but for numbers that were not finite.

        Raises:
            ValueError: if it is no report, or of a later format; the message says where.
        """
        found = json.loads(text)
        if isinstance(found, dict) and isinstance(later := found.get("version"), int) and later > VERSION:
            raise ValueError(f"it is of format {later} and this version reads up to {VERSION}")
        report = read(cls, found, "report")
        assert isinstance(report, cls)
        return report
