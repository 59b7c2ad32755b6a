"""A teacher that runs beside the student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from distill.models import ModelSpec, detached
from distill.signals import Batch, Request, Signals
from distill.tasks.base import Task
from distill.teachers.base import TeacherSource
from distill.teachers.fingerprint import fingerprint
from distill.teachers.memory import LogitMemory

__all__ = ["LiveTeacher"]

_LOGITS = Request(logits=True)


class LiveTeacher(TeacherSource):
    """A model in eval mode, frozen, run without a graph.

    Where only logits are asked for and there is one prediction a sample, they are remembered by sample id:
    from the second epoch on the model does not run, and every epoch trains on the same bits.

    Args:
        model: The model; frozen and put in eval mode here.
        task: Knows how the model reads a batch.
        tokenizer: The model's own, where it has one; part of the fingerprint.
        remember: Whether to remember logits. Turn it off where a sample's inputs change from epoch to epoch
            while its id stays.
        key: Where the teacher stands in the configuration, for error messages.
    """

    def __init__(
        self, model: nn.Module, task: Task, tokenizer: Any = None, *, remember: bool = True, key: str = "model.teacher"
    ) -> None:
        self.model, self.task, self.tokenizer, self.remember = model, task, tokenizer, remember and not task.stochastic
        self._spec = ModelSpec(model, key)
        self._memory = LogitMemory()
        model.requires_grad_(False).eval()
        self._modules = list(model.modules())
        # Its dtype is its own: features arrive in that of the student.
        self._dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    @property
    def models(self) -> list[nn.Module]:
        return [self.model]

    @property
    def tokenizers(self) -> list[Any]:
        return [self.tokenizer]

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.model, self.tokenizer)

    def signals(self, batch: Batch, request: Request) -> Signals:
        if not self.remember or batch.ids is None or request != _LOGITS:
            return self._run(batch, request)
        known = self._memory.recall(batch.ids, next(iter(batch.inputs.values())).device)
        if known is not None:
            return Signals(logits=known)
        signals = self._run(batch, request)
        assert signals.logits is not None
        if not self._memory.accepts(signals.logits, batch.ids):
            return signals
        return replace(signals, logits=self._memory.merge(batch.ids, signals.logits))

    def evaluate(self, batch: Batch) -> Signals:
        return self._run(batch, _LOGITS)

    def _run(self, batch: Batch, request: Request) -> Signals:
        if any(module.training for module in self._modules):  # 10 microseconds for 100 modules
            self.model.eval()
        inputs = {
            name: tensor.to(self._dtype) if tensor.is_floating_point() else tensor
            for name, tensor in batch.inputs.items()
        }
        # As fast as inference mode (measured), whose tensors autograd may not save: logits over a vocabulary
        # would have to be copied.
        with torch.no_grad():
            return detached(self.task.forward(self.model, replace(batch, inputs=inputs), request))

    def to(self, device: torch.device | str) -> Self:
        self.model.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        return self._memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._memory.load_state_dict(state)
