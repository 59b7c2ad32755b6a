"""What Lightning keeps to itself: its loops' counters, what it launched, how it names and moves things.

Written against Lightning 2.6. Each function is a contract that ``tests/core/internals/test_lightning.py`` holds.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

__all__ = [
    "CheckpointOnCondition",
    "DataParallelStrategy",
    "DescribedBar",
    "OpenWandbLogger",
    "accumulates",
    "batches_begun",
    "batches_done",
    "distributes_samples",
    "end_after_batch",
    "epochs_done",
    "has_trainer",
    "judge_after_validation",
    "on_device",
    "release_processes",
    "set_epochs",
    "settle_loops",
    "start_method",
    "stop_after",
]

# ---------------------------------------------------------------------- the loops, while they run


def accumulates(trainer: Trainer) -> bool:
    """Whether the batch that has just been trained on ends no optimizer step, as gradients accumulate."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def stop_after(trainer: Trainer, steps: int) -> None:
    """End the training that runs after so many optimizer steps. What was laid out over the whole run stays so."""
    trainer.fit_loop.epoch_loop.max_steps = steps


def set_epochs(trainer: Trainer, epochs: int) -> None:
    """Give a trainer that was made without a length the epochs after which training ends."""
    trainer.fit_loop.max_epochs = epochs


def end_after_batch(trainer: Trainer) -> None:
    """End the training after the batch that is trained on now, whatever least length it was given."""
    trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None
    trainer.should_stop = True


def batches_begun(trainer: Trainer) -> int:
    """The number of the batch that begins, over all epochs; for a hook of its start."""
    return trainer.fit_loop.epoch_loop.total_batch_idx


def batches_done(trainer: Trainer) -> int:
    """Batches trained so far: over all epochs; of this epoch alone with ``overfit_batches``, where all are alike."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.current.completed if getattr(trainer, "overfit_batches", 0) else progress.total.completed


# ---------------------------------------------------------------------- the loops, in a checkpoint


def epochs_done(checkpoint: Mapping[str, Any]) -> int:
    """The epochs that were complete when a checkpoint was saved."""
    done: int = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]
    return done


def settle_loops(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Have Lightning's counters say that everything begun is done, and that a batch of the same epoch comes next.

    Args:
        trainer: Between two batches, or at the end of training.
        checkpoint: What it is about to save; the state of its fit loop is altered in place.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    at_end = batches["current"]["ready"] == batches["current"]["completed"]
    for counts in (batches["total"], batches["current"]):
        counts["ready"] = counts["started"] = counts["processed"] = counts["completed"]
    batches["is_last_batch"] = False
    if at_end:  # as if one more batch was to come: of the next epoch where this one is complete
        complete = batches["current"]["completed"] >= trainer.num_training_batches
        if complete:
            batches["current"] = dict.fromkeys(batches["current"], 0)
        for counts in (epochs["total"], epochs["current"]):
            counts["processed"] = counts["completed"] = counts["completed"] - (not complete)
            counts["ready"] = counts["started"] = counts["completed"] + 1
    if _validation_follows(trainer, epochs["current"]["completed"], batches):
        # Where a validation falls on this place, Lightning steps over it on its way back, and counts one step for it.
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def _validation_follows(trainer: Trainer, epochs: int, batches: Mapping[str, Any]) -> bool:
    """Whether Lightning, with so many epochs and batches done, would validate now."""
    if getattr(trainer, "_val_check_time_interval", None) is not None:  # counted anew from the start of the process
        return False
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and (epochs + 1) % every):
        return False
    done = batches["total" if every is None else "current"]["ready"]
    return trainer.val_check_batch != float("inf") and done % trainer.val_check_batch == 0


# ---------------------------------------------------------------------- processes and devices


def distributes_samples(trainer: Trainer) -> bool:
    """Whether Lightning would put a sampler for the ranks in place of a loader's own."""
    return bool(trainer._accelerator_connector.use_distributed_sampler)


