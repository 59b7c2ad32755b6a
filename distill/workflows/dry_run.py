"""What a run would do, found out by building it and taking a few steps of which nothing is kept."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, DeviceStatsMonitor, EarlyStopping, LearningRateMonitor
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities.model_helpers import is_overridden
from rich.console import Console
from rich.table import Table

from distill.callbacks.progress_lines import ProgressLines
from distill.compression.base import compressions, hurried
from distill.core.internals.lightning import accumulates, stop_after
from distill.core.step_callback import step_callbacks
from distill.core.utils.console import duration, wide
from distill.core.utils.quiet import quiet_lightning
from distill.core.verdict import Verdict
from distill.data import TextData
from distill.data.one_sample import one_sample
from distill.run.baseline import check_baseline, find_baseline, learns_alone
from distill.run.folder import Run
from distill.run.loggers.config import LoggingConfig
from distill.run.samples import samples_of
from distill.training.module import Distillation
from distill.training.processes import meeting, none_left, shared_id
from distill.workflows.fit import interruptible
from distill.workflows.job.build import Job, build, make_trainer
from distill.workflows.job.lightning_limits import check_interval
from distill.workflows.job.lightning_refusals import explained
from distill.workflows.opening import opening, steps_an_epoch
from distill.workflows.teacher_check import TeacherCheck
from distill.workflows.timeline import timeline

__all__ = ["dry_run"]

SHOWN_AT = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)
"""Parts of the run at which schedules are shown."""

_STEPS = 2  # of each kind: the first one makes buffers and caches; the second one is measured


@dataclass
class Measured(Callback):
    """Time, memory and tokens of a step.

    Attributes:
        seconds: Of the last step, the fetching of its batch included.
        written: Likewise, of one whose batch the student has written.
        memory: Most that the steps took on top of models and data, in bytes.
        tokens: Real tokens a step, and the positions computed for them, padding included; 0 where the samples
            are no sequences.
        arguments: Of the trainer that it stands for.
    """

    seconds: float = 0.0
    written: float | None = None
    memory: int = 0
    tokens: tuple[int, int] = (0, 0)
    _seen: list[tuple[int, int]] = field(default_factory=list)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    _started: float = 0.0
    _before: int = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_interval(self.arguments, trainer.num_training_batches)
        # The schedules were laid out over the whole run; now it may end early.
        assert isinstance(pl_module, Distillation)
        stop_after(trainer, _STEPS if pl_module.on_policy is None else 2 * _STEPS)
        if pl_module.on_policy is not None:
            pl_module.on_policy.alternating = True
        self._before = _reset_peak(pl_module.device)
        self._started = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, Distillation)
        seen = pl_module.task.batch(batch)
        ids = seen.inputs.get("input_ids")
        texts = [seen.tokens] if seen.decoder_tokens is None else [seen.tokens, seen.decoder_tokens]
        if seen.tokens is not None:
            self._seen += [(int(real.sum()), real.numel()) for real in texts if real is not None]
        elif ids is not None:
            self._seen.append((ids.numel(), ids.numel()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if accumulates(trainer):
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        assert isinstance(pl_module, Distillation)
        if pl_module.on_policy is not None and pl_module.on_policy.replaced:
            self.written = seconds
        else:
            self.seconds = seconds
            self.tokens = (sum(real for real, _ in self._seen), sum(padded for _, padded in self._seen))
        self._seen = []
        self.memory = max(self.memory, _peak(pl_module.device) - self._before)


class Understood(Callback):
    """Says what a run has understood, before the steps that may fail or take long.

    Args:
        job: The run.
        check: What its teacher scores.
    """

    def __init__(self, job: Job, check: TeacherCheck) -> None:
        self.job, self.check = job, check
        self.opening: list[str] = []
        self.sample: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.opening = opening(self.job, trainer, self.check)
        self.sample = one_sample(self.job.data) if isinstance(self.job.data, TextData) else []
        if trainer.is_global_zero:
            print("\n".join([*self.opening, *self.sample]), flush=True)


def _status(name: str) -> int | None:
    """A line of Linux's account of this process, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _reset_peak(device: torch.device) -> int:
    """Begin to measure; what is in use now, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak to what is in use now
    except OSError:
        return _peak(device)
    return _status("VmRSS") or 0


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def dry_run(
    config: Mapping[str, Any],
    *,
    allow: Sequence[str] = (),
    run_id: str | None = None,
    beside: str | Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Build what ``config`` describes, say what was understood, take two steps, and print what a run would do.

    Writes nothing.

    Returns:
        What is printed.

    Raises:
        UserError: as :func:`distill.workflows.fit.fit`.
    """
    job = build(config, allow=allow, run_id=run_id)
    if beside is not None:
        job.beside = check_baseline(beside, job.config, samples_of(job.data, ["validation"]))
    measured, check = (
        Measured(arguments=job.arguments),
        TeacherCheck(validated=job.arguments.get("limit_val_batches") != 0),
    )
    understood = Understood(job, check)
    kept = [callback for callback in job.callbacks if not _is_left_out(callback, job.logging)]
    with quiet_lightning():
        trainer = make_trainer(
            job,
            callbacks=[*kept, check, understood, measured],
            enable_checkpointing=False,
            enable_progress_bar=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
        )
        # They would speak of the whole run.
        trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, ProgressLines)]  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            print("dry run: two steps are measured, and nothing is written", flush=True)
        trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]  # others write into the run
        explaining = explained(trainer, job.callbacks, job.config["trainer"])
        with shared_id(job.run.id), interruptible(trainer), none_left(trainer), explaining, meeting(trainer):
            trainer.fit(job.module, datamodule=job.data)
    report = _report(job, trainer, measured) | {"run_folder": _folder(job.run, run_id)}
    report |= {"opening": understood.opening, "sample": understood.sample}
    if trainer.is_global_zero:
        _show(report, console or wide())
    return report


