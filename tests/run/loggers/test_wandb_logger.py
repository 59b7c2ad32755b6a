"""W&B has the run under its own id and in its folder, is told no secrets, and never stops or holds up a run."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from distill.run.folder import Run
from distill.run.loggers import wandb_service
from distill.run.loggers.config import LoggingConfig, WandbConfig
from distill.run.loggers.make import SafeWandbLogger, keep_completions, keep_export, make_loggers
from distill.run.loggers.wandb_file import history, records


def files(folder: Path) -> list[Path]:
    return sorted((folder / "mine" / "one" / "wandb").glob("*run-*/*.wandb"))


def test_a_run_without_a_server_is_offline_which_is_said_once(play: Any, tmp_path: Path) -> None:
    said = play({"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}).end()
    assert said.count("W&B is offline: http://127.0.0.1:9 cannot be reached") == 1
    assert [line.split(":")[0] for line in said.splitlines()] == [
        "W&B is offline",
        "all logged",
        "W&B was offline; to send it",
    ]
    [file] = files(tmp_path)
    assert file.name == "run-one.wandb"
    [started] = [r.run for r in records(file) if r.HasField("run")]
    assert (started.run_id, started.project, started.run_group) == ("one", "distill", "g")
    for secret in (b"s3cret", b"k" * 40, b"player.py"):
        assert not [p for p in tmp_path.rglob("*") if p.is_file() and secret in p.read_bytes()]


def test_everything_is_plotted_over_the_global_step(play: Any, tmp_path: Path) -> None:
    play().end()
    [file] = files(tmp_path)
    axes = {r.metric.glob_name: r.metric.step_metric for r in records(file) if r.HasField("metric")}
    assert axes["*"] == "trainer/global_step"
    assert all("trainer/global_step" in row for row in history(file))


def test_within_a_sweep_the_id_is_the_one_of_wandb_agent(play: Any, tmp_path: Path) -> None:
    said = play({"WANDB_SWEEP_ID": "swept", "WANDB_RUN_ID": "one"}).end()
    assert "Warning" not in said
    [file] = files(tmp_path)
    [started] = [r.run for r in records(file) if r.HasField("run")]
    assert (started.run_id, started.sweep_id) == ("one", "swept")


def test_a_logger_that_breaks_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise OSError("the network is gone")

    import wandb

    monkeypatch.setattr(wandb, "init", broken)
    run = Run.create(tmp_path, "mine", {})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        logger = SafeWandbLogger(WandbConfig(artifacts=["student"]), run, "online")
        logger.log_hyperparams({"a": 1})
        for step in range(3):
            logger.log_metrics({"a": 1.0}, step)
        logger.experiment.log({"a": 1.0})
        logger.finalize("success")
        logger.log_artifact("student", tmp_path)
    assert [str(w.message) for w in said if "W&B" in str(w.message)] == [
        "W&B is left out from here on: it could not start (OSError('the network is gone'))."
    ]


def test_what_a_callback_does_with_an_absent_run_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.run.loggers.fail_safe.is_rank_zero", lambda: False)  # where W&B is never started
    run = SafeWandbLogger(WandbConfig(), Run.create(tmp_path, "mine", {}), "offline").experiment
    run.log({"a": 1.0})
    run.config["a"] = 1
    run.config.update({"b": 2}, allow_val_change=True)
    run.summary["best"]["accuracy"] = 0.5
    run.name = "another"
    assert list(run.logged_artifacts()) == []


@pytest.mark.parametrize("own", [False, True], ids=["a copy", "its own"])
def test_a_copied_run_takes_no_row_of_the_original_for_its_own(
    own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, "mine", {}, "copied")
    (run.folder / "metrics.csv").write_text("step,a\n1,0.5\n")
    file = run.folder / "wandb/offline-run-20260101_000000-one" / f"run-{'copied' if own else 'one'}.wandb"
    file.parent.mkdir(parents=True)
    file.touch()
    rows, given = [], {}

    class Fake(Endless):
        dir = str(run.folder / "wandb/offline-run-20260102_000000-copied/files")

        def log(self, row: Any) -> None:
            rows.append(row)

    monkeypatch.setattr(
        "distill.run.loggers.wandb_logger.history", lambda _: [{"trainer/global_step": 0, "a": 0.5, "_step": 0}]
    )
    monkeypatch.setattr(
        "distill.run.loggers.wandb_logger.begin", lambda _, **arguments: given.update(arguments) or Fake()
    )
    logger = SafeWandbLogger(WandbConfig(), run, "offline", 1)
    assert given["id"] == "copied"
    assert rows == ([] if own else [{"a": 0.5, "trainer/global_step": 0}])
    assert logger._to_send == (run.folder / "wandb" if own else Path(Fake.dir).parent)


def test_rows_beyond_the_checkpoint_are_not_taken_from_a_history_that_could_not_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, "mine", {}, "one")
    (run.folder / "metrics.csv").write_text("step,a\n1,0.5\n2,0.25\n3,0.125\n")
    rows: list[Any] = []

    class Fake(Endless):
        dir = str(run.folder / "wandb/offline-run-20260102_000000-one/files")

        def log(self, row: Any) -> None:
            rows.append(row)

    monkeypatch.setattr("distill.run.loggers.wandb_logger.begin", lambda *_, **__: Fake())
    SafeWandbLogger(WandbConfig(), run, "offline", 2)
    assert rows == [{"a": 0.5, "trainer/global_step": 0}, {"a": 0.25, "trainer/global_step": 1}]


class Endless:
    """An experiment whose service process answers no more."""

    dir = "runs/it/wandb/run-now/files"

    def __init__(self) -> None:
        self.released = threading.Event()

    def define_metric(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def log(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def finish(self, exit_code: int) -> None:
        self.released.wait(60)


def test_the_end_of_a_run_waits_for_wandb_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    experiment = Endless()
    monkeypatch.setattr(wandb, "init", lambda **_: experiment)
    monkeypatch.setattr(wandb_service, "FINISH_SECONDS", 0.2)
    logger = SafeWandbLogger(WandbConfig(), Run.create(tmp_path, "mine", {}), "online")
    with pytest.warns(UserWarning, match="no end within .* wandb sync --include-online runs/it/wandb/run-now$") as said:
        logger.finalize("success")
    assert len(said) == 1
    logger.finalize("success")
    experiment.released.set()


def test_wandb_says_itself_what_is_wrong_before_the_run_begins_and_after_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def init(**_: Any) -> Endless:
        wandb.termerror("no such entity")
        return experiment

    experiment = Endless()
    experiment.released.set()
    monkeypatch.setattr(wandb, "init", init)
    logger = SafeWandbLogger(WandbConfig(), Run.create(tmp_path, "mine", {}), "online")
    assert "no such entity" in capsys.readouterr().err
    wandb.termwarn("the server is gone")
    with pytest.warns(UserWarning, match=r"W&B may not have got all \(the server is gone\)"):
        logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    assert capsys.readouterr().err == ""
    wandb.termwarn("this is another run's")
    assert "this is another run's" in capsys.readouterr().err


def test_wandb_is_told_to_give_up_before_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    given: dict[str, Any] = {}
    monkeypatch.setattr(wandb, "init", lambda **arguments: given.update(arguments) or Endless())
    SafeWandbLogger(WandbConfig(), Run.create(tmp_path, "mine", {}), "online")
    assert 0 < given["settings"].finish_timeout < wandb_service.FINISH_SECONDS


def test_the_environment_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **_: Endless())
    monkeypatch.setenv("WANDB_MODE", "disabled")
    before = dict(os.environ)
    config = LoggingConfig(csv=False, tensorboard=False, wandb=WandbConfig())
    assert make_loggers(config, Run(tmp_path / "x"), {}) == []
    SafeWandbLogger(WandbConfig(), Run.create(tmp_path, "mine", {}), "online")
    assert dict(os.environ) == before


# ---------------------------------------------------------------------- artifacts


def artifacts(file: Path) -> list[Any]:
    requests = [r.request.log_artifact.artifact for r in records(file) if r.request.HasField("log_artifact")]
    return requests + [r.artifact for r in records(file) if r.HasField("artifact")]


def test_the_student_is_kept_where_that_is_asked_for(play: Any, tmp_path: Path) -> None:
    play(artifacts=["student"]).end()
    [file] = files(tmp_path)
    [artifact] = artifacts(file)
    assert (artifact.name, artifact.type) == ("mine-student", "model")
    [entry] = artifact.manifest.contents
    assert (entry.path, entry.size) == ("model.safetensors", len(b"weights"))
    assert Path(entry.local_path) == tmp_path / "mine" / "one" / "student" / "model.safetensors"
    assert [r for r in records(file) if r.HasField("exit")]


def test_an_export_is_kept_without_opening_the_finished_run_again(play: Any, tmp_path: Path) -> None:
    play().end()
    run = Run.open(tmp_path / "mine" / "one")
    folder = run.folder / "exports" / "onnx"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    config = LoggingConfig(wandb=WandbConfig(mode="offline"))
    keep_export(config, run, folder)
    assert len(files(tmp_path)) == 1
    keep_export(LoggingConfig(wandb=WandbConfig(mode="offline", artifacts=["exports"])), run, folder)
    first, second = sorted(files(tmp_path), key=lambda path: len(path.name))
    assert not artifacts(first)
    [started] = [r.run for r in records(second) if r.HasField("run")]
    assert (started.run_id, started.job_type) == ("one-onnx", "export")
    [artifact] = artifacts(second)
    assert [entry.path for entry in artifact.manifest.contents] == ["model.onnx"]


def test_completions_are_shown_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Begun:
        dir, logged = str(tmp_path), list[dict[str, Any]]()

        def log(self, row: dict[str, Any]) -> None:
            self.logged.append(row)

    monkeypatch.setattr(SafeWandbLogger, "_start", lambda *_: None)
    logger = SafeWandbLogger(WandbConfig(), Run.create(tmp_path, "mine", {}), "offline", more=True)
    logger.begun = begun = Begun()
    (tmp_path / "completions.jsonl").write_text(
        '{"prompt": "a\u2028b", "student": "c"}\n{"prompt": "d", "student": "e"}\n'
    )
    logger.finalize("success")  # waits for what is to come
    keep_completions([logger], tmp_path / "completions.jsonl")
    [row] = begun.logged
    table = row["completions"]
    assert (table.columns, table.data) == (["prompt", "student"], [["a\u2028b", "c"], ["d", "e"]])
