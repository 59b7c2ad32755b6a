"""What the checkpoints that a run resumes from are called."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["resume_checkpoint", "resume_checkpoints"]

_NAME = re.compile(r"last-(\d+)\.ckpt")


def resume_checkpoint(folder: str | Path, step: int) -> Path:
    """Where in ``folder`` the checkpoint after so many optimizer steps lies."""
    return Path(folder) / f"last-{step}.ckpt"


def resume_checkpoints(folder: str | Path) -> dict[int, Path]:
    """The checkpoints in ``folder`` that a run can resume from, by the optimizer steps done, the newest first."""
    found = {int(match[1]): path for path in Path(folder).glob("last-*.ckpt") if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))
