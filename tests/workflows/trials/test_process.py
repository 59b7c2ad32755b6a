"""A command that receives the signals that ask us to stop."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.workflows.trials.process import run_to_end

# Waits for the signal that it sends to the one who runs it, and writes down each that reaches it.
ECHO = """
import os, signal, sys
number, file = int(sys.argv[1]), sys.argv[2]
def note(received, frame):
    with open(file, "a") as out:
        out.write(f"{received}\\n")
    sys.exit(0)
signal.signal(number, note)
os.kill(os.getppid(), number)
signal.pause()
"""


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Signals are as they are in a terminal: what starts the tests may ignore some, as ``nohup`` does."""
    given = dict.fromkeys((signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL)
    before = {n: signal.signal(n, h) for n, h in {**given, signal.SIGINT: signal.default_int_handler}.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_command_ends_with_its_own_code() -> None:
    assert run_to_end([sys.executable, "-c", "raise SystemExit(7)"]) == 7


@pytest.mark.parametrize(
    ("number", "raised", "code"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143), (signal.SIGHUP, SystemExit, 129)],
)
def test_a_signal_is_passed_on_once_and_then_heeded(
    tmp_path: Path, number: signal.Signals, raised: type[BaseException], code: int | None
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(raised) as caught:
        run_to_end([sys.executable, "-c", ECHO, str(int(number)), str(tmp_path / "received")])
    assert (tmp_path / "received").read_text() == f"{int(number)}\n"
    assert getattr(caught.value, "code", None) == code
    assert signal.getsignal(number) is before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        told = f"import os; os.kill(os.getppid(), {int(signal.SIGHUP)})"
        assert run_to_end([sys.executable, "-c", told]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_interrupts_us_and_not_the_command_as_well(tmp_path: Path) -> None:
    told = f"import os; open({str(tmp_path / 'group')!r}, 'w').write(str(os.getpgrp()))"
    assert run_to_end([sys.executable, "-c", told]) == 0
    assert int((tmp_path / "group").read_text()) != os.getpgrp()
