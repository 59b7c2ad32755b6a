"""Whatever happens to the server or to W&B's own process, the run continues and its history is on the disk."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.run.loggers.wandb_file import history, records

Synced = Callable[[str], None]

STEPS = [0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9]


def steps(folder: Path) -> list[int]:
    """Over all files, whatever their mode."""
    found = sorted((folder / "mine" / "one" / "wandb").glob("*run-*/*.wandb"), key=lambda p: p.stat().st_mtime)
    return [row["trainer/global_step"] for file in found for row in history(file)]


def configured(folder: Path) -> dict[str, str]:
    [file] = [f for f in (folder / "mine" / "one" / "wandb").glob("*run-*/*.wandb") if list(history(f))]
    return {update.key: update.value_json for record in records(file) for update in record.config.update}


def warned(said: str) -> list[str]:
    """The lines that warn, ours and W&B's own."""
    return [
        line for line in said.splitlines() if re.search("Warning|WARNING|ERROR|wandb: (?!.*Loaded credentials)", line)
    ]


@pytest.mark.parametrize(
    "trouble", ["500", *(pytest.param(t, marks=pytest.mark.slow) for t in ("404", "hang", "close", "refuse"))]
)
def test_a_server_that_fails_in_mid_run_costs_one_warning_with_the_command_that_sends_it(
    trouble: str, play: Any, server: Any, synced: Synced, tmp_path: Path
) -> None:
    process = play(server.environment, pause=1, finish=3.0)
    process.paused()
    server.trouble = trouble
    if trouble == "refuse":
        server.shutdown()
        server.socket.close()
    process.go()
    said = process.end()
    [warning] = warned(said)
    [folder] = (tmp_path / "mine" / "one" / "wandb").glob("run-*")
    assert "UserWarning: W&B may not have got all (" in warning
    assert warning.endswith(f": wandb sync --include-online {folder}")
    assert steps(tmp_path) == STEPS
    assert configured(tmp_path)["lr"] == "1.0"
    if trouble != "refuse":
        synced(said)
        assert [row["trainer/global_step"] for row in server.history] == STEPS


@pytest.mark.parametrize("released", [pytest.param(True, marks=pytest.mark.slow), False])
def test_logging_never_waits_for_the_server_and_all_of_it_can_be_sent_afterwards(
    released: bool, play: Any, server: Any, synced: Synced
) -> None:
    server.trouble = "hold"
    process = play(server.environment, pause=1, steps=2000, finish=3.0)
    process.paused()
    assert server.held.wait(120)
    process.go()
    process.said("all logged")  # nothing has had an answer: who waits for one does not come here
    if released:
        server.released.set()
    said = process.end()
    assert len(warned(said)) == 1
    assert server.history == []
    synced(said)
    sent = [row["trainer/global_step"] for row in server.history if "train/loss" in row]
    assert sent == list(range(2000))


@pytest.mark.parametrize("trouble", ["500", "hang", "close"])
def test_a_server_that_fails_after_it_was_asked_leaves_the_run_offline(
    trouble: str, play: Any, server: Any, tmp_path: Path
) -> None:
    server.trouble, server.spared = trouble, "viewer { id }"
    said = play(server.environment, init=1.0).end()
    assert "W&B is online" in said
    [warning] = warned(said)
    assert "UserWarning: W&B is offline from here on: it could not start" in warning
    assert steps(tmp_path) == STEPS
    assert configured(tmp_path)["lr"] == "1.0"


@pytest.mark.slow
def test_the_end_of_w_and_bs_own_process_leaves_the_run_offline_and_both_parts_are_sent(
    play: Any, server: Any, synced: Synced, tmp_path: Path
) -> None:
    said = play(server.environment, kill_service=True).end()
    [warning] = warned(said)
    assert "UserWarning: W&B is offline from here on" in warning
    assert steps(tmp_path) == STEPS
    synced(said)
    assert [row["trainer/global_step"] for row in server.history] == STEPS


@pytest.mark.slow
def test_a_resumed_run_whose_server_fails_again_is_sent_whole_and_once(
    play: Any, server: Any, synced: Synced, tmp_path: Path
) -> None:
    play(server.environment, kill_after=9, wait=0.6).end(-signal.SIGKILL)
    process = play(server.environment, at=4, pause=1, finish=3.0)
    process.paused()
    server.trouble = "500"
    process.go()
    said = process.end()
    assert len(warned(said)) == 1
    synced(said)
    assert [row["trainer/global_step"] for row in server.history] == STEPS


@pytest.mark.slow
def test_a_run_that_was_online_and_is_resumed_offline_is_sent_whole(
    play: Any, server: Any, synced: Synced, tmp_path: Path
) -> None:
    play(server.environment, kill_after=9, wait=0.6).end(-signal.SIGKILL)
    said = play(at=4).end()
    assert steps(tmp_path) == STEPS
    synced(said)
    assert [row["trainer/global_step"] for row in server.history] == STEPS


def test_offline_nobody_is_asked_anything_and_what_sends_it_is_said(play: Any, server: Any, tmp_path: Path) -> None:
    said = play({**server.environment, "WANDB_MODE": "offline"}).end()
    assert server.asked == []
    assert said.endswith(f"to send it: wandb sync --include-online {tmp_path}/mine/one/wandb\n")
