"""No secret of a configuration is in any file that a run leaves, byte for byte, nor in what is said about it."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from distill.cli.main import main
from distill.run.folder import Run
from distill.run.listing import summary

OWN = """
from pytorch_lightning import Callback

class Notify(Callback):
    def __init__(self, api_key: str, client_password: str, headers: dict, address: str, notes: list):
        if "refuse" in notes:
            raise ValueError(f"{address} cannot be reached with {headers}, nor by {api_key} of {client_password!r}")
        self.given = (api_key, client_password, headers, address, notes)

    def on_train_start(self, *_):
        if "break" in self.given[4]:
            raise RuntimeError("{3} cannot be reached with {2}, nor by {0} of {1!r}".format(*self.given))
"""

SECRETS = {
    "by the name of its key": "plain-s3cret-1",
    "by another name": "plain-s3cret-2",
    "in a header": "dGhpcyBpcyBzZWNyZXQ.3",
    "in an address": "hunter2-4",
    "of a query": "s3cret-5-signature",
    "of the hub": "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF2h",
    "of W&B": hashlib.sha1(b"seven").hexdigest(),
    "of a header with a name": base64.b64encode(b"user:s3cret-8").decode(),
    "among the tags": "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF2h",
    "of the environment": "hunter2-from-the-environment",
    "for W&B's server": "9" * 20 + "f" * 20,
    "in the address of it": "hunter2-9",
}


class Done(NamedTuple):
    """A run, and what was said."""

    folder: Path
    said: str


def shown(text: str) -> list[str]:
    """The secrets in a text."""
    return [case for case, secret in SECRETS.items() if secret in text]


def left(folder: Path) -> list[tuple[str, Path]]:
    """The secrets in files, and the files."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in [path for path in files if zipfile.is_zipfile(path)]:
        with zipfile.ZipFile(path) as archive:
            assert all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
    return [(case, path) for case, secret in SECRETS.items() for path in files if secret.encode() in files[path]]


@pytest.fixture
def planted(
    base: dict[str, Any], own_module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The keys that hold secrets in ``secrets.yaml``, which logs everywhere; the environment is full of them too."""
    own_module("notifying", OWN)
    monkeypatch.setattr("distill.core.utils.secrets._MASKED", set())
    monkeypatch.setenv("NOTIFY_PASSWORD", SECRETS["of the environment"])
    monkeypatch.setenv("WANDB_API_KEY", SECRETS["for W&B's server"])
    monkeypatch.setenv("WANDB_BASE_URL", f"http://user:{SECRETS['in the address of it']}@127.0.0.1:9")
    arguments = {
        "api_key": SECRETS["by the name of its key"],
        "client_password": SECRETS["by another name"],
        "headers": {
            "Accept": f"Bearer {SECRETS['in a header']}",
            "Proxy": f"Basic {SECRETS['of a header with a name']}",
        },
        "address": f"https://user:{SECRETS['in an address']}@host/path?signature={SECRETS['of a query']}&page=1",
        "notes": [f"use {SECRETS['of the hub']}", SECRETS["of W&B"]],
    }
    callback = {"class_path": "notifying.Notify", "init_args": arguments}
    logging = {"tensorboard": True, "wandb": {"tags": [SECRETS["among the tags"]]}}
    Path("secrets.yaml").write_text(json.dumps({"callbacks": [callback], "logging": logging}))
    given = {f"--callbacks.0.{name}": value for name, value in arguments.items()}
    return given | {"--logging.wandb.tags": logging["wandb"]["tags"]}


FIT = ("fit", "-c", "base.yaml", "-c", "secrets.yaml", "--allow", "notifying", "--id")


@pytest.fixture
def run(planted: dict[str, Any], distill: Callable[..., Any]) -> Done:
    code, out, err = distill(*FIT, "one")
    assert code == 0, err
    return Done(Path("runs/base/one"), out + err)


def test_no_secret_is_said_or_in_a_file_of_a_run_that_is_made_and_resumed(
    run: Done, planted: dict[str, Any], distill: Callable[..., Any]
) -> None:
    names = " ".join(path.name for path in run.folder.rglob("*"))
    assert all(kind in names for kind in ("config.yaml", "metrics.csv", "tfevents", ".wandb", ".ckpt", "safetensors"))
    assert "W&B is offline: http://***@127.0.0.1:9 " in run.said
    assert shown(run.said) == left(run.folder) == []
    again = [word for key, value in planted.items() for word in (key, json.dumps(value))]
    code, out, err = distill("resume", str(run.folder), "--max-steps", "3", "--allow", "notifying", *again)
    assert code == 0, err
    assert "resuming" in out
    assert shown(out + err) == left(run.folder) == []


def test_what_is_no_secret_is_still_there(run: Done) -> None:
    [file] = (run.folder / "wandb").glob("*run-*/*.wandb")
    for text in (b"https://***@host/path?signature=***&page=1", b"notifying.Notify"):
        assert text in (run.folder / "config.yaml").read_bytes()
        assert text.replace(b"&", b"\\u0026") in file.read_bytes() or text in file.read_bytes()


ADDRESS = f"https://user:{SECRETS['in an address']}@host/path"
NOTES = f"--callbacks.0.init_args.notes=[%s, {SECRETS['of the hub']}]"

MISTAKES = {
    "the address of the data": ("--data.path", ADDRESS),
    "the address of the teacher": ("--model.teacher", ADDRESS),
    "an address for a key": (f"--{ADDRESS}", "1"),
    "an address for a recipe": ("-c", ADDRESS),
    "an address too many": (ADDRESS,),
    "a key that there is not": ("--data.hub_token", SECRETS["by another name"]),
    "a key that there is not, with its value": (f"--data.password={SECRETS['by another name']}",),
    "a secret of the wrong kind": ("--callbacks.0.api_key", f"[{SECRETS['by another name']}]"),
    "a secret within a mapping": ("--model.optimizer.lr", json.dumps({"token": SECRETS["by another name"]})),
    "a class that quotes its arguments": (NOTES % "refuse",),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_no_secret_is_said_of_a_mistake(mistake: str, planted: dict[str, Any], distill: Callable[..., Any]) -> None:
    code, out, err = distill(*FIT, "two", *MISTAKES[mistake])
    assert code == 2
    assert "***" in err
    assert shown(out + err) == []
    assert not Path("runs/base/two").exists()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For a command that takes this process for its own, and heeds its interrupts to the end."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("process")
def test_no_secret_is_kept_or_said_of_a_run_that_breaks(
    planted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["distill", *FIT, "two", NOTES % "break"])
    assert main() == 1
    out, err = capsys.readouterr()
    assert err.count("Traceback (most recent call last)") == 1
    assert "RuntimeError: https://***@host/path" in err
    assert shown(out + err) == left(Path("runs/base/two")) == []
    assert "https://***@host" in summary(Path("runs/base/two")).note
    assert Run("runs/base/two").state == "failed"
