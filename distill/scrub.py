"""Keeping secrets out of what is written: the run's configuration, the loggers' hyperparameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from distill.errors import UserError

__all__ = ["HIDDEN", "is_secret", "refuse_hidden", "scrub"]

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
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"([?&][^=&\s]*(?:token|key|secret|password|signature|sig|credential)=)[^&\s]+", re.IGNORECASE)
# Tokens of the services a run talks to, wherever they stand.
_KNOWN = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|wandb_v\d_[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[\w-]{20,})")


def is_secret(name: str, value: object = "") -> bool:
    """Whether a key of this name holds a secret: ``api_key`` does, ``tokenizer`` and ``pad_token`` do not."""
    words = [word.lower() for word in _WORD.findall(name)]
    if _STRONG & set(words):
        return True
    weak = bool(_WEAK & set(words)) or (len(words) > 1 and words[-1] in _WEAK_PLURAL)
    return weak and isinstance(value, str) and not _HARMLESS & set(words)


def scrub(value: Any, name: str = "") -> Any:
    """``value`` with every secret replaced: by the name of its key, by credentials in a URL, or by its look."""
    if isinstance(value, Mapping):
        return {key: scrub(item, name if is_secret(name) else str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(item, name) for item in value]
    if value is None or isinstance(value, bool) or value == "":
        return value
    if is_secret(name, value):
        return HIDDEN
    if isinstance(value, str):
        value = _CREDENTIALS.sub(f"{HIDDEN}@", value)
        return _KNOWN.sub(HIDDEN, _QUERY.sub(rf"\g<1>{HIDDEN}", value))
    return value


def refuse_hidden(value: Any, key: str = "") -> None:
    """Refuse a configuration in which a secret was replaced: it would be used as if it were the secret.

    Raises:
        UserError: naming the key.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            refuse_hidden(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            refuse_hidden(item, f"{key}.{index}")
    elif isinstance(value, str) and HIDDEN in value:
        shown = key.replace(".init_args", "")
        raise UserError(
            "a secret was taken out here when the run was written",
            key=shown,
            value=value,
            mend=f"give it with --{shown}",
        )
