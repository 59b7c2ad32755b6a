"""``distill report``: models opened, asked, measured, compared, and written down."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from distill.core.task import Guess
from distill.core.utils.errors import UserError
from distill.core.utils.version import VERSION
from distill.core.utils.visible import visible
from distill.core.utils.words import amount
from distill.data.identity import identity
from distill.data.text import TextData
from distill.workflows.report.comparing import Judged, compared, pairs_of
from distill.workflows.report.costing import Costs, costs_of
from distill.workflows.report.machine import machine
from distill.workflows.report.predictions import Built, Options, Subject
from distill.workflows.report.schema import ROLES, Compared, Estimate, Measured, Report, Samples
from distill.workflows.report.scoring import Answers, batches_of, data_fingerprint, score
from distill.workflows.report.sizes import sample_input, sample_length, size_of
from distill.workflows.report.subjects import open_subjects
from distill.workflows.report.verdict import faster, verdict

__all__ = ["build_report"]

GUESS = "constant guess"


def build_report(runs: Sequence[str | Path], options: Options) -> Built:
    """Measure the models of some runs on the same samples.

    Args:
        runs: Their folders.
        options: What is measured, and on how many samples.

    Raises:
        UserError: if one of them cannot be opened, or they read other data.
    """
    started = time.perf_counter()
    notes: list[str] = []
    print(visible(f"opens {', '.join(map(str, runs))}"), flush=True)
    subjects = sorted(open_subjects(runs, options, notes), key=lambda one: ROLES.index(one.role))
    if options.check is not None:
        options.check(subjects)
    print(visible(f"measures {amount(len(subjects), 'model')}: {', '.join(one.key for one in subjects)}"), flush=True)
    job = subjects[0].job
    task = job.module.task
    fingerprint = _same_data(subjects, options)
    answers, scored, held = score(subjects, options, notes)
    subjects = [one for one in subjects if one.key in answers or one.answers is None]
    judged = {key: Judged(task, one, options) for key, one in answers.items()}
    inputs = sample_input(next(batches_of(job, options)[0]), [one.model for one in subjects if one.model is not None])
    length = sample_length(inputs)
    costs = costs_of(subjects, inputs, length, options, notes)
    models = [_measured(one, judged.get(one.key), inputs, length, costs) for one in subjects]
    guess = _guess(subjects, answers)
    if guess is not None:
        scores = {name: Estimate(value) for name, value in guess.scores.items()}
        models.insert(0, Measured(GUESS, "guess", notes=(guess.says,), scores=scores))
    pairs = tuple(
        _with_costs(one, other, compared((one, judged[one.key]), (other, judged[other.key]), task, guess))
        for one, other in pairs_of(models)
        if one.key in judged and other.key in judged
    )
    predictions = {key: one.found for key, one in answers.items() if one.found is not None}
    count = max((len(one.sample) for one in predictions.values()), default=0)
    report = Report(
        runs=tuple(dict.fromkeys(f"{one.run.name}/{one.run.id}" for one in subjects)),
        monitor=task.monitor,
        mode=cast(Any, task.mode),
        samples=Samples(
            task=task.name,
            split={"validate": "validation"}.get(options.split, options.split),
            scored=scored,
            available=held,
            predictions=count,
            fingerprint=fingerprint,
            source=_source(job.config),
            draws=options.draws,
            seed=options.seed,
        ),
        machine=machine(costs.others),
        models=tuple(models),
        pairs=pairs,
        means={name: what for name, what in task.means().items() if name in task.metrics()},
        notes=tuple(notes),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
        distill=VERSION,
    )
    return Built(replace(report, verdict=verdict(report)), predictions, {one.key: one for one in subjects})


def _measured(
    subject: Subject, judged: Judged | None, inputs: dict[str, Any], length: int | None, costs: Costs
) -> Measured:
    """One model."""
    size = size_of(subject, inputs, length)
    made = Measured(
        key=subject.key,
        role=subject.role,
        run=f"{subject.run.name}/{subject.run.id}",
        source=subject.source,
        runtime=subject.runtime,
        size=size,
        latency=tuple(costs.latency.get(subject.key, ())),
        memory=tuple(costs.memory.get(subject.key, ())),
        generation=tuple(costs.generation.get(subject.key, ())),
        compressed=subject.compressed,
        of=subject.of,
    )
    if judged is None:
        known = subject.teacher.known_scores if subject.teacher is not None else None
        scores = {name: Estimate(value) for name, value in (known or {}).items()}
        return replace(made, scores=scores, notes=("it cannot run: its scores are those that were recorded",))
    return replace(
        made,
        scores=judged.scores(),
        classes=judged.classes(),
        lengths=judged.lengths(),
        calibration=judged.calibration(),
    )


def _with_costs(first: Measured, second: Measured, pair: Compared) -> Compared:
    """The comparison, with how much smaller and faster the second model is."""
    both, times = (first.size.bytes, second.size.bytes), faster(first, second)
    smaller = both[0] / both[1] if both[0] and both[1] else None
    return replace(pair, smaller=smaller, faster=None if times is None else times[1])


def _guess(subjects: Sequence[Subject], answers: dict[str, Answers]) -> Guess | None:
    """The best prediction that looks at no input."""
    key = next((one.key for one in subjects if one.key in answers and not answers[one.key].of_text), None)
    if key is None or not answers[key].counts.total:
        return None
    job = subjects[0].job
    counts = getattr(job.data, "token_counts", None)
    found = job.module.task.guess(answers[key].counts, None if counts is None else counts())
    return found or answers[key].scores.guess_at_random()


def _same_data(subjects: Sequence[Subject], options: Options) -> str:
    """The fingerprint of the samples.

    Raises:
        UserError: if the runs read other samples.
    """
    jobs = {f"{one.run.name}/{one.run.id}": (one.run, one.job) for one in subjects}
    (first, (_, job)), *others = jobs.items()
    mine = data_fingerprint(job, options)
    for run, other in (found for _, found in others):
        if data_fingerprint(other, options) == mine and other.module.task.name == job.module.task.name:
            continue
        what = _what_differs(job.data, other.data)
        problem = f"was scored on other data than {first}{what}; figures of different samples are not mixed"
        hint = "report each by itself, or name runs of the same data"
        raise UserError(problem, key="RUN", value=run.shown, hint=hint)
    return mine


def _what_differs(one: Any, other: Any) -> str:
    if not (isinstance(one, TextData) and isinstance(other, TextData)):
        return ""
    found = [identity(data) for data in (one, other)]
    names = [name for name in found[0] if found[0][name] != found[1].get(name)]
    return f" ({', '.join(names)})" if names else ""


def _source(config: dict[str, Any]) -> str:
    """What names the data."""
    given = config["data"].get("init_args") or {}
    parts = [given.get(name) for name in ("path", "name", "files")]
    return ", ".join(str(part) for part in parts if part) or str(config["data"].get("class_path", ""))
