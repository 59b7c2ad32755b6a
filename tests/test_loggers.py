"""Loggers write inside the run's folder, keep no secrets, and never stop a run."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from distill.loggers import FINISH_SECONDS, CsvLogger, LoggingConfig, SafeWandbLogger, WandbConfig, make_loggers
from distill.run import Run
from distill.wandb_mode import decide, find_key

# ---------------------------------------------------------------------- CSV


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_lie_in_the_runs_folder_itself(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"b": 0.1 + 0.2}, 1)
    logger.finalize("success")
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]
    assert rows(tmp_path) == [
        {"step": "1", "a": "1.0", "b": ""},
        {"step": "2", "a": "", "b": "0.30000000000000004"},
    ]


def test_a_new_column_keeps_the_rows_before_it(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path, rows=1)
    for step in range(3):
        logger.log_metrics({"a": step}, step)
    logger.log_metrics({"a": 3, "b": 4}, 3)
    assert [row["a"] for row in rows(tmp_path)] == ["0.0", "1.0", "2.0", "3.0"]
    assert rows(tmp_path)[-1]["b"] == "4.0"


def test_a_run_that_goes_on_appends(tmp_path: Path) -> None:
    first = CsvLogger(tmp_path)
    first.log_metrics({"a": 1.0}, 0)
    first.finalize("failed")
    second = CsvLogger(tmp_path)
    second.log_metrics({"b": 2.0}, 1)
    second.finalize("success")
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]


# ---------------------------------------------------------------------- whether W&B can be reached


class Server(BaseHTTPRequestHandler):
    """Answers as its class says; remembers what it was asked."""

    status, body, seconds = 200, b'{"data": {"viewer": {"id": "x"}}}', 0.0
    asked: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Authorization', '')}")
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        for byte in self.body:
            time.sleep(self.seconds)
            try:
                self.wfile.write(bytes([byte]))
            except OSError:
                return

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[dict[str, str], list[str]]]]:
    """Starts a server on the loopback; gives the environment that names it, and the list of what it is asked."""
    servers = []

    def start(**answers: Any) -> tuple[dict[str, str], list[str]]:
        asked: list[str] = []
        server = HTTPServer(("127.0.0.1", 0), type("Answering", (Server,), {**answers, "asked": asked}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        url = f"http://127.0.0.1:{server.server_port}"
        return {"WANDB_BASE_URL": url, "WANDB_API_KEY": "k" * 40, "NETRC": os.devnull}, asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


Serve = Callable[..., tuple[dict[str, str], list[str]]]


def test_a_server_that_knows_the_key_means_online(serve: Serve) -> None:
    environment, asked = serve()
    assert decide(None, environment).mode == "online"
    assert decide("online", environment).mode == "online"
    assert asked[0].startswith("/graphql Basic ")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"status": 500}, "status 500"),
        ({"status": 503}, "status 503"),
        ({"status": 404}, "status 404"),
        ({"status": 401}, "does not accept the API key"),
        ({"body": b'{"data": {"viewer": null}}'}, "does not accept the API key"),
        ({"body": b"<html>hotel wifi</html>"}, "no proper answer"),
        ({"body": b"{}"}, "no proper answer"),
        ({"status": 302}, "status 302"),
        ({"seconds": 0.2}, "no answer within 0.5 s"),
    ],
)
def test_a_server_that_does_not_answer_well_means_offline_and_says_why(
    answers: dict[str, Any], reason: str, serve: Serve
) -> None:
    environment, asked = serve(**answers)
    started = time.monotonic()
    decision = decide("online", environment, timeout=0.5)
    assert time.monotonic() - started < 1.5
    assert decision.mode == "offline"
    assert reason in decision.reason
    assert len(asked) == 1  # the key is sent nowhere else, and the question asked once


def test_a_server_that_hangs_means_offline_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        started = time.monotonic()
        decision = decide(None, {"WANDB_BASE_URL": url, "WANDB_API_KEY": "x"}, timeout=0.5)
        assert time.monotonic() - started < 1.5
    assert decision.mode == "offline"


def test_a_closed_port_or_an_unknown_host_means_offline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid", "nonsense", "ftp://127.0.0.1"):
        decision = decide(None, {"WANDB_BASE_URL": url, "WANDB_API_KEY": "x"}, timeout=2)
        assert decision.mode == "offline", url
        assert decision.reason


def test_no_key_means_offline_and_no_server_is_asked(serve: Serve) -> None:
    environment, asked = serve()
    del environment["WANDB_API_KEY"]
    decision = decide(None, environment)
    assert decision.mode == "offline"
    assert "API key" in decision.reason
    assert not asked


@pytest.mark.parametrize("mode", ["offline", "dryrun", "disabled"])
def test_wandb_mode_is_respected_and_no_server_is_asked(mode: str, serve: Serve) -> None:
    environment, asked = serve()
    expected = "disabled" if mode == "disabled" else "offline"
    assert decide(None, {**environment, "WANDB_MODE": mode}).mode == expected
    assert decide("online", {**environment, "WANDB_MODE": mode}).mode == "online"  # the configuration is nearer
    assert len(asked) == 1


def test_the_key_may_stand_in_netrc(tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine wandb.example login user password abc\n")
    netrc.chmod(0o600)
    assert find_key("https://wandb.example/x", {"NETRC": str(netrc)}) == "abc"
    assert find_key("https://other.example", {"NETRC": str(netrc)}) is None
    assert find_key("https://wandb.example", {"NETRC": str(netrc), "WANDB_API_KEY": "env"}) == "env"


# ---------------------------------------------------------------------- what W&B keeps

OFFLINE = """
import json, sys
from distill.loggers import LoggingConfig, WandbConfig, make_loggers
from distill.run import Run

