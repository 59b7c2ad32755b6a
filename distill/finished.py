"""What can be done with a run that has saved its student: score it, quantise it, see where it is sensitive."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import nn

from distill import artifact
from distill import sensitivity as scanning
from distill.build import Job, build, make_trainer, quiet
from distill.config import apply_override, dump, parse_value
from distill.errors import UserError
from distill.launch import interruptible
from distill.outcome import outcome, show_scores
from distill.quantize import ptq
from distill.quantize.choose import candidates
from distill.quantize.scheme import ActivationScheme, WeightScheme
from distill.run import Run
from distill.signals import Batch, Request
from distill.tables import number, plain_table, wide
from distill.tasks import Task
from distill.tracking import track

__all__ = ["evaluate", "quantize", "reopen", "sensitivity"]

_ALONE = {"strategy": "auto", "devices": 1, "num_nodes": 1}
"""Settings of a trainer that starts no other process."""


def reopen(
    folder: str | Path,
    stage: str,
    *,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
    with_teacher: bool = True,
    alone: bool = False,
) -> tuple[Run, Job]:
    """A run with its saved student and its data.

    Args:
        folder: The run.
        stage: ``validate`` or ``test``.
        overrides: Keys and YAML texts that replace parts of the run's configuration. Whatever the run was trained
            on, the student is taken whole, on one device, unless they say otherwise.
        allow: Packages whose classes it may name, besides our own.
        with_teacher: Whether the teacher is loaded too.
        alone: Refuse what would have several processes do it, each from the beginning.

    Raises:
        UserError: if there is no such run, it has no student, or its data cannot be read.
    """
    run = Run.open(folder)
    if not run.student.is_dir():
        rule = "this run has saved no student yet"
        raise UserError(rule, key="RUN", value=str(folder), mend=f"let it finish: distill resume {folder}")
    config = run.config
    described = _take_student(config, run)
    config["trainer"] |= _ALONE
    config["callbacks"] = []  # what they did is in the student
    if not with_teacher:
        config["model"] |= {"teacher": None, "losses": [{"class_path": "CrossEntropy"}]}
    for key, text in overrides:
        apply_override(config, key, parse_value(text, f"--{key}"))
    job = build(config, allow=allow, stage=stage)
    if alone:
        for name, one in _ALONE.items():
            value = job.config["trainer"][name]
            if value not in (one, str(one)) and not (isinstance(value, list) and len(value) == 1):
                raise UserError("this is done by one process", key=f"trainer.{name}", value=value, mend="leave it out")
    if not described:
        artifact.load(run.student, job.module.student)
    return run, job


def evaluate(
    folder: str | Path,
    split: str = "validate",
    *,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
) -> dict[str, float]:
    """The figures of a run's saved student, and its teacher's, on validation or test data.

    Args:
        folder: The run.
        split: ``validate`` or ``test``.
        overrides: Keys and YAML texts that replace parts of the run's configuration.
        allow: Packages whose classes it may name, besides our own.

    Raises:
        UserError: as :func:`reopen`.
    """
    run, job = reopen(folder, split, overrides=overrides, allow=allow)
    main, scores = _score(job, split)
    if main:
        show_scores(f"{run.name} {run.id}: {split}", scores)
    return scores


def _score(job: Job, split: str) -> tuple[bool, dict[str, float]]:
    """Whether this is the process that speaks, and the figures by name."""
    with quiet():
        trainer = make_trainer(job, enable_checkpointing=False, callbacks=[])
    with quiet(), interruptible(trainer):
        try:
            run_split = trainer.validate if split == "validate" else trainer.test
            [scores] = run_split(job.module, datamodule=job.data, verbose=False)
        except MisconfigurationException as error:
            rule = f"there is no data to {split}"
            raise UserError(rule, key="data", mend="name the split in data.splits") from error
    return trainer.is_global_zero, {name: float(value) for name, value in scores.items()}


def _take_student(config: dict[str, Any], run: Run) -> bool:
    """Have the configuration load the saved student, where it describes one in words."""
    student = config["model"]["student"]
    if isinstance(student, dict) and "class_path" in student:
        return False
    attention = student.get("attn_implementation") if isinstance(student, dict) else None
    config["model"]["student"] = {"path": str(run.student)} | (
        {"attn_implementation": attention} if attention is not None else {}
    )
    return True


# ---------------------------------------------------------------------- quantisation


def quantize(
    folder: str | Path,
    *,
    calibrate: int = 256,
    weights: WeightScheme | None = None,
    activations: ActivationScheme | None = None,
    embeddings: bool = True,
    run_id: str | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
) -> Run:
    """Quantise a run's student without training it: the baseline of quantization-aware training.

    Args:
        folder: The run.
        calibrate: Training samples that static inputs take their ranges from.
        weights: 8 bits a channel if not given.
        activations: Inputs of the layers; ``None`` leaves them as they are.
        embeddings: Whether embeddings are quantised too, to 8 bits a row.
        run_id: Id of the new run.
        overrides: As of :func:`reopen`.
        allow: Likewise.

    Returns:
        A run of its own, ``<name>-quantized/<id>`` beside the run's own folders, that can be scored and exported.

    Raises:
        UserError: as :func:`reopen`, or if the student is quantised already or the scheme does not fit it.
    """
    if calibrate < 1:
        raise UserError("must be at least 1", key="--calibrate", value=calibrate, mend="256 are usually enough")
    run, job = reopen(folder, "validate", overrides=overrides, allow=allow, alone=True)
    _refuse_quantized(job, folder, "quantise")
    elsewhere = any(key == "runs" for key, _ in overrides)
    root = job.config["runs"] if elsewhere else run.folder.parents[1]
    new = Run.plan(root, f"{run.name}-quantized", run_id)
    student, task = job.module.student, job.module.task
    _, before = _score(job, "validate")
    job.data.setup("fit")
    batches = _first(job.data.train_dataloader(), task, calibrate, torch.device("cpu"))
    try:
        steps = ptq.quantize(
            student,
            batches,
            lambda model, batch: task.forward(model, batch, Request(logits=True)),
            weights=weights,
            activations=activations,
            embeddings=WeightScheme() if embeddings else None,
            key="quantize",
        )
    except UserError as error:
        if error.key != "quantize.weights.group_size":
            raise
        raise UserError(error.rule, key="--group", value=error.value, mend="give another size") from error
    artifact.note(student, *steps)
    _, scores = _score(job, "validate")
    mine = {name.removeprefix("val/"): value for name, value in scores.items() if name.startswith("val/")}
    result = outcome(job.module, mine, name=new.name, id=new.id, made_from=str(run.folder), train_seconds=0.0)
    new.begin(run.config, made_by=f"distill quantize {run.folder}")
    try:
        artifact.save(new.student, student, getattr(job.data, "tokenizer", None))
        new.write_result(result)
    except BaseException:
        new.discard()
        raise
    monitor = f"val/{task.monitor}"
    show_scores(
        f"{new.name} {new.id}: validate",
        {f"{task.monitor}, as it was": before[monitor], f"{task.monitor}, quantised": scores[monitor]},
    )
    print(f"quantised student: {new.student}")
    return new


def _refuse_quantized(job: Job, folder: str | Path, verb: str) -> None:
    if any(step["kind"] == "quantize" for step in artifact.steps_of(job.module.student)):
        rule = "this student is quantised already"
        mend = f"{verb} the student of a run without quantization-aware training, such as the one that it was made from"
        raise UserError(rule, key="RUN", value=str(folder), mend=mend)


def _first(loader: Iterable[Any], task: Task, samples: int, device: torch.device) -> list[Batch]:
    """The first batches of ``loader``, until they hold so many samples."""
    batches: list[Batch] = []
    for raw in loader:
        batches.append(task.batch(raw).to(device))
        if sum(batch.size for batch in batches) >= samples:
            break
    return batches


# ---------------------------------------------------------------------- sensitivity


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

    Args:
        folder: The run.
        samples: Of the validation data, the first ones.
        sparsity: Mean sparsity of the layers that the YAML is to reach.
        bits: Mean bits of their weights, likewise.
        output: Folder to write to; ``sensitivity`` in the run's own if not given.
        overrides: As of :func:`reopen`.
        allow: Likewise.

    Returns:
        The folder written to.

    Raises:
        UserError: as :func:`reopen`, or if a target is out of reach.
    """
    for key, value, low, high in (
        ("--sparsity", sparsity, 0.0, max(scanning.SPARSITIES)),
        ("--bits", bits, min(scanning.BITS), max(scanning.BITS)),
        ("--samples", samples, 1, float("inf")),
    ):
        if not low <= value <= high:
            rule = f"must lie between {low:g} and {high:g}"
            raise UserError(rule, key=key, value=value, mend="choose another")
    run, job = reopen(folder, "validate", overrides=overrides, allow=allow, with_teacher=False, alone=True)
    student, task = job.module.student, job.module.task
    _refuse_quantized(job, folder, "scan")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student.to(device)
    batches = _first(job.data.val_dataloader(), task, samples, device)
    console = wide()
    metric, points = scanning.scan(student, task, batches, progress=lambda tries: track(tries, "tried", console))
    written = Path(output) if output is not None else run.folder / "sensitivity"
    written.mkdir(parents=True, exist_ok=True)
    scanning.write(points, written / "points.csv")
    scanning.draw(points, written / "sensitivity.png", metric=metric, task=task)
    (written / "overrides.yaml").write_text(_overrides(run, student, points, sparsity, bits), encoding="utf-8")
    title = f"{run.name} {run.id}: {task.monitor} {number(metric)} as it is"
    _show_points(title, "divergence, nats", points, lambda point: f"{point.divergence:.2g}", console)
    _show_points(title, task.monitor, points, lambda point: number(point.metric), console)
    print(f"{written}: points.csv, sensitivity.png, overrides.yaml")
    return written


def _overrides(run: Run, student: nn.Module, points: Sequence[scanning.Point], sparsity: float, bits: float) -> str:
    """The YAML that gives each layer what it minds least."""
    shared, rounded = scanning.layers(student), candidates(student, key="sensitivity")

    def exactly(kind: scanning.Kind, target: float, taken: Container[str]) -> dict[str, float]:
        chosen = scanning.overrides([point for point in points if point.layer in taken], kind, target)
        return {f"^{re.escape(name)}$": level for first, level in chosen.items() for name in shared[first]}

    sparse = exactly("sparsity", sparsity, shared)
    narrow = {name: int(level) for name, level in exactly("bits", bits, rounded).items()}
    callbacks = [
        {"class_path": "GradualMagnitudePruning", "init_args": {"final_sparsity": sparsity, "overrides": sparse}},
        {"class_path": "QuantizationAwareTraining", "init_args": {"overrides": narrow}},
    ]
    head = (
        f"# Of each layer of {run.name} as much as it minds least: mean sparsity {sparsity:g}, mean bits {bits:g}.\n"
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
        table.add_row(layer, *(line[column] for column in columns))
    console.print(table)
