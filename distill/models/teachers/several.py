"""What sources share that stand for several teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from distill.core.model_spec import ModelSpec
from distill.core.signals import Request, Signals
from distill.core.teacher import Gather, TeacherSource
from distill.core.utils.errors import UserError

__all__ = ["Several"]


class Several(TeacherSource):
    """Several teachers of one vocabulary, or of the same classes in the same order.

    Args:
        sources: The teachers.

    Raises:
        UserError: if there is none, or one is none.
    """

    def __init__(self, sources: Sequence[TeacherSource]) -> None:
        if not sources:
            raise UserError("an ensemble needs a teacher", key="model.teacher", value=[], hint="name at least one")
        for number, source in enumerate(sources):
            if not isinstance(source, TeacherSource):
                kind = type(source).__name__
                hint = "make one of a module: LiveTeacher(module, task)"
                raise UserError("must be a TeacherSource", key=f"model.teacher.{number}", value=kind, hint=hint)
        self.sources = list(sources)
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

    def check_losses(self, losses: Sequence[Any]) -> None:
        for loss in losses:
            self._only_logits(loss.needs.teacher)

    def _only_logits(self, request: Request) -> None:
        """Refuse what several teachers cannot give.

        Raises:
            UserError: if it is more than logits.
        """
        if request != Request(logits=request.logits):
            raise UserError(
                "several teachers have no common space of hidden states, attentions or taps",
                key="model.teacher",
                hint="use losses on logits, or one teacher",
            )

    def _of_one_width(self, signals: Sequence[Signals]) -> list[Tensor]:
        """The logits of each, ``[..., C]``, the padding of wider heads left out.

        Raises:
            UserError: if their widths differ, and nothing says that one is padded.
        """
        logits = [s.logits for s in signals if s.logits is not None]
        widths = [z.shape[-1] for z in logits]
        width = min(widths)
        if max(widths) > width and not self.one_vocabulary:
            problem = (
                f"the teachers have {', '.join(map(str, widths))} outputs, and nothing says that these are the same"
            )
            raise UserError(problem, key="model.teacher", hint="take teachers of the same classes")
        return [z[..., :width] for z in logits]

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
