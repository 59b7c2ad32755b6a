"""The contract of every teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from distill.core.model_spec import ModelSpec
from distill.core.signals import Batch, Request, Signals

__all__ = ["Gather", "TeacherSource"]

Gather = Callable[[dict[str, Tensor]], Sequence[dict[str, Tensor]]]
"""Takes a rank's tensors and gives those of all ranks, in their order."""


class TeacherSource(ABC):
    """Where teacher signals come from; the losses cannot tell one source from another.

    No ``nn.Module``, so one may hang on a LightningModule without being in its parameters, its checkpoint or
    a gradient bucket. It must then be moved to the device by :meth:`to`.
    """

    @property
    @abstractmethod
    def models(self) -> list[nn.Module]:
        """The models behind the source, frozen and in eval mode."""

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizer of each of the :attr:`models`; ``None`` where it is not known."""
        return [None] * len(self.models)

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """What losses may ask about the teacher."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Tells this teacher from any other: a hash of weights and vocabulary."""

    @abstractmethod
    def signals(self, batch: Batch, request: Request) -> Signals:
        """What the teacher says of a *training* batch, as ordinary tensors without a graph.

        A source may remember it by the samples' ids where the same id has the same inputs
        (``Batch.input_digests`` shows it). Data that is masked or augmented anew in each epoch had better come without.

        Raises:
            UserError: if the source cannot give what is requested.
        """

    @abstractmethod
    def evaluate(self, batch: Batch) -> Signals:
        """The logits for any other batch, whose ids are of another name space; nothing is remembered."""

    def check_losses(self, losses: Sequence[Any]) -> None:  # noqa: B027  (a model that runs can be asked for anything)
        """Refuse, before training, losses that ask for what :meth:`signals` cannot give.

        Raises:
            UserError: naming the loss.
        """

    def meet(self, data: Mapping[str, Any]) -> None:  # noqa: B027  (a model that runs reads any data)
        """Judge the data that a run trains and validates on.

        Args:
            data: Its fingerprints by name (:func:`distill.data.identity.identity`).

        Raises:
            UserError: if the source can say nothing of it.
        """

    @property
    def known_scores(self) -> Mapping[str, float] | None:
        """Its metrics on the validation data where they were found before, and it cannot run; ``None`` where it can."""
        return None

    @property
    def described(self) -> str:
        """What it is, in a line, where it is more than its :attr:`models`."""
        return ""

    @property
    def lazy(self) -> bool:
        """Whether :meth:`signals` can give logits lazily (:attr:`Request.lazy`)."""
        return False

    def evaluate_lazily(self, batch: Batch) -> Signals:
        """As :meth:`evaluate`; the logits may be lazy."""
        return self.evaluate(batch)

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move the models."""

    def share(self, gather: Gather) -> None:  # noqa: B027  (a source that remembers nothing has nothing to share)
        """At the end of an epoch of several ranks, in which all take part: remember what any of them does."""

    @abstractmethod
    def state_dict(self, own: bool = False) -> dict[str, Tensor]:
        """What is remembered, on the host; tensors only, for ``torch.load(weights_only=True)``.

        Valid for a teacher of the same :attr:`fingerprint`; empty where nothing is remembered.

        Args:
            own: Only what not all ranks have since :meth:`share`.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor], of_all: Mapping[str, Tensor] | None = None) -> None:
        """Remember what :meth:`state_dict` gave, and nothing else.

        Args:
            state: This rank's.
            of_all: Where that is only the rank's own: another's, with what all of them have.
        """
