"""The promises of the optimizer and the learning rate's course."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill.core.utils.errors import UserError
from distill.training.optimizer import OptimizerConfig, learning_rate_factor, make_optimizer


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("linear", 0, 1 / 11),
        ("linear", 9, 10 / 11),
        ("linear", 10, 1.0),
        ("linear", 55, 0.5),
        ("linear", 100, 0.0),
        ("cosine", 55, 0.5),
        ("cosine", 32, (1 + 2**0.5 / 2) / 2),
        ("constant", 99, 1.0),
    ],
)
def test_learning_rate_at_points_computed_by_hand(schedule: str, step: int, expected: float) -> None:
    config = OptimizerConfig(schedule=schedule, warmup=10)  # type: ignore[arg-type]
    total = 98 if (schedule, step) == ("cosine", 32) else 100  # a quarter of the way from 10 to 98
    assert learning_rate_factor(config, step, total) == pytest.approx(expected)


def test_the_learning_rate_ends_where_it_should() -> None:
    assert learning_rate_factor(OptimizerConfig(end=0.1, warmup=0), 50, 50) == pytest.approx(0.1)


def test_warm_up_as_a_fraction_is_that_part_of_the_run() -> None:
    config = OptimizerConfig(warmup=0.25)
    assert learning_rate_factor(config, 24, 100) < 1
    assert learning_rate_factor(config, 25, 100) == 1


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    decayed, spared = make_optimizer(OptimizerConfig(weight_decay=0.1), [model]).param_groups
    assert [p.dim() for p in decayed["params"]] == [2]
    assert {p.dim() for p in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_frozen_parameters_are_left_out_and_all_frozen_is_refused() -> None:
    model = nn.Linear(2, 3).requires_grad_(False)
    with pytest.raises(UserError, match="nothing is trained"):
        make_optimizer(OptimizerConfig(), [model])


def test_fused_adamw_steps_like_the_plain_one() -> None:
    def trained(fused: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        optimizer = make_optimizer(OptimizerConfig(lr=0.1), [model])
        if not fused:
            optimizer = torch.optim.AdamW(
                [{"params": [model.weight], "weight_decay": 0.01}, {"params": [model.bias], "weight_decay": 0.0}],
                lr=0.1,
            )
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
        return model.weight.detach()

    torch.testing.assert_close(trained(True), trained(False))


@pytest.mark.parametrize(
    ("key", "value"), [("lr", 0.0), ("weight_decay", -1.0), ("warmup", -1), ("warmup", 1.5), ("end", 2.0)]
)
def test_settings_that_cannot_work_are_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"model\.optimizer\.{key} = {value}"):
        OptimizerConfig(**{key: value})  # type: ignore[arg-type]
