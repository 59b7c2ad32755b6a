"""The saved student: a folder with the plain model, its tokenizer and the record of what was done to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from distill.compression.coverage import coverage_of
from distill.compression.quantization import storage as quantized
from distill.compression.structure import low_rank, removal, sharing
from distill.core.pooling import drop_pooler
from distill.core.pooling_files import write_pooling
from distill.core.record import LOST, RECORD, STEP_KINDS, VERSION, read_steps, set_steps, steps_of, structural
from distill.core.utils.errors import UserError, first_line
from distill.core.utils.paths import resolve
from distill.core.utils.quiet import quiet_transformers
from distill.core.utils.replacing import replacing
from distill.models.unfinished import refuse_unfinished
from distill.models.untaken import INTEGER_WEIGHTS, refuse_unrecorded_integers, refuse_untaken

__all__ = [
    "INTEGER_WEIGHTS",
    "WEIGHTS",
    "load",
    "register",
    "restructure",
    "round_parameters",
    "save",
]

WEIGHTS = "model.safetensors"

Rebuild = Callable[[nn.Module, Mapping[str, Any]], None]

_REBUILD: dict[str, Rebuild] = {
    "remove": removal.rebuild,
    "low_rank": low_rank.rebuild,
    "share": sharing.rebuild,
    "quantize": quantized.rebuild,
}
"""Kind of step -> what gives a model, in place, the structure after it."""


def save(
    model: nn.Module,
    folder: str | Path,
    tokenizer: Any = None,
    steps: Sequence[Mapping[str, Any]] | None = None,
    files: Mapping[str, str | bytes] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``model`` as a folder that :func:`load` opens; an older one there is replaced.

    A kill at any time leaves either the old folder, the new one, or none; never a mixture of both.

    Args:
        model: Of transformers (``AutoModel.from_pretrained`` opens the folder too), or any other module.
        folder: Where to.
        tokenizer: Of transformers, saved beside it.
        steps: What was done to the model, in order, each with its ``kind`` (:data:`STEP_KINDS`) and what is needed
            to do it again; :func:`steps_of` the model if not given.
        files: Name -> content of further files, which are there when the folder is.
        dtype: Of the parameters in the file, which must be rounded to it already (:func:`round_parameters`); as they
            are if not given.

    Raises:
        ValueError: if a step is of an unknown kind, which :func:`load` would refuse.
        UserError: if nothing can be written there, or compressions are still at work on the model.
    """
    done = [dict(step) for step in (steps_of(model) if steps is None else steps)]
    refuse_unfinished(model, done)
    for step in done:
        if step.get("kind") not in STEP_KINDS:
            raise ValueError(f"unknown kind of step: {step.get('kind')!r}")
    record: dict[str, Any] = {"version": VERSION, "steps": done}
    if done:
        record["coverage"] = coverage_of(model, done).record()
    with replacing(folder, "folder") as fresh, _held_as(model, dtype):
        _write(fresh, model, tokenizer, record)
        for name, text in (files or {}).items():
            (fresh / name).parent.mkdir(exist_ok=True)
            (fresh / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def round_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Give every parameter the nearest value that ``dtype`` has, in place; they keep their own type."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).to(parameter.dtype)


@contextmanager
def _held_as(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Have the parameters be of ``dtype`` for a while; not the buffers, from which a model computes more exactly."""
    before = [(parameter, parameter.dtype) for parameter in model.parameters()] if dtype is not None else []
    try:
        for parameter, _ in before:
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, own in before:
            parameter.data = parameter.data.to(own)


def _write(folder: Path, model: nn.Module, tokenizer: Any, record: Mapping[str, Any]) -> None:
    with quiet_transformers():
        if any(step.get("store") == "integers" for step in record["steps"]):
            packed = quantized.pack(model.state_dict(), model)
            if isinstance(model, PreTrainedModel):
                model.save_pretrained(folder, state_dict=packed, save_original_format=False)
                (folder / WEIGHTS).rename(folder / INTEGER_WEIGHTS)
            else:
                safetensors.torch.save_file(packed, folder / INTEGER_WEIGHTS)
        elif isinstance(model, PreTrainedModel):
            model.save_pretrained(folder, save_original_format=not structural(record["steps"]))
        else:
            safetensors.torch.save_model(model, str(folder / WEIGHTS))
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    write_pooling(folder, model, tokenizer)
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for weights in folder.glob("*.safetensors"):
        # safetensors makes files that only their owner may read; those of a student are as readable as the rest.
        weights.chmod((folder / RECORD).stat().st_mode)


def saved_megabytes(folder: str | Path) -> float:
    """The size of the files of weights that :func:`save` wrote, in 10^6 bytes."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) / 1e6


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Open what :func:`save` wrote, in eval mode.

    Args:
        folder: Of a saved student, or of a run, which stands for its student.
        model: For plain modules: one of the same structure, to be filled.

    Raises:
        UserError: if the folder holds no saved student, or not one of this model.
    """
    path = Path(resolve(str(folder), "folder"))
    if not path.is_dir():
        raise UserError("no such folder", key="folder", value=str(folder), hint="give the folder of a saved student")
    refuse_unrecorded_integers(path, "folder", str(folder))
    steps = read_steps(path, "folder")
    if model is not None:
        loaded = _fill(path, restructure(model, steps), steps)
    else:
        loaded = _rebuilt(path, steps) if structural(steps) else _open(path)
    set_steps(loaded, steps)
    return loaded.eval()


def register(kind: str, rebuild: Rebuild) -> None:
    """Make a kind of step of one's own known, so that folders whose record has it can be saved and loaded.

    Args:
        kind: What a step of :meth:`Compression.finish` has as its ``kind``.
        rebuild: ``(model, step)``: gives a freshly made model, in place, the structure after the step.

    Raises:
        ValueError: if there is such a kind.
    """
    if kind in STEP_KINDS:
        raise ValueError(f"there is a kind {kind!r} already")
    STEP_KINDS[kind] = True
    _REBUILD[kind] = rebuild


def restructure(model: nn.Module, steps: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Give ``model`` the structure that it had after ``steps``, in place; the values are for the caller to load.

    Raises:
        UserError: if they are not of this model.
    """
    for step in steps:
        rebuild = _REBUILD.get(step["kind"])
        if rebuild is None:
            continue
        try:
            rebuild(model, step)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            problem = f"the step {step['kind']!r} cannot be done to this {type(model).__name__} ({first_line(error)})"
            raise UserError(problem, key=RECORD, hint="give the model that was compressed, or save it anew") from error
    return model


def _rebuilt(path: Path, steps: Sequence[Mapping[str, Any]]) -> nn.Module:
    architecture = _architecture(path)
    with quiet_transformers():
        config = architecture.config_class.from_pretrained(path)
        config.dtype = torch.float32
        model = architecture(config)
        drop_pooler(model)
    return _fill(path, restructure(model, steps), steps)


def _architecture(path: Path) -> Any:
    """The class of transformers that the configuration names."""
    if not any(path.glob("*.safetensors*")) and (path / "model.onnx").is_file():
        hint = f"onnxruntime.InferenceSession('{path / 'model.onnx'}') runs it; load the run's student/ instead"
        raise UserError("this is an export for onnxruntime, not a student", key="folder", value=str(path), hint=hint)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            "there is no config.json that gives the model's structure",
            key="folder",
            value=str(path),
            hint="for a plain module give one of the same structure: load(folder, model=module)",
        ) from error
    name = (config.get("architectures") or [""])[0]
    architecture = getattr(transformers, name, None) if name else None
    if architecture is None:
        raise UserError(
            f"transformers knows no architecture {name!r}", key="folder", value=str(path), hint="check config.json"
        )
    return architecture


def _open(path: Path) -> nn.Module:
    value = str(path)
    try:
        with quiet_transformers():
            loaded, report = _architecture(path).from_pretrained(
                value, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise UserError(
            f"the model cannot be read ({first_line(error)})", key="folder", value=value, hint="save it again"
        ) from error
    drop_pooler(loaded)
    if missing := set(report["missing_keys"]) & set(loaded.state_dict()):
        raise UserError(f"the weights lack {min(missing)}", key="folder", value=value, hint="save it again")
    refuse_untaken(loaded, report["unexpected_keys"], path, "folder", value)
    model: nn.Module = loaded
    return model


def _fill(path: Path, model: nn.Module, steps: Sequence[Mapping[str, Any]]) -> nn.Module:
    try:
        if any(step.get("store") == "integers" for step in steps):
            packed = safetensors.torch.load_file(path / INTEGER_WEIGHTS)
            model.load_state_dict(quantized.unpack(packed, model))
        else:
            safetensors.torch.load_model(model, path / WEIGHTS)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the weights are not those of this {type(model).__name__} ({first_line(error)})",
            key="folder",
            value=str(path),
            hint="give a module of the structure that was saved" + ("" if (path / RECORD).is_file() else f" ({LOST})"),
        ) from error
    return model
