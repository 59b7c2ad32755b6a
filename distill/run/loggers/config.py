"""Which logs a run has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distill.core.utils.errors import UserError

__all__ = ["LoggingConfig", "WandbConfig"]


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Where W&B puts the run.

    Attributes:
        project: Name of the project.
        entity: User or team; the key's own if not given.
        group: Runs that belong together, such as the seeds of one recipe.
        tags: Any words.
        mode: ``online``, ``offline`` or ``disabled``; if not given ``WANDB_MODE``, else online where a key and
            a server are there.
        artifacts: What is kept as artifacts: the ``student`` that is saved at the end, ``exports``, both, or nothing.
    """

    project: str = "distill"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: Literal["online", "offline", "disabled"] | None = None
    artifacts: list[Literal["student", "exports"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("project", "entity", "group"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                problem, hint = "must name something, and is empty", "leave it out, or give a name"
                raise UserError(problem, key=f"logging.wandb.{name}", value=value, hint=hint)


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Which loggers a run has.

    Attributes:
        csv: ``metrics.csv`` in the run's folder; from it W&B gets, at a resume, what a kill took.
        tensorboard: Event files in its folder ``tensorboard``, where the ``tensorboard`` extra is installed.
        wandb: W&B, with its files in the folder ``wandb``; none if not given. It needs the ``wandb`` extra.
    """

    csv: bool = True
    tensorboard: bool = True
    wandb: WandbConfig | None = None
