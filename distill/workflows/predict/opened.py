"""A folder with a model, opened to predict: in torch, or in onnxruntime where it is an export for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.core.processor import is_tokenizer
from distill.core.signals import Batch, Request
from distill.core.task import TextTask
from distill.core.utils.errors import UserError
from distill.core.utils.extras import require
from distill.core.utils.paths import PACKAGE_PREFIX, check_path, find_local, resolve
from distill.core.utils.quiet import quiet_transformers
from distill.data.task_file import TaskFile, read_task_file
from distill.data.tokenize import check_room, load_for_batches
from distill.export.onnx import runtime
from distill.export.onnx.graph import feed
from distill.export.onnx.write import MODEL
from distill.models.compatibility import positions_of
from distill.models.folder import read_config
from distill.models.pretrained import load_model
from distill.models.tokens import set_padding
from distill.tasks import TASKS

__all__ = ["Opened", "open_folder"]

KEY = "RUN"
_LONGEST = 512  # tokens, where nothing says more or less


@dataclass(frozen=True)
class Opened:
    """A model that can be asked.

    Attributes:
        task: What it was trained to do, with its classes.
        tokenizer: Its own.
        columns: Role -> column of the data that it was trained on; ``None`` where that is not known.
        max_length: Most tokens of a sample.
        logits: Of a batch, ``[B, C]`` or ``[B, T, C]``, on the host.
        model: In torch; ``None`` where it runs in onnxruntime.
    """

    task: TextTask
    tokenizer: Any
    columns: Mapping[str, str] | None
    max_length: int
    logits: Callable[[Batch], Tensor]
    model: PreTrainedModel | None


def open_folder(path: str, max_length: int | None = None) -> Opened:
    """Open the student of a run, a folder that holds one, an export, or any model of transformers for a text task.

    Args:
        path: The folder.
        max_length: Texts are cut to so many tokens; to as many as in training if not given, or to as many as the model
            reads (512 at most) where the folder does not say.

    Raises:
        UserError: if there is none, it reads no text, or a part of it is missing.
    """
    folder = _folder(path)
    exported = not any(folder.glob("*.safetensors*")) and (folder / MODEL).is_file()
    if not (folder / "config.json").is_file():
        problem = "there is no config.json: a module of one's own (the task plain) reads tensors, not texts"
        hint = "open it in Python: distill.load(folder, model=module)"
        raise UserError(problem, key=KEY, value=path, hint=hint)
    task_file = read_task_file(folder, KEY)
    config = read_config(str(folder), path, KEY)
    task = _task(folder, path, config, task_file)
    tokenizer = _tokenizer(folder, path, task)
    if exported:
        model, logits = None, _in_onnxruntime(folder / MODEL, path)
        with quiet_transformers(), torch.device("meta"):
            shape = task.auto_model.from_config(config)
    else:
        model = shape = load_model(str(folder), task.auto_model, KEY, head={}, trained=True)
        if task.reads == "tokens":
            set_padding(model, tokenizer)
        task.meet_models(model, None)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        logits = partial(_in_torch, task, model.to(device).eval(), device)  # type: ignore[arg-type]
    length = _length(tokenizer, positions_of(shape), task_file, max_length)
    check_room(task, tokenizer, length, pair="text_pair" in (task_file.columns if task_file else {}))
    return Opened(task, tokenizer, task_file.columns if task_file else None, length, logits, model)


def _folder(path: str) -> Path:
    check_path(path, KEY)
    if not path.startswith(PACKAGE_PREFIX):
        local = find_local(path)
        if local is None:
            hint = "give a run's folder, its student/, an export, or any folder that save_pretrained wrote"
            raise UserError("no such folder", key=KEY, value=path, hint=hint)
        if not local.is_dir():
            raise UserError("is a file", key=KEY, value=path, hint="give the folder of a run or model first, then FILE")
    return Path(resolve(path, KEY))


def _task(folder: Path, path: str, config: Any, task_file: TaskFile | None) -> TextTask:
    labels = _labels(config)
    if task_file is not None:
        return task_file.make_task(labels)
    tasks = [kind(labels) for kind in TASKS.values() if issubclass(kind, TextTask)]
    if found := next((task for task in tasks if task.opens(config)), None):
        return found
    can = ", ".join(task.name for task in tasks)
    named = (config.architectures or [""])[0] or "which config.json does not name"
    problem = f"its architecture, {named}, is for none of the tasks ({can})"
    raise UserError(problem, key=KEY, value=path, hint="name a model that was trained on one of them")


def _labels(config: Any) -> list[str] | None:
    """Names of the classes; ``None`` where the head has one output, a number."""
    names: Mapping[int, str] = getattr(config, "id2label", None) or {}
    one = len(names) < 2 or getattr(config, "problem_type", None) == "regression"
    return None if one else [str(names[number]) for number in sorted(names)]


def _tokenizer(folder: Path, path: str, task: TextTask) -> Any:
    try:
        return load_for_batches(str(folder), task)
    except UserError as error:
        raise UserError(error.problem, key=KEY, value=path, hint=error.hint) from error


def _length(tokenizer: Any, positions: int | None, task_file: TaskFile | None, given: int | None) -> int:
    if not is_tokenizer(tokenizer):
        return given or 1
    limit = tokenizer.model_max_length  # a note of its makers, beyond which the model may have been trained
    usual = task_file.max_length if task_file else min(_LONGEST, limit)
    most = positions or max(limit, usual)
    if given is not None and given > most:
        problem = f"the model reads at most {most} tokens"
        raise UserError(problem, key="data.max_length", value=given, hint=f"give {most} or less")
    return int(given or min(most, usual))


@torch.inference_mode()
def _in_torch(task: TextTask, model: PreTrainedModel, device: torch.device, batch: Batch) -> Tensor:
    found = task.forward(model, batch.to(device), Request(logits=True)).logits
    assert found is not None
    return found.float().cpu()


def _in_onnxruntime(file: Path, path: str) -> Callable[[Batch], Tensor]:
    try:
        require("export", KEY)
        opened = runtime.session(file, threads=torch.get_num_threads())
        names = set(runtime.input_sizes(opened))
    except UserError as error:
        problem = error.problem.removesuffix(runtime.UNWRITTEN)
        raise UserError(problem, key=KEY, value=path, hint=error.hint) from error

    def logits(batch: Batch) -> Tensor:
        inputs = {name: tensor for name, tensor in feed(batch).items() if name in names}
        try:
            return runtime.logits(opened, inputs)
        except UserError as error:
            problem = error.problem.removesuffix(runtime.UNWRITTEN)
            raise UserError(problem, key=KEY, value=path, hint="export it anew") from error

    return logits
