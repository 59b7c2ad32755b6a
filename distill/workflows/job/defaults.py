"""What a configuration leaves unsaid: defaults at the top, and what the data takes from the model."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from pytorch_lightning import LightningDataModule

from distill.core.internals.jsonargparse import import_object, resolve_class_path_by_name
from distill.core.utils.errors import UserError
from distill.core.utils.paths import find_local, resolve
from distill.data import TextData
from distill.losses import SharedVocabularyKL, UniversalLogitDistillation
from distill.workflows.job.explain import class_arguments

__all__ = ["classifier_of", "default_precision", "origin", "with_defaults"]

_ACROSS = frozenset(kind.__name__ for kind in (SharedVocabularyKL, UniversalLogitDistillation))


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with everything at the top, and with the data's task, tokenizer and seed.

    Must be called inside :func:`distill.config.class_paths.only_allowed_imports`, as it looks at the data's class.
    """
    full: dict[str, Any] = {
        "name": "run",
        "runs": "runs",
        "seed": 0,
        "model": {},
        "data": {},
        "trainer": {},
        "callbacks": [],
        "logging": {},
    }
    full |= {key: copy.deepcopy(value) for key, value in config.items()}
    for key in ("model", "data", "trainer", "callbacks", "logging"):
        if full[key] is None:  # a key with everything below it commented out
            full[key] = [] if key == "callbacks" else {}
    if isinstance(full["runs"], str):
        full["runs"] = os.path.expanduser(full["runs"])
    if isinstance(full["trainer"], dict):
        full["trainer"].setdefault("precision", default_precision(full["trainer"].get("accelerator", "auto")))
        full["trainer"].setdefault("log_every_n_steps", 10)
    if isinstance(full["model"], dict) and full["model"].get("optimizer") is None:
        full["model"]["optimizer"] = {}  # so that its defaults are written out
    if not isinstance(full["model"], dict) or not isinstance(full["data"], dict):
        return full
    full["data"] = {"class_path": f"{TextData.__module__}.{TextData.__qualname__}", **full["data"]}
    given = full["data"].setdefault("init_args", {}) or {}
    if isinstance(given, dict):
        full["data"]["init_args"] = _filled(given, full, _accepted(full["data"]["class_path"]))
    return full


def _filled(given: dict[str, Any], full: Mapping[str, Any], accepted: set[str]) -> dict[str, Any]:
    """``given`` and what else the data takes from the rest of the configuration."""
    model = full["model"]
    found = {
        "task": copy.deepcopy(model.get("task")),
        "tokenizer": tokenizer_of(_read(model))[1],
        "teacher_tokenizer": tokenizer_of({"teacher": model.get("teacher")})[1]
        if _compares_tokenizers(model)
        else None,
        "seed": full["seed"],
    }
    return given | {k: v for k, v in found.items() if k in accepted and k not in given and v is not None}


def _compares_tokenizers(model: Mapping[str, Any]) -> bool:
    """Whether one of the losses is one of ours that compares a student with a teacher of another tokenizer."""
    losses = model.get("losses")
    specs = losses if isinstance(losses, list) else []
    paths = (spec.get("class_path") if isinstance(spec, Mapping) else spec for spec in specs)
    return any(str(path).rpartition(".")[2] in _ACROSS for path in paths)


def _read(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model, without a teacher whose tokenizer is its own."""
    return {**model, "teacher": None} if _compares_tokenizers(model) else model


def _accepted(class_path: Any) -> set[str]:
    """The arguments of the data's class; none where it is not one, of which more is said when it is parsed."""
    try:
        cls = import_object(resolve_class_path_by_name(LightningDataModule, class_path))
    except Exception:  # importing runs the user's module, which may raise anything
        return set()
    return set(class_arguments(cls)) if inspect.isclass(cls) else set()


def tokenizer_of(model: Mapping[str, Any]) -> tuple[str, str | None]:
    """Where the pair's tokenizer is: with the teacher, else where the student says, else with the student.

    Returns:
        The key that says so, and the path; ``None`` where nothing says.
    """
    teacher, student, place = model.get("teacher"), model.get("student"), "model.teacher"
    if isinstance(teacher, list) and teacher:
        teacher, place = teacher[0], "model.teacher.0"
    for key, found, names in ((place, teacher, ("path",)), ("model.student", student, ("tokenizer", "path"))):
        if isinstance(found, str):
            return key, found
        for name in names:
            if isinstance(found, dict) and isinstance(found.get(name), str):
                return f"{key}.{name}", found[name]
        recorded = found.get("recorded") if isinstance(found, dict) else None
        folder = find_local(recorded) if isinstance(recorded, str) else None
        if folder is not None and (folder / "teacher").is_dir():
            return f"{key}.recorded", str(folder / "teacher")
    return "data.tokenizer", None


def classifier_of(model: Mapping[str, Any]) -> tuple[str, int] | None:
    """The classifier that the data's labels are for, the teacher before the student: its key, and its outputs.

    ``None`` where neither is one, or cannot be read; of that more is said when it is loaded.
    """
    from distill.models.folder import read_config

    teacher = model.get("teacher")
    for key, found in (
        ("model.teacher", teacher[:1] if isinstance(teacher, list) else [teacher]),
        ("model.student", [model.get("student")]),
    ):
        for one in found:
            path = one.get("path") if isinstance(one, Mapping) else one
            if not isinstance(path, str):
                continue
            with suppress(Exception):
                config = read_config(resolve(path, key), path, key)
                if any("SequenceClassification" in kind for kind in config.architectures or ()):
                    return key, int(config.num_labels)
    return None


def origin(error: UserError, given: Mapping[str, Any], full: Mapping[str, Any]) -> UserError:
    """``error`` with the key that the user wrote, where it speaks of what :func:`complete` filled in."""
    name = error.key.removeprefix("data.")
    keys = {"task": "model.task", "seed": "seed", "tokenizer": tokenizer_of(_read(full["model"]))[0]}
    written = (given.get("data") or {}).get("init_args") or {}
    if name not in keys or name == error.key or name in written or keys[name] == error.key:
        return error
    # Another tokenizer is no help where the model itself is not there.
    missing = "no such folder" in error.problem
    hint = error.hint if missing else f"{error.hint.rstrip('.?')}; or set {error.key}"
    return UserError(error.problem, key=keys[name], value=error.value, hint=hint)


def default_precision(accelerator: object) -> str:
    """``bf16-mixed`` on a CUDA device that computes in it, else ``32-true``.

    A CPU without instructions for bfloat16 is some 200 times slower in it.
    """
    cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