run = Run.create(sys.argv[1], "mine", {}, "one")
config = LoggingConfig(csv=False, tensorboard=False, wandb=WandbConfig(project="p", group="g", tags=["t"]))
[logger] = make_loggers(config, run, {"seed": 7, "model": {"api_key": "s3cret"}})
for step in range(3):
    logger.log_metrics({"train/loss": 1.0 / (step + 1)}, step * 10)
logger.finalize("success")
logger.log_metrics({"too": 1.0}, 99)
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run logged by a process of its own, with a key but no server."""
    folder = tmp_path_factory.mktemp("runs")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "EXTRA_SECRET": "hunter2"}
    command = [sys.executable, "-c", OFFLINE, str(folder), "--password=hunter2"]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    return folder, done


def test_without_a_server_the_run_is_logged_offline_and_that_is_said_once(
    offline: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = offline
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("W&B is offline: http://127.0.0.1:9 cannot be reached") == 1
    assert "wandb" not in done.stderr


def test_its_files_lie_in_the_runs_folder_under_the_runs_id(
    offline: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = offline
    [file] = folder.rglob("*.wandb")
    assert file.name == "run-one.wandb"
    assert folder / "mine" / "one" / "wandb" in file.parents
    assert [p.name for p in folder.iterdir()] == ["mine"]


def test_no_secret_and_no_command_line_is_in_them(offline: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = offline
    files = [p for p in folder.rglob("*") if p.is_file()]
    for secret in (b"s3cret", b"hunter2", b"k" * 40):
        assert not [p for p in files if secret in p.read_bytes()]


def records(path: Path) -> list[Any]:
    """The records of a ``.wandb`` file: blocks of 32 KiB, each part with checksum, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, found, parts, position = path.read_bytes(), [], b"", 7
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def test_everything_is_plotted_over_the_global_step(offline: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = offline
    [file] = folder.rglob("*.wandb")
    found = records(file)
    axes = {r.metric.glob_name or r.metric.name: r.metric.step_metric for r in found if r.HasField("metric")}
    assert axes.get("*", axes.get("train/loss")) == "trainer/global_step"
    history = [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in r.history.item}
        for r in found
        if r.HasField("history")
    ]
    assert [(row["trainer/global_step"], row["train/loss"]) for row in history] == [(0, 1.0), (10, 0.5), (20, 1 / 3)]
    [started] = [r.run for r in found if r.HasField("run")]
    assert (started.run_id, started.project, started.run_group) == ("one", "p", "g")


def test_a_logger_that_breaks_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise OSError("the network is gone")

    import wandb

    monkeypatch.setattr(wandb, "init", broken)
    run = Run.create(tmp_path, "mine", {})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        logger = SafeWandbLogger(WandbConfig(), run, "online")
        logger.log_hyperparams({"a": 1})
        for step in range(3):
            logger.log_metrics({"a": 1.0}, step)
        logger.experiment.log({"a": 1.0})
        logger.finalize("success")
    assert len([w for w in said if "W&B is left out" in str(w.message)]) == 1


class Endless:
    """An experiment whose service process answers no more."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def finish(self, exit_code: int) -> None:
        self.released.wait(30)


def test_the_end_of_a_run_waits_for_wandb_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    experiment = Endless()
    monkeypatch.setattr(wandb, "init", lambda **_: experiment)
    monkeypatch.setattr("distill.loggers.FINISH_SECONDS", 0.2)
    logger = SafeWandbLogger(WandbConfig(), Run.create(tmp_path, "mine", {}), "online")
    started = time.monotonic()
    with pytest.warns(UserWarning, match="it could not finish .*wandb sync") as said:
        logger.finalize("success")
    assert time.monotonic() - started < 5
    assert len(said) == 1
    logger.finalize("success")
    experiment.released.set()


def test_wandb_is_told_to_give_up_before_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    given: dict[str, Any] = {}
    monkeypatch.setattr(wandb, "init", lambda **arguments: given.update(arguments) or Endless())
    SafeWandbLogger(WandbConfig(), Run.create(tmp_path, "mine", {}), "online")
    assert 0 < given["settings"].finish_timeout < FINISH_SECONDS


def test_choosing_the_mode_leaves_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    before = dict(os.environ)
    assert make_loggers(LoggingConfig(csv=False, tensorboard=False, wandb=WandbConfig()), Run(tmp_path / "x"), {}) == []
    assert dict(os.environ) == before


def test_tensorboard_has_a_folder_of_its_own_and_no_secrets(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "mine", {})
    [logger] = make_loggers(LoggingConfig(csv=False), run, {"model": {"api_key": "s3cret", "depth": 3}})
    logger.log_metrics({"a": 1.0}, 1)
    logger.finalize("success")
    files = [p for p in (run.folder / "tensorboard").iterdir() if p.is_file()]
    assert any("tfevents" in p.name for p in files)
    assert not [p for p in files if b"s3cret" in p.read_bytes()]
