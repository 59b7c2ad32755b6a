"""Each thing that Lightning keeps to itself does what we count on."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor, nn
from torch.utils.data import DataLoader

from distill.core.internals.lightning import (
    CheckpointOnCondition,
    DataParallelStrategy,
    DescribedBar,
    OpenWandbLogger,
    accumulates,
    batches_begun,
    batches_done,
    distributes_samples,
    end_after_batch,
    epochs_done,
    has_trainer,
    judge_after_validation,
    on_device,
    release_processes,
    set_epochs,
    settle_loops,
    start_method,
    stop_after,
)
from distill.training.processes import free_port


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.moved: list[Any] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.moved.append((batch.dtype, dataloader_idx))
        return batch + 1


class Watch(Callback):
    """Writes down what is told of each batch."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.rows: list[tuple[int, int, bool, int]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stop:
            stop_after(trainer, self.stop)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.begun, self.done = batches_begun(trainer), batches_done(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.rows.append((self.begun, self.done, accumulates(trainer), trainer.global_step))


def trainer(folder: Path, *callbacks: Callback, **given: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 2, "limit_val_batches": 0, **given},
    )


def batches(count: int = 5) -> DataLoader[Any]:
    return DataLoader(torch.ones(count, 1))  # type: ignore[arg-type]


def test_batches_and_accumulation_are_counted_over_all_epochs(tmp_path: Path) -> None:
    watch = Watch()
    trainer(tmp_path, watch, accumulate_grad_batches=2).fit(Module(), batches())
    assert [(begun, done) for begun, done, *_ in watch.rows] == [(n, n) for n in range(10)]
    # Pairs, and the odd one at the end of an epoch.
    ends = [(True, 0), (False, 1), (True, 1), (False, 2), (False, 3)]
    assert [(more, step) for _, _, more, step in watch.rows] == [*ends, *((more, step + 3) for more, step in ends)]


def test_with_one_batch_over_and_over_those_of_the_epoch_are_counted(tmp_path: Path) -> None:
    watch = Watch()
    trainer(tmp_path, watch, overfit_batches=2).fit(Module(), batches())
    assert [done for _, done, *_ in watch.rows] == [0, 1, 0, 1]


def test_training_ends_after_fewer_steps_than_it_was_laid_out_for(tmp_path: Path) -> None:
    watch = Watch(stop=3)
    run = trainer(tmp_path, watch)
    run.fit(Module(), batches())
    assert (run.global_step, len(watch.rows)) == (3, 3)


@pytest.mark.parametrize("least", [{}, {"min_epochs": 2}, {"min_steps": 8}])
def test_training_ends_after_the_batch_whatever_its_least_length(least: dict[str, int], tmp_path: Path) -> None:
    class End(Watch):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                end_after_batch(trainer)

    run = trainer(tmp_path, End(), **least)
    run.fit(Module(), batches())
    assert run.global_step == 3


def test_training_ends_after_the_epochs_that_were_set_before_it_began(tmp_path: Path) -> None:
    watch = Watch()
    run = trainer(tmp_path, watch, max_epochs=-1)
    set_epochs(run, 2)
    assert run.max_epochs == 2
    run.fit(Module(), batches())
    assert (run.current_epoch, run.global_step, run.estimated_stepping_batches) == (2, 10, 10)


