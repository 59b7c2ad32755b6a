"""What changes during a run, and when: schedules, read off before the first step; losses and scores, as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback, LightningModule, Trainer

from distill.compression.base import compressions
from distill.core.ranks import is_rank_zero
from distill.core.schedules import Constant, Schedule
from distill.core.step_callback import StepCallback, step_callbacks
from distill.core.utils.errors import UserError
from distill.core.utils.extras import installing, missing
from distill.run.history import read_rows
from distill.training.module import Distillation
from distill.training.optimizer import learning_rate_factor

if TYPE_CHECKING:
    from distill.core.utils.plots import Line, Panel

__all__ = ["DrawTimeline", "history_panels", "schedule_panels", "timeline"]

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
    if module.on_policy is not None:
        lines["on-policy share"] = [module.on_policy.share(step, total) for step in steps]
    for callback in callbacks:
        shown: Any = callback.timeline(steps, total)
        if not isinstance(shown, Mapping) or any(len(values) != len(steps) for values in shown.values()):
            problem, hint = "timeline must return a value for each step, by name", 'return {"my line": [...]}, or {}'
            raise UserError(problem, key=type(callback).__name__, hint=hint)
        lines |= shown
    return lines


def history_panels(history: Path, scores: Sequence[str]) -> list[Panel]:
    """Losses, and scores beside the teacher's, as far as ``metrics.csv`` has them.

    Args:
        history: That file.
        scores: Names of metrics, each of which gets a panel.
    """
    from distill.core.utils.plots import Line, Panel

    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in read_rows(history):
        for name, text in row.items():
            if text and name.startswith(("train/", "val/", "teacher/")):
                steps, values = found.setdefault(name, ([], []))
                steps.append(int(row["step"] or 0))
                values.append(float(text))
    skipped = ("_weighted", "/learning_rate")
    terms = [name for name in found if name.startswith("train/") and not name.endswith(skipped)]
    terms.sort(key=lambda name: name != "train/loss")
    if len(terms) == 2:  # the objective is its one term
        terms.remove("train/loss")
    names = {name: "objective" if name == "train/loss" else name.removeprefix("train/") for name in terms}
    panels = [Panel("training loss", [Line(names[name], *found[name], noisy=True) for name in terms])] if terms else []
    for score in scores:
        sources = (("student", f"val/{score}"), ("without rounding", f"val/float_{score}"))
        lines = [Line(who, *found[name], last=True) for who, name in sources if name in found]
        if lines and (teacher := found.get(f"teacher/{score}")):  # it does not change, and may be scored but once
            lines.append(Line("teacher", [0, max(lines[0].steps)], [teacher[1][-1]] * 2, dashed=True, last=True))
        panels += [Panel(f"{score}, validation", lines, from_zero=False)] if lines else []
    return panels


def schedule_panels(steps: Sequence[int], lines: Mapping[str, Sequence[float]]) -> list[Panel]:
    """Panels of what :func:`timeline` gives: parts removed, phases, what changes of the losses, the learning rate.

    Args:
        steps: Where the values are known.
        lines: Name -> values.
    """
    from distill.core.utils.plots import Line, Panel

    def chosen(names: Sequence[str]) -> list[Line]:
        return [Line(name.replace("_", " "), steps, lines[name]) for name in names]

    changing = [name for name in lines if name != "learning rate" and len(set(lines[name])) > 1]
    phases = [name for name in changing if set(lines[name]) <= {0.0, 1.0}]
    removed = [name for name in changing if name not in phases and (name == "sparsity" or name.endswith(" removed"))]
    others = [name for name in changing if name not in (*phases, *removed)]
    panels = [
        *(
            [Panel("sparsity" if removed == ["sparsity"] else "part of the weights", chosen(removed))]
            if removed
            else []
        ),
        *([Panel("quantization", chosen(phases), phases=True)] if phases else []),
        *(Panel(line.name, [line]) for line in chosen(others)),
    ]
    return [*panels, Panel("learning rate", chosen(["learning rate"]))]


class DrawTimeline(Callback):
    """Draws the time line when training begins, and once more at its end, with its losses and scores.

    Without the ``plots`` extra a line says that there is none.

    Args:
        path: Of the picture; its folder is the run's, and has the history.
        settings: Of matplotlib.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path, self.settings = path, settings

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_rank_zero():
            return
        if (name := missing("plots")) is not None:
            print(f"No {self.path.name}: {name} is not installed ({installing('plots')}).", flush=True)
        self.draw(trainer)

    def draw(self, trainer: Trainer) -> None:
        """Draw it as far as the history goes; nothing where what draws is not installed."""
        if missing("plots") is not None:
            return
        from distill.core.utils.plots import draw_timeline  # matplotlib takes half a second to import

        module = trainer.lightning_module
        assert isinstance(module, Distillation)
        total = module.total_steps
        steps = sorted({round(i * total / _POINTS) for i in range(_POINTS + 1)})
        marks = {what: begin for one in compressions(trainer) for what, begin, _ in one.demands(total)}
        panels = history_panels(self.path.with_name("metrics.csv"), [module.task.monitor])
        panels += schedule_panels(steps, timeline(module, step_callbacks(trainer), steps))
        draw_timeline(panels, total, self.path, marks, self.settings)
