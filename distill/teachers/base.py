"""The contract of every teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from distill.models import ModelSpec
from distill.signals import Batch, Request, Signals

__all__ = ["TeacherSource"]


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

        A source may remember it by the samples' ids: they promise that the same id has the same inputs. Data
        that is masked or augmented anew in each epoch must come without ids.

        Raises:
            UserError: if the source cannot give what is requested.
        """

    @abstractmethod
    def evaluate(self, batch: Batch) -> Signals:
        """The logits for any other batch, whose ids are of another name space; nothing is remembered."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move the models."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """What is remembered of this rank's samples, on the host; tensors only, for ``torch.load(weights_only=True)``.

        Valid for a teacher of the same :attr:`fingerprint`; empty where nothing is remembered.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Remember what :meth:`state_dict` gave, and nothing else."""
