"""Whether a run can talk to W&B is decided before it starts, quickly, whatever the server does."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from distill.run.loggers.wandb_mode import Decision, decide, find_key, sweep_run_id


class Server(BaseHTTPRequestHandler):
    """Answers as its class says; remembers what it was asked."""

    status, body = 200, b'{"data": {"viewer": {"id": "x"}}}'
    asked: list[str] = []  # noqa: RUF012
    drip: threading.Event | None = None
    """Until it is set, or for a minute, spaces come before the body, one by one."""

    def do_POST(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('Authorization', '')}")
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        if self.drip is None:
            self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        last = time.monotonic() + 60
        with suppress(OSError):  # nobody listens any more
            while self.drip and not self.drip.wait(0.05) and time.monotonic() < last:
                self.wfile.write(b" ")
            self.wfile.write(self.body)

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
    ],
)
def test_a_server_that_does_not_answer_well_means_offline_and_says_why(
    answers: dict[str, Any], reason: str, serve: Serve
) -> None:
    environment, asked = serve(**answers)
    decision = decide("online", environment, timeout=60)
    assert decision.mode == "offline"
    assert reason in decision.reason
    assert len(asked) == 1  # the key is sent nowhere else, and the question asked once


def gave_up(decision: Decision) -> bool:
    """Whether the server was waited for no longer: who waits to the end, a minute, hears an answer or is cut off."""
    late = ("no answer within 0.5 s", "no proper answer (TimeoutError)")
    return decision.mode == "offline" and any(words in decision.reason for words in late)


def test_a_server_that_answers_bit_by_bit_means_offline_before_it_has_done_so(serve: Serve) -> None:
    drip = threading.Event()
    environment, _ = serve(drip=drip)
    assert gave_up(decide("online", environment, timeout=0.5))
    drip.set()
    assert decide("online", environment, timeout=60).mode == "online"


def test_a_server_that_hangs_means_offline_before_it_gives_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gives_up = threading.Timer(60, listening.shutdown, [socket.SHUT_RDWR])
        gives_up.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        decision = decide(None, {"WANDB_BASE_URL": url, "WANDB_API_KEY": "x"}, timeout=0.5)
        gives_up.cancel()
    assert gave_up(decision)


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


def test_the_id_of_a_run_of_a_sweep_is_the_one_that_wandb_agent_gives() -> None:
    assert sweep_run_id({"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "abc"}) == "abc"
    assert sweep_run_id({"WANDB_RUN_ID": "abc"}) is None
    assert sweep_run_id({"WANDB_SWEEP_ID": "s"}) is None
