"""Weights to begin with, of another run."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from distill.core.argument_types import refuse_types
from distill.core.trained_module import require_student
from distill.core.utils.errors import UserError
from distill.run.checkpoints.file import Damaged, read
from distill.run.checkpoints.names import resume_checkpoints

__all__ = ["WarmStart"]

_KEY = "callbacks.WarmStart.run"
_STUDENT = "student."


class WarmStart(Callback):
    """Begin with the student as another run's newest checkpoint has it; ``distill fit --from RUN`` adds this.

    All else begins anew: steps, optimizer, schedules, masks and scales. Stands before the callbacks that compress, as
    the weights are those of the student before they change it.

    Args:
        run: The folder of the other run.

    Raises:
        UserError: when training is set up, if it has no intact checkpoint, or one of another student.
    """

    def __init__(self, run: str) -> None:
        refuse_types(WarmStart, locals(), "callbacks.WarmStart.")
        self.run = run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or trainer.ckpt_path is not None:
            return  # a resumed run has weights of its own
        student = require_student(pl_module, type(self).__name__)
        weights = {name.removeprefix(_STUDENT): value for name, value in self._read().items()}
        for name, own in student.state_dict().items():
            if name not in weights or weights[name].shape != own.shape:
                problem = f"the student of that run is another one: {name} is not the same in both"
                hint = "keep model.student as it was, or start from what that run has saved: --model.student.path RUN"
                raise UserError(problem, key=_KEY, value=self.run, hint=hint)
        student.load_state_dict({name: weights[name] for name in student.state_dict()})

    def _read(self) -> dict[str, Tensor]:
        for path in resume_checkpoints(Path(self.run) / "checkpoints").values():
            try:
                found: dict[str, Tensor] = read(path)["state_dict"]
            except Damaged:
                continue
            return {name: value for name, value in found.items() if name.startswith(_STUDENT)}
        raise UserError("that run has no intact checkpoint", key=_KEY, value=self.run, hint="name another run")
