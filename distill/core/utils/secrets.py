"""Keeping secrets out of what is written and said: the run's configuration, the hyperparameters, what went wrong."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

__all__ = ["HIDDEN", "is_secret", "mask", "scrub", "scrub_override"]

HIDDEN = "***"
"""Stands where a secret stood."""

_STRONG = frozenset({"apikey", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "credentials"})
# Only of a text: key_size and token_ids hold numbers.
_WEAK = frozenset({"key", "token", "auth", "authorization", "bearer"})
_WEAK_PLURAL = frozenset({"keys", "tokens"})  # with a word before them: api_keys, but not keys
# Words that make of "..._token" a token of text and of "..._key" a column or a name.
_TOKENS = {"pad", "eos", "bos", "unk", "cls", "sep", "mask", "special", "begin", "end", "start", "stop", "image"}
_COLUMNS = {
    "label",
    "text",
    "sort",
    "state",
    "metric",
    "column",
    "monitor",
    "sample",
    "group",
    "primary",
    "type",
    "max",
    "num",
    "size",
}
_HARMLESS = frozenset(_TOKENS | _COLUMNS)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# What stands before a secret within a text, and the secret: each is replaced by the first, and HIDDEN.
_AFTER = (
    # https://user:password@host; a password may hold an @, and a path has made one of two slashes
    re.compile(r"(://|\w\w:/)[^/?#\s]+(?=@)"),
    # ...?token=..., and the key of a signed address
    re.compile(r"([?&][^=&\s]*(?:token|key|secret|password|signature|sig|credential)=)[^&\s]+", re.IGNORECASE),
    # Password=...; of a connection
    re.compile(r"(\b(?:password|passwd|pwd|api_?key|client_?secret|access_?token)=)[^\s;,&]+", re.IGNORECASE),
    # Authorization: Basic ..., as in a header
    re.compile(r"(\b(?:authorization|x-api-key|api-key)\s*:\s*(?:[A-Za-z]+\s+)?)[^\s,;]+", re.IGNORECASE),
    re.compile(r"(\bbearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE),
)
_BASIC = re.compile(r"(\bbasic\s+)([\w+/]+=*)", re.IGNORECASE)
_ARGUMENT = re.compile(r"--(\w[\w.-]*)")
# Its value ends where the next begins, in a list as Python prints it too.
_WITH_VALUE = re.compile(rf"(?<![\w-]){_ARGUMENT.pattern}=(.*?)(?=['\"]?,?\s+['\"]?--|\Z)", re.DOTALL)
# Tokens of the services a run may talk to, wherever they stand.
_KNOWN = re.compile(
    r"""\b(?: hf_[A-Za-z0-9]{20,} | wandb_v\d_[\w-]{20,} | local-[0-9a-f]{40} | gh[pousr]_[A-Za-z0-9]{20,}
    | github_pat_\w{20,} | glpat-[\w-]{20,} | sk-[\w-]{20,} | xox[abeoprs]-[\w-]{10,} | A[KS]IA[0-9A-Z]{16}\b
    | AIza[\w-]{35} | eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,} )
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.* """,
    re.VERBOSE | re.DOTALL,
)
_PASSWORD = re.compile(r"(?=.*\d)(?=.*[A-Za-z]).{8,}", re.DOTALL)
_MASKED: set[str] = set()
"""The process's own secrets, as those that a CI service masks in its logs."""
# W&B's older keys look like the names of commits, which stand under such keys as these.
_HEX = re.compile(r"(?=.*[0-9])(?=.*[a-f])[0-9a-f]{40}")
_COMMITS = frozenset(
    {"revision", "commit", "sha", "sha1", "hash", "digest", "fingerprint", "checksum", "version", "ref"}
)


def is_secret(name: str, value: object = "") -> bool:
    """Whether a key of this name holds a secret: ``api_key`` does, ``tokenizer`` and ``pad_token`` do not."""
    words = [word.lower() for word in _WORD.findall(name)]
    if _STRONG & set(words):
        return True
    weak = bool(_WEAK & set(words)) or (len(words) > 1 and words[-1] in _WEAK_PLURAL)
    # Names of modules and patterns of them are keys too: encoder.layer.0.attention.self.key.
    plain = re.fullmatch(r"[\w-]+", name) is not None
    return weak and plain and isinstance(value, str) and not _HARMLESS & set(words)


def mask(value: Any, name: str = "") -> None:
    """Have the secrets that a configuration holds by the names of its keys hidden wherever a text quotes them later.

    Only those that no text holds by chance: six characters or more of a ``password``; of a ``token``, eight or more
    with letters and digits; and none whose key is ``key`` alone, which may name a column.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            mask(item, name if is_secret(name) else str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            mask(item, name)
    elif isinstance(value, str) and is_secret(name, value) and _is_rare(value, name):
        # Also as it stands in a message, in JSON or in an address; and without the scheme that a header begins with.
        for text in {value, value.split()[-1]}:
            _MASKED.update((text, repr(text)[1:-1], json.dumps(text)[1:-1], quote(text, safe="")))


def _is_rare(secret: str, name: str) -> bool:
    if _STRONG & {word.lower() for word in _WORD.findall(name)}:
        return len(secret) >= 6 and not secret.isspace()
    return name.lower() != "key" and _PASSWORD.fullmatch(secret) is not None


def scrub(value: Any, name: str = "") -> Any:
    """``value`` with every secret replaced: by the name of its key, by credentials in a URL, or by its look."""
    if isinstance(value, Mapping):
        return {key: scrub(item, name if is_secret(name) else str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scrub_item(item, before, name) for before, item in zip(("", *value), value, strict=False)]
    if value is None or isinstance(value, bool) or value == "":
        return value
    if is_secret(name, value):
        return HIDDEN
    return _scrub_text(value, name) if isinstance(value, str) else value


def scrub_override(key: str, value: Any) -> Any:
    """``value`` without secrets, as :func:`scrub` leaves it in the configuration that ``--key value`` makes.

    The key of an override is dotted, and each of its parts a key of its own. A dotted key *within* a configuration is
    one name: that of a module.
    """
    parts = key.split(".")
    return scrub(value, next(filter(is_secret, parts), parts[-1]))


def _scrub_item(item: Any, before: Any, name: str) -> Any:
    """An item of a list; ``before`` it may stand the argument whose value it is (``["--data.token", "x"]``)."""
    follows = isinstance(before, str) and not str(item).startswith("--") and not is_secret(name)
    argument = _ARGUMENT.fullmatch(before) if follows else None
    return scrub_override(argument[1], item) if argument else scrub(item, name)


def _scrub_text(text: str, name: str) -> str:
    if _HEX.fullmatch(text) and not _COMMITS & {word.lower() for word in _WORD.findall(name)}:
        return HIDDEN
    # Of two, one may begin as the other. What stands under a key of its own may be the same by chance, and is kept.
    for secret in () if name else sorted(_MASKED, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _WITH_VALUE.sub(lambda match: f"--{match[1]}={scrub_override(*match.groups())}", text)
    for pattern in _AFTER:
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    text = _BASIC.sub(lambda match: match[1] + HIDDEN if _is_pair(match[2]) else match[0], text)
    return _KNOWN.sub(HIDDEN, text)


def _is_pair(text: str) -> bool:
    """Whether ``text`` is a name and a password as a header has them: ``dXNlcjpwYXNzd29yZA==``."""
    try:
        return b":" in base64.b64decode(text, validate=True)
    except ValueError:
        return False