def release_processes(trainer: Trainer) -> list[subprocess.Popen[bytes]]:
    """The other ranks that this process has started, which Lightning then no longer watches.

    It would kill this one too when they end, before it has said what failed.
    """
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return []
    processes = list(launcher.procs)
    launcher.procs.clear()
    return processes


def start_method(strategy: object) -> str | None:
    """How a strategy starts processes: ``popen`` runs the script anew; those that begin none are taken for it."""
    return getattr(strategy, "_start_method", "popen")


def judge_after_validation(callbacks: Iterable[Callback]) -> None:
    """Have callbacks that are not told when to judge do so after every validation, not at the end of an epoch.

    Under ``val_check_interval: 1``, a validation after each batch, they would take it for 1.0, one an epoch.
    """
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback._save_on_train_epoch_end is None:
            callback._save_on_train_epoch_end = False
        elif isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is None:
            callback._check_on_train_epoch_end = False


def on_device(trainer: Trainer, module: LightningModule, raw: Any) -> Any:
    """A loader's batch as a validation would get it: converted, through the module's hooks, on the device."""
    raw = module._on_before_batch_transfer(trainer.precision_plugin.convert_input(raw))
    return trainer.strategy.batch_to_device(raw, dataloader_idx=0)


def has_trainer(module: LightningModule) -> bool:
    """Whether a trainer is attached; asking for ``module.trainer`` raises where none is."""
    return module._trainer is not None


# ---------------------------------------------------------------------- classes with a say of their own


class CheckpointOnCondition(ModelCheckpoint):
    """A ``ModelCheckpoint`` that passes over moments which are not :meth:`ready`.

    Attributes:
        keeps_optimizer: Whether a training could go on from what it saves. Without the optimizer's state a checkpoint
            has a third of the size, or less.
    """

    keeps_optimizer = True
    _saves = False

    def ready(self, trainer: Trainer) -> bool:
        """Whether what is trained may be saved now."""
        raise NotImplementedError

    def _should_skip_saving_checkpoint(self, trainer: Trainer) -> bool:
        return not self.ready(trainer) or super()._should_skip_saving_checkpoint(trainer)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._saves = True
        try:
            super()._save_checkpoint(trainer, filepath)
        finally:
            self._saves = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._saves and not self.keeps_optimizer:
            del checkpoint["optimizer_states"]  # and Lightning refuses to train on from it

    def call(self, files: str) -> None:
        """Call the files by this pattern, ``NAME-{step}``; a resumed run comes by the same place and name again."""
        self.filename, self.auto_insert_metric_name, self._enable_version_counter = files, False, False

    def watch(self, monitor: str, mode: str) -> None:
        """Choose by this metric, of which ``max`` or ``min`` is the best; none may have been saved yet."""
        self.monitor, self.mode = monitor, mode
        self.kth_value = torch.tensor(-torch.inf if mode == "max" else torch.inf)


class DescribedBar(RichProgressBar):
    """A progress bar that describes an epoch in words of its own."""

    def describe(self, epoch: int, text: str) -> str:
        """What stands before the bar of an epoch, where Lightning says ``text``."""
        raise NotImplementedError

    def _get_train_description(self, current_epoch: int) -> str:
        return self.describe(current_epoch, super()._get_train_description(current_epoch))


class DataParallelStrategy(ModelParallelStrategy):
    """A ``ModelParallelStrategy`` whose mesh has all ranks of the run along its dimension for data."""

    def __init__(self) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes  # "auto" would be the nodes alone
        super().setup_environment()


class OpenWandbLogger(WandbLogger):
    """A ``WandbLogger`` whose W&B run is begun by the subclass."""

    def arguments(self) -> dict[str, Any]:
        """What Lightning would give ``wandb.init``, without ``anonymous``, of which W&B warns wherever it is set."""
        return {name: value for name, value in self._wandb_init.items() if name != "anonymous"}

    @property
    def begun(self) -> Any:
        """The W&B run that is logged to; ``None`` where there is none, and Lightning would begin one when asked."""
        return self._experiment

    @begun.setter
    def begun(self, experiment: Any) -> None:
        self._experiment = experiment
