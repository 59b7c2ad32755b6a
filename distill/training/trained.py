"""What is asked of a Lightning module that has been trained: to be opened from a checkpoint, and to predict."""

from __future__ import annotations

from inspect import Parameter, signature
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self
from zipfile import BadZipFile, ZipFile

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from distill.core.signals import Request
from distill.core.task import Task
from distill.core.utils.errors import UserError
from distill.run.checkpoints.file import Damaged, read

__all__ = ["TrainedModule"]

_SHOWN = 3  # names of weights in a message


class TrainedModule(LightningModule):
    """The part of :class:`~distill.Distillation` that needs no trainer, or another one than trained it."""

    task: Task
    student: nn.Module

    def predict_step(self, raw_batch: Any, batch_idx: int) -> Tensor:
        """The student's logits of a batch, of every position, as ``trainer.predict`` lists them."""
        signals = self.task.forward(self.student, self.task.batch(raw_batch), Request(logits=True))
        assert signals.logits is not None
        return signals.logits

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        hparams_file: None = None,
        strict: bool = True,
        weights_only: bool = True,
        **arguments: Any,
    ) -> Self:
        """The module with the weights of a checkpoint.

        A checkpoint names no classes, which would be executed; so the module is made as it was made to be trained. One
        of a run that compresses is in the middle of it, and needs its callbacks: ``trainer.validate(module,
        ckpt_path=...)`` scores it, ``trainer.fit(module, ckpt_path=...)`` resumes it, and the student that it ends
        with is opened by :func:`distill.load`.

        Args:
            checkpoint_path: A file, or the folder of a sharded run.
            map_location: Where its tensors go.
            hparams_file: There is none.
            strict: Always.
            weights_only: Always.
            arguments: Of the class, as at the training: ``student=net(8), task=tasks.Plain(), ...``

        Raises:
            UserError: if arguments are missing, or it cannot be read, or is of another module.
        """
        if missing := [name for name in _required(cls) if name not in arguments]:
            asked = ", ".join(f"{name}=..." for name in missing)
            hint = f"{cls.__name__}.load_from_checkpoint(path, {asked}, ...), or distill.load(run)"
            problem = "a checkpoint holds weights, and says not what module they are of"
            raise UserError(problem, key="checkpoint_path", value=str(checkpoint_path), hint=hint)
        if hparams_file is not None or not strict or not weights_only:
            problem = "is fixed: there is no such file, all weights are needed, and nothing in them is executed"
            raise UserError(problem, key="hparams_file, strict, weights_only", hint="leave them out")
        try:
            state = _read(checkpoint_path, map_location)["state_dict"]
        except (Damaged, OSError, KeyError, BadZipFile, UnpicklingError) as error:
            problem = f"cannot be read ({error})"
            raise UserError(problem, key="checkpoint_path", value=str(checkpoint_path), hint="name another") from error
        module = cls(**arguments)
        _refuse_another(module.state_dict(), state, str(checkpoint_path))
        module.load_state_dict(state)
        return module


def _required(kind: type) -> list[str]:
    """The parameters without which it cannot be made."""
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return [p.name for p in signature(kind).parameters.values() if p.kind in named and p.default is Parameter.empty]


def _read(path: str | Path, map_location: Any) -> dict[str, Any]:
    """A checkpoint of ours, which is sealed, or one of Lightning's, which is not."""
    if not Path(path).is_dir():
        with ZipFile(path) as archive:
            sealed = bool(archive.comment)
        if not sealed:
            found: dict[str, Any] = torch.load(path, map_location, weights_only=True)
            return found
    return read(path, map_location)


def _refuse_another(own: dict[str, Any], state: dict[str, Any], path: str) -> None:
    unlike = [n for n in (*own, *state) if n not in own or n not in state or own[n].shape != state[n].shape]
    if not unlike:
        return
    names = list(dict.fromkeys(unlike))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    hint = "give the arguments that it was trained with"
    if any(name.endswith(("_mask", "input_range", "weight_scale")) for name in names):
        hint = (
            "it is in the middle of compressing: trainer.validate(module, ckpt_path=...) with its callbacks scores it, "
            "trainer.fit(module, ckpt_path=...) resumes it, distill.load(folder) opens what it was saved as"
        )
    problem = f"is not of this module: {', '.join(names[:_SHOWN])}{more} differ"
    raise UserError(problem, key="checkpoint_path", value=path, hint=hint)
