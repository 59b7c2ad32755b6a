"""A teacher that runs beside the student."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from distill.core.document_masking import still
from distill.core.forward import detached
from distill.core.internals.peft import without_adapter
from distill.core.lazy_head import why_not_lazy
from distill.core.model_spec import ModelSpec
from distill.core.signals import Batch, Request, Signals
from distill.core.steadiness import differs
from distill.core.task import Task, TokenTask
from distill.core.teacher import Gather, TeacherSource
from distill.core.verdict import UNSTEADY
from distill.models.teachers.fingerprint import fingerprint
from distill.models.teachers.memory import LogitMemory

__all__ = ["LiveTeacher"]

_log = logging.getLogger(__name__)

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
            while its id stays; where that is seen, it is warned of once, and the model runs at every step.
        key: Where the teacher stands in the configuration, for error messages.
    """

    def __init__(
        self, model: nn.Module, task: Task, tokenizer: Any = None, *, remember: bool = True, key: str = "model.teacher"
    ) -> None:
        self.model, self.task, self.tokenizer, self.remember = model, task, tokenizer, remember
        self._spec = ModelSpec(model, key)
        self._memory = LogitMemory()
        self._lent = False
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
        if not self.remember or self.task.stochastic or batch.ids is None or request != _LOGITS:
            return self._run(batch, request)
        if self._memory.closed:
            return self._run(batch, request)
        digests = batch.input_digests.cpu()
        known = self._memory.recall(batch.ids, digests, next(iter(batch.inputs.values())).device)
        if known is not None:
            return Signals(logits=known)
        signals = self._run(batch, request)
        assert signals.logits is not None
        if not self._memory.accepts(signals.logits, batch.ids) or self._is_random(batch, signals.logits):
            return signals
        signals = replace(signals, logits=self._memory.merge(batch.ids, digests, signals.logits))
        if self._memory.changed is not None:
            _log.warning(
                "sample %d came with other inputs under the same id (an augmentation?), so the teacher runs at every "
                "step from now on and nothing that it said is remembered; without Batch.ids it does from the start",
                self._memory.changed,
            )
        return signals

    def _is_random(self, batch: Batch, logits: Tensor) -> bool:
        """Whether the first batch has other logits in a second pass; then nothing is remembered of this teacher."""
        if self._memory.random is None:
            with isolate_rng():  # so that no other number is drawn after it
                again = self._run(batch, _LOGITS).logits
            assert again is not None
            self._memory.note_random(differs(logits, again))
            if self._memory.random:
                _log.warning(
                    "the teacher %s, so it runs at every step and nothing that it said is remembered",
                    UNSTEADY["random"],
                )
        return bool(self._memory.random)

    def evaluate(self, batch: Batch) -> Signals:
        return self._run(batch, _LOGITS)

    @cached_property
    def lazy(self) -> bool:
        return isinstance(self.task, TokenTask) and not why_not_lazy(self.model)

    def evaluate_lazily(self, batch: Batch) -> Signals:
        return self._run(batch, Request(logits=True, lazy=self.lazy))

    def lend(self) -> nn.Module:
        """The model, for a student that trains an adapter beside its weights; the teacher goes on without the adapter.

        So one copy of the weights is in memory.
        """
        self.fingerprint  # noqa: B018  (of the plain model)
        self._lent = True
        return self.model

    @property
    def described(self) -> str:
        return "the student without its adapter, in the same memory" if self._lent else ""

    @contextmanager
    def _plain(self) -> Iterator[None]:
        """The model as it is to answer: frozen, in eval mode, and without what a student has put into it."""
        if self._lent:
            with still(self.model), without_adapter(self.model), torch.no_grad():
                yield
            return
        if any(module.training for module in self._modules):  # 10 microseconds for 100 modules
            self.model.eval()
        # As fast as inference mode (measured), whose tensors autograd may not save: logits over a vocabulary
        # would have to be copied.
        with torch.no_grad():
            yield

    def _run(self, batch: Batch, request: Request) -> Signals:
        inputs = {
            name: tensor.to(self._dtype) if tensor.is_floating_point() else tensor
            for name, tensor in batch.inputs.items()
        }
        with self._plain():
            return detached(self.task.teach(self.model, replace(batch, inputs=inputs), request))

    def to(self, device: torch.device | str) -> Self:
        self.model.to(device)
        return self

    def share(self, gather: Gather) -> None:
        self._memory.share(gather)

    def state_dict(self, own: bool = False) -> dict[str, Tensor]:
        return self._memory.state_dict(own)

    def load_state_dict(self, state: Mapping[str, Tensor], of_all: Mapping[str, Tensor] | None = None) -> None:
        self._memory.load_state_dict(state, of_all)
