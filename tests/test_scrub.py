"""Secrets are known by their look too, under whatever key; what only resembles one stays."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from distill.scrub import HIDDEN, scrub

HEX = hashlib.sha1(b"a key").hexdigest()
BASIC = base64.b64encode(b"user:hunter2").decode()
LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0"

SECRETS = {
    "a password with an at sign": ("https://user:hun@ter2@host/data", "ter2"),
    "a password without a name": ("redis://:hunter2@host:6379/0", "hunter2"),
    "a token for a name": (f"https://{LETTERS}@host/repository.git", LETTERS),
    "a connection": ("Server=host;User=me;Password=hunter2;", "hunter2"),
    "a header": ("Authorization: Token hunter2", "hunter2"),
    "a header of one word": ("X-Api-Key: hunter2", "hunter2"),
    "the value of a header": ("Bearer hunter2.hunter2", "hunter2"),
    "the same in lower case": ("bearer hunter2-hunter2", "hunter2"),
    "the value of a basic header": (f"Basic {BASIC}", BASIC),
    "a key of W&B": (HEX, HEX),
    "a key of a server of one's own": (f"local-{HEX}", HEX),
    "a newer key of W&B": (f"wandb_v1_{LETTERS}_{LETTERS}", LETTERS),
    "a token of the hub": (f"hf_{LETTERS}", LETTERS),
    "one of GitHub": (f"github_pat_{LETTERS}", LETTERS),
    "one of GitLab": (f"glpat-{LETTERS}", LETTERS),
    "one of Slack": (f"xoxb-1234567890-{LETTERS}", LETTERS),
    "one of AWS": ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    "a signed token": (f"eyJhbGciOiJIUzI1NiJ9.{LETTERS}.{LETTERS}", LETTERS),
    "a private key": (f"-----BEGIN RSA PRIVATE KEY-----\n{LETTERS}\n-----END RSA PRIVATE KEY-----", LETTERS),
}


@pytest.mark.parametrize("case", SECRETS)
def test_a_secret_is_known_by_its_look(case: str) -> None:
    text, secret = SECRETS[case]
    for value in (text, [text], {"note": text}, {"note": [{"deeper": text}]}):
        assert secret not in str(scrub(value))
        assert HIDDEN in str(scrub(value))


HARMLESS: dict[str, Any] = {
    "revision": HEX,
    "teacher_commit": HEX,
    "data_fingerprint": HEX,
    "path": f"models/snapshots/{HEX}",
    "id": "20261121-103000-ab12",
    "digits": "0" * 40,
    "longer": hashlib.sha256(b"").hexdigest(),
    "prompt": "The basic idea: a bearer of news, the key to it, a token of love; password unknown",
    "template": "{key}={value}; label: {label}",
    "url": "https://host:8080/path?page=1&q=a@b#c@d",
    "mail": "user@host.example",
    "scheme": "Basic dXNlcg==",
    "words": "basic understanding",
    "task": "token-classification",
    "layer": "encoder.layer.0.attention.self.key",
    "taps": {"encoder.layer.0.attention.self.key": "encoder.layer.1.attention.self.key"},
    "layers": {"query|key": {"granularity": "channel"}},
    "pattern": r"(?:query|key|value)\.weight$",
    "class_path": "torch.nn.MultiheadAttention",
    "names": ["sk-learn", "hf_internal", "AKIA", "eyJ", "task-a-very-long-name-that-goes-on"],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_resembles_a_secret_stays(name: str) -> None:
    assert scrub({name: HARMLESS[name]}) == {name: HARMLESS[name]}
