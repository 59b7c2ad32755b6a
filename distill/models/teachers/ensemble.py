"""Several teachers as one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from distill.core.model_spec import ModelSpec
from distill.core.numerics import at_least_float32
from distill.core.signals import Batch, Request, Signals
from distill.core.teacher import Gather, TeacherSource
from distill.core.utils.errors import UserError

__all__ = ["Ensemble", "weighted_mean"]


def weighted_mean(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum over i of w_i * z_i, with the weights w normalized to 1; in at least float32.

    softmax(mean / T) is the normalized geometric mean of the softmax(z_i / T), at every temperature T.

    Args:
        logits: Tensors ``[..., C]`` of one shape.
        weights: As many, greater than 0.
    """
    total = sum(weights)
    return torch.stack([w / total * at_least_float32(z) for z, w in zip(logits, weights, strict=True)]).sum(0)


class Ensemble(TeacherSource):
    """The weighted mean of several teachers' logits.

    Args:
        sources: The teachers; of one vocabulary, or of the same classes in the same order.
        weights: How much each counts, greater than 0; normalized here. Equal if not given.

    Raises:
        UserError: if a weight is not greater than 0, or there are not as many weights as teachers.
    """

    def __init__(self, sources: Sequence[TeacherSource], weights: Sequence[float] | None = None) -> None:
        if not sources:
            raise UserError("an ensemble needs a teacher", key="model.teacher", value=[], hint="name at least one")
        for number, source in enumerate(sources):
            if not isinstance(source, TeacherSource):
                kind = type(source).__name__
                hint = "make one of a module: LiveTeacher(module, task)"
                raise UserError("must be a TeacherSource", key=f"model.teacher.{number}", value=kind, hint=hint)
        weights = [1.0] * len(sources) if weights is None else weights
        if len(weights) != len(sources):
            raise UserError(
                f"{len(sources)} teachers need as many weights",
                key="model.teacher",
                value=list(weights),
                hint="give one weight each",
            )
        for number, weight in enumerate(weights):
            if not 0 < weight < float("inf"):
                raise UserError(
                    "must be greater than 0",
                    key=f"model.teacher.{number}.weight",
                    value=weight,
                    hint="leave the teacher out, or give it a weight",
                )
        self.sources = list(sources)
        self.weights = [weight / sum(weights) for weight in weights]
        self.one_vocabulary = False
        """Whether one head may be a padded version of another's: the tokenizers were compared."""

    @property
    def models(self) -> list[nn.Module]:
        return [model for source in self.sources for model in source.models]

    @property
    def tokenizers(self) -> list[Any]:
        return [tokenizer for source in self.sources for tokenizer in source.tokenizers]

    @property
    def spec(self) -> ModelSpec:
        return self.sources[0].spec

    @property
    def fingerprint(self) -> str:
        parts = [f"{s.fingerprint} {w!r}" for s, w in zip(self.sources, self.weights, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def signals(self, batch: Batch, request: Request) -> Signals:
        if request != Request(logits=request.logits):
            raise UserError(
                "several teachers have no common space of hidden states, attentions or taps",
                key="model.teacher",
                hint="use losses on logits, or one teacher",
            )
        return self._mean([source.signals(batch, request) for source in self.sources]) if request else Signals()

    def evaluate(self, batch: Batch) -> Signals:
        return self._mean([source.evaluate(batch) for source in self.sources])

    def _mean(self, signals: Sequence[Signals]) -> Signals:
        logits = [s.logits for s in signals if s.logits is not None]
        widths = [z.shape[-1] for z in logits]
        width = min(widths)
        if max(widths) > width and not self.one_vocabulary:
            problem = (
                f"the teachers have {', '.join(map(str, widths))} outputs, and nothing says that these are the same"
            )
            raise UserError(problem, key="model.teacher", hint="take teachers of the same classes")
        return Signals(logits=weighted_mean([z[..., :width] for z in logits], self.weights))

    def to(self, device: torch.device | str) -> Self:
        for source in self.sources:
            source.to(device)
        return self

    def share(self, gather: Gather) -> None:
        for source in self.sources:
            source.share(gather)

    def state_dict(self, own: bool = False) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": tensor
            for number, source in enumerate(self.sources)
            for name, tensor in source.state_dict(own).items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor], of_all: Mapping[str, Tensor] | None = None) -> None:
        for number, source in enumerate(self.sources):
            source.load_state_dict(_below(f"{number}.", state), of_all and _below(f"{number}.", of_all))


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
