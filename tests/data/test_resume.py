from __future__ import annotations

import json

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from distill.data.text import TextData

EPOCHS, BATCHES = 3, 5


class Recorder(LightningModule):
    """Trains one weight and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append(batch.ids)
        return (self.weight - len(batch.ids)) ** 2

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        # Asks for the loader before the checkpoint's progress is restored, as a learning-rate schedule does.
        self.total = self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), 0.1)


class Keep(ModelCheckpoint):
    """Keeps every checkpoint; several of them stand side by side."""

    @property
    def state_key(self):
        return str(self.filename)


def fit(data, folder, checkpoint=None, **options):
    seed_everything(0)
    keep = {"save_top_k": -1, "dirpath": folder}
    callbacks = [
        Keep(filename="step-{step}", every_n_train_steps=options.get("accumulate_grad_batches", 1), **keep),
        Keep(filename="epoch-{step}", every_n_epochs=1, save_on_train_epoch_end=True, **keep),
        Keep(filename="validated-{step}", every_n_epochs=1, save_on_train_epoch_end=False, **keep),
    ]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1 if "max_steps" in options else EPOCHS,
        callbacks=callbacks if checkpoint is None else [],
        logger=False,
        enable_checkpointing=checkpoint is None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **options,
    )
    module = Recorder()
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return module, trainer


def make_data(text_folder, tokenizer, **options):
    return TextData(text_folder, tokenizer=tokenizer, batch_size=30, max_length=20, **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"val_check_interval": 2}, marks=pytest.mark.slow),
        pytest.param({"accumulate_grad_batches": 2}, marks=pytest.mark.slow),
        {"max_steps": 13},
        {"limit_val_batches": 0, "max_steps": 13},
    ],
    ids=["plain", "validation within the epoch", "accumulation", "steps", "steps without validation"],
)
def test_a_run_resumed_anywhere_sees_the_batches_of_an_undisturbed_one(
    text_folder, tiny_tokenizer_dir, tmp_path, options
):
    whole, _ = fit(make_data(text_folder, tiny_tokenizer_dir), tmp_path, **options)
    per_epoch = -(-BATCHES // options.get("accumulate_grad_batches", 1))
    assert whole.total == options.get("max_steps", EPOCHS * per_epoch)
    assert len(whole.seen) == options.get("max_steps", EPOCHS * BATCHES)
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) >= 10
    for checkpoint in checkpoints:
        steps = torch.load(checkpoint, weights_only=True)["global_step"]
        epochs, rest = divmod(steps, per_epoch)
        done = epochs * BATCHES + rest * options.get("accumulate_grad_batches", 1)
        resumed, _ = fit(make_data(text_folder, tiny_tokenizer_dir), tmp_path, str(checkpoint), **options)
        assert resumed.seen == whole.seen[done:], checkpoint.name
        assert resumed.total == whole.total


@pytest.mark.filterwarnings("ignore")
def test_a_run_resumed_with_workers_sees_the_batches_of_an_undisturbed_one(text_folder, tiny_tokenizer_dir, tmp_path):
    whole, _ = fit(make_data(text_folder, tiny_tokenizer_dir), tmp_path)
    for done in (3, 7):
        [checkpoint] = tmp_path.glob(f"step-step={done}.ckpt")
        data = make_data(text_folder, tiny_tokenizer_dir, num_workers=2)
        resumed, _ = fit(data, tmp_path, str(checkpoint))
        assert resumed.seen == whole.seen[done:]


@pytest.mark.filterwarnings("error:.*not resumable")
def test_lightning_does_not_warn_that_the_loader_cannot_resume(text_folder, tiny_tokenizer_dir, tmp_path):
    fit(make_data(text_folder, tiny_tokenizer_dir), tmp_path)
    fit(make_data(text_folder, tiny_tokenizer_dir), tmp_path, str(next(tmp_path.glob("step-step=7.ckpt"))))


def test_overfitting_sees_the_same_batches_every_epoch(text_folder, tiny_tokenizer_dir, tmp_path):
    module, _ = fit(make_data(text_folder, tiny_tokenizer_dir), tmp_path, overfit_batches=2)
    assert module.seen == module.seen[:2] * EPOCHS


def test_a_shortened_epoch_is_continued_by_the_next(text_folder, tiny_tokenizer_dir, tmp_path):
    whole, _ = fit(make_data(text_folder, tiny_tokenizer_dir), tmp_path)
    short, _ = fit(make_data(text_folder, tiny_tokenizer_dir), tmp_path, limit_train_batches=3)
    assert short.seen == whole.seen[: 3 * EPOCHS]


def test_a_loader_taken_after_training_starts_from_the_front(text_folder, tiny_tokenizer_dir, tmp_path):
    data = make_data(text_folder, tiny_tokenizer_dir)
    fit(data, tmp_path)
    assert len(list(data.train_dataloader())) == BATCHES


class RankRecorder(Recorder):
    """Writes what its rank was shown, which no other process can see."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        (self.folder / f"rank-{self.global_rank}.json").write_text(json.dumps(self.seen))


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_share_every_epoch_and_resume_within_it(text_folder, tiny_tokenizer_dir, tmp_path):
    def seen(checkpoint=None):
        trainer = Trainer(
            accelerator="cpu",
            devices=2,
            strategy=DDPStrategy(process_group_backend="gloo", start_method="fork"),
            use_distributed_sampler=False,
            max_epochs=2,
            callbacks=[ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = make_data(text_folder, tiny_tokenizer_dir, splits={"train": "train"})
        trainer.fit(RankRecorder(tmp_path), data, ckpt_path=checkpoint, weights_only=True)
        return [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]

    whole = seen()
    assert [len(rank) for rank in whole] == [6, 6]
    for epoch in (slice(0, 3), slice(3, 6)):
        assert sorted(row for rank in whole for batch in rank[epoch] for row in batch) == list(range(150))
    assert seen(str(tmp_path / "step=4.ckpt")) == [rank[4:] for rank in whole]
