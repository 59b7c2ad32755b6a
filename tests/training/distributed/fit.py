"""Run by test_processes.py: ``distill fit`` on two ranks, of which the first may fail while the second is busy."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from distill.cli.main import main
from distill.training.module import Distillation
from distill.workflows import finish


def fail(*_: Any) -> Any:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        raise MemoryError("the first rank has none left")
    time.sleep(900)  # longer than the test waits


if __name__ == "__main__":
    if sys.argv[1] == "step":
        Distillation.training_step = fail  # type: ignore[method-assign]
    if sys.argv[1] == "end":
        finish.restore_best = fail
    sys.exit(main(["fit", *sys.argv[2:]]))
