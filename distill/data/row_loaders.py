"""The loaders of a data module whose samples are asked for by ``(epoch, row)``, from where the training stands."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pytorch_lightning import LightningDataModule

from distill.core.internals.lightning import batches_done
from distill.core.task import TextTask
from distill.data.batches import EvaluationBatches, TrainingBatches
from distill.data.features import Samples
from distill.data.loader import Collate, Loader, make_loader, ranks_of

__all__ = ["RowLoaders"]


class RowLoaders(LightningDataModule):
    """Loaders for training, validation and test, whose batches are a function of seed, epoch and row alone.

    Attributes:
        batch_size: Samples of a training batch on one device.
        eval_batch_size: Samples of a validation or test batch on one device.
        bucketing: Whether samples of similar length are put into a batch.
        seed: Of the order of samples.
        num_workers: Processes that make batches; 0 makes them in the training process.
        epoch: The epoch of the training batches where no trainer is attached.
        task: Makes batches of samples.
        tokenizer: With which it does.
        block_length: Tokens of a packed block; 0 where samples have lengths of their own.
    """

    batch_size: int
    eval_batch_size: int
    bucketing: bool
    seed: int
    num_workers: int
    epoch: int

    @property
    @abstractmethod
    def task(self) -> TextTask: ...

    @property
    @abstractmethod
    def tokenizer(self) -> Any: ...

    @property
    @abstractmethod
    def block_length(self) -> int: ...

    @abstractmethod
    def samples(self, use: str) -> Samples:
        """The samples of ``train``, ``validation`` or ``test``."""

    def train_dataloader(self) -> Loader:
        return self._loader("train", self.training_batches())

    def val_dataloader(self) -> Loader:
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> Loader:
        return self._evaluation_loader("test")

    def training_batches(self) -> TrainingBatches:
        """This rank's batches of the training data."""
        rank, world_size = ranks_of(self.trainer)
        return TrainingBatches(
            self.samples("train").lengths,
            self.batch_size,
            seed=self.seed,
            position=self._position,
            rank=rank,
            world_size=world_size,
            bucketing=self.bucketing and not self.block_length,
        )

    def _evaluation_loader(self, use: str) -> Loader:
        rank, world_size = ranks_of(self.trainer)
        samples, size = self.samples(use), self.eval_batch_size
        batches = EvaluationBatches(samples.lengths, size, samples.groups, rank=rank, world_size=world_size)
        return self._loader(use, batches)

    def _loader(self, use: str, batches: TrainingBatches | EvaluationBatches) -> Loader:
        collate = Collate(self.task, self.tokenizer, trained=use == "train")
        return make_loader(self.samples(use), batches, collate, self.num_workers)

    def _position(self) -> int:
        """Batches trained so far, as the trainer counts them."""
        trainer = self.trainer
        return batches_done(trainer) if trainer and trainer.training else self.epoch * len(self.training_batches())
