"""The trials of a sweep: a grid, or draws from distributions, by scikit-learn and SciPy."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.core.utils.errors import UserError, nearest
from distill.core.utils.extras import require
from distill.workflows.sweep.file import SweepFile

__all__ = ["trials"]

_MOST = 10_000
"""The most trials of a sweep."""

_EXPONENT = 700
"""What exponents lie within, either way, so that e to their power is a number."""

_LARGEST = 1 << 60
"""What integers are less than, either way, so that there are not more of them than can be numbered."""

# Name -> its arguments with their defaults; None where they must be given. The names and what they mean are W&B's.
_BETWEEN: dict[str, Any] = {"min": None, "max": None}
_AROUND: dict[str, Any] = {"mu": 0.0, "sigma": 1.0}
_CONTINUOUS = {
    "uniform": _BETWEEN,
    "log_uniform": _BETWEEN,  # of exponents
    "log_uniform_values": _BETWEEN,
    "normal": _AROUND,
    "log_normal": _AROUND,
}
_ROUNDED = {f"q_{name}": {**arguments, "q": 1} for name, arguments in _CONTINUOUS.items()}
_LISTED: dict[str, dict[str, Any]] = {"constant": {"value": None}, "categorical": {"values": None}}
_KNOWN = {**_LISTED, "int_uniform": _BETWEEN, **_CONTINUOUS, **_ROUNDED}


def trials(sweep: SweepFile, seed: int = 0) -> list[dict[str, Any]]:
    """The parameters of every trial: a pure function of the file and the seed.

    Args:
        sweep: The file.
        seed: Of a random search.

    Raises:
        UserError: if a parameter cannot be understood, or scikit-learn is not installed.
    """
    require("sweep", "distill sweep")
    from sklearn.model_selection import ParameterSampler

    space = {key: _choices(f"parameters.{key}", given) for key, given in sweep.parameters.items()}
    drawn = [key for key, choices in space.items() if not isinstance(choices, Sequence)]
    size = math.prod(len(choices) for choices in space.values() if isinstance(choices, Sequence))
    if sweep.cap is not None and sweep.cap > _MOST:
        raise UserError(f"must be at most {_MOST:,}", key="run_cap", value=sweep.cap, hint="give a smaller number")
    if not 0 <= seed < 1 << 32:
        raise UserError("must be from 0 to 4294967295", key="--seed", value=seed, hint="give another seed")
    if sweep.method == "grid":
        if drawn:
            problem, hint = "a grid has no continuous parameters", "give `values`, or say `method: random`"
            raise UserError(problem, key=f"parameters.{drawn[0]}", hint=hint)
        if sweep.cap is None and size > _MOST:
            hint = "add `run_cap: 100`, give fewer values, or say `method: random`"
            raise UserError(f"make a grid of {size:,} trials, and {_MOST:,} are the most", key="parameters", hint=hint)
        found = [_of_grid(space, number) for number in range(min(size, sweep.cap or size))]
    else:
        if sweep.cap is None:
            raise UserError("a random search needs a number of trials", key="run_cap", hint="add `run_cap: 20`")
        if size > sys.maxsize:  # more than can be numbered: drawn one by one, when no trial comes twice either
            space = {key: _drawn(choices) if isinstance(choices, range) else choices for key, choices in space.items()}
            drawn = list(space)
        most = sweep.cap if drawn else size  # no trial twice
        found = list(ParameterSampler(space, min(sweep.cap, most), random_state=seed))
    plain = [{key: _plain(trial[key]) for key in space} for trial in found]  # in the order of the file
    for key in drawn:
        for trial in plain:
            if not math.isfinite(trial[key]):
                hint = "narrow it"
                raise UserError("draws what is no number", key=f"parameters.{key}", value=trial[key], hint=hint)
    return plain


def _of_grid(space: Mapping[str, Sequence[Any]], number: int) -> dict[str, Any]:
    """The point of this number, in the order of scikit-learn's ``ParameterGrid``: the last key changes first."""
    point = {}
    for key in sorted(space, reverse=True):
        number, place = divmod(number, len(space[key]))
        point[key] = space[key][place]
    return point


