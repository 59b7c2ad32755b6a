"""A W&B server on the loopback, and processes that log, are killed, and resume."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


class Server(ThreadingHTTPServer):
    """Speaks as much of W&B's protocol as a run and ``wandb sync`` need; keeps what it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.environment = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "k" * 40, "NETRC": os.devnull}
        self.asked: list[str] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.lines: list[str] = []
        self.trouble: str | None = None
        self.spared = ""
        """Requests with this in them are answered in spite of the trouble."""
        self.held, self.released = threading.Event(), threading.Event()
        """Whether the trouble ``hold`` keeps what brings rows waiting; whether it gets an answer: status 500."""

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def handle_error(self, *_: Any) -> None:
        """Nothing: clients may be killed."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode(errors="replace")
        self.server.asked.append(self.path)
        trouble, spared = self.server.trouble, self.server.spared
        if trouble == "hold" and "file_stream" in self.path:
            self.server.held.set()
            self.server.released.wait()
            self._answer({}, 500)
        elif trouble and trouble != "hold" and (not spared or spared not in text):
            if trouble == "hang":
                time.sleep(600)
            if trouble.isdigit():
                self._answer({}, int(trouble))
            self.close_connection = True
        elif self.path == "/graphql":
            asked = json.loads(text)
            self._answer({"data": self._data(asked["query"], asked.get("variables") or {})})
        else:
            if "file_stream" in self.path:
                part = json.loads(text).get("files", {}).get("wandb-history.jsonl")
                if part:
                    self.server.lines[part["offset"] :] = part["content"]
            self._answer({})

    def _answer(self, value: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _data(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}
        if "__type" in query:
            return {"__type": None} | dict.fromkeys(re.findall(r"(\w+): ?__type", query))
        if "upsertBucket" in query:
            name = variables["name"]
            new = name not in self.server.runs
            run = self.server.runs.setdefault(name, {})
            run.update({key: value for key, value in variables.items() if value})
            bucket = {"id": name, "name": name, "displayName": name, "config": "{}", "project": project}
            bucket |= {"historyLineCount": len(self.server.lines), "sweepName": None}
            return {"upsertBucket": {"bucket": bucket, "inserted": new, "serverMessages": []}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "RunResumeStatus" in query:
            return {"model": {**project, "bucket": self._bucket(variables["name"])}}
        viewer = {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"cliVersionInfo": {"max_cli_version": "0.31.0"}, "features": []}}

    def _bucket(self, name: str) -> dict[str, Any] | None:
        if name not in self.server.runs:
            return None
        lines = self.server.lines
        bucket: dict[str, Any] = {"id": name, "name": name, "displayName": name, "tags": [], "notes": None}
        bucket |= {"summaryMetrics": "{}", "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"}
        bucket |= {"historyLineCount": len(lines), "historyTail": json.dumps(lines[-1:])}
        return bucket | {"config": self.server.runs[name].get("config", "{}"), "wandbConfig": '{"t": 1}'}

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.released.set()
    running.shutdown()
    running.server_close()


class Played:
    """A process that plays a run.

    Args:
        forks: Starts it.
        folder: To work in.
        environment: Added to that of the test, less what W&B reads.
        arguments: Of ``player.main``.
    """

    def __init__(self, forks: Any, folder: Path, environment: dict[str, str], arguments: dict[str, Any]) -> None:
        self._forks, self._folder = forks, folder
        self._output = folder / f"output-{len(list(folder.glob('output-*')))}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        command = [str(Path(__file__).with_name("player.py")), json.dumps({"runs": str(folder), **arguments})]
        given = clean | {"NETRC": os.devnull, "WANDB__SERVICE_WAIT": "120"} | environment
        forks.start(command, given, folder, self._output, self._output)

    def end(self, code: int = 0) -> str:
        """What it has printed, once it has ended with ``code``."""
        ended = self._forks.wait()
        text = self._output.read_text()
        assert ended == code, text
        return text

    def said(self, words: str) -> None:
        """Wait until it has printed ``words``; it may be stuck before."""
        last = time.monotonic() + 120
        while words not in (text := self._output.read_text() if self._output.exists() else ""):
            assert time.monotonic() < last, text
            time.sleep(0.02)

    def paused(self) -> None:
        self.said("paused")

    def go(self) -> None:
        (self._folder / "go").touch()


@pytest.fixture
def play(forks: Any, tmp_path: Path) -> Callable[..., Played]:
    """Starts ``player.main`` with the arguments given by name."""
    return lambda environment=None, **arguments: Played(forks, tmp_path, environment or {}, arguments)


@pytest.fixture
def synced(server: Server, tmp_path: Path) -> Callable[[str], None]:
    """Sends a run, by the one command that a process ``said``, to the server, which is well again."""

    def send(said: str) -> None:
        server.trouble = None
        [command] = {line.partition("wandb sync ")[2] for line in said.splitlines() if "wandb sync " in line}
        done = subprocess.run(
            [str(Path(sys.executable).with_name("wandb")), "sync", *shlex.split(command)],
            env=os.environ | server.environment,
            cwd=tmp_path,  # it writes a log of its own into the folder that it is started in
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return send
