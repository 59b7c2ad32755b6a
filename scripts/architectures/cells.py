"""What is tried with an architecture: one function a column of the table, which returns when all is right."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from architectures.tiny import DEPTH, VOCABULARY, tiny_model
from distill.callbacks import StructuredPruning
from distill.compression.quantization.ptq import quantize
from distill.compression.quantization.scheme import ActivationScheme, WeightScheme
from distill.core.architectures import layer_list
from distill.core.document_masking import check_causal, check_isolation
from distill.core.model_spec import ModelSpec
from distill.core.signals import Batch, Request
from distill.core.stacks import STACKS, Stack
from distill.export.onnx.graph import Logits, feed
from distill.export.onnx.padding import padded
from distill.export.onnx.runtime import logits as run_logits
from distill.export.onnx.runtime import session
from distill.export.targets import TARGETS, write
from distill.losses import CrossEntropy, FitNetHint, HintonKL
from distill.models import saved_student
from distill.models.pretrained import load_model
from distill.models.students import StudentConfig, build_student
from distill.models.teachers import LiveTeacher
from distill.tasks import TextTask
from distill.training.module import Distillation
from distill.training.reads import read

__all__ = ["CELLS", "Wrong", "batch_of", "cells_of", "hints"]

TOLERANCE = 1e-5
_LENGTHS = (12, 9, 5)
_DOCUMENTS = (7, 20)
"""Tokens of the documents in a block; the second is longer than the windows of :mod:`architectures.tiny`."""
_END = 2
_HEADS = ("masked-lm", "causal-lm", "token-classification", "text-classification")
"""A type is exported with the first of them that it has: the body is the same, and all positions are seen."""


class Wrong(Exception):
    """It ran, and did not compute what it should."""


def batch_of(task: TextTask) -> Batch:
    """Three rows of 12, 9 and 5 tokens, padded on the right, with labels."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY - 5, (len(_LENGTHS), max(_LENGTHS)), generator=generator)
    tokens = torch.arange(max(_LENGTHS)) < torch.tensor(_LENGTHS)[:, None]
    ids[torch.arange(len(_LENGTHS)), torch.tensor(_LENGTHS) - 1] = _END
    ids = ids.where(tokens, 0)
    inputs = {"input_ids": ids, "attention_mask": tokens.long()}
    if task.name == "text-classification":
        return Batch(inputs=inputs, labels=torch.tensor([0, 1, 2]), tokens=tokens, ids=[0, 1, 2])
    labels = (ids % 3 if task.name == "token-classification" else ids).where(tokens, -100)
    return Batch(inputs=inputs, labels=labels, mask=tokens, tokens=tokens, ids=[0, 1, 2], extras={"bytes": tokens * 1})


def logits(model: nn.Module, task: TextTask, batch: Batch) -> Tensor:
    with torch.no_grad():
        found = task.forward(model.eval(), batch, Request(logits=True)).logits
    if not isinstance(found, Tensor) or not found.isfinite().all():
        raise Wrong("its logits are no finite numbers")
    return found


def equal(found: Tensor, expected: Tensor, what: str, tolerance: float = 0.0) -> None:
    """Refuse a difference above ``tolerance`` of the largest (or of 1)."""
    if found.shape != expected.shape:
        raise Wrong(f"{what}: {tuple(found.shape)} instead of {tuple(expected.shape)}")
    off = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    if not off <= tolerance:
        raise Wrong(f"{what}: off by {off:.1e}")


# ---------------------------------------------------------------------- the columns


def teacher(model: PreTrainedModel, task: TextTask) -> None:
    """Saved, loaded by path and run: the same logits, of the right shape."""
    batch = batch_of(task)
    with torch.no_grad():
        expected = read("model.teacher", model, task, batch, Request(logits=True))
    with tempfile.TemporaryDirectory() as folder:
        saved_student.save(model, folder)
        again = load_model(folder, task.auto_model, "model.teacher.path", head={}, trained=True)
    equal(logits(again, task, batch), expected, "loaded from its folder", TOLERANCE)


def padding(model: PreTrainedModel, task: TextTask) -> None:
    """A row alone and in a padded batch, of a side on which a run pads (:mod:`distill.training.padding_probe`)."""
    try:
        _padded_right(model, task)
    except Wrong:
        if "left" not in task.sides:
            raise
        _padded_left(lambda inputs: logits(model, task, Batch(inputs=inputs)), task)


