"""What a command line says of data alone, where no configuration is run: ``--data.KEY VALUE``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.config.files import apply_override
from distill.config.yaml import parse_value
from distill.core.idle_settings import idle
from distill.core.utils.errors import UserError

__all__ = ["data_overrides"]

_MAPPINGS = ("columns", "reader", "splits")
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "max_length": (int, "an integer"),
    "validation_fraction": ((int, float), "a number"),
    "labels": (list, "a list"),
}


def data_overrides(
    overrides: Sequence[tuple[str, str]], heeded: Sequence[str], beside: str, others: str
) -> dict[str, Any]:
    """Values by their keys below ``data``.

    Args:
        overrides: Keys and YAML texts.
        heeded: The keys below ``data`` that the command reads.
        beside: With what any other key has no effect.
        others: What to do with the others, behind ``give data.KEY, ...``.

    Raises:
        UserError: for another key, or a value that is no mapping, number or list where one is needed.
    """
    config: dict[str, Any] = {"data": {"init_args": {}}}
    for key, text in overrides:
        parts = key.split(".")
        if parts[0] != "data" or len(parts) < 2 or parts[1] not in heeded:
            raise idle(f"--{key}", text, beside, f"give data.{', data.'.join(heeded)}{others}")
        apply_override(config, key, parse_value(text, f"--{key}"))
    data: dict[str, Any] = config["data"]["init_args"]
    for key in _MAPPINGS:
        if key in data and not isinstance(data[key], dict):
            raise UserError("must be a mapping", key=f"data.{key}", value=data[key], hint=f"--data.{key}.NAME VALUE")
    for key, (kinds, what) in _KINDS.items():
        if (value := data.get(key)) is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise UserError(f"must be {what}", key=f"data.{key}", value=value, hint="correct it, or leave it out")
    return data
