"""Secrets are known by their look too, under whatever key; what only resembles one stays."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.core.utils.errors import TrainingError, UserError
from distill.core.utils.secrets import HIDDEN, mask, scrub, scrub_override

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
    "a basic header in a text": (f"cannot ask with {{'Proxy': 'Basic {BASIC}'}}", BASIC),
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


# ---------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    "key",
    ["callbacks.0.api_key", "data.token", "model.hub_token", "password", "data.keys_of.secret.0", "data.token.of"],
)
def test_each_part_of_an_overrides_key_is_a_key(key: str) -> None:
    assert scrub_override(key, "hunter2") == HIDDEN
    assert scrub_override(key, ["hunter2"]) == [HIDDEN]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.tokenizer", "x"),
        ("model.optimizer.lr", 1e-4),
        ("data.text_key", "sentence"),
        ("model.revision", HEX),
        ("callbacks.0.layers.query|key", "channel"),
        ("model.losses.0.taps", {"encoder.layer.0.attention.self.key": "encoder.layer.1.attention.self.key"}),
    ],
)
def test_other_overrides_stay(key: str, value: Any) -> None:
    assert scrub_override(key, value) == value


ARGUMENTS: dict[str, tuple[Any, Any]] = {
    "with its value": (["--model.hub_token=hunter2", "--seed=1"], [f"--model.hub_token={HIDDEN}", "--seed=1"]),
    "and its value": (["--model.hub_token", "hunter2", "--seed", "1"], ["--model.hub_token", HIDDEN, "--seed", "1"]),
    "of two words": (["--data.password=hunter 2"], [f"--data.password={HIDDEN}"]),
    "with a mapping": (["--data.headers", {"token": "hunter2"}], ["--data.headers", {"token": HIDDEN}]),
    "in a text": ("fit --api-key=hunter2 --seed=1", f"fit --api-key={HIDDEN} --seed=1"),
    "in a printed list": ("['fit', '--a.token=hunter2', '--seed=1']", f"['fit', '--a.token={HIDDEN}', '--seed=1']"),
    "under another name": ([f"--data.name={HEX}"], [f"--data.name={HIDDEN}"]),
    "without a value": (["--use-token", "--seed", "1"], ["--use-token", "--seed", "1"]),
    "that is harmless": (["--data.text_key=a", "--sort-key", "b"], ["--data.text_key=a", "--sort-key", "b"]),
    "that is asked for": ("give it with --data.token", "give it with --data.token"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_argument_is_known_by_its_name(case: str) -> None:
    given, left = ARGUMENTS[case]
    assert scrub(given) == left
    assert scrub({"command": given}) == {"command": left}


def test_arguments_below_a_secret_go_with_it() -> None:
    assert scrub({"secrets": ["--user", "hunter2"]}) == {"secrets": [HIDDEN, HIDDEN]}


# ---------------------------------------------------------------------- errors


def test_an_error_hides_the_value_of_a_secret_wherever_it_speaks_of_it() -> None:
    error = UserError("must be a list, not hunter2", key="data.token", value="hunter2", hint="write [hunter2]")
    assert str(error) == f"data.token = '{HIDDEN}': must be a list, not {HIDDEN}. write [{HIDDEN}]."
    assert str(error.within("callbacks.0")) == str(error)
    assert error.value == "hunter2"  # the place where it stands is found by it


def test_an_error_hides_a_password_in_any_part_of_it() -> None:
    address = "https://user:hunter2@host"
    error = UserError(f"{address} is gone", key="data.path", value=Path(address), hint=f"ask {address}")
    for said in (error, TrainingError(f"{address} is gone")):
        assert "hunter2" not in str(said)
        assert "is gone" in str(said)


def test_an_error_shows_what_is_no_secret() -> None:
    error = UserError("must not be a tuple", key="model.losses.0.layers", value=(1, "a"), hint="give a list")
    assert str(error) == "model.losses.0.layers = (1, 'a'): must not be a tuple. give a list."


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """As ``mask``, for one test."""
    monkeypatch.setattr("distill.core.utils.secrets._MASKED", set())
    return mask


def test_a_secret_that_was_masked_is_hidden_wherever_a_text_quotes_it(masked: Callable[[Any], None]) -> None:
    masked({"a": [{"api_key": "s3cret-ab"}, {"secrets": ["s3cret-abc"]}], "hub_token": "sentence", "name": "ab-12345"})
    assert scrub("s3cret-abc, s3cret-ab, ab-12345, sentence") == f"{HIDDEN}, {HIDDEN}, ab-12345, sentence"
    assert scrub({"path": "of/s3cret-abc"}) == {"path": "of/s3cret-abc"}


@pytest.mark.parametrize(
    ("name", "secret", "quoted", "left"),
    [
        ("password", "ab cd1234", "password=ab cd1234", "password=***"),
        ("password", "s3cret,part2", "Pwd=s3cret,part2;", "Pwd=***;"),
        ("password", "pa\\ss'w\"0rd1\n", repr("pa\\ss'w\"0rd1\n"), "'***'"),
        ("password", "pässw0rd", json.dumps("pässw0rd"), '"***"'),
        ("password", "correct-horse-battery", "no correct-horse-battery", "no ***"),
        ("api_key", "s3cret/+abc", "https://host/s3cret%2F%2Babc", "https://host/***"),
        ("authorization", "Bearer X123-45678", "refused X123-45678", "refused ***"),
    ],
)
def test_no_part_of_it_is_left_however_it_is_quoted(
    name: str, secret: str, quoted: str, left: str, masked: Callable[[Any], None]
) -> None:
    masked({name: secret})
    assert scrub(quoted) == left


def test_a_column_that_a_key_names_is_not_masked(masked: Callable[[Any], None]) -> None:
    masked({"key": "sentence1", "token": "positive"})
    assert scrub("no column 'sentence1' of positive") == "no column 'sentence1' of positive"
