"""The optimizer and the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from distill.core.argument_types import refuse_types
from distill.core.idle_settings import Idle, refuse_idle
from distill.core.internals.torch import clip_despite_fusing
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount

__all__ = [
    "OptimizerConfig",
    "check_warmup",
    "learning_rate_factor",
    "make_optimizer",
    "make_scheduler",
]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule.

    Attributes:
        name: ``adamw`` (Loshchilov & Hutter 2019; fused, one pass over the weights) or ``sgd``.
        lr: Peak learning rate.
        weight_decay: Decoupled for AdamW; not applied to biases and norms.
        betas: Of AdamW.
        momentum: Of SGD.
        warmup: Linear warm-up from 0: steps (integer), or a fraction of the run (float in [0, 1)).
        schedule: After the warm-up: ``linear`` or ``cosine`` to ``end`` times the peak, or ``constant``.
        end: Final learning rate as a fraction of the peak.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 5e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    warmup: int | float = 0.06
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    end: float = 0.0

    def __post_init__(self) -> None:
        refuse_types(OptimizerConfig, vars(self), "model.optimizer.")
        rules = (
            ("lr", self.lr, self.lr > 0, "must be greater than 0"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0, "must be 0 or more"),
            ("warmup", self.warmup, self.warmup >= 0, "must be 0 or more"),
            ("end", self.end, 0 <= self.end <= 1, "must lie in [0, 1]"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "must lie in [0, 1)"),
            ("betas", list(self.betas), all(0 <= beta < 1 for beta in self.betas), "must lie in [0, 1), both"),
            ("lr", self.lr, math.isfinite(self.lr), "must be a finite number"),
            ("weight_decay", self.weight_decay, math.isfinite(self.weight_decay), "must be a finite number"),
        )
        for key, value, holds, problem in rules:
            if not holds:
                raise UserError(problem, key=f"model.optimizer.{key}", value=value, hint=f"give another {key}")
        idle = (
            Idle("betas", self.name == "sgd", "sgd", "set momentum, or take adamw"),
            Idle("momentum", self.name == "adamw", "adamw", "set betas, or take sgd"),
            Idle("end", self.schedule == "constant", "schedule: constant", "take linear or cosine"),
        )
        refuse_idle(OptimizerConfig, vars(self), idle, "model.optimizer.")
        if isinstance(self.warmup, float) and self.warmup >= 1:
            raise UserError(
                "a fraction of the run must be less than 1",
                key="model.optimizer.warmup",
                value=self.warmup,
                hint="give an integer for a number of steps",
            )


def check_warmup(config: OptimizerConfig, total_steps: int) -> None:
    """Refuse a warm-up that takes the whole run: its learning rate would never be reached.

    Raises:
        UserError: saying how long the run is.
    """
    if isinstance(config.warmup, int) and config.warmup and config.warmup >= total_steps:
        problem = f"the run has {amount(total_steps, 'step')}, and would never reach its learning rate"
        hint = "give fewer steps, or a fraction of the run: 0.06"
        raise UserError(problem, key="model.optimizer.warmup", value=config.warmup, hint=hint)


def learning_rate_factor(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of optimizer step ``step`` (0 is the first) over its peak; a pure function of the step."""
    warmup = config.warmup if isinstance(config.warmup, int) else math.ceil(config.warmup * total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    left = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.end + (1 - config.end) * left


def make_scheduler(config: OptimizerConfig, optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """What has ``optimizer`` follow the course of the learning rate.

    Raises:
        UserError: if the warm-up takes the whole run.
    """
    check_warmup(config, total_steps)
    return LambdaLR(optimizer, partial(learning_rate_factor, config, total_steps=total_steps))


def make_optimizer(config: OptimizerConfig, modules: Iterable[nn.Module]) -> Optimizer:
    """An optimizer over the trainable parameters of ``modules``: matrices decay, biases and norms do not."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise UserError(
            "nothing is trained", key="model.student.freeze", hint="freeze fewer of the student's parameters"
        )
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum)
    fused = all(p.device.type in ("cpu", "cuda") and torch.is_floating_point(p) for p in parameters)
    optimizer = AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
    clip_despite_fusing(optimizer)
    return optimizer
