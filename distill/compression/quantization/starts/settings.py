"""How quantized weights are started."""

from __future__ import annotations

from dataclasses import dataclass

from distill.core.idle_settings import Idle, refuse_idle
from distill.core.utils.errors import UserError

__all__ = ["EQUALIZERS", "METHODS", "ROUNDINGS", "Start"]

EQUALIZERS = ("smoothquant", "awq")
"""What scales channels before rounding."""

ROUNDINGS = ("rtn", "mse", "gptq", "adaround")
"""How weights are rounded, from the simplest on."""

METHODS = (*ROUNDINGS, *EQUALIZERS, *(f"{one}+{other}" for one in EQUALIZERS for other in ROUNDINGS[1:]))


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the weights of a quantized student start from.

    Attributes:
        method: ``rtn``: rounded to the nearest value, on a grid from the smallest to the largest weight. ``mse``:
            likewise, on a grid shrunk to the least squared error. ``gptq`` and ``adaround``: on such a grid, rounded by
            what the layers compute. ``smoothquant`` and ``awq``: channels are scaled first, where the layer before
            takes the inverse scale; then ``rtn`` and ``mse``. Joined by +: ``smoothquant+gptq``, ``awq+gptq``.
        samples: Training samples (of each process) whose inputs are looked at; padding is left out.
        damping: Of ``gptq``: what is added to the Hessian's diagonal, as a part of its mean.
        act_order: Of ``gptq``: whether the inputs with the largest mean squares are rounded first.
        alpha: Of ``smoothquant``: how much of the range of the inputs goes over to the weights.
        steps: Of ``adaround``: for how many steps each layer's rounding is trained.

    Raises:
        UserError: if a setting is out of range, or has no effect with the method.
    """

    method: str = "rtn"
    samples: int = 128
    damping: float = 0.01
    act_order: bool = False
    alpha: float = 0.5
    steps: int = 500

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            hint = "choose one, or two joined by +: an equalizer, then a rounding"
            raise UserError(f"must be one of {', '.join(METHODS)}", key="method", value=self.method, hint=hint)
        for key, value in (("samples", self.samples), ("steps", self.steps)):
            if value < 1:
                raise UserError("must be at least 1", key=key, value=value, hint="leave it out")
        if not self.damping > 0:
            raise UserError("must be greater than 0", key="damping", value=self.damping, hint="0.01 is common")
        if not 0 <= self.alpha <= 1:
            raise UserError("must lie in [0, 1]", key="alpha", value=self.alpha, hint="0.5 is common")

    def refuse_idle(self, place: str) -> None:
        """Refuse settings without effect.

        Raises:
            UserError: naming the setting.
        """
        owners = {"damping": "gptq", "act_order": "gptq", "alpha": "smoothquant", "steps": "adaround"}
        beside, parts = f"method: {self.method}", self.method.split("+")
        rules = [Idle(key, owner not in parts, beside, f"take {owner}") for key, owner in owners.items()]
        rules += [Idle("samples", not self.reads_inputs, beside, "take gptq")]
        refuse_idle(Start, vars(self), rules, f"{place}." if place else "")

    @property
    def equalizer(self) -> str | None:
        """``smoothquant``, ``awq``, or none."""
        first = self.method.split("+")[0]
        return first if first in EQUALIZERS else None

    @property
    def rounding(self) -> str:
        """``rtn``, ``mse``, ``gptq`` or ``adaround``."""
        last = self.method.split("+")[-1]
        return last if last in ROUNDINGS else {"smoothquant": "rtn", "awq": "mse"}[last]

    @property
    def holds_grids(self) -> bool:
        """Whether the grids are the start's own, and do not follow the largest weight from step to step."""
        return self.rounding != "rtn"

    @property
    def reads_inputs(self) -> bool:
        """Whether batches are looked at."""
        return self.equalizer is not None or self.rounding in ("gptq", "adaround")
