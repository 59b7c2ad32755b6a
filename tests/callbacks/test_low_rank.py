"""The promises of low-rank training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForSequenceClassification

import distill
from distill.artifact import note, save
from distill.callbacks import Determinism, LowRank, ShareParameters, StructuredPruning
from distill.errors import UserError
from distill.losses import CrossEntropy, FitNetHint, HintonKL
from distill.module import Distillation
from distill.optim import OptimizerConfig
from distill.signals import Batch
from distill.structure.low_rank import LowRankLinear
from distill.tasks import TextClassification

SIZES = {
    "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 24, "pad_token_id": 0},
}


def classifier(family: str = "bert", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, vocab_size=30, **SIZES[family])
    config.id2label, config.label2id = {0: "a", 1: "b"}, {"a": 0, "b": 1}
    return AutoModelForSequenceClassification.from_config(config).eval()


def batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 30, (4, 6), generator=generator)
    labels = torch.randint(0, 2, (4,), generator=generator)
    return Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels=labels)


def fit(folder: Path, student: Any, *callbacks: Callback, resume: str | None = None, **arguments: Any) -> Trainer:
    module = Distillation(
        student,
        TextClassification(["a", "b"]),
        classifier(seed=3),
        [CrossEntropy(), HintonKL()] + ([FitNetHint({1: 1})] if student.config.model_type == "bert" else []),
        OptimizerConfig(lr=0.01, warmup=0),
    )
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, Determinism()],
        **({"max_steps": 6} | arguments),
    )
    trainer.fit(module, DataLoader([batch()] * 8, batch_size=None), ckpt_path=resume, weights_only=True)  # type: ignore[arg-type]
    return trainer


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(**batch().inputs).logits
        return out


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_trained_factors_are_saved_and_reload_identical(tmp_path: Path, family: str) -> None:
    student = classifier(family)
    before, low_rank = parameters(student), LowRank(rank=3)
    fit(tmp_path, student, low_rank)
    note(student, *low_rank.finish(student))
    if family == "bert":  # of each layer four maps 16 x 16 and two 16 x 24, and the pooler but not the head stay out
        assert before - parameters(student) == 2 * (4 * (256 - 3 * 32) + 2 * (384 - 3 * 40)) + 256 - 3 * 32
    else:  # c_attn 16 x 48, c_proj 16 x 16, and two of 16 x 24
        assert before - parameters(student) == 2 * ((768 - 3 * 64) + (256 - 3 * 32) + 2 * (384 - 3 * 40))
    save(tmp_path / "student", student)
    loaded = distill.load(tmp_path / "student")
    assert torch.equal(logits(loaded), logits(student))
    assert parameters(loaded) == parameters(student)
    assert parameters(copy.deepcopy(loaded)) == parameters(student)


def test_weights_of_low_rank_keep_their_values() -> None:
    student = classifier()
    linear = student.bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        linear.weight.copy_(torch.randn(16, 2) @ torch.randn(2, 16))
    before = logits(student)
    low_rank = LowRank(energy=0.9999, include=[r"0\.attention\.self\.query"])
    low_rank.prepare(student)
    torch.testing.assert_close(logits(student), before, rtol=1e-4, atol=1e-5)
    steps = low_rank.finish(student)
    assert steps == [{"kind": "low_rank", "modules": {"bert.encoder.layer.0.attention.self.query": 2}}]


def test_maps_that_would_not_become_smaller_stay_whole() -> None:
    student = classifier()
    LowRank(rank=9).prepare(student)  # 9 * 32 > 256, and 9 * 40 < 384
    kinds = {name.rpartition("layer.0.")[2] for name, m in student.named_modules() if isinstance(m, LowRankLinear)}
    assert {kind for kind in kinds if "layer.1" not in kind} == {"intermediate.dense", "output.dense"}


def test_a_second_run_factorises_nothing_twice(tmp_path: Path) -> None:
    student = classifier()
    low_rank = LowRank(rank=3)
    low_rank.prepare(student)
    names = set(student.state_dict())
    low_rank.prepare(student)
    assert set(student.state_dict()) == names
    note(student, *low_rank.finish(student))
    assert low_rank.finish(student) == []  # what is recorded already is not said again


def test_a_resumed_run_ends_bit_for_bit_like_the_undisturbed_one(tmp_path: Path) -> None:
    student = classifier()
    fit(tmp_path, student, LowRank(rank=3), max_epochs=1, max_steps=-1)
    middle = classifier()
    fit(tmp_path, middle, LowRank(rank=3), Half(tmp_path / "half.ckpt"), max_epochs=1, max_steps=-1)
    rest = classifier(seed=7)
    fit(tmp_path, rest, LowRank(rank=3), Skip(), resume=str(tmp_path / "half.ckpt"), max_epochs=1, max_steps=-1)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), rest.parameters(), strict=True))


class Half(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.path)


class Skip(Callback):
    """A plain loader begins anew: end after the batches that were left."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= 8


def test_low_rank_sharing_and_removal_go_together(tmp_path: Path) -> None:
    student = classifier()
    callbacks = [ShareParameters(), LowRank(rank=3), StructuredPruning(0.5, 0.5, end=4, every_n_steps=1)]
    fit(tmp_path, student, *callbacks)
    masked = logits(student)
    for callback in callbacks:
        note(student, *callback.finish(student))
    torch.testing.assert_close(logits(student), masked, rtol=1e-6, atol=1e-6)
    first, second = student.bert.encoder.layer
    assert first.attention.self.query.up.weight is second.attention.self.query.up.weight
    assert first.attention.self.query.up.weight.shape == (8, 3)
    assert second.output.dense.down.weight.shape == (3, 12)
    save(tmp_path / "student", student)
    loaded = distill.load(tmp_path / "student")
    assert torch.equal(logits(loaded), logits(student))
    assert parameters(loaded) == parameters(student)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({}, ""),
        ({"rank": 3, "energy": 0.5}, ""),
        ({"rank": 0}, "rank"),
        ({"rank": 17}, "rank"),  # the maps have ranks up to 16
        ({"rank": 10}, "rank"),  # 10 * 40 > 384
        ({"energy": 1.0}, "energy"),
        ({"energy": 0.0}, "energy"),
        ({"energy": 0.9999}, "energy"),
        ({"rank": 3, "include": ["quary"]}, "include.0"),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        LowRank(**arguments).prepare(classifier())
    assert caught.value.key == f"callbacks.LowRank.{key}".rstrip(".")
