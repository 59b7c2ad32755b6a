"""Values of no type that a signature names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch

from distill.core.argument_types import refuse_types
from distill.core.utils.errors import UserError


@dataclass
class Config:
    bits: int = 8


class Owner:
    def __init__(
        self,
        number: float = 1.0,
        count: int | None = None,
        word: Literal["global", "layer"] | list[str] = "global",
        names: list[str] | None = None,
        table: dict[str, float] | None = None,
        pair: tuple[float, float] = (0.0, 1.0),
        config: Config | None = None,
        anything: Any = None,
    ) -> None:
        refuse_types(Owner, locals(), "owner.")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"number": "0.5"}, r"^owner\.number = '0\.5': must be a number\. this is a text\.$"),
        ({"number": True}, r"must be a number\. this is true or false"),
        ({"count": 1.5}, r"owner\.count = 1\.5: must be an integer or null\. this is a number"),
        ({"word": "globl"}, "did you mean 'global'"),
        ({"names": "attention"}, r"must be a list, each a text or null\. put it in brackets: \['attention'\]"),
        ({"names": [1]}, "must be a list, each a text"),
        ({"table": {"a": "b"}}, r"owner\.table\.a = 'b': must be a number"),
        ({"pair": 0.9}, r"must be a list of 2 \(a number, a number\)"),
        ({"config": {"bits": 4}}, r"from Python write Config\(bits=4\)"),
        ({"number": None}, r"owner\.number: must be a number\. this is null"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_to_write(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Owner(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"number": 2, "count": 3, "word": ["a.*"], "names": ("a",), "table": {"a": 1}, "pair": [0.9, 0.95]},
        {"number": np.float32(0.5), "count": np.int64(3), "config": Config(), "anything": object()},
        {"number": torch.tensor(0.5)},
    ],
)
def test_what_stands_for_the_type_is_taken(given: dict[str, Any]) -> None:
    Owner(**given)
