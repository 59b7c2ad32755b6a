"""Resuming a run that was interrupted, to the bits that it would have ended with."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from distill.config.diff import MISSING, config_diff
from distill.config.files import apply_override, long_form, parse_value, parse_yaml
from distill.config.local_paths import is_place
from distill.core.internals.lightning import epochs_done
from distill.core.ranks import is_rank_zero
from distill.core.utils.errors import UserError
from distill.core.utils.quiet import quiet_lightning
from distill.core.utils.secrets import scrub
from distill.run.checkpoints.file import Damaged, read_header, remove
from distill.run.checkpoints.names import resume_checkpoints
from distill.run.folder import Run
from distill.run.listing import read_json
from distill.training.resume_state import refuse_changed
from distill.workflows.fit import fit, train
from distill.workflows.job.build import Job, build, make_trainer, resolve
from distill.workflows.job.length import with_length
from distill.workflows.result import show_result

__all__ = ["fit_or_resume", "resume", "starting_from"]

_log = logging.getLogger(__name__)

_LENGTH = ("trainer.max_epochs", "trainer.max_steps")
"""What extends a run."""

_MACHINE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
"""What a run is trained on: it may be resumed elsewhere, and then the bits are others."""


def resume(folder: str | Path, *, overrides: Sequence[tuple[str, str]] = (), allow: Sequence[str] = ()) -> Run:
    """Resume a run from its newest intact checkpoint; from the start where there is none.

    Args:
        folder: The run's.
        overrides: Keys and YAML texts. They may give what ``config.yaml`` hides (secrets), extend the run
            (``trainer.max_epochs``, ``trainer.max_steps``), name what it is trained on (``trainer.devices`` and the
            like), and say where teacher, student and data are now. Nothing else may differ from what it began with.
        allow: Packages whose classes its configuration may name, besides our own.

    Returns:
        The run. One that has finished, and is not extended, is left as it is.

    Raises:
        UserError: if configuration, teacher, tokenizer or data are not as they were, or another process writes the
            run. Nothing was written.
        TrainingError: if the loss stops being finite, or the run cannot be written.
    """
    run = Run.open(folder)
    config = run.checked_config
    for key, text in overrides:
        apply_override(config, key, parse_value(text, f"--{key}"))
    return _resume(run, config, allow)


def fit_or_resume(
    config: Mapping[str, Any],
    run_id: str,
    *,
    allow: Sequence[str] = (),
    beside: str | Path | None = None,
    recipe: str = "",
) -> Run:
    """Whatever a job that may be started again and again has to do: begin the run, resume it, or leave it.

    Args:
        config: As :func:`distill.config.files.load` gives it; of a run that is there, its own.
        run_id: The run's id.
        allow: Packages whose classes it may name, besides our own.
        beside: As of :func:`distill.workflows.fit.fit`; a run that is there keeps its own.
        recipe: Likewise.

    Raises:
        UserError: as :func:`resume` and :func:`distill.workflows.fit.fit`.
    """
    full = resolve(config, allow)
    run = Run.named(full["runs"], full["name"], run_id)
    if run.config_file.is_file():
        known = Run.open(run.folder)
        return _resume(known, with_length(full, known.config), allow)
    return fit(config, allow=allow, run_id=run_id, beside=beside, recipe=recipe)


def starting_from(folder: str | Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the weights of the run in ``folder`` to begin with.

    Raises:
        UserError: if that is no run.
    """
    run = Run.open(folder)
    full = long_form(config)
    others = [spec for spec in full.get("callbacks") or [] if not _named(spec).endswith("WarmStart")]
    start = {"class_path": "WarmStart", "init_args": {"run": str(run.folder)}}
    return {**full, "callbacks": [start, *others]}


def _named(spec: Any) -> str:
    return str(spec.get("class_path")) if isinstance(spec, Mapping) else str(spec)


