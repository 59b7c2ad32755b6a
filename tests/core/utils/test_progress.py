"""The promises of what shows how far long work is."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from distill.core.utils import progress as tracking


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is asked once before the work and once after each item, of which each takes four seconds."""
    clock = itertools.count(start=100.0, step=4.0)
    monkeypatch.setattr(tracking.time, "monotonic", lambda: next(clock))


@pytest.mark.usefixtures("seconds")
def test_without_a_terminal_there_is_a_line_a_tenth_of_the_work_that_tells_what_is_left() -> None:
    said = io.StringIO()
    assert list(tracking.track(range(40), "tried", Console(file=said))) == list(range(40))
    lines = said.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "tried 4 of 40 (10 %), 2 min 24 s left"
    assert lines[-1] == "tried 40 of 40 (100 %), 0.0 s left"


@pytest.mark.usefixtures("seconds")
def test_work_of_many_minutes_says_something_every_minute() -> None:
    said = io.StringIO()
    list(tracking.track(range(1000), "tried", Console(file=said)))
    at = [int(line.split()[1].replace(",", "")) for line in said.getvalue().splitlines()]
    assert at[:8] == [15, 30, 45, 60, 75, 90, 100, 115]


def test_work_of_seconds_says_nothing() -> None:
    said = io.StringIO()
    assert list(tracking.track(range(3), "tried", Console(file=said))) == [0, 1, 2]
    assert said.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    said = io.StringIO()
    assert list(tracking.track(range(3), "tried", Console(file=said, force_terminal=True))) == [0, 1, 2]
    assert "tried" in said.getvalue()
    assert "100%" in said.getvalue()


@pytest.mark.usefixtures("seconds")
def test_what_a_terminal_shows_otherwise_is_not_spoken_of_there() -> None:
    terminal, file = io.StringIO(), io.StringIO()
    for said, forced in ((terminal, True), (file, False)):
        list(tracking.spoken(range(40), "verified", 40, Console(file=said, force_terminal=forced)))
    assert terminal.getvalue() == ""
    assert len(file.getvalue().splitlines()) == 10


def test_a_bar_is_shown_where_it_is_asked_for_and_goes() -> None:
    said = io.StringIO()
    terminal = Console(file=said, force_terminal=True)
    assert list(tracking.spoken(iter(range(3)), "compared", 3, terminal, bar=True)) == [0, 1, 2]
    assert "100%" in said.getvalue()
