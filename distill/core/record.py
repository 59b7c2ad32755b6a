"""The record of what was done to a student: kept at the model, written beside its weights, judged when it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from distill.core.utils.errors import UserError, nearest
from distill.core.utils.json_file import Unreadable, read_mapping

__all__ = [
    "LOST",
    "LOST_HINT",
    "RECORD",
    "STEP_KINDS",
    "VERSION",
    "note",
    "read_steps",
    "recount_zeros",
    "set_steps",
    "sparsity_step",
    "steps_of",
    "structural",
    "summary",
]

RECORD = "compression.json"
VERSION = 1

LOST = f"there is no {RECORD} beside the weights, which says what was pruned and quantized"
LOST_HINT = "take the file from a copy of this student; without it the student must be made again"

STEP_KINDS: dict[str, bool] = {
    "layers": False,
    "width": False,
    "sparsity": False,
    "remove": True,
    "low_rank": True,
    "share": True,
    "quantize": True,
}
"""What a step may be -> whether the step alone gives the structure after it, and not the model's configuration.

Another one is made known by :func:`distill.models.saved_student.register`.
"""


def read_steps(folder: str | Path, key: str) -> list[dict[str, Any]]:
    """What was done to the model in ``folder``; nothing where no record lies beside it.

    Raises:
        UserError: if the record is unreadable, or names what this version cannot rebuild; if there is none beside the
            student of a run, which has one always.
    """
    try:
        record = read_mapping(Path(folder) / RECORD)
        version, steps = int(record["version"]), [dict(step) for step in record["steps"]]
    except FileNotFoundError:
        if Path(folder).name == "student" and _is_run(Path(folder).parent):
            raise UserError(LOST, key=key, value=str(folder), hint=LOST_HINT) from None
        return []
    except (Unreadable, ValueError, TypeError, KeyError, OverflowError) as error:
        problem = str(error) if isinstance(error, Unreadable) else f"cannot be read ({error})"
        raise UserError(f"{RECORD} {problem}", key=key, value=str(folder), hint="save it anew") from error
    if version > VERSION:
        problem = f"{RECORD} is of format {version} and this version reads up to {VERSION}"
        raise UserError(problem, key=key, value=str(folder), hint="update lightning-distill")
    for number, step in enumerate(steps):
        kind = str(step.get("kind"))
        if kind not in STEP_KINDS:
            problem = f"{RECORD} names {kind!r}, which this version cannot rebuild"
            hint = f"update lightning-distill; {nearest(kind, STEP_KINDS)}"
            raise UserError(problem, key=key, value=str(folder), hint=hint)
        for name, right in _PARTS.get(kind, {}).items():
            if not right(step.get(name)):
                problem = f"{RECORD} does not say what was done: steps.{number}.{name} of {kind!r} is missing or wrong"
                raise UserError(problem, key=key, value=str(folder), hint="save it anew")
    return steps


def _is_run(folder: Path) -> bool:
    """Whether a run lies there, by what its plan or its result says: others have files of these names too."""
    return {"id", "started"} <= _held(folder / "plan.json") or {"monitor", "scores"} <= _held(folder / "result.json")


def _held(file: Path) -> set[str]:
    try:
        return {*read_mapping(file)}
    except (FileNotFoundError, Unreadable):
        return set()


def steps_of(model: nn.Module) -> list[dict[str, Any]]:
    """What was done to ``model`` so far, the oldest first; for :func:`distill.models.saved_student.save`."""
    return list(getattr(model, "_compression_steps", []))


_WORDS = {"remove": "units removed", "low_rank": "low rank", "share": "shared"}


def summary(steps: Sequence[Mapping[str, Any]]) -> str:
    """What ``steps`` made smaller, in a few words: ``80 % zero, int8``."""
    words = []
    for step in steps:
        if step["kind"] == "sparsity":
            words += [f"{100 * step['actual']:.3g} % zero"] if step.get("actual") is not None else []
        elif step["kind"] == "quantize":
            bits = {layer["weights"]["bits"] for layer in step["modules"].values()}
            words.append("int" + "/".join(map(str, sorted(bits))))
        elif step["kind"] not in ("layers", "width"):
            words.append(_WORDS.get(step["kind"], step["kind"]))
    return ", ".join(words)


def set_steps(model: nn.Module, steps: Sequence[Mapping[str, Any]]) -> None:
    """Say what was done to ``model``, in place of what was said before."""
    model._compression_steps = [*map(dict, steps)]  # type: ignore[assignment]


def note(model: nn.Module, *steps: Mapping[str, Any]) -> None:
    """Add to what was done to ``model``."""
    set_steps(model, [*steps_of(model), *steps])


def recount_zeros(model: nn.Module) -> None:
    """Bring the zeros that the steps record up to date: trained on without a mask, they are zeros no more.

    Layers that are there no longer are left out.
    """
    steps = steps_of(model)
    for step in steps:
        if step["kind"] == "sparsity" and "layers" in step:
            step |= sparsity_step(model, step["layers"])
    model._compression_steps = steps  # type: ignore[assignment]


def sparsity_step(model: nn.Module, layers: Iterable[str]) -> dict[str, Any]:
    """The step of a compression that zeroes weights: how many there are of each layer, and how many are zero.

    Args:
        model: As it now is.
        layers: Names of modules whose ``weight`` is meant, or of parameters; those that are not there are left out.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    ends = (".weight", ".base_layer.weight", "")  # the second of a layer that has an adapter
    weights = {
        name: next((parameters[name + end] for end in ends if name + end in parameters), None) for name in layers
    }
    counts = {
        name: {"weights": weight.numel(), "zeros": int((weight == 0).sum())}
        for name, weight in weights.items()
        if weight is not None
    }
    total = sum(count["weights"] for count in counts.values())
    zeros = sum(count["zeros"] for count in counts.values())
    return {"kind": "sparsity", "actual": zeros / max(1, total), "layers": counts}


def structural(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the model's own configuration alone does not give its structure after ``steps``."""
    return any(STEP_KINDS[step["kind"]] for step in steps)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _mapping(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(map(of, value.values()))


def _list(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _or_nothing(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or of(value)


def _units(value: Any) -> bool:
    return _mapping(_list(_count))(value) and all(str(layer).isdecimal() for layer in value)


def _quantized(value: Any) -> bool:
    weights = value.get("weights") if isinstance(value, Mapping) else None
    return isinstance(weights, Mapping) and _count(weights.get("bits"))


_PARTS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "sparsity": {"actual": _or_nothing(_number), "layers": _or_nothing(_mapping(_mapping(_count)))},
    "remove": dict.fromkeys(("heads", "neurons", "hidden"), _or_nothing(_units))
    | {"shapes": _or_nothing(_mapping(_list(_count)))},
    "low_rank": {"modules": _mapping(_count)},
    "share": {"groups": _list(_list(_count))},
    "quantize": {"modules": _mapping(_quantized)},
}
"""What is read of a step of each kind, and whether a value can be that."""
