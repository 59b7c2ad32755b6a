"""TensorBoard shows every step of a killed and resumed run once, holds no secrets, and never stops the run."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from distill.run.folder import Run
from distill.run.loggers.config import LoggingConfig
from distill.run.loggers.make import SafeTensorBoardLogger, make_loggers


def log(logger: SafeTensorBoardLogger, begin: int, end: int) -> None:
    for step in range(begin, end):
        logger.log_metrics({"loss": 1 / (step + 1)}, step)
        if step % 3 == 2:
            logger.log_metrics({"accuracy": 0.1 * step}, step)
        logger.save()


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, round(event.value, 5)) for event in events.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize("at", [0, 2, 6])
@pytest.mark.parametrize("killed", [6, 9])
def test_a_resumed_run_shows_every_step_once(
    killed: int, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(SafeTensorBoardLogger(tmp_path), 0, killed)
    later = time.time() + 5  # files are in the order of their names, which tell the second
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: later))
    second = SafeTensorBoardLogger(tmp_path, at)
    log(second, at, 12)
    second.finalize("success")
    assert shown(tmp_path) == {
        "loss": [(step, round(1 / (step + 1), 5)) for step in range(12)],
        "accuracy": [(step, round(0.1 * step, 5)) for step in (2, 5, 8, 11)],
    }


def test_it_has_a_folder_of_its_own_and_no_secrets(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "mine", {})
    [logger] = make_loggers(LoggingConfig(csv=False), run, {"model": {"api_key": "s3cret", "depth": 3}})
    logger.log_metrics({"a": 1.0}, 1)
    logger.finalize("success")
    files = [p for p in (run.folder / "tensorboard").iterdir() if p.is_file()]
    assert any("tfevents" in p.name for p in files)
    assert not [p for p in files if b"s3cret" in p.read_bytes()]


def test_a_resumed_run_shows_what_changed_in_its_configuration(tmp_path: Path) -> None:
    for at, lr in ((None, 1.0), (4, 2.0)):
        logger = SafeTensorBoardLogger(tmp_path, at)
        logger.log_hyperparams({"lr": lr})
        logger.save()
    assert (tmp_path / "tensorboard" / "hparams.yaml").read_text() == "lr: 2.0\n"


def test_what_goes_wrong_ends_it_alone(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    logger = SafeTensorBoardLogger(tmp_path)
    with pytest.warns(UserWarning, match="TensorBoard is left out"):
        log(logger, 0, 3)
    log(logger, 3, 6)
    logger.finalize("success")


def test_a_folder_that_cannot_be_changed_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "tensorboard" / "hparams.yaml").mkdir(parents=True)  # in the way, and no file to remove
    with pytest.warns(UserWarning, match="TensorBoard is left out"):
        logger = SafeTensorBoardLogger(tmp_path, 3)
    log(logger, 3, 6)
    logger.finalize("success")
