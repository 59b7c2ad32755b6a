"""A run that was killed and resumed has one history in W&B: every row, each once, over the global step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill.run.loggers.wandb_file import history, records

AXIS = "trainer/global_step"

# Steps 0 to 9; validation after every third.
EXPECTED: list[tuple[int, dict[str, float]]] = []
for number in range(10):
    EXPECTED.append((number, {"train/loss": 1.0 / (number + 1), "epoch": number // 5}))
    if number in (2, 5, 8):
        EXPECTED.append((number, {"val/accuracy": 0.1 * number, "epoch": number // 5}))


def plain(rows: list[dict[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    """Rows without what W&B adds."""
    return [(row[AXIS], {k: v for k, v in row.items() if k != AXIS and not k.startswith("_")}) for row in rows]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "mine" / "one" / "wandb").glob("*run-*/*.wandb"))


def recorded(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return [row for file in files(folder) for row in plain(list(history(file)))]


KILLED = -signal.SIGKILL


@pytest.mark.parametrize(
    ("rows", "at", "wait"),
    [
        pytest.param(9, 4, 0.0, id="before W&B had written anything", marks=pytest.mark.slow),
        pytest.param(9, 4, 0.6, id="with rows recorded beyond the checkpoint"),
        pytest.param(7, 4, 0.6, id="between two rows of one step", marks=pytest.mark.slow),
        pytest.param(9, 0, 0.6, id="before its first checkpoint", marks=pytest.mark.slow),
    ],
)
def test_a_killed_and_resumed_run_has_every_row_once(
    rows: int, at: int, wait: float, play: Any, tmp_path: Path
) -> None:
    play(kill_after=rows, wait=wait).end(KILLED)
    play(at=at).end()
    assert len(files(tmp_path)) == 2
    assert recorded(tmp_path) == EXPECTED


@pytest.mark.slow
def test_it_may_be_killed_again_and_again(play: Any, tmp_path: Path) -> None:
    play(kill_after=6, wait=0.6).end(KILLED)
    play(at=4, kill_after=3).end(KILLED)
    play(at=4, kill_after=7, wait=0.6).end(KILLED)
    play(at=8).end()
    assert recorded(tmp_path) == EXPECTED


def test_without_metrics_csv_what_w_and_b_had_written_is_not_written_again(play: Any, tmp_path: Path) -> None:
    play(kill_after=9, wait=0.6, csv=False).end(KILLED)
    play(at=4, csv=False).end()
    assert recorded(tmp_path) == EXPECTED


def test_offline_parts_sync_into_one_run_over_the_global_step(play: Any, server: Any, tmp_path: Path) -> None:
    play(kill_after=9, wait=0.6).end(KILLED)
    play(at=4, lr=2.0).end()
    command = [str(Path(sys.executable).with_name("wandb")), "sync", str(files(tmp_path)[0].parents[1])]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, "check": False}
    # It writes a log of its own into the folder that it is started in.
    synced = subprocess.run(command, env=os.environ | server.environment, cwd=tmp_path, **options)
    assert synced.returncode == 0, synced.stderr
    assert list((tmp_path / "wandb" / "logs").iterdir())
    assert list(server.runs) == ["one"]
    assert plain(server.history) == EXPECTED
    assert [row["_step"] for row in server.history] == list(range(len(EXPECTED)))
    config = json.loads(server.runs["one"]["config"])
    assert config["lr"]["value"] == 2.0
    # W&B's numbers: 1 a name, 2 a glob, 4 the axis by its name, 5 by its place among the metrics.
    metrics = config["_wandb"]["value"]["m"]
    axis = 1 + next(place for place, metric in enumerate(metrics) if metric.get("1") == AXIS)
    everything = [metric for metric in metrics if metric.get("2") == "*" or "val/accuracy" in metric.values()]
    assert all(metric.get("4") == AXIS or metric.get("5") == axis for metric in everything)
    assert everything


@pytest.mark.slow
def test_an_online_run_sends_what_the_server_had_not_got(play: Any, server: Any, tmp_path: Path) -> None:
    play(server.environment, kill_after=9, wait=0.6).end(KILLED)
    assert len(server.lines) < 9 == len(recorded(tmp_path))  # W&B sends every 15 s
    play(server.environment, at=4).end()
    assert plain(server.history) == EXPECTED


@pytest.mark.slow
def test_an_online_run_does_not_send_twice(play: Any, server: Any, tmp_path: Path) -> None:
    play(server.environment).end()
    play(server.environment, at=4).end()
    assert plain(server.history) == EXPECTED
    assert [file.name for file in files(tmp_path)] == ["run-one.wandb"] * 2


@pytest.mark.slow
def test_what_changed_in_the_configuration_is_shown(play: Any, tmp_path: Path) -> None:
    play(kill_after=5).end(KILLED)
    play(at=4, lr=2.0).end()
    updates = {
        update.key: json.loads(update.value_json)
        for record in records(files(tmp_path)[1])
        for update in record.config.update
    }
    assert updates["lr"] == 2.0
