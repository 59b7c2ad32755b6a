"""A command that is run to its end, and that receives the signals which ask this process to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

__all__ = ["run_to_end"]

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_to_end(command: Sequence[str]) -> int:
    """Run ``command`` and return its exit code.

    Signals that ask this process to stop are passed on; once the command has ended, this one stops as well.

    Raises:
        KeyboardInterrupt: if an interrupt came.
        SystemExit: if another of these signals came.
    """
    received: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in running:
            process.send_signal(number)

    sys.stdout.flush()  # what was said before comes before what the command says
    before = _take(pass_on)
    try:
        # In a group of its own: Ctrl-C in a terminal reaches all of ours, and the command would be told twice.
        running.append(subprocess.Popen(command, process_group=0))
        if received:  # before there was anyone to tell
            running[0].send_signal(received[0])
        code = running[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and received[0] == signal.SIGINT:
        raise KeyboardInterrupt
    if received:
        raise SystemExit(128 + received[0])
    return code


def _take(handler: Any) -> dict[signal.Signals, Any]:
    """Have ``handler`` called for signals to stop, except those that are ignored (``nohup``); who had them before."""
    mine = [number for number in _STOP if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in mine}
