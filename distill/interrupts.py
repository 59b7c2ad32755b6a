"""Signals that ask a run to stop: the first is heeded at the next safe place, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Interrupts"]

_STOP = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Takes SIGTERM and SIGINT between :meth:`install` and :meth:`restore`.

    Attributes:
        received: The number of the signal that came; 0 if none did.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take the signals from here on; nothing where this is not the main thread, which has none."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._receive) for number in _STOP}

    def restore(self) -> None:
        """Give the signals back to who had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)  # files are whole at every moment, so nothing needs an end
        self.received = number
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"distill: the step is finished and saved first; once more stops at once\n")
