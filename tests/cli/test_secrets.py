"""No secret of a configuration is in any file that a run leaves, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

OWN = """
from pytorch_lightning import Callback

class Notify(Callback):
    def __init__(self, api_key: str, client_password: str, headers: dict, address: str, notes: list):
        self.given = (api_key, client_password, headers, address, notes)
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
}


@pytest.fixture
def run(fitted: Callable[..., Path], own_module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, logged everywhere, whose configuration and environment are full of secrets."""
    own_module("notifying", OWN)
    monkeypatch.setenv("NOTIFY_PASSWORD", SECRETS["of the environment"])
    monkeypatch.setenv("WANDB_API_KEY", SECRETS["for W&B's server"])
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
    config = {
        "callbacks": [{"class_path": "notifying.Notify", "init_args": arguments}],
        "logging": {"tensorboard": True, "wandb": {"mode": "offline", "tags": [SECRETS["among the tags"]]}},
    }
    Path("secrets.yaml").write_text(json.dumps(config))
    return fitted("-c", "secrets.yaml", "--allow", "notifying")


def test_no_file_of_a_run_holds_a_secret(run: Path) -> None:
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    names = " ".join(path.name for path in files)
    assert all(kind in names for kind in ("config.yaml", "metrics.csv", "tfevents", ".wandb", ".ckpt", "safetensors"))
    for path in [path for path in files if zipfile.is_zipfile(path)]:
        with zipfile.ZipFile(path) as archive:
            assert all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
    for case, secret in SECRETS.items():
        assert not [path for path, data in files.items() if secret.encode() in data], case


def test_what_is_no_secret_is_still_there(run: Path) -> None:
    [file] = (run / "wandb").glob("*run-*/*.wandb")
    for text in (b"https://***@host/path?signature=***&page=1", b"notifying.Notify"):
        assert text in (run / "config.yaml").read_bytes()
        assert text.replace(b"&", b"\\u0026") in file.read_bytes() or text in file.read_bytes()
