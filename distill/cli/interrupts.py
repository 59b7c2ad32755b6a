"""Ctrl-C, once, is enough: an interrupt that is lost on its way comes again, and none ends in a traceback. Light."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from distill.core.internals.python import run_exit_functions

__all__ = ["INTERRUPTED", "Interrupt", "end"]

INTERRUPTED = 130
"""The exit code of a command that was interrupted."""

_AGAIN = 0.02
"""Seconds until a lost interrupt comes again."""

_LONGEST = 30.0
"""Seconds that the end of an interrupted process may take."""


class Interrupt:
    """SIGINT while a command works, from :meth:`take` to :meth:`leave`.

    Python raises ``KeyboardInterrupt`` wherever it is: within the weak references' callbacks that imports consist of,
    where an exception is shown and forgotten; or within a library in C, which makes an ``ImportError`` of it. Who takes
    the signal meanwhile, as a training does, has it.

    Attributes:
        received: Whether it came.
    """

    def __init__(self) -> None:
        self.received = False
        self._shown = sys.unraisablehook
        self._again: Any = None

    def take(self) -> None:
        """Take the signal, unless it is ignored or another's."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._receive)
            sys.unraisablehook = self._lost

    def heed_no_more(self) -> None:
        """The command was interrupted: another one changes nothing, as :func:`end` is what it asks for."""
        self._then(signal.SIG_IGN)

    def leave(self) -> None:
        """The command is done. The signal then ends the process at once: libraries in C may need long for their end."""
        self._then(signal.SIG_DFL)

    def _then(self, action: signal.Handlers) -> None:
        if signal.getsignal(signal.SIGINT) == self._receive:
            signal.signal(signal.SIGINT, action)
        if self._again is not None:
            self._again.cancel()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt

    def _lost(self, unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._shown(unraisable)
            return
        # Not here, where it would be lost again.
        import threading

        self._again = again = threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()


def end() -> NoReturn:
    """End the process, interrupted, with what was registered for its end and without Python's and C libraries' own.

    That takes seconds, and where an import was broken off it may never come to an end. What was registered has
    :data:`_LONGEST` seconds.
    """
    with suppress(Exception):
        _end_after(_LONGEST)
    with suppress(Exception):
        run_exit_functions()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(INTERRUPTED)


def _end_after(seconds: float) -> None:
    """End the process then, whatever it is at."""
    import threading

    limit = threading.Timer(seconds, os._exit, (INTERRUPTED,))
    limit.daemon = True
    limit.start()
