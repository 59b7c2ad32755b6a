"""The processes that Lightning starts for the other devices: how they meet, and that none is left behind."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch.distributed import DistNetworkError

from distill.errors import UserError

__all__ = ["free_port", "together"]

_PORTS = range(10000, 32768)  # below those that systems give out themselves (Linux from 32768, others from 49152)
_TRIES = 100
_GRACE = 2.0  # seconds in which a process may end by itself once the first has failed


def free_port() -> int:
    """A port on which nothing listens, and which no system gives to a connection while the processes are starting.

    Lightning takes one of those that systems do give out: seconds later, when all processes have started, it may be
    another program's.

    Raises:
        OSError: if none is found.
    """
    draw = random.SystemRandom()  # runs of one seed meet at different ports
    for port in draw.sample(_PORTS, _TRIES):
        with socket.socket() as listening:
            try:
                listening.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no free port for the processes to meet at")


@contextmanager
def together(trainer: Trainer) -> Iterator[None]:
    """Have the processes of a run meet at a port that stays free, and end when the first one fails.

    One that waits for a first process that has gone does so for half an hour.

    Raises:
        UserError: if the port that was given is another program's.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    starts = isinstance(environment, LightningEnvironment) and not environment.creates_processes_externally
    if starts and trainer.num_nodes == 1:
        # It stays set, as Lightning leaves it: the processes are the same for the next run.
        os.environ.setdefault("MASTER_PORT", str(free_port()))
    try:
        yield
    except DistNetworkError as error:
        _end_others(trainer)
        if "EADDRINUSE" not in str(error):
            raise
        rule = "is in use by another program, and the processes of the run cannot meet there"
        port = os.environ.get("MASTER_PORT")
        raise UserError(rule, key="MASTER_PORT", value=port, mend="give another in the environment") from error
    except Exception:
        _end_others(trainer)
        raise


def _end_others(trainer: Trainer) -> None:
    """End the processes that this one started."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return
    processes = list(launcher.procs)
    launcher.procs.clear()  # Lightning's watcher of them would kill this one too, before it has said what failed
    for process in processes:
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
