"""The processes of one run meet at a port that stays free, and none outlives the first."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Trainer

from distill.core.utils.errors import UserError
from distill.core.utils.quiet import quiet_lightning
from distill.run.folder import Run
from distill.training import processes
from distill.training.processes import meeting

FIT = Path(__file__).with_name("fit.py")
TWO_RANKS = ("-c", "base.yaml", "--trainer.devices", "2", "--trainer.strategy", "ddp", "--id", "one")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which another program listens, to whom the second rank could talk."""
    with socket.create_server(("", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_port_in_use_is_not_drawn(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PORTS", range(taken, taken + 1))
    monkeypatch.setattr(processes, "_TRIES", 1)
    with pytest.raises(OSError, match="no free port"):
        processes.free_port()


def test_ports_are_none_that_a_system_gives_to_connections() -> None:
    ports = {processes.free_port() for _ in range(20)}
    assert len(ports) > 1
    assert ports <= set(range(10000, 30000))


def two_ranks() -> Trainer:
    with quiet_lightning():
        return Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)


def test_a_run_that_starts_processes_draws_a_port_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")  # what is set in the test is undone after it
    monkeypatch.delenv("MASTER_PORT")
    with meeting(two_ranks()):
        assert int(os.environ["MASTER_PORT"]) in processes._PORTS


@pytest.mark.parametrize("given", [{"MASTER_PORT": "12345"}, {"LOCAL_RANK": "0"}], ids=["a port", "processes"])
def test_a_port_or_processes_that_others_gave_are_kept(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_PORT", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with meeting(two_ranks()):
        assert os.environ.get("MASTER_PORT") == given.get("MASTER_PORT")


def test_what_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "abc")
    with pytest.raises(UserError, match="MASTER_PORT = 'abc': must be the number of a port"), meeting(two_ranks()):
        pass


@pytest.mark.slow
def test_a_run_that_cannot_meet_at_its_port_says_so_and_ends_with_all_its_processes(
    base: dict[str, Any], script: Callable[..., Any], taken: int
) -> None:
    # The script has ended when the last of its processes has.
    said = script(FIT, "well", *TWO_RANKS, code=2, timeout=300, MASTER_PORT=str(taken)).err
    assert said.count("distill: error") == 1
    assert f"MASTER_PORT = '{taken}': is in use by another program" in said
    assert "Traceback" not in said
    assert not Path("runs").exists()


def test_a_dry_run_of_two_processes_shows_one_plan(base: dict[str, Any], script: Callable[..., Any]) -> None:
    done = script(FIT, "well", *TWO_RANKS[:-2], "--dry-run", MASTER_PORT="")
    assert done.out.count("on the first of 2 ranks") == 1
    assert [path.name for path in Path().iterdir()] == ["base.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["step", "end"])
def test_when_the_first_process_fails_the_others_end_too(
    place: str, base: dict[str, Any], script: Callable[..., Any]
) -> None:
    said = script(FIT, place, *TWO_RANKS, code=1, timeout=300, MASTER_PORT="").err
    assert "MemoryError: the first rank has none left" in said
    assert Run.open("runs/base/one").state == "failed"
