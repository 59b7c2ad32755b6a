"""The prompts of a recipe's data, for a teacher that is run elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from distill.core.task import Task, WritingTask
from distill.core.utils.errors import UserError
from distill.core.utils.files import replace
from distill.core.utils.paths import at_home
from distill.core.utils.quiet import quiet_lightning
from distill.core.utils.words import amount
from distill.data import TextData
from distill.data.loader import Collate
from distill.models.teachers.documents import Document, documents
from distill.workflows.job.build import Job, build, make_trainer
from distill.workflows.record.parts import own_device

__all__ = ["prompts_of", "without_teacher", "write_prompts"]


def without_teacher(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without the teacher, and without what cannot be built without one."""
    model = dict(config.get("model") or {})
    for name in ("teacher", "losses", "on_policy"):
        model.pop(name, None)
    return {**config, "model": model}


def prompts_of(job: Job) -> Iterator[Document]:
    """Every document of the training data, and of the validation data that a run of ``job`` would take."""
    data, task = job.data, job.module.task
    assert isinstance(data, TextData)
    samples, collate = data.samples("train"), Collate(data.task, data.tokenizer)
    for start in range(0, len(samples), 32):
        rows = range(start, min(len(samples), start + 32))
        yield from documents(task.batch(collate([samples[(0, row)] for row in rows])))
    if "validation" in data.uses:
        with quiet_lightning():
            limit = make_trainer(
                job, enable_checkpointing=False, callbacks=[], **own_device(job.arguments)
            ).limit_val_batches
        loader: Any = data.val_dataloader()
        for raw in islice(loader, limit if isinstance(limit, int) else int(limit * len(loader))):
            yield from documents(task.batch(raw))


def check_causal(task: Task, data: Any) -> None:
    """Refuse what has no prompts.

    Raises:
        UserError: if it is no causal language model's.
    """
    if not isinstance(task, WritingTask) or task.reads_apart or not isinstance(data, TextData):
        problem, hint = "only a causal language model's teacher can be run elsewhere", "let the teacher run"
        raise UserError(problem, key="model.task", value=task.name, hint=hint)


def write_prompts(config: Mapping[str, Any], to: str | Path, allow: Sequence[str] = ()) -> Path:
    """Write the token ids of each document as a line ``{"prompt_token_ids": [...]}``, each once.

    Raises:
        UserError: if the recipe is no causal language model's, or the file cannot be written.
    """
    path, job = at_home(to), build(without_teacher(config), allow=allow)
    check_causal(job.module.task, job.data)
    prompts = dict.fromkeys(tuple(document.prompt) for document in prompts_of(job))
    lines = [json.dumps({"prompt_token_ids": list(prompt)}) + "\n" for prompt in prompts]
    try:
        replace(path, "".join(lines).encode())
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise UserError(problem, key="--write-prompts", value=str(to), hint="name another file") from None
    print(f"{path}: {amount(len(prompts), 'prompt')}, {amount(sum(map(len, prompts)), 'token')}", flush=True)
    return path