def _padded_right(model: PreTrainedModel, task: TextTask) -> None:
    batch = batch_of(task)
    together = logits(model, task, batch)
    for row, length in enumerate(_LENGTHS):
        inputs = {name: tensor[row : row + 1, :length] for name, tensor in batch.inputs.items()}
        alone = logits(model, task, replace(batch, inputs=inputs, tokens=None, mask=None))[0]
        inside = together[row] if task.name == "text-classification" else together[row, :length]
        equal(inside, alone, f"{length} tokens alone and among {max(_LENGTHS)}", TOLERANCE)


def copied(model: PreTrainedModel, task: TextTask) -> None:
    """A student of all layers gives the same bits; one of half of them holds exactly their weights."""
    batch = batch_of(task)
    every = build_student(StudentConfig(layers="uniform", num_layers=DEPTH), task, model)
    equal(logits(every, task, batch), logits(model, task, batch), "a student of all layers")
    half = build_student(StudentConfig(layers="uniform", num_layers=DEPTH // 2), task, model)
    with torch.no_grad():
        read("model.student", half.eval(), task, batch, Request(logits=True))
    prefixes, whole = [f"{layer_list(model, stack)}." for stack in _stacks(model)], dict(model.state_dict())
    for name, tensor in half.state_dict().items():
        prefix = next((one for one in prefixes if name.startswith(one)), "")
        number, _, rest = name.removeprefix(prefix).partition(".")
        origin = f"{prefix}{2 * int(number) + 1}.{rest}" if prefix else name
        origin = origin if origin in whole else name  # T5's first layer holds what all of them read
        if not torch.equal(tensor, whole[origin]):
            raise Wrong(f"a student of half the layers: {name} is not {origin}")


def _stacks(model: PreTrainedModel) -> Sequence[Stack | None]:
    return STACKS if ModelSpec(model, "model").has_two_stacks else (None,)


def hints(model: PreTrainedModel, task: TextTask) -> None:
    """Hinton's loss, hidden states and labels; the student is of half the layers, or another of the same kind."""
    _train(model, task, lambda half: half)


def pruned(model: PreTrainedModel, task: TextTask) -> None:
    """Half of the heads and neurons are taken out: what is left computes what masking them did."""
    batch, student = batch_of(task), _copy(model)
    callback = StructuredPruning(heads=0.5, neurons=0.5)
    callback.prepare(student)
    plan: Any = callback.plan
    parts = plan.parts(student)
    plan.switch_off(parts, 1.0)
    for parameter, factor in plan.factors(parts):
        with torch.no_grad():
            parameter.mul_(factor)
    expected = logits(student, task, batch)
    before = sum(p.numel() for p in student.parameters())
    callback.finish(student)
    if not sum(p.numel() for p in student.parameters()) < before:
        raise Wrong("nothing was removed")
    equal(logits(student, task, batch), expected, "what is left of it", TOLERANCE)


def quantized(model: PreTrainedModel, task: TextTask) -> None:
    """Int8 weights and static inputs, without training; saved and loaded it gives the same bits."""
    batch, student = batch_of(task), _copy(model)
    steps = quantize(
        student,
        [batch],
        lambda model, batch: task.forward(model, batch, Request(logits=True)),
        weights=WeightScheme(),
        activations=ActivationScheme(),
        embeddings=WeightScheme(),
    )
    expected = logits(student, task, batch)
    with tempfile.TemporaryDirectory() as folder:
        saved_student.save(student, folder, steps=steps)
        equal(logits(saved_student.load(folder), task, batch), expected, "loaded from its folder")


def left(model: PreTrainedModel, task: TextTask) -> None:
    """A row alone and padded on the left, as an exported graph computes it."""
    graph = Logits(model.eval(), feed(batch_of(task)))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        _padded_left(lambda inputs: graph(*inputs.values()), task)


def _padded_left(predict: Callable[[dict[str, Tensor]], Tensor], task: TextTask) -> None:
    for number, length in enumerate(_LENGTHS):
        row = _row(feed(batch_of(task)), number, length)
        alone, among = predict(row), predict(padded(row, "left", 0, 4))
        inside = among if task.name == "text-classification" else among[:, 4:]
        equal(inside, alone, f"{length} tokens alone and behind 4 of padding", TOLERANCE)


def packing(model: PreTrainedModel, task: TextTask) -> None:
    """Two documents in a packed block, and each alone."""
    check_causal("model.teacher", model)
    check_isolation("model.teacher", model)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, VOCABULARY - 5, (1, sum(_DOCUMENTS)), generator=generator)
    positions = torch.cat([torch.arange(length) for length in _DOCUMENTS])[None]
    block = logits(model, task, Batch(inputs={"input_ids": ids, "position_ids": positions}))
    for number, (document, found) in enumerate(zip(ids.split(_DOCUMENTS, 1), block.split(_DOCUMENTS, 1), strict=True)):  # type: ignore[no-untyped-call]
        alone = logits(model, task, Batch(inputs={"input_ids": document}))
        equal(found, alone, f"document {number + 1} of 2 in a block", TOLERANCE)


def exported(model: PreTrainedModel, task: TextTask) -> None:
    """In ONNX, float: onnxruntime's logits, of rows of another length and number than the example's."""
    batch, model = batch_of(task), _shallow(model, task)
    with tempfile.TemporaryDirectory() as folder:
        write(TARGETS["onnx"]("avx2"), model.eval(), Path(folder), task=task, batches=lambda: iter([batch]))  # type: ignore[no-untyped-call]
        run = session(Path(folder) / "model.onnx")
        longest = _row(feed(batch), 0, _LENGTHS[0])
        found = run_logits(run, longest)
    equal(found, logits(model, task, replace(batch, inputs=longest, tokens=None, mask=None)), "a row alone", 1e-4)


def _shallow(model: PreTrainedModel, task: TextTask) -> PreTrainedModel:
    """One like ``model`` of two layers, which takes half as long, where such a one can be made."""
    try:
        return tiny_model(model.config.model_type, task.name, 2)
    except Exception:  # of which there are as many kinds as architectures
        return model


def _row(inputs: dict[str, Tensor], row: int, length: int) -> dict[str, Tensor]:
    return {name: tensor[row : row + 1, :length] for name, tensor in inputs.items()}


CELLS: dict[str, Callable[[PreTrainedModel, TextTask], None]] = {
    "teacher": teacher,
    "padding": padding,
    "left": left,
    "packing": packing,
    "copied": copied,
    "hints": hints,
    "pruned": pruned,
    "quantized": quantized,
    "exported": exported,
}


def cells_of(task: str, tasks: Collection[str]) -> list[str]:
    """The columns of a type's row of ``task``, where it has heads for ``tasks``."""
    head = next(name for name in _HEADS if name in tasks)
    absent = ["packing"] * (task != "causal-lm") + ["exported"] * (task != head)
    return [cell for cell in CELLS if cell not in absent]


# ---------------------------------------------------------------------- a step of training


def _train(model: PreTrainedModel, task: TextTask, change: Callable[[nn.Module], nn.Module]) -> None:
    try:
        student = change(build_student(StudentConfig(layers="uniform", num_layers=DEPTH // 2), task, model))
    except Exception:  # what cannot be copied can be distilled
        student = _copy(model)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.mul_(0.9)
    on_layers = [FitNetHint(stack=stack, name=stack) for stack in _stacks(model)]
    module = Distillation(
        student.train(), task, LiveTeacher(_copy(model), task), [HintonKL(), *on_layers, CrossEntropy()]
    )
    with _seeded():
        with torch.no_grad():
            read("model.student", student, task, batch_of(task), module.needs.student)
        objective, terms = module.terms(batch_of(task).at(0, 1))
        objective.backward()  # type: ignore[no-untyped-call]
    for name, value in terms.items():
        if not value.isfinite():
            raise Wrong(f"{name} is {float(value)}")
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    if not gradients or not all(g.isfinite().all() for g in gradients):
        raise Wrong("its gradient is no finite number")


def _copy(model: PreTrainedModel) -> PreTrainedModel:
    copied = copy.deepcopy(model)
    copied.eval()  # type: ignore[no-untyped-call]
    return copied


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
