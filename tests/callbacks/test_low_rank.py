"""The promises of low-rank training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import nn

import distill
from distill.callbacks import LowRank, ShareParameters, StructuredPruning
from distill.compression.structure.low_rank import LowRankLinear
from distill.core.record import note
from distill.core.utils.errors import UserError
from distill.losses import CrossEntropy, FitNetHint, HintonKL
from distill.models.saved_student import save

Make = Callable[..., Any]

SIZES = {
    "bert": {"num_hidden_layers": 2, "intermediate_size": 24},
    "gpt2": {"n_layer": 2, "n_inner": 24},
}


@pytest.fixture
def student(classifier: Make) -> Make:
    """Of two layers, whose maps are 16 x 16 and 16 x 24, and fused 16 x 48 in GPT-2."""
    return lambda family="bert", seed=0: classifier(family, seed, **SIZES[family])


@pytest.fixture
def distil(classifier: Make, batches: Make, pair: Make, fit: Make) -> Make:
    """Trains a student on one batch, with hints where it has the teacher's architecture."""

    def run(student: Any, *callbacks: Callback, **arguments: Any) -> Trainer:
        hints = [FitNetHint({1: 1})] if student.config.model_type == "bert" else []
        module = pair(student, teacher=classifier(seed=3), losses=[CrossEntropy(), HintonKL(), *hints])
        return fit(module, *callbacks, rows=batches(1) * 8, **arguments)

    return run


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_trained_factors_are_saved_and_reload_identical(
    tmp_path: Path, family: str, student: Make, distil: Make, logits: Make
) -> None:
    model = student(family)
    before, low_rank = parameters(model), LowRank(rank=3)
    distil(model, low_rank, max_steps=6)
    note(model, *low_rank.finish(model))
    if family == "bert":  # of each layer four maps 16 x 16 and two 16 x 24, and the pooler but not the head stay out
        assert before - parameters(model) == 2 * (4 * (256 - 3 * 32) + 2 * (384 - 3 * 40)) + 256 - 3 * 32
    else:  # c_attn 16 x 48, c_proj 16 x 16, and two of 16 x 24
        assert before - parameters(model) == 2 * ((768 - 3 * 64) + (256 - 3 * 32) + 2 * (384 - 3 * 40))
    save(model, tmp_path / "student")
    loaded = distill.load(tmp_path / "student")
    assert torch.equal(logits(loaded), logits(model))
    assert parameters(loaded) == parameters(model)
    assert parameters(copy.deepcopy(loaded)) == parameters(model)


def test_weights_of_low_rank_keep_their_values(student: Make, logits: Make) -> None:
    model = student()
    linear = model.bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        linear.weight.copy_(torch.randn(16, 2) @ torch.randn(2, 16))
    before = logits(model)
    low_rank = LowRank(energy=0.9999, include=[r"0\.attention\.self\.query"])
    low_rank.prepare(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)
    steps = low_rank.finish(model)
    assert steps == [{"kind": "low_rank", "modules": {"bert.encoder.layer.0.attention.self.query": 2}}]


def test_maps_that_would_not_become_smaller_stay_whole(student: Make) -> None:
    model = student()
    LowRank(rank=9).prepare(model)  # 9 * 32 > 256, and 9 * 40 < 384
    kinds = {name.rpartition("layer.0.")[2] for name, m in model.named_modules() if isinstance(m, LowRankLinear)}
    assert {kind for kind in kinds if "layer.1" not in kind} == {"intermediate.dense", "output.dense"}


def test_a_second_run_factorizes_nothing_twice(student: Make) -> None:
    model = student()
    low_rank = LowRank(rank=3)
    low_rank.prepare(model)
    names = set(model.state_dict())
    low_rank.prepare(model)
    assert set(model.state_dict()) == names
    note(model, *low_rank.finish(model))
    assert low_rank.finish(model) == []  # what is recorded already is not said again


def test_a_resumed_run_ends_bit_for_bit_like_the_undisturbed_one(tmp_path: Path, student: Make, distil: Make) -> None:
    whole, middle, rest = student(), student(), student(seed=7)
    distil(whole, LowRank(rank=3))
    distil(middle, LowRank(rank=3), Half(tmp_path / "half.ckpt"))
    distil(rest, LowRank(rank=3), resume=tmp_path / "half.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


class Half(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.path)


def test_low_rank_sharing_and_removal_go_together(tmp_path: Path, student: Make, distil: Make, logits: Make) -> None:
    model = student()
    callbacks = [ShareParameters(), LowRank(rank=3), StructuredPruning(0.5, 0.5, end=4, every_n_steps=1)]
    distil(model, *callbacks, max_steps=6)
    masked = logits(model)
    for callback in callbacks:
        note(model, *callback.finish(model))
    torch.testing.assert_close(logits(model), masked, rtol=1e-6, atol=1e-6)
    first, second = model.bert.encoder.layer
    assert first.attention.self.query.up.weight is second.attention.self.query.up.weight
    assert first.attention.self.query.up.weight.shape == (8, 3)
    assert second.output.dense.down.weight.shape == (3, 12)
    save(model, tmp_path / "student")
    loaded = distill.load(tmp_path / "student")
    assert torch.equal(logits(loaded), logits(model))
    assert parameters(loaded) == parameters(model)


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
def test_what_cannot_work_is_refused(arguments: dict[str, Any], key: str, student: Make) -> None:
    with pytest.raises(UserError) as caught:
        LowRank(**arguments).prepare(student())
    assert caught.value.key == f"callbacks.LowRank.{key}".rstrip(".")


def test_weights_that_are_no_numbers_are_refused_by_name() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    net[1].weight.data[0, :3] = float("nan")
    with pytest.raises(UserError, match=r"LowRank = '1': 3 of its 64 weights are NaN"):
        LowRank(rank=2).prepare(net)


def test_a_bias_that_others_write_is_refused_by_name() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    nn.utils.parametrizations.weight_norm(net[1], "bias", dim=0)
    with pytest.raises(UserError, match=r"LowRank = '1': its bias is written anew"):
        LowRank(rank=2).prepare(net)


def test_a_map_of_zeros_stays_whole_and_can_learn() -> None:
    """As the last of a residual branch often starts; two factors of zeros have gradients of zeros, for ever."""
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    net[1].weight.data.zero_()
    LowRank(rank=2).prepare(net)
    assert [type(layer) for layer in net] == [LowRankLinear, nn.Linear, nn.Linear]
