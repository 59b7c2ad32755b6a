"""Which sections a report has: what there is to see of its models."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from distill.core.record import steps_of, summary
from distill.core.utils.errors import first_line
from distill.core.utils.extras import installing, missing
from distill.core.utils.json_file import number_at
from distill.core.utils.words import amount
from distill.data import TextData
from distill.run.checkpoints.file import Damaged, read
from distill.run.folder import Run
from distill.workflows.report.predictions import Built, Predictions, Subject
from distill.workflows.report.schema import Measured, Report, Role
from distill.workflows.report.views.blocks import Block, Picture, Pictures, Section, Text
from distill.workflows.report.views.completions import completion_table, read_completions
from distill.workflows.report.views.confusion import confusion, confusion_block
from distill.workflows.report.views.explained import chosen_rows, explained
from distill.workflows.report.views.layers import compressed_layers, layer_table
from distill.workflows.report.views.overview import (
    class_table,
    cost_table,
    generation_table,
    latency_table,
    length_table,
    machine_table,
    pairs_table,
    quality_table,
    single_call,
)
from distill.workflows.report.views.samples import Sampled, parted, parted_table

__all__ = ["sections_of"]

_log = logging.getLogger(__name__)

_STUDENTS: tuple[Role, ...] = ("compressed", "distilled", "alone")
"""Roles of the models that are looked into, the last step of a run first."""

_SHOWN: tuple[Role, ...] = ("teacher", *_STUDENTS)

_PARTED, _EXPLAINED, _LOOKED_AT = 20, 4, 200
_LARGEST = 2 << 30
"""Bytes of a checkpoint that is still read for what rounding took."""


def sections_of(built: Built) -> list[Section]:
    """All that the page shows below the verdict, in its order; what there is nothing of is left out."""
    report, plots = built.report, missing("plots") is None
    found = [Section("models", "", [quality_table(report), cost_table(report), *_given(pairs_table(report))])]
    runs = {subject.run.folder: subject for subject in built.subjects.values() if subject.model is not None}
    makers = [
        *([partial(_pareto, report)] if plots else []),
        *(partial(_details, report, plots), partial(_confusions, built), partial(_samples, built)),
        *(partial(_of_run, one, f"run{at}", len(runs) > 1, plots) for at, one in enumerate(runs.values())),
    ]
    lost: list[Block] = []
    for make in makers:
        try:
            found += make()
        except Exception as error:  # of models and files of others; what was measured is shown all the same
            _log.warning("a part of the page is missing (%s)", first_line(error))
            lost.append(Text(f"A part of this page could not be made: {first_line(error)}"))
    notes: list[Block] = [*lost, *(Text(note) for note in report.notes)]
    notes += [Text(f"{name}: {text}") for name, text in report.means.items()]
    notes += [Text(f"{model.key}: {note}") for model in report.models for note in model.notes]
    if not plots:
        notes.append(Text(f"There are no plots: {missing('plots')} is not installed ({installing('plots')})."))
    return [*found, Section("conditions", "How it was measured", [machine_table(report), *notes])]


def _given(block: Block | None) -> list[Block]:
    return [] if block is None else [block]


def _pareto(report: Report) -> list[Section]:
    """Quality against bytes and against the time of one sample; where at least two models can be compared."""
    from distill.workflows.report.views.pareto import Point, pareto_picture

    like = next((call for model in report.models if (call := single_call(model))), None)
    costs = {
        "size": ("MB on disk", [(m, None if m.size.bytes is None else m.size.bytes / 1e6) for m in report.models]),
        "time": (
            f"ms of one sample, {amount(like.threads if like else 1, 'thread')}",
            [(m, call.p50_ms if (call := single_call(m, like)) else None) for m in report.models],
        ),
    }
    pictures = []
    for name, (label, known) in costs.items():
        points = [
            Point(model.key, cost, score.value, score.low, score.high)
            for model, cost in known
            if cost is not None and (score := model.scores.get(report.monitor)) is not None
        ]
        if len(points) > 1:
            pictures.append(pareto_picture(points, report.monitor, report.mode, label, f"pareto-{name}"))
    return [Section("pareto", "Quality against cost", [Pictures(pictures)])] if pictures else []


def _details(report: Report, plots: bool) -> list[Section]:
    models = report.models
    quality = [*_given(class_table(models)), *_given(length_table(models, report.monitor))]
    if plots:
        from distill.workflows.report.views.calibration import calibration_picture

        picture = calibration_picture(models, "calibration")
        quality += [] if picture is None else [Pictures([picture])]
    time = [*_given(latency_table(models)), *_given(generation_table(models))]
    sections = [Section("quality", "Quality in detail", quality)] if quality else []
    return sections + ([Section("latency", "Time in detail", time)] if time else [])


def _pair(built: Built) -> tuple[Subject | None, Subject | None]:
    """The teacher, and the student that is looked into: the most compressed one."""
    teacher = next((built.subjects[m.key] for m in built.report.with_role("teacher") if m.key in built.subjects), None)
    students = [m for role in _STUDENTS for m in built.report.with_role(role)]
    student = next((built.subjects[m.key] for m in students if m.key in built.subjects), None)
    return teacher, student


def _confusions(built: Built) -> list[Section]:
    """Of the teacher and of each student."""
    shown: list[Measured] = [model for role in _SHOWN for model in built.report.with_role(role)]
    blocks = []
    for model in shown[:5]:
        found, subject = built.predictions.get(model.key), built.subjects.get(model.key)
        if found is None or subject is None or found.labels is None or found.decisions is None or found.logits is None:
            continue
        task = subject.job.module.task
        names = getattr(task, "labels", None) or [str(label) for label in range(found.logits.shape[-1])]
        if found.labels.dim() == 1 and len(names) > 1:
            blocks.append(confusion_block(model.key, confusion(found.labels, found.decisions, len(names)), names))
    return [Section("confusion", "What is taken for what", blocks)] if blocks else []


def _samples(built: Built) -> list[Section]:
    teacher, student = _pair(built)
    data = None if student is None else student.job.data
    if student is None or not isinstance(data, TextData) or data.task.reads != "tokens":
        return []
    sampled = Sampled(data, built.report.samples.split)
    known: dict[str, Predictions] = dict(built.predictions)
    mine, theirs = known.get(student.key), known.get(teacher.key) if teacher else None
    sections, apart = [], []
    if teacher is not None and theirs is not None and mine is not None:
        apart = parted(theirs, mine, student.job.module.task.outputs, _LOOKED_AT)
        if apart:
            table = parted_table(apart, (teacher.key, student.key), theirs, sampled, _PARTED)
            title = f"Where {teacher.key} and {student.key} part"
            sections.append(Section("disagreements", title, [table]))
    if mine is None:
        return sections
    rows = [mine.ids[at] for at in chosen_rows(apart, mine, _EXPLAINED)]
    pair = [one for one in (None if sampled.other_tokens else teacher, student) if one is not None]
    blocks = explained(pair, rows, sampled)
    said = (
        "The shade of a word is what it adds to the score of what the model says, by integrated gradients from as many "
        "neutral tokens; underlined is what speaks against it. The maps are the mean over the heads of the last layer: "
        "each row is where one token looks."
    )
    return [*sections, Section("explained", "Samples looked into", [Text(said), *blocks])] if blocks else sections


def _of_run(subject: Subject, name: str, several: bool, plots: bool) -> list[Section]:
    """How a run went, what was done to its student by layer, and what it wrote."""
    run, of = subject.run, f", {subject.run.name} {subject.run.id}" if several else ""
    sections = [Section(f"{name}-curves", f"Training{of}", _curves(run, subject, name))] if plots else []
    if student := subject.job.module.student:
        steps = steps_of(student)
        layers = compressed_layers(steps, dict(student.named_parameters(remove_duplicate=False)), _before(run, student))
        if layers:
            table = layer_table(f"what was done to each layer: {summary(steps)}", layers)
            said = "The error of rounding is the norm of what it changed over the norm of the weights before."
            known = any(layer.error is not None for layer in layers)
            blocks: list[Block] = [table, *([Text(said)] if known else [])]
            sections.append(Section(f"{name}-layers", f"Layers{of}", blocks))
    if lines := read_completions(run.folder / "completions.jsonl"):
        table = completion_table("held-out prompts, what stands there, and what each wrote", lines)
        sections.append(Section(f"{name}-completions", f"Completions{of}", [table]))
    return [section for section in sections if section.blocks]


def _curves(run: Run, subject: Subject, name: str) -> list[Block]:
    from distill.workflows.report.views.curves import compression_panels, curve_pictures
    from distill.workflows.timeline import history_panels

    history = run.folder / "metrics.csv"
    panels = [*history_panels(history, [subject.job.module.task.monitor]), *compression_panels(history)]
    last = max((step for panel in panels for line in panel.lines for step in line.steps), default=1)
    pictures: Sequence[Picture] = curve_pictures(panels, last, f"{name}-curve").pictures
    return [Pictures(pictures)] if pictures else []


def _before(run: Run, student: nn.Module) -> Mapping[str, Tensor]:
    """The weights that were rounded, of the checkpoint that the student was saved from; nothing where it is gone."""
    step = number_at(run.result, "saved_step")
    file = run.checkpoints / f"best-{int(step)}.ckpt" if step is not None else Path()
    if not file.is_file() or file.stat().st_size > _LARGEST:
        return {}
    with suppress(Damaged, OSError, KeyError, TypeError, ValueError):
        state = read(file)["state_dict"]
        return {name.removeprefix("student."): weight for name, weight in state.items() if isinstance(weight, Tensor)}
    return {}