def _resume(run: Run, config: dict[str, Any], allow: Sequence[str]) -> Run:
    """Resume ``run`` with ``config``, which holds the secrets that the run's own file hides."""
    _refuse_changed(config, run.config, run)
    with ExitStack() as stack:
        if is_rank_zero():
            stack.enter_context(run.locked())
        extends = any(key in _LENGTH for key in config_diff(run.config, config))
        run.refuse_half_made()
        if run.result_file.is_file() and not extends:
            _show(run)
            print(f"{run.shown} has finished; --max-epochs or --max-steps extends it")
            return run
        path, checkpoint = _newest(run)
        if checkpoint is None and run.result_file.is_file():
            hint = f"begin another run: distill fit -c {run.shown}"
            raise UserError("there is no checkpoint to resume from", key="RUN", value=str(run.folder), hint=hint)
        if checkpoint is not None:
            began = parse_yaml(checkpoint["config"], "RUN")
            _refuse_changed(config, began, run)
            _refuse_shorter(config, checkpoint)
            # By the checkpoint: a process that was killed may have rewritten the folder's file.
            extends = any(key in _LENGTH for key in config_diff(began, config))
            if extends and run.result_file.is_file():
                _refuse_at_its_end(config, checkpoint)
        job = build(config, allow=allow, run=run)
        planned = read_json(run.plan_file)[0]
        job.extends = extends
        job.recipe = str(planned.get("recipe", ""))
        if named := planned.get("beside"):
            job.beside = Path(str(named))
        if checkpoint is not None:
            refuse_changed(checkpoint, job.module.teacher, getattr(job.data, "fingerprint", None))
        with quiet_lightning():
            trainer = make_trainer(job)
        at = 0
        if checkpoint is not None:
            at = int(checkpoint["global_step"])
            ranks, batch_size = checkpoint["ranks"]
            _reshard_batches(job, trainer, ranks, batch_size, checkpoint.get("strategy"))
        del checkpoint
        if trainer.is_global_zero:
            if run.copy_of:
                print(f"{run.shown} is a copy of run {run.copy_of}, and continues as {run.id}", flush=True)
            print(f"resuming {run.shown} from step {at}", flush=True)
        train(job, trainer, at=at, checkpoint=path)
    return run


def _show(run: Run) -> None:
    """Show what a finished run came to.

    Raises:
        UserError: if its file does not say.
    """
    result = run.result
    try:
        show_result(result)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        hint = f"remove {run.result_file}, and have it written anew: distill resume {run.shown}"
        raise UserError("lacks the metrics of a finished run", key=run.result_file.name, hint=hint) from error


def _refuse_changed(now: Mapping[str, Any], began: Mapping[str, Any], run: Run) -> None:
    """Refuse what would make it another run."""
    may = _LENGTH + _MACHINE
    changed = {
        key: values
        for key, values in config_diff(began, scrub(now)).items()
        if key not in may and not is_place(key)  # whether the same lies there is judged by its content
    }
    if not changed:
        return
    lines = "".join(f"\n  {key}: {old} -> {new}" for key, (old, new) in changed.items())
    arguments = [
        f"--{key} {json.dumps(new)}"
        for key, (old, new) in changed.items()
        if MISSING not in (old, new) and not isinstance(new, (dict, list))
    ]
    problem = f"a run resumes with the configuration that it began with. Changed are:{lines}\n"
    command = " ".join(["distill fit --from", str(run.folder), *arguments])
    hint = f"put it back, or begin another run from this one: {command}"
    raise UserError(problem, key="RUN", value=str(run.folder), hint=hint)


