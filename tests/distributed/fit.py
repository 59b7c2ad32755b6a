"""Run by test_processes.py: ``distill fit`` on two ranks, of which the first may fail while the second is busy."""

from __future__ import annotations

import sys
import time
from typing import Any

from distill.cli import main
from distill.module import Distillation


def training_step(self: Any, *_: Any) -> None:
    if self.global_rank == 0:
        raise MemoryError("the first rank has none left")
    time.sleep(600)


if __name__ == "__main__":
    if sys.argv[1] == "failing":
        Distillation.training_step = training_step  # type: ignore[assignment,method-assign]
    sys.exit(main(["fit", *sys.argv[2:]]))
