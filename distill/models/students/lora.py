"""What YAML says of an adapter of low rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill.core.argument_types import refuse_types
from distill.core.utils.errors import UserError

__all__ = ["LoraConfig"]


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """An adapter beside frozen weights: W x + b becomes W x + b + s B A x, of which A and B alone are trained.

    W is ``[out, in]``, A ``[r, in]``, B ``[out, r]``, and s = lora_alpha / r. B begins at zero, so the student
    begins as its base. The names are those of peft's own configuration.

    Attributes:
        r: The rank.
        lora_alpha: What s is made of.
        lora_dropout: Share of x that is dropped before A in training, in [0, 1).
        target_modules: The linear maps that get one, by their names or the ends of these (``q_proj``);
            ``all-linear`` are all but the head.
        modules_to_save: Modules that are trained in full beside it, by the ends of their names; if not given the heads
            of classifiers, and none of a language model.
        use_rslora: s = lora_alpha / sqrt(r), which keeps the size of updates at high ranks.

    Raises:
        UserError: if a value is out of range.

    References:
        Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
        Kalajdzievski: A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023.
    """

    r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    modules_to_save: list[str] | None = None
    use_rslora: bool = False

    def __post_init__(self) -> None:
        refuse_types(LoraConfig, vars(self), "model.student.lora.")
        rules = (
            ("r", self.r, self.r >= 1, "must be 1 or more", "write 8"),
            ("lora_alpha", self.lora_alpha, self.lora_alpha >= 1, "must be 1 or more", "write 16"),
            ("lora_dropout", self.lora_dropout, 0 <= self.lora_dropout < 1, "must lie in [0, 1)", "write 0.05"),
            ("target_modules", self.target_modules, bool(self.target_modules), "names no layer", "write all-linear"),
        )
        for name, value, holds, problem, hint in rules:
            if not holds:
                raise UserError(problem, key=f"model.student.lora.{name}", value=value, hint=hint)
