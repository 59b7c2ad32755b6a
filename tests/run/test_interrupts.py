"""Signals are taken once, and given back once, to who had them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from distill.run.interrupts import Interrupts

BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def before() -> Iterator[list[Any]]:
    """Who has the signals; they get them back whatever the test does."""
    handlers = [signal.getsignal(number) for number in BOTH]
    yield handlers
    for number, handler in zip(BOTH, handlers, strict=True):
        signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in BOTH]


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_is_only_noted(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    interrupts = Interrupts()
    interrupts.install()
    os.kill(os.getpid(), number)
    assert interrupts.received == number
    assert "once more stops at once" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"), [("str", []), ("lambda: 'resume me'", ["resume me"]), ("lambda: 1 / 0", [])]
)
def test_the_second_signal_ends_the_process_at_once(words: str, said: list[str]) -> None:
    code = f"""if True:
        import os, signal
        from distill.run.interrupts import Interrupts
        interrupts = Interrupts()
        interrupts.last_words = {words}
        interrupts.install()
        try:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
        finally:
            print("not reached")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")
    assert done.stderr.splitlines()[1:] == said


def test_what_is_taken_twice_and_given_back_twice_is_where_it_was(before: list[Any]) -> None:
    interrupts = Interrupts()
    interrupts.restore()
    interrupts.install()
    ours = handlers()
    interrupts.install()
    assert handlers() == ours != before
    interrupts.restore()
    interrupts.restore()
    assert handlers() == before
    interrupts.install()
    assert handlers() == ours


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_that_is_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    interrupts = Interrupts()
    interrupts.install()
    os.kill(os.getpid(), number)
    assert interrupts.received == 0
    [other] = set(BOTH) - {number}
    os.kill(os.getpid(), other)
    assert interrupts.received == other
    interrupts.restore()
    assert signal.getsignal(number) is signal.SIG_IGN


def test_who_took_a_signal_since_keeps_it(before: list[Any]) -> None:
    def other(*_: Any) -> None:
        """Somebody else's."""

    interrupts = Interrupts()
    interrupts.install()
    signal.signal(signal.SIGTERM, other)
    interrupts.restore()
    assert handlers() == [other, before[1]]
