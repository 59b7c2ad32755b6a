"""The processes that Lightning starts for the other devices: how they meet, and that none outlives one that fails."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.distributed import DistNetworkError

from distill.core.internals.lightning import release_processes
from distill.core.utils.errors import UserError

__all__ = ["RUN_ID", "check_count", "free_port", "meeting", "none_left", "shared_id"]

RUN_ID = "DISTILL_RUN_ID"
"""Variable that tells the processes which a run starts for the other devices whose folder is theirs."""

_PORT = "MASTER_PORT"
# Below those that clusters give to services (30000) and systems to connections (Linux 32768, others 49152).
_PORTS = range(10000, 30000)
_TRIES = 100
_LEAST = 32  # processes that any machine may be asked for
_GRACE = 10.0  # seconds in which the others may end by themselves, and say what they know


def check_count(value: object, key: str) -> None:
    """Refuse more processes than this machine can have any use for, before the first of them is started.

    Args:
        value: How many; a number, or one as a text. What is none is judged elsewhere.
        key: Where it stands.

    Raises:
        UserError: if there are too many.
    """
    most = max(_LEAST, 4 * max(os.cpu_count() or 1, torch.cuda.device_count()))
    count = value if isinstance(value, int) else int(value) if isinstance(value, str) and value.isdecimal() else 0
    if count > most:
        problem = f"are more processes than the {most} that this machine can have a use for"
        raise UserError(problem, key=key, value=value, hint="give a smaller number")


def free_port() -> int:
    """A port on which nothing listens, and which systems do not give to a connection while the processes start.

    Lightning takes one of those that they do give: seconds later, when all processes have started, it may be another
    program's.

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
def shared_id(run_id: str) -> Iterator[None]:
    """Tell the processes that Lightning starts for the other devices which run they belong to."""
    before = os.environ.get(RUN_ID)
    os.environ[RUN_ID] = run_id
    try:
        yield
    finally:
        os.environ.pop(RUN_ID) if before is None else os.environ.update({RUN_ID: before})


@contextmanager
def meeting(trainer: Trainer) -> Iterator[None]:
    """Have the processes that this one starts on the machine meet at a port of :func:`free_port`.

    It stays set for what this process does next, as Lightning leaves it: the processes are then the same.

    Raises:
        UserError: if the port is another program's.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    starts = isinstance(environment, LightningEnvironment) and not environment.creates_processes_externally
    drawn = starts and trainer.num_nodes == 1 and _PORT not in os.environ
    if drawn:
        os.environ[_PORT] = str(free_port())
    elif starts and not os.environ.get(_PORT, "1").isdecimal():
        hint = "give one in the environment, or none"
        raise UserError("must be the number of a port", key=_PORT, value=os.environ[_PORT], hint=hint)
    try:
        yield
    except DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        port = os.environ.pop(_PORT, None) if drawn else os.environ.get(_PORT)
        problem = "is in use by another program, and the processes of the run cannot meet there"
        hint = "start it again" if drawn else "give another in the environment"
        raise UserError(problem, key=_PORT, value=port, hint=hint) from error


@contextmanager
def none_left(trainer: Trainer) -> Iterator[None]:
    """End the processes that this one started, should it fail: they would wait for it, for half an hour at first.

    Whoever is told to stop ends by itself, as all of them are told. One that fails elsewhere ends this one through
    Lightning, which watches them.
    """
    try:
        yield
    except (SIGTERMException, KeyboardInterrupt):
        raise
    except BaseException:
        _end(release_processes(trainer))
        raise


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + _GRACE
    try:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
    finally:
        for process in processes:
            process.kill()  # SIGTERM they would heed at the end of a step that does not come
            process.wait()
