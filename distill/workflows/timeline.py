"""What changes during a run, and when: read off the schedules before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from distill.core.ranks import is_rank_zero
from distill.core.schedules import Constant, Schedule
from distill.core.step_callback import StepCallback, step_callbacks
from distill.core.utils.extras import installing, missing
from distill.training.module import Distillation
from distill.training.optimizer import learning_rate_factor

__all__ = ["DrawTimeline", "timeline"]

_POINTS = 400


def timeline(
    module: Distillation, callbacks: Sequence[StepCallback] = (), steps: Sequence[int] = ()
) -> dict[str, list[float]]:
    """Learning rate, weights and temperatures of the losses, and what the callbacks do.

    Args:
        module: The module, whose trainer has laid out the run.
        callbacks: That act after steps, the compressions among them.
        steps: Numbers of steps done.

    Returns:
        Name -> value after each of ``steps``.
    """
    total, config = module.total_steps, module.optimizer_config
    rates = [config.lr * learning_rate_factor(config, step, total) for step in steps]
    for callback in callbacks:
        factors = [callback.learning_rate_factor(step, total) for step in steps]
        rates = [rate * factor for rate, factor in zip(rates, factors, strict=True)]
    lines = {"learning rate": rates}
    for loss in module.losses:
        for name, value in vars(loss).items():
            if isinstance(value, Schedule) and (name == "weight" or not isinstance(value, Constant)):
                lines[f"{loss.name} {name}"] = [value(step, total) for step in steps]
    for callback in callbacks:
        lines |= callback.timeline(steps, total)
    return lines


class DrawTimeline(Callback):
    """Draws the time line when training begins; without the ``plots`` extra a line says that there is none.

    Args:
        path: Of the picture; its folder is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_rank_zero():
            return
        if (name := missing("plots")) is not None:
            print(f"No {self.path.name}: {name} is not installed ({installing('plots')}).", flush=True)
            return
        from distill.core.utils.plots import draw_timeline  # matplotlib takes half a second to import

        assert isinstance(pl_module, Distillation)
        total = pl_module.total_steps
        steps = sorted({round(i * (total - 1) / _POINTS) for i in range(_POINTS + 1)})
        draw_timeline(steps, timeline(pl_module, step_callbacks(trainer), steps), self.path)
