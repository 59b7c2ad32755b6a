"""What can be done with a run that has saved its student: score it, quantise it, see where it is sensitive."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from distill import artifact
from distill import sensitivity as scanning
from distill.build import Job, build, make_trainer, quiet
from distill.config import apply_override, dump, parse_value
from distill.errors import UserError
from distill.launch import interruptible
from distill.outcome import outcome, show_scores
from distill.quantize import ptq
from distill.quantize.scheme import ActivationScheme, WeightScheme
from distill.run import Run
from distill.sharding import NAME
from distill.signals import Batch, Request
from distill.tables import number, wide
from distill.tasks import Task
from distill.tracking import track

__all__ = ["evaluate", "quantize", "reopen", "sensitivity"]


def reopen(
    folder: str | Path,
    stage: str,
    *,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
    with_teacher: bool = True,
) -> tuple[Run, Job]:
    """A run with its saved student and its data.

    Args:
        folder: The run.
        stage: ``validate`` or ``test``.
        overrides: Keys and YAML texts that replace parts of the run's configuration. A sharded run's student is taken
            whole, on one device, unless they say otherwise.
        allow: Packages whose classes it may name, besides our own.
        with_teacher: Whether the teacher is loaded too.

    Raises:
        UserError: if there is no such run, it has no student, or its data cannot be read.
    """
    run = Run.open(folder)
    if not run.student.is_dir():
        rule = "this run has saved no student yet"
        raise UserError(rule, key="RUN", value=str(folder), mend=f"let it finish: distill resume {folder}")
    config = run.config
    described = _take_student(config, run)
    if config["trainer"].get("strategy") == NAME:  # its saved student is whole, and what is done to it here wants that
        config["trainer"] |= {"strategy": "auto", "devices": 1, "num_nodes": 1}
    if not with_teacher:
        config["model"] |= {"teacher": None, "losses": [{"class_path": "CrossEntropy"}]}
    for key, text in overrides:
        apply_override(config, key, parse_value(text, f"--{key}"))
    job = build(config, allow=allow, stage=stage)
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
    run, job = reopen(folder, "validate", overrides=overrides, allow=allow)
    _refuse_quantized(job, folder, "quantise")
    if job.config["trainer"].get("strategy") == NAME:
        raise UserError("scales are of whole weights", key="trainer.strategy", value=NAME, mend="leave it out")
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
        raise UserError(rule, key="RUN", value=str(folder), mend=f"{verb} that of the run that it was made from")


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
    run, job = reopen(folder, "validate", overrides=overrides, allow=allow, with_teacher=False)
    student, task = job.module.student, job.module.task
    _refuse_quantized(job, folder, "scan")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student.to(device)
    batches = _first(job.data.val_dataloader(), task, samples, device)
    console = wide()
    shared = scanning.layers(student)
    metric, points = scanning.scan(student, task, batches, progress=lambda tries: track(tries, "tried", console))
    written = Path(output) if output is not None else run.folder / "sensitivity"
    written.mkdir(parents=True, exist_ok=True)
    scanning.write(points, written / "points.csv")
    scanning.draw(points, written / "sensitivity.png")
    (written / "overrides.yaml").write_text(_overrides(run, points, shared, sparsity, bits), encoding="utf-8")
    _show_points(f"{run.name} {run.id}: {task.monitor} {number(metric)} as it is", points, console)
    print(f"{written}: points.csv, sensitivity.png, overrides.yaml")
    return written


def _overrides(
    run: Run, points: Sequence[scanning.Point], shared: Mapping[str, Sequence[str]], sparsity: float, bits: float
) -> str:
    """The YAML that gives each layer what it minds least."""

    def exactly(chosen: Mapping[str, float]) -> dict[str, float]:
        return {f"^{re.escape(name)}$": level for first, level in chosen.items() for name in shared[first]}

    sparse = exactly(scanning.overrides(points, "sparsity", sparsity))
    narrow = {name: int(level) for name, level in exactly(scanning.overrides(points, "bits", bits)).items()}
    callbacks = [
        {"class_path": "GradualMagnitudePruning", "init_args": {"final_sparsity": sparsity, "overrides": sparse}},
        {"class_path": "QuantizationAwareTraining", "init_args": {"overrides": narrow}},
    ]
    head = (
        f"# Of each layer of {run.name} as much as it minds least: mean sparsity {sparsity:g}, mean bits {bits:g}.\n"
        "#   distill fit -c RECIPE -c overrides.yaml\n# Drop the callback that is not wanted.\n"
    )
    return head + dump({"callbacks": callbacks})


def _show_points(title: str, points: Sequence[scanning.Point], console: Console) -> None:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("divergence, nats")
    columns = list(dict.fromkeys((point.kind, point.level) for point in points))
    for kind, level in columns:
        table.add_column(f"{level:.0%} pruned" if kind == "sparsity" else f"{level:g} bits", justify="right")
    layers: dict[str, dict[tuple[str, float], float]] = {}
    for point in points:
        layers.setdefault(point.layer, {})[point.kind, point.level] = point.divergence
    for layer, line in layers.items():
        table.add_row(layer, *(f"{line[column]:.2g}" for column in columns))
    console.print(table)
