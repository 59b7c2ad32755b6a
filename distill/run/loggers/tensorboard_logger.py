"""TensorBoard, in the folder ``tensorboard`` of the run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

from distill.run.loggers.fail_safe import FailSafe

__all__ = ["SafeTensorBoardLogger"]


class SafeTensorBoardLogger(FailSafe, TensorBoardLogger):
    """Lightning's logger, which never stops the run.

    A resumed run adds a file that tells TensorBoard to forget what the earlier ones hold beyond the checkpoint.

    Args:
        folder: The run's folder.
        at: The optimizer step that a resumed run starts from.
    """

    label = "TensorBoard"

    def __init__(self, folder: str | Path, at: int | None = None) -> None:
        # The optimizer step number n is logged as n - 1: the first one to be logged again is `at`.
        super().__init__(folder, name="tensorboard", version="", default_hp_metric=False, purge_step=at)
        _hush()
        if at is not None:  # what it resumes with may have changed, and is written anew
            file = Path(self.log_dir, self.NAME_HPARAMS_FILE)
            self._try("remove the hyperparameters of before", lambda: file.unlink(missing_ok=True))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._try("take the hyperparameters", lambda: super(SafeTensorBoardLogger, self).log_hyperparams(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        def log() -> None:
            try:
                super(SafeTensorBoardLogger, self).log_metrics(metrics, step)
            except ValueError as error:  # Lightning takes whatever goes wrong for a value of the wrong kind
                raise error.__cause__ or error from None

        self._try("log", log)

    def save(self) -> None:
        self._try("write", lambda: super(SafeTensorBoardLogger, self).save())

    def finalize(self, status: str) -> None:
        self._try("finish", lambda: super(SafeTensorBoardLogger, self).finalize(status))


@cache  # once is enough
def _hush() -> None:
    """Have tensorboard's thread that cannot write end without a traceback: the next row reports why."""
    before = threading.excepthook

    def hook(ended: threading.ExceptHookArgs) -> None:
        if not (isinstance(ended.exc_value, OSError) and type(ended.thread).__module__.startswith("tensorboard.")):
            before(ended)

    threading.excepthook = hook
