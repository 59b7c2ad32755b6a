"""Which modules of a model are compressed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distill.core.internals.torch import ConvNd, own_parameters, pre_hooks
from distill.core.utils.errors import UserError, nearest, nearest_part

__all__ = [
    "CHOOSE",
    "CONVOLUTIONS",
    "LINEAR",
    "Conv1D",
    "check_overrides",
    "check_pattern",
    "head_modules",
    "matching",
    "of_types",
    "override",
    "refuse_broken",
    "refuse_rewritten",
    "select",
    "sharing",
]

LINEAR = (nn.Linear, Conv1D)
"""Linear maps; GPT-2's ``Conv1D`` is one whose weight is stored transposed, ``[in, out]``."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Convolutions that are not transposed."""

CHOOSE = "leave it out, or have them chosen by include (['.'] takes the head too), exclude, types and embeddings"
"""The hint of a pattern that is found in modules which are not chosen."""

T = TypeVar("T")


def head_modules(model: nn.Module) -> set[str]:
    """Names of the modules that only turn features into predictions.

    Of a model of transformers: what lies outside the base model. Of a plain one: its last layer with weights.
    """
    if isinstance(model, PreTrainedModel):
        base = model.base_model_prefix
        if not hasattr(model, base):  # a base model, or one that is base and head in one (T5)
            head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
            return {name for name, module in model.named_modules() if module is head}
        return {name for name, _ in model.named_modules() if name and name.split(".")[0] != base}
    layers = [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, ConvNd))]
    return set(layers[-1:])


def of_types(kinds: tuple[type[nn.Module], ...], names: Sequence[str] | None, key: str) -> tuple[type[nn.Module], ...]:
    """Those of ``kinds`` whose class has one of these names, to the letter: ``Conv1D`` is not ``Conv1d``.

    Args:
        kinds: All that can be compressed.
        names: Of the wanted ones; all of them if ``None``.
        key: Where the names stand in the configuration.

    Raises:
        UserError: if there is no such kind (with the nearest).
    """
    known = {kind.__name__: kind for kind in kinds}
    for index, name in enumerate(names or ()):
        if name not in known:
            problem = f"is no type that can be compressed here: {', '.join(known)}"
            raise UserError(problem, key=f"{key}.{index}", value=name, hint=nearest(name, known))
    return kinds if names is None else tuple(known[name] for name in dict.fromkeys(names))


def matching(model: nn.Module, pattern: str, key: str) -> set[str]:
    """Names of the modules in whose name the regular expression is found.

    Raises:
        UserError: if it is not valid, or found in no name (with the nearest).
    """
    names = [name for name, _ in model.named_modules() if name]
    try:
        found = {name for name in names if re.search(pattern, name)}
    except re.error as error:
        raise UserError(f"not a regular expression ({error})", key=key, value=pattern, hint="correct it") from error
    if not found:
        ends = [name for name, module in model.named_modules() if name and not any(module.children())]
        raise UserError("found in no module's name", key=key, value=pattern, hint=nearest_part(pattern, ends))
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
    """The modules to compress, by name, in the order of the model; one that is shared appears once, an empty one not.

    Args:
        model: The student.
        types: Kinds of modules.
        include: Regular expressions searched in names, each to be found in that of a module of these types; all of them
            but the head if not given.
        exclude: Likewise, of those to leave out; these may be found anywhere.
        key: Where the patterns stand in the configuration: ``<key>.include.0``.
        with_head: Whether the head is among them where ``include`` is not given.

    Raises:
        UserError: if a pattern is found in no such name, or nothing is left.
    """
    wanted: set[str] | None = None
    if include is not None:
        able = {name for name, module in model.named_modules() if isinstance(module, types)}
        hint = f"name modules of type {_listed(types)}"
        wanted = set().union(
            *(check_pattern(model, p, able, f"{key}.include.{i}", hint) for i, p in enumerate(include))
        )
    dropped = set().union(*(matching(model, p, f"{key}.exclude.{i}") for i, p in enumerate(exclude)))
    if wanted is None and not with_head:
        dropped |= head_modules(model)
    chosen = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, types) and name not in dropped and (wanted is None or name in wanted) and _holds(module)
    }
    if not chosen:
        raise UserError(
            f"no module of the student is chosen ({_listed(types)})",
            key=key,
            hint=f"widen include, or exclude less; its weights are those of {_holders(model)}",
        )
    return chosen


def refuse_rewritten(modules: Mapping[str, nn.Module], key: str, *, excludes: bool = True) -> None:
    """Refuse modules whose weight somebody else writes: what is done to it would be undone before the next pass.

    So do hooks and parametrizations (weight norm, spectral norm, ``torch.nn.utils.prune``), which keep what is trained
    under another name; a lazy module has no weight yet.

    Args:
        modules: Those that are about to be compressed, by name.
        key: Where the settings stand in the configuration.
        excludes: Whether there is an ``exclude``, to leave a module out.

    Raises:
        UserError: naming the first, and who writes it.
    """
    for name, module in modules.items():
        weight = own_parameters(module).get("weight")
        if weight is None:
            writer, remedy = _writer(module)
            problem = f"its weight is written anew before every pass, by {writer}, which would undo a compression"
            more = f", or leave it out: exclude: ['{name}']" if excludes else ""
            raise UserError(problem, key=key, value=name, hint=remedy + more)
        if isinstance(weight, UninitializedParameter):
            problem = f"is a {type(module).__name__}, whose weight has no shape before the first pass"
            raise UserError(problem, key=key, value=name, hint="run the student once on a batch before it is given")