@pytest.mark.parametrize(("interval", "stop"), [(None, 3), (2, 4), (1.0, 5), (None, 10)])
def test_settled_counters_lead_on_to_the_next_batch(interval: Any, stop: int, tmp_path: Path) -> None:
    """Saved as a batch begins or at the very end, and resumed: every batch once, every validation once."""

    class Save(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if batches_begun(trainer) == stop:
                self.save(trainer)

        def on_train_end(self, trainer: Trainer, *_: Any) -> None:
            if stop == 10:
                self.save(trainer)

        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
            settle_loops(trainer, checkpoint)
            self.epochs = epochs_done(checkpoint)

        def save(self, trainer: Trainer) -> None:
            trainer.save_checkpoint(tmp_path / "saved.ckpt")

    class Validated(Watch):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.rows.append((-1, -1, False, trainer.global_step))

    def fit(watch: Watch, *others: Callback, path: Path | None = None, epochs: int = 3) -> None:
        given = {"val_check_interval": interval} if interval else {}
        run = trainer(tmp_path, watch, *others, max_epochs=epochs, limit_val_batches=1, num_sanity_val_steps=0, **given)
        run.fit(Module(), batches(), batches(1), ckpt_path=path, weights_only=True)

    undisturbed, save, resumed = Validated(), Save(), Validated()
    fit(undisturbed)
    fit(Watch(), save, epochs=3 if stop < 10 else 2)
    fit(resumed, path=tmp_path / "saved.ckpt")
    assert save.epochs == stop // 5
    after = [row for row in undisturbed.rows if row[3] > stop]
    assert [row for row in resumed.rows if row[3] > stop] == after
    assert [row for row in resumed.rows if row[3] <= stop] == []


def test_what_lightning_would_do_with_samplers_and_processes_is_known(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    assert distributes_samples(run)
    assert not distributes_samples(trainer(tmp_path, use_distributed_sampler=False))
    assert release_processes(run) == []
    assert start_method(SingleDeviceStrategy()) == "popen"
    assert start_method(DDPStrategy()) == "popen"
    assert start_method(DDPStrategy(start_method="spawn")) == "spawn"


def test_processes_that_were_started_are_handed_over_and_no_longer_watched(tmp_path: Path) -> None:
    run, started = trainer(tmp_path), object()
    launcher: Any = _SubprocessScriptLauncher(SimpleNamespace(), 2, 1)  # type: ignore[arg-type]
    launcher.procs.append(started)
    run.strategy._launcher = launcher
    assert release_processes(run) == [started]
    assert launcher.procs == []


def test_a_batch_goes_the_way_of_one_that_is_validated(tmp_path: Path) -> None:
    class Get(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.got = on_device(trainer, pl_module, torch.ones(2))

    class Keep(Module):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.batch = batch

    module, get = Keep(), Get()
    assert not has_trainer(module)
    trainer(tmp_path, get, limit_val_batches=1, precision="64-true").validate(module, DataLoader(torch.ones(1, 2)))  # type: ignore[arg-type]
    assert has_trainer(module)
    assert torch.equal(get.got, module.batch[0])
    assert get.got.dtype == module.batch.dtype == torch.float64
    assert module.moved == 2 * [(torch.float64, 0)]


def test_a_checkpoint_is_saved_only_when_it_is_ready(tmp_path: Path) -> None:
    class Late(CheckpointOnCondition):
        def ready(self, trainer: Trainer) -> bool:
            return trainer.global_step >= 8

    saved = Late(dirpath=tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=2)
    trainer(tmp_path, saved).fit(Module(), batches())
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=10.ckpt", "step=8.ckpt"]


@pytest.mark.parametrize("keeps", [True, False])
def test_one_checkpoint_may_leave_out_the_optimizer_and_another_keeps_it(keeps: bool, tmp_path: Path) -> None:
    class Always(CheckpointOnCondition):
        def ready(self, trainer: Trainer) -> bool:
            return True

    saved, other = Always(dirpath=tmp_path / "one"), ModelCheckpoint(dirpath=tmp_path / "other")
    saved.keeps_optimizer = keeps
    trainer(tmp_path, saved, other).fit(Module(), batches())
    [one], [two] = (tmp_path / "one").iterdir(), (tmp_path / "other").iterdir()
    assert ("optimizer_states" in torch.load(one, weights_only=True)) == keeps
    assert len(torch.load(two, weights_only=True)["optimizer_states"]) == 1
    again = {path: trainer(tmp_path, max_epochs=3) for path in (one, two)}
    again[two].fit(Module(), batches(), ckpt_path=two, weights_only=True)
    refusal: Any = nullcontext() if keeps else pytest.raises(KeyError, match="contains only the model")
    with refusal:  # moments that are not there are no zeros
        again[one].fit(Module(), batches(), ckpt_path=one, weights_only=True)


def test_all_ranks_lie_along_the_dimension_for_data(leaves_no_trace: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric.plugins.environments import LightningEnvironment
    from pytorch_lightning.accelerators import CPUAccelerator

    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    strategy: Any = DataParallelStrategy()
    strategy.accelerator, strategy.parallel_devices = CPUAccelerator(), [torch.device("cpu")]
    strategy.cluster_environment = LightningEnvironment()
    strategy.connect(Module())
    strategy.setup_environment()
    assert strategy.device_mesh["data_parallel"].size() == 1
    assert strategy.device_mesh["tensor_parallel"].size() == 1
    sizes: list[int] = []
    monkeypatch.setattr(ModelParallelStrategy, "setup_environment", lambda self: sizes.append(self._data_parallel_size))
    strategy.parallel_devices, strategy.num_nodes = 2 * [torch.device("cpu")], 3
    strategy.setup_environment()
    assert sizes == [6]


def test_an_epoch_is_described_in_words_of_our_own() -> None:
    class Bar(DescribedBar):
        def describe(self, epoch: int, text: str) -> str:
            return f"{epoch}: {text}"

    bar = Bar()
    bar._trainer = SimpleNamespace(max_epochs=3)  # type: ignore[assignment]
    assert bar._get_train_description(1).startswith("1: Epoch 1/2")


def test_a_wandb_logger_takes_a_run_that_was_begun_elsewhere(tmp_path: Path) -> None:
    logger = OpenWandbLogger(name="n", id="i", project="p", group="g", tags=["t"], save_dir=tmp_path)
    given = logger.arguments()
    assert {key: given[key] for key in ("name", "id", "project", "group", "tags", "dir")} == {
        "name": "n",
        "id": "i",
        "project": "p",
        "group": "g",
        "tags": ["t"],
        "dir": str(tmp_path),
    }
    assert "anonymous" not in given
    assert logger.begun is None
    logger.begun = run = SimpleNamespace(id="i", log=lambda *_: None)
    assert logger.begun is run
    assert logger.experiment is run


@pytest.mark.parametrize("kind", [ModelCheckpoint, EarlyStopping])
def test_what_judges_a_metric_does_so_after_every_validation(kind: Any, tmp_path: Path) -> None:
    class Model(BoringModel):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/x", torch.tensor(0.0))

    judged: list[int] = []
    hook = "_save_topk_checkpoint" if kind is ModelCheckpoint else "_run_early_stopping_check"

    class Counting(kind):  # type: ignore[misc]
        ...

    setattr(Counting, hook, lambda self, trainer, *_: judged.append(trainer.global_step))
    callback = Counting(monitor="val/x")
    judge_after_validation([callback])
    given: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    given |= {"default_root_dir": tmp_path, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    checkpoints = kind is ModelCheckpoint
    Trainer(
        max_epochs=1,
        limit_train_batches=3,
        limit_val_batches=1,
        val_check_interval=1,
        callbacks=[callback],
        enable_checkpointing=checkpoints,
        **given,
    ).fit(Model())
    assert judged == [1, 2, 3]
