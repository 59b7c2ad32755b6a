"""A run that has saved its student: opened again, and scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_helpers import is_overridden

from distill.config.files import apply_override, parse_value
from distill.core import record
from distill.core.idle_settings import idle
from distill.core.utils.errors import UserError
from distill.core.utils.json_file import number_at
from distill.core.utils.quiet import quiet_lightning
from distill.core.utils.secrets import scrub_override
from distill.core.utils.visible import visible
from distill.core.verdict import UNSTEADY
from distill.models import saved_student
from distill.run.baseline import check_baseline, read_otherwise
from distill.run.folder import Run
from distill.run.listing import read_json
from distill.run.samples import changes
from distill.training.evidence import empty_layers
from distill.training.processes import meeting, none_left
from distill.workflows.completions import complete_held_out
from distill.workflows.fit import interruptible
from distill.workflows.job.build import Job, build, make_trainer
from distill.workflows.job.choosing import chosen_again
from distill.workflows.job.lightning_refusals import refusal
from distill.workflows.result import make_result, show_result

__all__ = ["evaluate", "read_training", "refuse_quantized_run", "reopen", "score", "scored"]

_log = logging.getLogger(__name__)

_ALONE = {"strategy": "auto", "devices": 1, "num_nodes": 1}
"""Settings of a trainer that starts no other process."""

_OF_TEACHER = ("teacher_tokenizer", "teacher_system")
"""Settings of the data that only a teacher reads."""

_TRAINING = (
    *("name", "runs", "seed", "logging", "callbacks", "model.optimizer"),
    *(
        f"trainer.{name}"
        for name in (
            *("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "limit_train_batches"),
            *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "log_every_n_steps"),
            *("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "enable_checkpointing"),
            *("reload_dataloaders_every_n_epochs", "detect_anomaly"),
        )
    ),
)
"""Keys of which only training knows anything."""


def reopen(
    folder: str | Path,
    stage: str,
    *,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
    with_teacher: bool = True,
    alone: bool = False,
    heeds: Sequence[str] = (),
) -> tuple[Run, Job]:
    """A run with its saved student and its data; what has changed of the data since is said.

    Args:
        folder: The run.
        stage: ``validate`` or ``test``.
        overrides: Keys and YAML texts that replace parts of the run's configuration. Whatever the run was trained
            on, the student is taken unsharded, on one device, unless they say otherwise.
        allow: Packages whose classes it may name, besides our own.
        with_teacher: Whether the teacher is loaded too.
        alone: Refuse what would have several processes do it, each from the beginning.
        heeds: Keys that otherwise only training knows, and that mean something to the caller.

    Raises:
        UserError: if there is no such run, it has no student, or its data cannot be read.
    """
    run = Run.open(folder)
    if not run.student.is_dir():
        problem = "this run has saved no student yet"
        raise UserError(problem, key="RUN", value=str(folder), hint=f"let it finish: distill resume {folder}")
    config = run.checked_config
    described = _take_student(config, run)
    config["trainer"] |= _ALONE | {"profiler": None}  # which writes where the run was trained
    callbacks, config["callbacks"] = config.get("callbacks"), []  # what they did is in the student
    if not with_teacher:
        config["model"] |= {"teacher": None, "losses": None}
        config["data"] = _of_student(config.get("data"))
    for key, text in overrides:
        _refuse_idle(key, text, heeds, described)
        apply_override(config, key, parse_value(text, f"--{key}"))
    job = build(config, allow=allow, stage=stage)
    chosen_again(job.module.task, callbacks, read_json(run.plan_file)[0])
    if alone:
        for name, one in _ALONE.items():
            value = job.config["trainer"][name]
            if value not in (one, str(one)) and not (isinstance(value, list) and len(value) == 1):
                raise UserError("this is done by one process", key=f"trainer.{name}", value=value, hint="leave it out")
    if not described:
        saved_student.load(run.student, job.module.student)
    _say_changes(run, job, stage)
    return run, job


def read_training(run: Run, job: Job) -> None:
    """Read the training data of a run that was opened for its validation."""
    job.data.setup("fit")
    _say_changes(run, job, "train")


def _say_changes(run: Run, job: Job, stage: str) -> None:
    """Say of a split that it holds other samples than when the run was trained."""
    split = "validation" if stage == "validate" else stage
    given = read_otherwise(run.config, job.config)
    job.changed = changes(read_json(run.result_file)[0], job.data, [split], given)
    for line in job.changed:
        _log.warning("%s", line)


def _of_student(data: Any) -> Any:
    """The configuration of the data, without what is made of it for a teacher."""
    if not isinstance(data, dict) or not isinstance(data.get("init_args"), dict):
        return data
    given = {name: value for name, value in data["init_args"].items() if name not in _OF_TEACHER}
    return data | {"init_args": given}


def evaluate(
    folder: str | Path,
    split: str = "validate",
    *,
    overrides: Sequence[tuple[str, str]] = (),
    allow: Sequence[str] = (),
    beside: str | Path | None = None,
) -> dict[str, float]:
    """The metrics of a run's saved student, and its teacher's, on validation or test data.

    Args:
        folder: The run.
        split: ``validate`` or ``test``.
        overrides: Keys and YAML texts that replace parts of the run's configuration.
        allow: Packages whose classes it may name, besides our own.
        beside: A run of the same student without a teacher, scored likewise and shown beside it.

    Raises:
        UserError: as :func:`reopen`.
    """
    run, job = reopen(folder, split, overrides=overrides, allow=allow)
    other = None
    if beside is not None:
        check_baseline(beside, run.config)
        _, alone = reopen(beside, split, overrides=overrides, allow=allow, with_teacher=False)
        other = {"run": str(beside), "scores": of_student(score(alone, split)[1])}
        other["scores"] |= (_written(alone, split) or {"scores": {"student": {}}})["scores"]["student"]
    main, scores = score(job, split)
    if main:
        name = {"name": run.name, "id": f"{run.id}: {split}"}
        more = {"beside": other, "completions": _written(job, split)}
        show_result(scored(job, scores, run, run.student, **more, **name))
    return scores


def _written(job: Job, split: str) -> dict[str, Any] | None:
    """What texts that the models write score, where that is asked for."""
    written = complete_held_out(job, {"validate": "validation"}.get(split, split), shown=False)
    return None if written is None else written.record


def of_student(scores: Mapping[str, float]) -> dict[str, float]:
    """The student's own scores, by metric, of those of a split."""
    parts = ((name.partition("/"), value) for name, value in scores.items())
    return {name: value for (split, _, name), value in parts if split in ("val", "test")}


