"""The promises of layers that share their parameters in training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

import distill
from distill.callbacks import ShareParameters
from distill.core.utils.errors import UserError
from distill.models.saved_student import save
from distill.training.optimizer import OptimizerConfig

Make = Callable[..., Any]


@pytest.fixture
def student(classifier: Make) -> Make:
    """Of four layers."""
    return lambda seed=0, **changes: classifier("bert", seed, num_hidden_layers=4, **changes)


@pytest.fixture
def train(batches: Make, pair: Make, fit: Make) -> Make:
    """Trains a student on three equal batches an epoch, by a learning rate that knows nothing of the run's length."""

    def run(student: Any, sharing: ShareParameters, optimizer: OptimizerConfig | None = None, **limits: Any) -> Trainer:
        optimizer = optimizer or OptimizerConfig(lr=0.01, warmup=0, schedule="constant")
        arguments = {"max_steps": -1, "max_epochs": 1, "gradient_clip_val": None} | limits
        return fit(pair(student, optimizer), sharing, rows=batches(1) * 3, **arguments)

    return run


def test_the_optimizer_sees_a_shared_parameter_once_with_all_its_gradients(
    student: Make, train: Make, batches: Make
) -> None:
    model, plain = (student(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0) for _ in range(2))
    plain.bert.encoder.layer[1].load_state_dict(plain.bert.encoder.layer[0].state_dict())
    [one] = batches(1)
    nn.functional.cross_entropy(plain(**one.inputs).logits, one.labels).backward()
    weights = [layer.output.dense.weight for layer in plain.bert.encoder.layer[:2]]
    sgd = OptimizerConfig(name="sgd", momentum=0.0, lr=0.1, warmup=0, schedule="constant", weight_decay=0.0)
    trainer = train(model, ShareParameters([[1, 2]], initial="first"), sgd, max_steps=1)
    held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert len({id(p) for p in held}) == len(held) == len(list(model.parameters()))
    shared = model.bert.encoder.layer[1].output.dense.weight
    assert shared is model.bert.encoder.layer[0].output.dense.weight
    torch.testing.assert_close(shared, weights[0] - 0.1 * (weights[0].grad + weights[1].grad))


def test_shared_layers_stay_shared_in_training_and_in_the_artifact(
    tmp_path: Path, student: Make, train: Make, logits: Make
) -> None:
    model = student()
    sharing = ShareParameters(2)
    train(model, sharing)
    layers = model.bert.encoder.layer
    for first, second in ((0, 1), (2, 3)):
        for a, b in zip(layers[first].parameters(), layers[second].parameters(), strict=True):
            assert a is b
    assert layers[0].output.dense.weight is not layers[2].output.dense.weight
    steps = sharing.finish(model)
    assert steps == [{"kind": "share", "groups": [[1, 2], [3, 4]]}]
    save(model, tmp_path / "student", steps=steps)
    loaded: Any = distill.load(tmp_path / "student")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.bert.encoder.layer[0].output.dense.weight is loaded.bert.encoder.layer[1].output.dense.weight


def test_a_resumed_run_ends_bit_for_bit_like_the_undisturbed_one(tmp_path: Path, student: Make, train: Make) -> None:
    whole, half, rest = student(), student(), student(seed=4)
    train(whole, ShareParameters(3), max_epochs=2)
    train(half, ShareParameters(3)).save_checkpoint(tmp_path / "half.ckpt")
    trainer = train(rest, ShareParameters(3), resume=tmp_path / "half.ckpt", max_epochs=2)
    assert trainer.global_step == 6
    layers = rest.bert.encoder.layer
    assert layers[0].output.dense.weight is layers[2].output.dense.weight
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


@pytest.mark.parametrize("groups", [1, 0, [], [[1]], [[1, 5]], [[1, 2], [2, 3]]])
def test_groups_that_cannot_be_are_refused(groups: Any, student: Make) -> None:
    with pytest.raises(UserError) as caught:
        ShareParameters(groups).prepare(student())
    assert caught.value.key == "callbacks.ShareParameters.groups"


def test_the_start_is_the_mean_or_the_first(student: Make) -> None:
    model = student()
    first, second = (layer.output.dense.weight.clone() for layer in model.bert.encoder.layer[:2])
    ShareParameters([[1, 2]]).prepare(model)
    torch.testing.assert_close(model.bert.encoder.layer[1].output.dense.weight, (first + second) / 2)
    model = student()
    ShareParameters([[1, 2]], initial="first").prepare(model)
    assert torch.equal(model.bert.encoder.layer[1].output.dense.weight, first)
    with pytest.raises(UserError, match="one of 'mean', 'first'"):
        ShareParameters(initial="last")  # type: ignore[arg-type]
