"""The checkpoint of the best validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from distill.callbacks.compression import compressions

__all__ = ["Best"]

_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class Best(ModelCheckpoint):
    """A ``ModelCheckpoint`` for which only a student that is as small as asked for can be the best.

    A student half way through gradual pruning is often better than the one that is shipped; kept as the best, it
    would be shipped in its place.

    Its state names files and no folders, so that a run's folder may be moved.
    """

    def _should_skip_saving_checkpoint(self, trainer: Trainer) -> bool:
        total = int(trainer.lightning_module.total_steps)  # type: ignore[arg-type]
        done = all(compression.complete(trainer.global_step, total) for compression in compressions(trainer))
        return not done or super()._should_skip_saving_checkpoint(trainer)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state |= {name: Path(state[name]).name for name in _PATHS}
        scores = {Path(path).name: score for path, score in state["best_k_models"].items()}
        return state | {"best_k_models": scores, "dirpath": ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(self.dirpath or "")
        state = dict(state_dict)
        # Only their last part: these files are removed when a better one comes.
        state |= {name: str(folder / Path(state[name]).name) if state[name] else "" for name in _PATHS}
        scores = {str(folder / Path(name).name): score for name, score in state["best_k_models"].items()}
        super().load_state_dict(state | {"best_k_models": scores, "dirpath": self.dirpath})
        self.current_score = state["current_score"]  # which Lightning saves but does not load
