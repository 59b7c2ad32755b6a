"""Which modules of a model are compressed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distill.errors import UserError, nearest

__all__ = ["LINEAR", "Conv1D", "check_overrides", "head", "matching", "override", "select"]

LINEAR = (nn.Linear, Conv1D)
"""Linear maps; GPT-2's ``Conv1D`` is one whose weight is stored transposed, ``[in, out]``."""

T = TypeVar("T")


def head(model: nn.Module) -> set[str]:
    """Names of the modules that only turn features into predictions.

    Of a model of transformers: what lies outside the base model. Of a plain one: its last layer with weights.
    """
    if isinstance(model, PreTrainedModel):
        base = model.base_model_prefix
        if not hasattr(model, base):
            return set()
        return {name for name, _ in model.named_modules() if name and name.split(".")[0] != base}
    layers = [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    return set(layers[-1:])


def matching(model: nn.Module, pattern: str, key: str) -> set[str]:
    """Names of the modules in whose name the regular expression is found.

    Raises:
        UserError: if it is not valid, or found in no name (with the nearest).
    """
    names = [name for name, _ in model.named_modules() if name]
    try:
        found = {name for name in names if re.search(pattern, name)}
    except re.error as error:
        raise UserError(f"not a regular expression ({error})", key=key, value=pattern, mend="mend it") from error
    if not found:
        raise UserError("found in no module's name", key=key, value=pattern, mend=nearest(pattern, names))
    return found


def select(
    model: nn.Module,
    types: tuple[type[nn.Module], ...] = LINEAR,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    *,
    key: str,
    with_head: bool = False,
) -> dict[str, nn.Module]:
    """The modules to compress, by name, in the order of the model; one that is shared appears once.

    Args:
        model: The student.
        types: Kinds of modules.
        include: Regular expressions searched in names; all modules of these types but the head if not given.
        exclude: Likewise, of those to leave out.
        key: Where the patterns stand in the configuration: ``<key>.include.0``.
        with_head: Whether the head is among them where ``include`` is not given.

    Raises:
        UserError: if a pattern is found in no name, or nothing is left.
    """
    wanted: set[str] | None = None
    if include is not None:
        wanted = set().union(*(matching(model, p, f"{key}.include.{i}") for i, p in enumerate(include)))
    dropped = set().union(*(matching(model, p, f"{key}.exclude.{i}") for i, p in enumerate(exclude)))
    if wanted is None and not with_head:
        dropped |= head(model)
    chosen = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, types) and name not in dropped and (wanted is None or name in wanted)
    }
    if not chosen:
        kinds = " or ".join(kind.__name__ for kind in types)
        raise UserError(
            f"no module of the student is chosen ({kinds})",
            key=key,
            mend="widen include, or exclude less",
        )
    return chosen


def override(name: str, overrides: Mapping[str, T] | None, default: T) -> T:
    """The value of the last pattern found in ``name``, or the default."""
    found: T = default
    for pattern, value in (overrides or {}).items():
        if re.search(pattern, name):
            found = value
    return found


def check_overrides(model: nn.Module, overrides: Mapping[str, Any] | None, key: str) -> None:
    """Refuse patterns that are found in no module's name.

    Raises:
        UserError: with the nearest names.
    """
    for pattern in overrides or {}:
        matching(model, pattern, f"{key}.{pattern}")