def _drawn(numbers: range) -> Any:
    from scipy.stats import randint

    return randint(numbers.start, numbers.stop)


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python."""
    return value.item() if hasattr(value, "item") else value


def _choices(key: str, given: Mapping[str, Any]) -> Any:
    """What to try for a parameter: a sequence, or a distribution with ``rvs``.

    Raises:
        UserError: naming what of it cannot be.
    """
    kind = given.get("distribution", _implied(given))
    if not isinstance(kind, str) or kind not in _KNOWN:
        hint = nearest(str(kind), _KNOWN) if kind else "write {values: [...]}"
        raise UserError("no such distribution", key=f"{key}.distribution", value=kind, hint=hint)
    arguments = {**_KNOWN[kind], **{name: value for name, value in given.items() if name != "distribution"}}
    for name, value in arguments.items():
        if name not in _KNOWN[kind]:
            hint = f"{kind} takes {' and '.join(_KNOWN[kind])}"
            raise UserError("does not belong here", key=f"{key}.{name}", value=value, hint=hint)
        if name not in given and value is None:
            raise UserError("must be given", key=f"{key}.{name}", hint=f"{kind} needs it")
    if kind == "constant":
        return [arguments["value"]]
    if kind == "categorical":
        values = arguments["values"]
        if not isinstance(values, list) or not values:
            raise UserError("must be a list of one or more", key=f"{key}.values", value=values, hint="say what to try")
        return values
    _check(key, kind, arguments)
    if kind == "int_uniform":
        return range(arguments["min"], arguments["max"] + 1)
    return _distribution(kind, **arguments)


def _implied(given: Mapping[str, Any]) -> str | None:
    """The distribution where none is named."""
    if "value" in given or "values" in given:
        return "constant" if "value" in given else "categorical"
    if {"min", "max"} & given.keys():  # one of them may be missing, which is said
        return "int_uniform" if all(isinstance(given.get(end, 0), int) for end in ("min", "max")) else "uniform"
    return None


def _check(key: str, kind: str, arguments: Mapping[str, Any]) -> None:
    """Refuse numbers that make no distribution."""
    kinds = int if kind == "int_uniform" else (int, float)
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, kinds) or not abs(value) <= sys.float_info.max:
            what = "an integer" if kind == "int_uniform" else "a number"
            raise UserError(f"must be {what}", key=f"{key}.{name}", value=value, hint=f"{kind} needs one")
        if kind == "int_uniform" and abs(value) >= _LARGEST:
            raise UserError("must be less than 2 ** 60", key=f"{key}.{name}", value=value, hint="choose another")
        exponent = "log_" in kind and not kind.endswith("_values") and name != "q"
        if exponent and abs(value) > _EXPONENT:
            problem = f"must lie between -{_EXPONENT} and {_EXPONENT}, as an exponent of e"
            raise UserError(problem, key=f"{key}.{name}", value=value, hint="choose another")
        positive = name in ("sigma", "q") or (name == "min" and kind.endswith("log_uniform_values"))
        if positive and value <= 0:
            raise UserError("must be greater than 0", key=f"{key}.{name}", value=value, hint="choose another")
    if "min" in arguments and arguments["min"] >= arguments["max"]:
        raise UserError("must be less than max", key=f"{key}.min", value=arguments["min"], hint="or give one `value`")


@dataclass(frozen=True)
class _Rounded:
    """Draws rounded to multiples of ``q``."""

    continuous: Any
    q: float

    def rvs(self, random_state: Any = None) -> float:
        drawn = float(self.continuous.rvs(random_state=random_state))
        steps = drawn / self.q
        return round(steps) * self.q if math.isfinite(steps) else steps


def _distribution(kind: str, **arguments: float) -> Any:
    from scipy.stats import lognorm, loguniform, norm, uniform

    if kind.startswith("q_"):
        q = arguments.pop("q")
        return _Rounded(_distribution(kind.removeprefix("q_"), **arguments), q)
    one, other = arguments.values()
    if kind == "uniform":
        return uniform(one, other - one)
    if kind == "log_uniform":
        return loguniform(math.exp(one), math.exp(other))
    if kind == "log_uniform_values":
        return loguniform(one, other)
    return norm(one, other) if kind == "normal" else lognorm(s=other, scale=math.exp(one))
