"""Signals that ask a run to stop: the first is heeded at the next safe place, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Interrupts"]

_STOP = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Takes SIGTERM and SIGINT between :meth:`install` and :meth:`restore`.

    Attributes:
        received: The number of the signal that came; 0 if none did.
        last_words: What is said where the second signal ends the process, if anything.
    """

    def __init__(self) -> None:
        self.received = 0
        self.last_words: Callable[[], str] = str
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take the signals from here on, unless they are taken already.

        Those that are ignored stay so, as SIGINT is in a script's background. Other threads than the main one have no
        signals to take.
        """
        if threading.current_thread() is threading.main_thread() and not self._before:
            heeded = [number for number in _STOP if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in heeded}

    def restore(self) -> None:
        """Give the signals back to who had them, but for those that somebody else has taken since."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._receive:
                signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            try:
                _say(self.last_words())
            finally:
                os._exit(128 + number)  # files are complete at any time, so nothing needs an end
        self.received = number
        _say("distill: the step is finished and saved first; once more stops at once")


def _say(line: str) -> None:
    """Of a run's processes one does, and not by print: the signal may have come in the middle of one."""
    if line and os.environ.get("LOCAL_RANK", "0") == "0":
        os.write(2, f"{line}\n".encode())
