"""The baseline of a distilled student: the same student, trained on the same data without a teacher. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.config.diff import MISSING, config_diff
from distill.config.files import long_form
from distill.core.utils.errors import UserError
from distill.core.utils.json_file import number_at
from distill.run.folder import Run
from distill.run.listing import find_runs, read_json
from distill.run.samples import of_other_samples

__all__ = ["check_baseline", "find_baseline", "learns_alone", "read_otherwise", "scores_of"]

_ALONE = ("CrossEntropy", "BinaryCrossEntropy", "L1")
"""Losses that read no teacher."""

_FREE = (
    *("name", "runs", "seed", "logging", "trainer", "model.losses", "model.teacher", "model.optimizer"),
    *(f"data.{key}" for key in ("seed", "batch_size", "eval_batch_size", "num_workers", "bucketing", "tokenizer")),
    *("data.teacher_tokenizer", "data.teacher_system"),
)
"""Keys in which the two may differ: how it was trained, and not what on, or what."""

_SCORED = "trainer.limit_val_batches"


def learns_alone(config: Mapping[str, Any]) -> bool:
    """Whether a run's losses read no teacher."""
    model = config.get("model") or {}
    losses = model.get("losses") or [{"class_path": "CrossEntropy"}]
    names = [str(loss.get("class_path") if isinstance(loss, dict) else loss) for loss in losses]
    return model.get("teacher") is None or all(name.rsplit(".", 1)[-1] in _ALONE for name in names)


def find_baseline(config: Mapping[str, Any], samples: Mapping[str, Any] | None = None) -> Path | None:
    """The run without a teacher's signals that ``config``'s own is to be compared with, among the finished ones.

    It has the same data, student and compressions. Of several it is the one whose training differs in the fewest keys,
    and of those the newest.

    Args:
        config: Resolved; the runs are looked for below its ``runs``.
        samples: Those that are there now, where they are known: what was scored on others is none
            (:func:`~distill.run.samples.samples_of`).
    """
    try:
        folders = find_runs(Path(config["runs"]))
    except UserError:
        return None
    found: list[tuple[int, float, Path]] = []
    for folder in folders:
        run = Run(folder)
        if not run.result_file.is_file() or scores_of(folder) is None:
            continue
        try:
            theirs = run.config
        except (UserError, OSError, ValueError):
            continue
        if not learns_alone(theirs) or of_other_samples(read_json(run.result_file)[0], samples):
            continue
        keys = _different(config, theirs)
        if not any(_differs(key, config) for key in keys):
            found.append((-len(keys), run.result_file.stat().st_mtime, folder))
    return max(found)[-1] if found else None


def check_baseline(folder: str | Path, config: Mapping[str, Any], samples: Mapping[str, Any] | None = None) -> Path:
    """The folder of a run that the user names as the baseline.

    Args:
        folder: The run.
        config: Of the run that is to stand beside it.
        samples: As of :func:`find_baseline`.

    Raises:
        UserError: if it has not finished, was trained with a teacher's signals, or scored on other data.
    """
    key, value = "--beside", str(folder)
    run = Run.open(folder, key)
    if scores_of(run.folder) is None:
        hint = f"let it finish: distill resume {folder}"
        raise UserError("this run has no scores", key=key, value=value, hint=hint)
    if not learns_alone(run.config):
        hint = "name one whose only loss is CrossEntropy"
        raise UserError("this run was trained with a teacher's signals", key=key, value=value, hint=hint)
    other = [k for k in _different(config, run.config) if _other_data(k)]
    if other:
        problem = f"this run was scored on other data: {other[0]} differs"
        raise UserError(problem, key=key, value=value, hint="name a run of the same data")
    if of_other_samples(read_json(run.result_file)[0], samples):
        problem = "this run was scored on other validation samples: the files have changed since"
        raise UserError(problem, key=key, value=value, hint="train it anew, or bring back the files")
    return run.folder


def read_otherwise(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys of the data for which the same files may give two configurations other samples."""
    return [key for key in _different(one, other) if _below(key, "data") and _other_data(key)]


def scores_of(folder: Path) -> dict[str, float] | None:
    """The scores of a finished run's student; ``None`` where it has none."""
    scores = read_json(Run(folder).result_file)[0].get("scores")
    student = scores.get("student") if isinstance(scores, dict) else None
    if not isinstance(student, dict):
        return None
    return {name: value for name in student if (value := number_at(student, name)) is not None} or None


def _different(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys in which two configurations differ; one that an older run does not know is not given."""
    found = config_diff(long_form(one), long_form(other))
    return [key for key, values in found.items() if not all(value in (None, MISSING) for value in values)]


def _differs(key: str, config: Mapping[str, Any]) -> bool:
    """Whether runs that differ in ``key`` have other data, or another student, than ``config``'s."""
    student = config["model"].get("student")
    copied = isinstance(student, Mapping) and not (student.get("path") or student.get("config"))
    if key == _SCORED or (copied and _below(key, "model.teacher")):
        return True
    return not any(_below(key, free) for free in _FREE)


def _other_data(key: str) -> bool:
    small = any(_below(key, free) for free in (*_FREE, "data.train_samples"))
    return key == _SCORED or (_below(key, "data") and not small)


def _below(key: str, place: str) -> bool:
    return key == place or key.startswith(f"{place}.")