def scored(job: Job, scores: Mapping[str, float], run: Run, saved: Path, **more: Any) -> dict[str, Any]:
    """What scoring a run's student came to, as :func:`~distill.workflows.result.make_result` gives it.

    Args:
        job: That was scored.
        scores: By name, with their split.
        run: The run, which knows how the student was trained.
        saved: The student's folder.
        more: Likewise.
    """
    trained = read_json(run.result_file)[0].get("measured")
    trained = trained if isinstance(trained, dict) else {}
    why = trained.get("unsteady")
    known = {"empty_layers": empty_layers(job.module.student), "hurried": _hurried(trained.get("hurried"))}
    known |= {"unsteady": why} if why in tuple(UNSTEADY) else {}
    return make_result(job.module, of_student(scores), job.module.evidence.found, saved, measured=known, **more)


def _refuse_idle(key: str, text: str, heeds: Sequence[str], described: bool) -> None:
    """Refuse an override that would change nothing, or the student; a secret may be needed all the same."""
    if scrub_override(key, text) != text:
        return

    def below(*names: str) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in names)

    # All losses may go, so that no teacher is needed.
    if (below(*_TRAINING) or key.startswith("model.losses.")) and not below(*heeds):
        raise idle(f"--{key}", text, "a run that has been trained", "give it to distill fit")
    if described and below("model.student") and key != "model.student.attn_implementation":
        raise idle(f"--{key}", text, "a run's own student, which is taken as it was saved", "name another RUN")


def _hurried(found: Any) -> list[dict[str, Any]]:
    """What a file says of compressions that had too few steps, as far as it holds what a run writes there."""
    return [
        {"what": visible(item["what"])}
        | {name: item[name] for name in ("steps", "needed", "saved", "of") if number_at(item, name) is not None}
        for item in (found if isinstance(found, list) else [])
        if isinstance(item, dict)
        and isinstance(item.get("what"), str)
        and all(number_at(item, name) is not None for name in ("steps", "needed"))
    ]


def score(job: Job, split: str) -> tuple[bool, dict[str, float]]:
    """Whether this is the process that speaks, and the metrics by name."""
    with quiet_lightning():
        trainer = make_trainer(job, enable_checkpointing=False, callbacks=[])
    with quiet_lightning(), interruptible(trainer), none_left(trainer), meeting(trainer):
        try:
            run_split = trainer.validate if split == "validate" else trainer.test
            found = run_split(job.module, datamodule=job.data, verbose=False)
        except MisconfigurationException as error:
            if is_overridden(f"{'val' if split == 'validate' else split}_dataloader", job.data):
                raise refusal(error, job.callbacks, job.config["trainer"]) from error
            problem = f"there is no data to {split}"
            raise UserError(problem, key="data", hint="name the split in data.splits") from error
    if not found:
        key = f"trainer.limit_{'val' if split == 'validate' else 'test'}_batches"
        value = job.arguments.get(key.removeprefix("trainer."))
        raise UserError(f"leaves no batch to {split}", key=key, value=value, hint="give some, or 1.0 for all")
    return trainer.is_global_zero, {name: float(value) for name, value in found[0].items()}


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


def refuse_quantized_run(job: Job, folder: str | Path, verb: str) -> None:
    """Refuse a student that is quantized already.

    Raises:
        UserError: naming the run in ``folder``, and what was wanted of it (``verb``).
    """
    if any(step["kind"] == "quantize" for step in record.steps_of(job.module.student)):
        problem = "this student is quantized already"
        hint = f"{verb} the student of a run without quantization-aware training, such as the one that it was made from"
        raise UserError(problem, key="RUN", value=str(folder), hint=hint)