def _is_left_out(callback: Callback, logging: LoggingConfig) -> bool:
    """Whether it writes, waits for a validation that is not made, or for a logger, which the run will have."""
    logs = bool(logging.csv or logging.tensorboard or logging.wandb)
    if logs and isinstance(callback, (DeviceStatsMonitor, LearningRateMonitor)):
        return True
    return isinstance(callback, (Checkpoint, EarlyStopping)) or getattr(callback, "writes_files", False)


def _folder(run: Run, run_id: str | None) -> str:
    """Where a run would be; an id that was made up here would not be that of a later one."""
    return str(run.folder if run_id else run.folder.parent / "<id given with --id, or made at the start>")


def _report(job: Job, trainer: Trainer, measured: Measured) -> dict[str, Any]:
    module = job.module
    return {
        "ranks": trainer.world_size,
        "tokens_a_step": measured.tokens[0],
        "padded_tokens_a_step": measured.tokens[1],
        "steps_an_epoch": steps_an_epoch(trainer),
        "steps": module.total_steps,
        "memory_of_a_step": measured.memory,
        "seconds_a_step": measured.seconds,
        "seconds_a_written_step": measured.written,
        "seconds": _seconds(module, measured),
        "baseline": _baseline(job),
        "timeline": timeline(module, step_callbacks(trainer), shown_steps(module.total_steps)),
        "measured": {"hurried": hurried(compressions(trainer), module.total_steps), **_share(job)},
    }


def _seconds(module: Distillation, measured: Measured) -> float:
    """Of all steps of the run, those whose batches the student writes among them."""
    total, policy = module.total_steps, module.on_policy
    if policy is None or measured.written is None:
        return measured.seconds * total
    places = range(0, total, max(1, total // 1000))
    share = sum(policy.share(step, total) for step in places) / len(places)
    return total * ((1 - share) * measured.seconds + share * measured.written)


def _baseline(job: Job) -> str:
    """The run without a teacher that the table would show beside this one."""
    if job.module.teacher is None or learns_alone(job.config):
        return ""
    found = job.beside or find_baseline(job.config, samples_of(job.data, ["validation"]))
    return str(found or "no run of this student without a teacher has finished; name one by --beside RUN")


def _share(job: Job) -> dict[str, Any]:
    """Batches that a validation will take of the data, and all there are, where it does not take all of them."""
    limit = job.arguments.get("limit_val_batches")
    if not limit or not is_overridden("val_dataloader", job.data):
        return {}
    loader: Any = job.data.val_dataloader()
    every = len(loader) if isinstance(loader, Sized) else 0
    return {"batches": [min(limit, every) if isinstance(limit, int) else int(limit * every), every]}


def shown_steps(total: int) -> list[int]:
    """How many steps are done at :data:`SHOWN_AT` of a run of ``total`` steps, each once; then comes the last one."""
    return sorted({round(fraction * (total - 1)) for fraction in SHOWN_AT})


def _show(report: Mapping[str, Any], console: Console) -> None:
    table = Table(title="dry run: nothing was written", title_justify="left", show_header=False)
    memory = f"{report['memory_of_a_step'] / 2**20:,.0f} MiB"
    real, padded = report["tokens_a_step"], report["padded_tokens_a_step"]
    each = f" on the first of {report['ranks']} ranks" if report["ranks"] > 1 else ""
    written = report["seconds_a_written_step"]
    rows = {
        "tokens a step": f"{real:,} ({padded:,} with padding){each}" if padded else "",
        "memory of a step": f"{memory}, besides models and data",
        "time of a step": f"{report['seconds_a_step'] * 1000:,.0f} ms, measured at the second one",
        "on policy": "" if written is None else f"{written * 1000:,.0f} ms a step whose batch the student writes",
        "time of the run": f"about {duration(report['seconds'])} for training alone, without validation",
        "baseline": report["baseline"],
        "run folder": report["run_folder"],
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    console.print(table)
    lines = Table(title="time line", title_justify="left")
    lines.add_column("steps done")
    for step in shown_steps(report["steps"]):
        lines.add_column(f"{step:,}", justify="right")
    for name, values in report["timeline"].items():
        lines.add_row(name, *(f"{value:.3g}" for value in values))
    console.print(lines)
    for line in Verdict.of(report).lines:
        console.print(f"warning: {line}", soft_wrap=True)