def _refuse_shorter(config: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Refuse an end that the run has left behind."""
    for name, done in _done(checkpoint).items():
        wanted = config["trainer"].get(name)
        if isinstance(wanted, int) and 0 <= wanted < done:
            problem = f"the run has done {done} already"
            raise UserError(problem, key=f"trainer.{name}", value=wanted, hint="give a larger number")


def _refuse_at_its_end(config: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Refuse an extension that the other limit leaves no room for: the run would end where it is."""
    for name, done in _done(checkpoint).items():
        if config["trainer"].get(name) == done:
            problem = "the run has done that many already, and ends at whichever limit it comes to first"
            option = f"--{name.replace('_', '-')}"
            raise UserError(problem, key=f"trainer.{name}", value=done, hint=f"give {option} too (-1: no such limit)")


def _done(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """How far a run has come, by the names of its limits."""
    return {"max_epochs": epochs_done(checkpoint), "max_steps": checkpoint["global_step"]}


def _refuse_foreign(checkpoint: Any, path: Path, run: Run) -> None:
    """Refuse what is intact, but not a run's own: the best one under another name, or a file of another program."""
    try:
        ranks, batch_size = checkpoint["ranks"]
        counts = [*_done(checkpoint).values(), ranks, 1 if batch_size is None else batch_size]
        own = all(type(count) is int and count >= 0 for count in counts) and min(counts[2:]) > 0
        own = own and isinstance(parse_yaml(checkpoint["config"], str(path)), dict)
        own = own and {"state_dict", "optimizer_states", "callbacks"} <= checkpoint.keys()
    except (AttributeError, KeyError, TypeError, ValueError):
        own = False
    if not own:
        problem = "is no checkpoint that a run resumes from"
        hint = f"remove it, or begin another run with these weights: distill fit --from {run.shown}"
        raise UserError(problem, key="checkpoint", value=str(path), hint=hint)


def _reshard_batches(job: Job, trainer: Trainer, ranks: int, batch_size: int | None, strategy: str | None) -> None:
    """Have whatever number of ranks train on the same global batches; a line says where the bits will differ.

    Args:
        job: The run's.
        trainer: Its own.
        ranks: How many there were.
        batch_size: Of each of them, where the data has one.
        strategy: What they were trained by, where the checkpoint says.
    """
    now, by = trainer.world_size, type(trainer.strategy).__name__
    if now == ranks and strategy not in (None, by) and trainer.is_global_zero:
        _log.warning(
            "%s instead of %s: sums may be added in another order, so the bits may not be those of an undisturbed run",
            by,
            strategy,
        )
    if now == ranks and batch_size is None:
        return
    if batch_size is None or batch_size * ranks % now:
        problem = f"{ranks} ranks with batches of {batch_size} cannot be sharded over {now}"
        raise UserError(problem, key="trainer.devices", value=now, hint="use another number")
    job.data.batch_size = batch_size * ranks // now  # type: ignore[attr-defined]
    if now != ranks and trainer.is_global_zero:
        _log.warning(
            "%d ranks instead of %d: each takes batches of %d, so that the global batches stay as they were; sums are "
            "added in another order, so the bits will not be those of an undisturbed run",
            now,
            ranks,
            batch_size * ranks // now,
        )


def _newest(run: Run) -> tuple[Path | None, dict[str, Any] | None]:
    """The newest intact checkpoint, without its weights where these are sharded; those newer than that are put
    aside, and a line says so.

    Raises:
        UserError: if one cannot be read, holds what no checkpoint does, or is none that a run resumes from.
    """
    try:
        if is_rank_zero():
            for path in list(run.checkpoints.rglob(".*.new")):  # a killed process was writing it
                remove(path)
        for path in resume_checkpoints(run.checkpoints).values():
            try:
                checkpoint = read_header(path)
                _refuse_foreign(checkpoint, path, run)
                return path, checkpoint
            except Damaged as error:
                _log.warning("%s: it is put aside, and the one before is taken", error)
                if is_rank_zero():
                    aside = path.with_suffix(".damaged")
                    remove(aside)  # a folder takes no other's place
                    path.replace(aside)
    except OSError as error:
        problem = f"its checkpoints cannot be read ({error.strerror})"
        raise UserError(
            problem, key="RUN", value=str(run.folder), hint="correct that first; nothing was lost"
        ) from error
    return None, None
