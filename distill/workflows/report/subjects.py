"""Which models a report is of: those of the runs that were named, opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.record import steps_of, summary
from distill.core.signals import Batch, Request, Signals
from distill.core.task import TokenTask
from distill.core.teacher import TeacherSource
from distill.core.token_scores import TokenScores
from distill.core.utils.errors import UserError
from distill.core.utils.extras import missing
from distill.export.base import Predict
from distill.export.folder import REPORT
from distill.export.onnx.convert import frozen_layers, without_quantization
from distill.export.onnx.graph import feed
from distill.export.targets import TARGETS
from distill.export.unpacking import unpack
from distill.run.baseline import find_baseline, learns_alone, scores_of
from distill.run.folder import Run
from distill.run.listing import read_json
from distill.workflows.evaluate import reopen
from distill.workflows.job.build import Job
from distill.workflows.report.predictions import Options, Subject

__all__ = ["EXPORTS", "open_subjects"]

EXPORTS = "exports"

STUDENT, TWIN = "student", "without a teacher"
"""What the student of one run is called, and its plainly trained twin."""


def open_subjects(runs: Sequence[str | Path], options: Options, notes: list[str]) -> list[Subject]:
    """The models of the runs: teachers, plainly trained twins, students, and what was exported of these.

    Args:
        runs: Their folders; a folder that is named twice counts once.
        options: Of the report.
        notes: Gets what was left out, and why.

    Raises:
        UserError: as :func:`~distill.workflows.evaluate.reopen`.
    """
    found: list[Subject] = []
    teachers: list[tuple[Any, TeacherSource]] = []
    folders = list(dict.fromkeys(Path(run).resolve() for run in runs))
    names = _names(folders)
    shown = {Path(run).resolve(): str(run) for run in runs}
    for folder in folders:
        config = Run.open(shown[folder]).config["model"].get("teacher")
        known = next((source for given, source in teachers if given == config), None)
        run, job = _open(shown[folder], options, with_teacher=known is None)
        name = names[folder]
        notes += [f"{name}: {line}" for line in job.changed]
        source = job.module.teacher if known is None else known
        if known is None and source is not None:
            teachers.append((config, source))
            found.append(_teacher(run, job, source, config, f"teacher of {name}" if len(teachers) > 1 else "teacher"))
        if (twin := _twin(run)) is not None and twin.resolve() not in folders:
            folders.append(twin.resolve())  # it is opened as the others are
            shown[twin.resolve()] = str(twin)
            names[twin.resolve()] = TWIN if TWIN not in names.values() else f"{name} {TWIN}"
        found += _of_student(run, job, name, notes)
    return found


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """What the students are called: by the name of their run, its id, or both, whichever tells them apart."""
    if len(folders) == 1:
        return {folders[0]: STUDENT}
    forms = [[of(folder) for folder in folders] for of in (lambda f: f.parent.name, lambda f: f.name, _both)]
    chosen = next((form for form in forms if len(set(form)) == len(form)), [str(folder) for folder in folders])
    return dict(zip(folders, chosen, strict=True))


def _both(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _open(folder: str, options: Options, *, with_teacher: bool) -> tuple[Run, Job]:
    """A run on this machine's CPU, its student in eval mode."""
    given, allow = options.overrides, options.allow
    run, job = reopen(folder, options.split, overrides=given, allow=allow, with_teacher=with_teacher, alone=True)
    job.module.student.eval()
    return run, job


def _twin(run: Run) -> Path | None:
    """The run of the same student without a teacher: the one that the run's table stands beside, or one found now."""
    if learns_alone(run.config):
        return None
    named = read_json(run.result_file)[0].get("beside")
    folder = Path(named) if isinstance(named, str) and named else find_baseline(run.config)
    return folder if folder is not None and scores_of(folder) is not None else None


