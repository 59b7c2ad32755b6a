"""Two callbacks of every run: one keeps what validations measure, the other has the last step validated."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from distill.core.internals.lightning import end_after_batch
from distill.core.ranks import is_rank_zero
from distill.core.utils.console import number
from distill.training.module import Distillation

__all__ = ["LastValidation", "Scores"]

_PREFIX = "val/"


class Scores(Callback):
    """Keeps every validation's metrics and evidence, so that those of the best checkpoint are known at the end.

    Args:
        spoken: Print a line for each, where no progress bar shows them.
    """

    def __init__(self, spoken: bool = False) -> None:
        self.spoken = spoken
        self.by_step: dict[int, dict[str, float]] = {}
        self.evidence: dict[int, dict[str, Any]] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        scores = {
            n.removeprefix(_PREFIX): float(v) for n, v in trainer.callback_metrics.items() if n.startswith(_PREFIX)
        }
        self.by_step[trainer.global_step] = scores
        if isinstance(pl_module, Distillation):
            self.evidence[trainer.global_step] = pl_module.evidence.found
        if self.spoken and is_rank_zero():
            scores_line = "  ".join(f"{name} {number(value)}" for name, value in scores.items())
            print(f"step {trainer.global_step}: {scores_line}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"by_step": self.by_step, "evidence": self.evidence}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.by_step, self.evidence = dict(state_dict["by_step"]), dict(state_dict.get("evidence", {}))


class LastValidation(Callback):
    """Has a run that ``max_steps`` ends within an epoch validated at its end; Lightning would just stop.

    It ends there although ``min_steps`` or ``min_epochs`` say more: of two limits the nearer one holds.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if 0 < trainer.max_steps <= trainer.global_step:
            end_after_batch(trainer)
