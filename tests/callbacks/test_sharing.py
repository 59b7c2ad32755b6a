"""The promises of layers that share their parameters in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForSequenceClassification

import distill
from distill.artifact import save
from distill.callbacks import Determinism, ShareParameters
from distill.errors import UserError
from distill.module import Distillation
from distill.optim import OptimizerConfig
from distill.signals import Batch
from distill.tasks import TextClassification


def classifier(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
    config = AutoConfig.for_model("bert", vocab_size=30, **sizes)
    config.id2label, config.label2id = {0: "a", 1: "b"}, {"a": 0, "b": 1}
    return AutoModelForSequenceClassification.from_config(config).eval()


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 30, (4, 6), generator=generator)
    return Batch({"input_ids": ids}, labels=torch.randint(0, 2, (4,), generator=generator))


def fit(
    folder: Path, student: Any, sharing: ShareParameters, resume: Any = None, optimizer: Any = None, **limits: Any
) -> Trainer:
    config = optimizer or OptimizerConfig(lr=0.01, warmup=0, schedule="constant")
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[sharing, Determinism()],
        **({"max_epochs": 2 if resume else 1} | limits),
    )
    module = Distillation(student, TextClassification(["a", "b"]), optimizer=config)
    trainer.fit(module, DataLoader([batch()] * 3, batch_size=None), ckpt_path=resume, weights_only=True)  # type: ignore[arg-type]
    return trainer


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.eval()(**batch().inputs).logits
        return out


def test_the_optimizer_sees_a_shared_parameter_once_with_all_its_gradients(tmp_path: Path) -> None:
    student, plain = classifier(), classifier()
    for model in (student, plain):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    plain.bert.encoder.layer[1].load_state_dict(plain.bert.encoder.layer[0].state_dict())
    one = batch()
    plain.train()
    nn.functional.cross_entropy(plain(**one.inputs).logits, one.labels).backward()
    weights = [layer.output.dense.weight for layer in plain.bert.encoder.layer[:2]]
    sgd = OptimizerConfig(name="sgd", momentum=0.0, lr=0.1, warmup=0, schedule="constant", weight_decay=0.0)
    trainer = fit(tmp_path, student, ShareParameters([[1, 2]], initial="first"), optimizer=sgd, max_steps=1)
    held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert len({id(p) for p in held}) == len(held) == len(list(student.parameters()))
    shared = student.bert.encoder.layer[1].output.dense.weight
    assert shared is student.bert.encoder.layer[0].output.dense.weight
    torch.testing.assert_close(shared, weights[0] - 0.1 * (weights[0].grad + weights[1].grad))


def test_shared_layers_stay_shared_in_training_and_in_the_artifact(tmp_path: Path) -> None:
    student = classifier()
    sharing = ShareParameters(2)
    fit(tmp_path, student, sharing)
    layers = student.bert.encoder.layer
    for first, second in ((0, 1), (2, 3)):
        for a, b in zip(layers[first].parameters(), layers[second].parameters(), strict=True):
            assert a is b
    assert layers[0].output.dense.weight is not layers[2].output.dense.weight
    steps = sharing.finish(student)
    assert steps == [{"kind": "share", "groups": [[1, 2], [3, 4]]}]
    save(tmp_path / "student", student, steps=steps)
    loaded: Any = distill.load(tmp_path / "student")
    assert torch.equal(logits(loaded), logits(student))
    assert loaded.bert.encoder.layer[0].output.dense.weight is loaded.bert.encoder.layer[1].output.dense.weight


def test_a_resumed_run_ends_bit_for_bit_like_the_undisturbed_one(tmp_path: Path) -> None:
    whole, half, rest = classifier(), classifier(), classifier(seed=4)
    trainer = fit(tmp_path, half, ShareParameters(3))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    trainer = fit(tmp_path, rest, ShareParameters(3), resume=str(tmp_path / "half.ckpt"))
    assert trainer.global_step == 6
    layers = rest.bert.encoder.layer
    assert layers[0].output.dense.weight is layers[2].output.dense.weight
    module = Distillation(
        whole, TextClassification(["a", "b"]), optimizer=OptimizerConfig(lr=0.01, warmup=0, schedule="constant")
    )
    Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[ShareParameters(3), Determinism()],
        max_epochs=2,
    ).fit(module, DataLoader([batch()] * 3, batch_size=None))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


@pytest.mark.parametrize("groups", [1, 0, [], [[1]], [[1, 5]], [[1, 2], [2, 3]]])
def test_groups_that_cannot_be_are_refused(groups: Any) -> None:
    with pytest.raises(UserError) as caught:
        ShareParameters(groups).prepare(classifier())
    assert caught.value.key == "callbacks.ShareParameters.groups"


def test_the_start_is_the_mean_or_the_first() -> None:
    student = classifier()
    first, second = (layer.output.dense.weight.clone() for layer in student.bert.encoder.layer[:2])
    ShareParameters([[1, 2]]).prepare(student)
    torch.testing.assert_close(student.bert.encoder.layer[1].output.dense.weight, (first + second) / 2)
    student = classifier()
    ShareParameters([[1, 2]], initial="first").prepare(student)
    assert torch.equal(student.bert.encoder.layer[1].output.dense.weight, first)
    with pytest.raises(UserError, match="mean or first"):
        ShareParameters(initial="last")  # type: ignore[arg-type]