def _teacher(run: Run, job: Job, source: TeacherSource, config: Any, key: str) -> Subject:
    models = source.models
    known = source.known_scores is not None
    path = config.get("path") if isinstance(config, dict) else config
    return Subject(
        key=key,
        role="teacher",
        run=run,
        job=job,
        answers=None if known else source.evaluate_lazily,
        model=models[0] if len(models) == 1 and not known else None,
        source=path if isinstance(path, str) else source.described,
        teacher=source,
    )


def _of_student(run: Run, job: Job, name: str, notes: list[str]) -> Iterator[Subject]:
    """A run's student, the same in float where it is rounded, and its exports."""
    student = job.module.student
    done = summary(steps_of(student))
    alone = learns_alone(run.config)
    whole = bool(job.module.why_whole())
    yield Subject(
        key=name,
        role="compressed" if done else "alone" if alone else "distilled",
        run=run,
        job=job,
        answers=partial(_signals, job, student, lazy=not whole),
        model=student,
        source=str(run.student),
        compressed=done,
    )
    if frozen_layers(student):
        plain = without_quantization(student)
        yield Subject(
            key=f"{name} in float",
            role="float",
            run=run,
            job=job,
            answers=partial(_signals, job, plain, lazy=False),
            model=plain,
            source=str(run.student),
            of=name,
            compressed=f"{done}, computed in float",
        )
    yield from _exports(run, job, name, done, notes)


@torch.no_grad()
def _signals(job: Job, model: nn.Module, batch: Batch, *, lazy: bool) -> Signals:
    return job.module.task.forward(model, batch, Request(logits=True, lazy=lazy))


def _exports(run: Run, job: Job, name: str, done: str, notes: list[str]) -> Iterator[Subject]:
    folders = sorted(path.parent for path in (run.folder / EXPORTS).glob(f"*/{REPORT}"))
    for folder in folders:
        to = read_json(folder / REPORT)[0].get("to")
        kind = TARGETS.get(to) if isinstance(to, str) else None
        if kind is None:
            notes.append(f"{folder}: a target of one's own, which is not measured here")
            continue
        if kind.extra is not None and (package := missing(kind.extra)) is not None:
            notes.append(f"{folder} was not measured: {package} is not installed")
            continue
        try:
            predict = kind().open(folder)
        except (UserError, OSError, RuntimeError, ValueError) as error:
            notes.append(f"{folder} was not measured: it cannot be opened ({error})")
            continue
        tokens = isinstance(job.module.task, TokenTask)
        yield Subject(
            key=kind.name if name == STUDENT else f"{name} {kind.name}",
            role="exported",
            run=run,
            job=job,
            answers=partial(_token_scores if tokens else _logits, predict),
            model=None,
            source=str(folder),
            runtime=kind.runtime,
            of=name,
            compressed=done,
            target=kind(),
        )


@torch.no_grad()
def _logits(predict: Predict, batch: Batch) -> Signals:
    return Signals(predict(feed(batch)))


@torch.no_grad()
def _token_scores(predict: Predict, batch: Batch) -> TokenScores:
    """What an export says of packed documents, each a row of its own, put back where they stand in the batch."""
    assert batch.labels is not None
    shape = batch.labels.shape
    places = torch.arange(batch.labels.numel()).view(shape)
    nats, predicted, undefined = torch.zeros(shape), torch.zeros_like(batch.labels), torch.zeros(shape).bool()
    width = 0
    extras = {**batch.extras, _PLACE: places}
    marked = replace(batch, ids=None, on_host=None, extras=extras)
    for part in unpack(marked):
        assert part.labels is not None
        scores = TokenScores.of(Signals(predict(feed(part))), part)
        predicting = part.tokens if part.decoder_tokens is None else part.decoder_tokens
        real = torch.ones_like(part.labels).bool() if predicting is None else predicting
        at, width = part.extras[_PLACE][real], scores.width
        for whole, found in ((nats, scores.nats), (predicted, scores.predicted), (undefined, scores.undefined)):
            _put(whole, at, found[real])
    return TokenScores(nats, predicted, undefined, None, width)


_PLACE = "place"


def _put(whole: Tensor, at: Tensor, values: Tensor) -> None:
    whole.view(-1)[at] = values.to(whole.dtype)
