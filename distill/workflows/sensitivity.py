"""The layers of a run's student scanned, and a YAML of what each should give."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from distill.compression.quantization.select import candidates
from distill.compression.sensitivity import scan as scanning
from distill.compression.sensitivity.tried import Tried, identity
from distill.config.files import dump
from distill.core.utils.console import number, plain_table, wide
from distill.core.utils.errors import UserError
from distill.core.utils.extras import installing, missing
from distill.core.utils.files import replace
from distill.core.utils.progress import track
from distill.core.utils.replacing import check_output, make_folder
from distill.core.utils.words import amount
from distill.run.boundary import refuse_inside
from distill.run.folder import Run
from distill.tasks import DEFAULT, TASKS
from distill.training.calibration import first_batches
from distill.workflows.evaluate import refuse_quantized_run, reopen

__all__ = ["sensitivity"]

_POINTS, _PICTURE, _YAML = "points.csv", "sensitivity.png", "overrides.yaml"

_HEAD = "# Of each layer of "
"""How the YAML begins."""


def sensitivity(
    folder: str | Path,
    *,
    samples: int = 512,
    sparsity: float = 0.8,
    bits: float = 6.0,
    output: str | Path | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
) -> Path:
    """Scan the layers of a run's student, and write ``points.csv``, ``sensitivity.png`` and ``overrides.yaml``.

    What was tried is kept until then: after a kill, the same command resumes.

    Args:
        folder: The run.
        samples: Of the validation data, the first ones.
        sparsity: Mean sparsity of the layers that the YAML is to reach.
        bits: Mean bits of their weights, likewise.
        output: Folder to write to; ``sensitivity`` in the run's own if not given.
        overrides: As of :func:`~distill.workflows.evaluate.reopen`.
        allow: Likewise.

    Returns:
        The folder written to.

    Raises:
        UserError: as :func:`~distill.workflows.evaluate.reopen`, or if a target is out of reach.
    """
    for key, value, low, high in (
        ("--sparsity", sparsity, 0.0, max(scanning.SPARSITIES)),
        ("--bits", bits, min(scanning.BITS), max(scanning.BITS)),
        ("--samples", samples, 1, float("inf")),
    ):
        if not low <= value <= high:
            problem = f"must lie between {low:g} and {high:g}"
            raise UserError(problem, key=key, value=value, hint="choose another")
    given = check_output(output)
    run = Run.open(folder)
    _refuse_vectors(run)
    refuse_inside(run.folder, given)
    if given is None:
        run.refuse_links()
    written = given or run.folder / "sensitivity"
    _refuse_foreign(written)
    run, job = reopen(folder, "validate", overrides=overrides, allow=allow, with_teacher=False, alone=True)
    student, task = job.module.student, job.module.task
    refuse_quantized_run(job, folder, "scan")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student.to(device)
    batches = first_batches(job.data.val_dataloader(), task, samples, device)
    console = wide()
    make_folder(written, "--output")
    tried = Tried(written / ".tried", identity(student, batches, task.monitor))
    if tried.points:
        print(f"resuming an earlier scan, which had tried {len(tried.points)}", flush=True)
    bar = partial(track, what="tried", console=console)
    metric, points = scanning.scan(student, task, batches, progress=bar, known=tried.find, keep=tried.add)
    scanning.write(points, written / _POINTS)
    picture = written / _PICTURE
    if (lacking := missing("plots")) is None:
        scanning.draw(points, picture, metric=metric, task=task)
    else:
        picture.unlink(missing_ok=True)  # of an earlier scan
    replace(written / _YAML, _overrides(run, student, points, sparsity, bits).encode())
    tried.remove()
    seen = sum(batch.size for batch in batches)
    title = f"{run.name} {run.id}: {task.monitor} {number(metric)} as it is, on the first {amount(seen, 'sample')}"
    _show_points(title, "divergence, nats", points, lambda point: f"{point.divergence:.2g}", console)
    _show_points(title, task.monitor, points, lambda point: number(point.metric), console)
    none = f"no {picture.name}: {lacking} is not installed, {installing('plots')}"
    print(f"{written}: points.csv, {none if lacking else picture.name}, overrides.yaml")
    return written


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder in which a file that is to be written would take the place of something else.

    Raises:
        UserError: naming the file.
    """
    table = folder / _POINTS
    ours = {
        table: scanning.is_table(table),
        folder / _PICTURE: scanning.is_table(table),  # which a scan writes before it
        folder / _YAML: _begins(folder / _YAML, _HEAD),
    }
    for file, is_ours in ours.items():
        if os.path.lexists(file) and not is_ours:
            problem, hint = "is there, and is none that this command has written", "name another folder, or remove it"
            raise UserError(problem, key="--output", value=str(file), hint=hint)


def _begins(file: Path, text: str) -> bool:
    with suppress(OSError), file.open("rb") as begun:
        return begun.read(len(text.encode())) == text.encode()
    return False


def _refuse_vectors(run: Run) -> None:
    """Refuse a student whose outputs are no logits, of which there is no divergence."""
    kind = TASKS.get(str(run.checked_config["model"].get("task", DEFAULT)))
    if kind is not None and kind.outputs == "vectors":
        problem = f"a scan measures how probabilities change, and {kind.name} has none"
        raise UserError(problem, key="RUN", value=str(run.folder), hint="compress, and compare distill validate")


def _overrides(run: Run, student: nn.Module, points: Sequence[scanning.Point], sparsity: float, bits: float) -> str:
    """The YAML that gives each layer what harms it least."""
    layers, rounded = scanning.layers(student), candidates(student, key="sensitivity")
    shared = layers | scanning.tables(student)

    def exactly(kind: scanning.Kind, target: float, taken: Container[str]) -> dict[str, float]:
        chosen = scanning.overrides([point for point in points if point.layer in taken], kind, target)
        return {f"^{re.escape(name)}$": level for first, level in chosen.items() for name in shared[first]}

    sparse = exactly("sparsity", sparsity, layers)
    narrow = {name: int(level) for name, level in exactly("bits", bits, rounded).items()}
    callbacks = [
        {"class_path": "GradualMagnitudePruning", "init_args": {"final_sparsity": sparsity, "overrides": sparse}},
        {"class_path": "QuantizationAwareTraining", "init_args": {"overrides": narrow}},
    ]
    head = (
        f"{_HEAD}{run.name} as much as harms it least: mean sparsity {sparsity:g}, mean bits {bits:g}.\n"
        "#   distill fit -c RECIPE -c overrides.yaml\n# Drop the callback that is not wanted.\n"
        "# It replaces RECIPE's callbacks: to keep those, copy `overrides` into them, less the layers they exclude.\n"
    )
    return head + dump({"callbacks": callbacks if narrow else callbacks[:1]})  # no layer may be one to round


def _show_points(
    title: str, what: str, points: Sequence[scanning.Point], shown: Callable[[scanning.Point], str], console: Console
) -> None:
    table = plain_table(title)
    table.add_column(what)
    columns = list(dict.fromkeys((point.kind, point.level) for point in points))
    for kind, level in columns:  # two lines, so that long names of layers fit beside them
        table.add_column(f"{level:.0%}\npruned" if kind == "sparsity" else f"{level:g}\nbits", justify="right")
    layers: dict[str, dict[tuple[str, float], str]] = {}
    for point in points:
        layers.setdefault(point.layer, {})[point.kind, point.level] = shown(point)
    for layer, line in layers.items():
        table.add_row(layer, *(line.get(column, "") for column in columns))
    console.print(table)
