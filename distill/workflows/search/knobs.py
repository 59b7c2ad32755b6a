"""What a search turns: a setting of the recipe, and the values that it may have. Light: no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill.config.files import SECTIONS, parse_value
from distill.core.utils.console import number
from distill.core.utils.errors import UserError, nearest
from distill.workflows.trials.trial import changed

__all__ = ["REMOVED", "Knob", "bounded", "class_name", "parameters_of"]

REMOVED = ("heads", "neurons", "hidden", "layers", "channels")
"""What ``StructuredPruning`` may be asked to remove."""

_OPTION = "--knob"
_HINT = "write --knob layers=1,2,3 or --knob temperature=1..8, --knob heads=0.5, --knob bits.embeddings=recipe"
_RANGE = re.compile(r"\s*(?P<low>[^.\s].*?)\s*\.\.\s*(?P<high>.*?)\s*")
_MOST = 1000
"""The most integers of a range."""


@dataclass(frozen=True)
class Knob:
    """A setting that the trials of a search differ in: one of ``values``, or a number from ``low`` to ``high``.

    Attributes:
        name: In tables and ``--knob``.
        key: Where the value goes: a dotted key of the configuration.
        recipe: What the recipe says.
        values: In their order, from the least to the most.
        low: The least, of numbers that are drawn.
        high: The most.
        log: Whether numbers are drawn by their logarithms.
        pattern: Of the names of the layers that it is of: ``key`` is then a mapping of patterns to values.
        depth: Layers that there are, where ``key`` says how many of them go.
        whole: Whether its numbers are integers.
    """

    name: str
    key: str
    recipe: Any
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    pattern: str | None = None
    depth: int | None = None
    whole: bool = False

    @property
    def fixed(self) -> bool:
        """Whether there is but one value."""
        return len(self.values) == 1

    @property
    def said(self) -> str:
        """What it may be, in words."""
        if self.values:
            return ", ".join(_shown(value) for value in self.values)
        return f"{_shown(self.low)} to {_shown(self.high)}{', by its logarithm' if self.log else ''}"

    def nearest(self, value: Any) -> Any:
        """The value that it may have which is nearest to this one; its first, of what is no number."""
        if not self.values:
            assert self.low is not None
            assert self.high is not None
            return min(max(float(value), self.low), self.high) if _is_number(value) else self.low
        if value in self.values or not _is_number(value) or not all(map(_is_number, self.values)):
            return value if value in self.values else self.values[0]
        return min(self.values, key=lambda one: abs(one - value))

    def setting(self, value: Any) -> Any:
        """What stands at :attr:`key` for this value."""
        if self.depth is not None:
            return self.depth - value
        return value if self.pattern is None else {self.pattern: value}

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**self.__dict__, "values": list(self.values)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Knob:
        """What :meth:`record` gave."""
        return cls(**{**record, "values": tuple(record["values"])})


def class_name(item: Any) -> str:
    """The own name of the class that an item of ``callbacks`` or ``losses`` names."""
    path = item.get("class_path") if isinstance(item, dict) else item
    return path.rsplit(".", 1)[-1] if isinstance(path, str) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def bounded(found: Sequence[Knob], given: Iterable[str]) -> list[Knob]:
    """The knobs with the values that the user allows.

    Args:
        found: Those of the recipe.
        given: ``NAME=VALUE``, ``NAME=VALUE,VALUE,...``, ``NAME=LOW..HIGH`` or ``NAME=recipe``, where NAME is one of
            theirs or a key of the configuration.

    Raises:
        UserError: if one cannot be understood.
    """
    knobs = {knob.name: knob for knob in found}
    seen: set[str] = set()
    for text in given:
        name, equals, values = text.partition("=")
        name = name.strip()
        if not equals or not values.strip():
            raise UserError("must say what may be tried", key=_OPTION, value=text, hint=_HINT)
        if name in seen:
            raise UserError("is given twice", key=_OPTION, value=name, hint="leave one out")
        seen.add(name)
        knob = knobs.get(name) or _of_key(name, knobs)
        if values.strip() == "recipe":
            knobs.pop(name, None)
        else:
            knobs[name] = _with_values(knob, values.strip())
    return list(knobs.values())


def _of_key(name: str, known: Iterable[str]) -> Knob:
    if "." in name and name.split(".")[0] in SECTIONS:
        return Knob(name, name, None)
    hint = f"{nearest(name, known)} Or name a key of the configuration: model.optimizer.lr=1e-4..1e-3"
    raise UserError("the recipe has no such knob", key=_OPTION, value=name, hint=hint)


def _with_values(knob: Knob, text: str) -> Knob:
    found = _RANGE.fullmatch(text)
    if found is None:
        values = parse_value(text, _OPTION) if text.startswith("[") else [_value(one) for one in text.split(",")]
        if any(value is None for value in values) or len({repr(one) for one in values}) < len(values):
            raise UserError("must be values, each once", key=_OPTION, value=f"{knob.name}={text}", hint=_HINT)
        ordered = sorted(values) if all(map(_is_number, values)) else values
        return replace(knob, values=tuple(ordered), low=None, high=None, log=False)
    low, high = _value(found["low"]), _value(found["high"])
    if not (_is_number(low) and _is_number(high) and math.isfinite(low) and math.isfinite(high) and low < high):
        problem = "must be two numbers, the lower one first"
        raise UserError(problem, key=_OPTION, value=f"{knob.name}={text}", hint=_HINT)
    if knob.whole or (isinstance(low, int) and isinstance(high, int) and not knob.low):
        return _integers(knob, low, high, text)
    return replace(knob, values=(), low=float(low), high=float(high), log=low > 0 and high >= 10 * low)


def _integers(knob: Knob, low: float, high: float, text: str) -> Knob:
    whole = [] if high - low > _MOST else list(range(math.ceil(low), math.floor(high) + 1))
    # Of what has few possible values, those between: bits.
    allowed = [value for value in knob.values if low <= value <= high] if knob.name.startswith("bits.") else whole
    if not allowed:
        problem = f"holds none of {knob.said}" if knob.name.startswith("bits.") else "must be few integers"
        raise UserError(problem, key=_OPTION, value=f"{knob.name}={text}", hint=_HINT)
    return replace(knob, values=tuple(allowed), low=None, high=None, log=False)


def _value(text: str) -> Any:
    return parse_value(text.strip(), _OPTION) if text.strip() else None


def parameters_of(knobs: Iterable[Knob], chosen: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the configuration, with their values, that make the recipe the trial of these values.

    A callback of structured pruning that would remove nothing is left out.

    Args:
        knobs: All.
        chosen: Name of each -> its value.
        config: The recipe, as it was given.
    """
    parameters: dict[str, Any] = {}
    for knob in knobs:
        setting = knob.setting(chosen[knob.name])
        before = parameters.get(knob.key)
        parameters[knob.key] = before | setting if isinstance(before, dict) and isinstance(setting, dict) else setting
    callbacks = changed(config, parameters).get("callbacks") or []
    left = [callback for callback in callbacks if not _removes_nothing(callback)]
    if len(left) == len(callbacks):
        return parameters
    return {key: value for key, value in parameters.items() if not key.startswith("callbacks.")} | {"callbacks": left}


def _removes_nothing(callback: Any) -> bool:
    if class_name(callback) != "StructuredPruning" or not isinstance(callback, dict):
        return False
    arguments = callback.get("init_args") or {}
    return not any(arguments.get(name) for name in REMOVED)