def refuse_broken(name: str, weight: Any, key: str, lack: str) -> None:
    """Refuse a weight with values that are no numbers.

    Args:
        name: Of the module.
        weight: Its weight.
        key: Where the settings stand in the configuration.
        lack: What there is not for such values.

    Raises:
        UserError: with their number.
    """
    broken = weight.numel() - int(weight.isfinite().sum()) if not weight.is_meta else 0
    if broken:
        problem = f"{broken} of its {weight.numel()} weights are NaN or infinite, for which there is no {lack}"
        raise UserError(
            problem, key=key, value=name, hint=f"correct the checkpoint, or leave it out: exclude: ['{name}']"
        )


def _writer(module: nn.Module) -> tuple[str, str]:
    """Who writes the weight, and how to have it stop."""
    if is_parametrized(module, "weight"):
        parts: Any = module.parametrizations
        kinds = " and ".join(type(part).__name__.lstrip("_") for part in parts["weight"])
        return f"the parametrization {kinds}", "torch.nn.utils.parametrize.remove_parametrizations ends it"
    removals = {"WeightNorm": "remove_weight_norm", "SpectralNorm": "remove_spectral_norm"}
    for hook in pre_hooks(module):
        if isinstance(hook, BasePruningMethod):
            return "torch.nn.utils.prune", "torch.nn.utils.prune.remove(layer, 'weight') ends it and keeps its zeros"
        if type(hook).__name__ in removals:
            return f"the hook {type(hook).__name__}", f"torch.nn.utils.{removals[type(hook).__name__]}(layer) ends it"
    return "code of its own (it is no parameter)", "let it be a parameter"


def sharing(model: nn.Module) -> list[list[tuple[str, str]]]:
    """Of each parameter that several modules hold: the names of these modules, and the one under which each has it."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for name, module in model.named_modules():
        for own, parameter in own_parameters(module).items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((name, own))
    return [places for places in owners.values() if len(places) > 1]


def override(name: str, overrides: Mapping[str, T] | None, default: T) -> T:
    """The value of the last pattern found in ``name``, or the default."""
    found: T = default
    for pattern, value in (overrides or {}).items():
        if re.search(pattern, name):
            found = value
    return found


def check_pattern(model: nn.Module, pattern: str, chosen: Collection[str], key: str, hint: str) -> set[str]:
    """Refuse a pattern that would have no effect.

    Args:
        model: The student.
        pattern: A regular expression.
        chosen: Names of the modules on which it has one.
        key: Where the pattern stands in the configuration.
        hint: What to do where it is found in other modules only.

    Returns:
        Names of the modules in which it is found.

    Raises:
        UserError: as :func:`matching`, or if it is found in no name of those chosen.
    """
    found = matching(model, pattern, key)
    if found.isdisjoint(chosen):
        weighted = [
            n for n, m in model.named_modules() if n in found and any(True for _ in m.parameters(recurse=False))
        ]
        names = weighted or sorted(found)
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        problem = f"is found only in modules that are not compressed: {', '.join(names[:2])}{more}"
        raise UserError(problem, key=key, value=pattern, hint=hint)
    return found


def check_overrides(model: nn.Module, overrides: Mapping[str, Any] | None, chosen: Collection[str], key: str) -> None:
    """Refuse patterns without effect.

    Args:
        model: The student.
        overrides: Regular expression -> what holds for the modules in whose name it is found.
        chosen: Names of the modules that are compressed.
        key: Where the patterns stand in the configuration.

    Raises:
        UserError: as :func:`check_pattern`.
    """
    for pattern, value in (overrides or {}).items():
        try:
            if value in (None, 0):  # leaves them as they are, as not being chosen does
                matching(model, pattern, key)
            else:
                check_pattern(model, pattern, chosen, key, CHOOSE)
        except UserError as error:  # the pattern is a key here, and no value
            raise UserError(error.problem, key=f"{key}.{pattern}", hint=error.hint) from error


def _holds(module: nn.Module) -> bool:
    """Whether there is anything in the module's weight; ``nn.Linear(16, 0)`` has none."""
    weight = own_parameters(module).get("weight")
    return weight is None or isinstance(weight, UninitializedParameter) or weight.numel() > 0


def _holders(model: nn.Module) -> str:
    """The types of modules that hold the model's matrices, those with the most values first."""
    counts: Counter[str] = Counter()
    for module in model.modules():
        counts[type(module).__name__] += sum(p.numel() for p in module.parameters(recurse=False) if p.dim() > 1)
    return ", ".join(name for name, count in counts.most_common(4) if count) or "no matrix"


def _listed(types: Sequence[type[nn.Module]]) -> str:
    return " or ".join(kind.__name__ for kind in types) or "of no type"
