"""Logs the steps of a run as a training does; killed where it is told to be, and resuming from a checkpoint."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

STEPS = 10


def rows(after: int = 0, steps: int = STEPS) -> Iterator[tuple[int, dict[str, Any]]]:
    """What is logged after so many steps: training terms, and every third step validation's metrics after them."""
    for step in range(after, steps):
        yield step, {"train/loss": 1.0 / (step + 1), "epoch": step // 5}
        if step % 3 == 2:
            yield step, {"val/accuracy": 0.1 * step, "epoch": step // 5}


def main(
    runs: str,
    steps: int = STEPS,
    at: int | None = None,
    kill_after: int | None = None,
    wait: float = 0.0,
    pause: int = 0,
    kill_service: bool = False,
    csv: bool = True,
    init: float = 120.0,
    finish: float = 120.0,
    lr: float = 1.0,
    artifacts: tuple[str, ...] = (),
) -> None:
    """Log.

    Args:
        runs: Folder of the runs.
        steps: How many.
        at: Go on from this step.
        kill_after: Be killed after so many rows.
        wait: Seconds before that, or before the end.
        pause: After so many rows, say so and wait for the file ``go``.
        kill_service: Kill W&B's service process after the fourth row.
        csv: Log to ``metrics.csv`` too.
        init: Seconds that W&B may take to start.
        finish: Seconds that it may take to end.
        lr: A hyperparameter.
        artifacts: What is kept.
    """
    from distill.run.folder import Run
    from distill.run.loggers import wandb_service
    from distill.run.loggers.config import LoggingConfig, WandbConfig
    from distill.run.loggers.make import keep_student, make_loggers

    wandb_service.INIT_SECONDS, wandb_service.FINISH_SECONDS = init, finish
    wandb_service.FLUSH_SECONDS = 0.2
    run = Run.create(runs, "mine", {}, "one") if at is None else Run.open(f"{runs}/mine/one")
    config = LoggingConfig(csv=csv, tensorboard=False, wandb=WandbConfig(group="g", artifacts=list(artifacts)))
    loggers = make_loggers(config, run, {"lr": lr, "model": {"api_key": "s3cret"}}, at=at)
    for number, (step, row) in enumerate(rows(at or 0, steps), 1):
        for logger in loggers:
            logger.log_metrics(row, step)
            logger.save()
        if number == pause:
            print("paused", flush=True)
            while not os.path.exists("go"):
                time.sleep(0.02)
        if kill_service and number == 4:
            _kill_service()
        if number == kill_after:
            time.sleep(wait)
            os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(wait)
    print("all logged", flush=True)
    for logger in loggers:
        logger.finalize("success")
    if artifacts:
        run.student.mkdir()
        (run.student / "model.safetensors").write_bytes(b"weights")
        keep_student(loggers, run)


def _kill_service() -> None:
    # -ww: else COLUMNS, where the environment has it, cuts the paths that are looked for.
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    processes = [line.split(maxsplit=2) for line in listed.splitlines()]
    [service] = [int(pid) for pid, parent, args in processes if parent == str(os.getpid()) and "wandb-core" in args]
    seen, connection = threading.Event(), logging.getLogger("wandb.sdk.lib.service.service_client")
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda _: seen.set()  # type: ignore[method-assign]
    connection.addHandler(handler)
    connection.setLevel(logging.INFO)  # it tells the end of the connection
    os.kill(service, signal.SIGKILL)
    assert seen.wait(120)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
