"""Whatever happens to the server or to W&B's own process, the run goes on and its history is on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.wandb_file import history, records

STEPS = [0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9]


def steps(folder: Path) -> list[int]:
    """Over all files, whatever their mode."""
    found = sorted((folder / "mine" / "one" / "wandb").glob("*run-*/*.wandb"), key=lambda p: p.stat().st_mtime)
    return [row["trainer/global_step"] for file in found for row in history(file)]


def configured(folder: Path) -> dict[str, str]:
    [file] = [f for f in (folder / "mine" / "one" / "wandb").glob("*run-*/*.wandb") if list(history(f))]
    return {update.key: update.value_json for record in records(file) for update in record.config.update}


@pytest.mark.parametrize("trouble", ["500", "hang", "close", "refuse"])
def test_a_server_that_fails_in_mid_run_costs_one_warning(trouble: str, play: Any, server: Any, tmp_path: Path) -> None:
    process = play(server.environment, pause=True, seconds=3.0)
    process.paused()
    server.trouble = trouble
    if trouble == "refuse":
        server.shutdown()
        server.socket.close()
    process.go()
    said = process.end()
    assert said.count("UserWarning: W&B") == 1
    assert "wandb sync" in said
    assert steps(tmp_path) == STEPS
    assert configured(tmp_path)["lr"] == "1.0"


@pytest.mark.parametrize("trouble", ["500", "hang", "close"])
def test_a_server_that_fails_after_it_was_asked_leaves_the_run_offline(
    trouble: str, play: Any, server: Any, tmp_path: Path
) -> None:
    server.trouble, server.spared = trouble, "viewer { id }"
    said = play(server.environment, seconds=1.0).end()
    assert "W&B is online" in said
    assert said.count("UserWarning: W&B is offline from here on: it could not start") == 1
    assert steps(tmp_path) == STEPS
    assert configured(tmp_path)["lr"] == "1.0"


def test_the_end_of_w_and_bs_own_process_leaves_the_run_offline(play: Any, tmp_path: Path) -> None:
    said = play(kill_service=True).end()
    assert said.count("UserWarning: W&B is offline from here on") == 1
    assert steps(tmp_path) == STEPS


def test_offline_nobody_is_asked_anything_and_what_sends_it_is_said(play: Any, server: Any, tmp_path: Path) -> None:
    said = play({**server.environment, "WANDB_MODE": "offline"}).end()
    assert server.asked == []
    assert "to send it: wandb sync runs/mine/one/wandb/offline-run-*" in said.replace(f"{tmp_path}/", "runs/")
