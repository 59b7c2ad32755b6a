"""Which layers of a model are quantized, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from distill.compression.own_pass import guard
from distill.compression.quantization.layers import (
    QUANTIZED,
    QuantizedLayer,
    class_of,
    quantizable,
    quantize_layer,
    quantized_layers,
)
from distill.compression.quantization.scheme import ActivationScheme, Bits, LayerScheme, WeightScheme, check_bits
from distill.core.module_selection import check_overrides, override, refuse_broken, refuse_rewritten, select, sharing
from distill.core.utils.errors import UserError

__all__ = ["QUANTIZABLE", "candidates", "check_widths", "choose", "first", "swap"]

QUANTIZABLE = tuple(kind for kind in QUANTIZED if kind is not nn.Embedding)
"""Modules that are quantized, besides embeddings."""


def first(model: nn.Module) -> set[str]:
    """The name of the first layer with weights, if it reads numbers (an image, a table) and not tokens."""
    kinds = (*QUANTIZED, nn.EmbeddingBag, nn.RNNBase)  # a recurrent layer reads before the maps behind it
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    return {name for name, module in layers[:1] if isinstance(module, QUANTIZABLE)}


def candidates(
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...] = (*QUANTIZABLE, nn.Embedding),
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    *,
    key: str,
) -> dict[str, nn.Module]:
    """Name -> module of every layer to quantize for its own sake, not for a tie; arguments as of :func:`choose`."""
    chosen = select(model, kinds, include, exclude, key=key)
    refuse_rewritten(chosen, key)
    if include is not None:
        return chosen
    # Derived classes may compute something else: the projection inside nn.MultiheadAttention does.
    skipped = first(model)
    return {name: module for name, module in chosen.items() if name not in skipped and quantizable(module)}


def choose(
    model: nn.Module,
    *,
    weights: WeightScheme,
    activations: ActivationScheme | None,
    embeddings: WeightScheme | None,
    overrides: Mapping[str, Bits | WeightScheme | None] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    kinds: tuple[type[nn.Module], ...] = QUANTIZABLE,
    key: str,
    by_name: bool = False,
) -> dict[str, LayerScheme]:
    """Name -> scheme of every layer to quantize, in the order of the model.

    Head and first layer (:func:`first`) are left out unless ``include`` names them. A head that is tied to a
    quantized embedding is quantized with it, by the embedding's scheme: there is one matrix, so there is one grid.

    Args:
        model: The student.
        weights: Of linear maps and convolutions.
        activations: Of their inputs.
        embeddings: Of embeddings; ``None`` leaves these out.
        overrides: Regular expression -> another width, another scheme, or ``None`` to leave a layer out; where
            several are found in a name, the last one holds.
        include: Regular expressions of the names to quantize; everything but head and first layer by default.
        exclude: Of those to leave out.
        kinds: Classes of the modules to quantize, besides embeddings.
        key: Where the settings stand in the configuration.
        by_name: Judge no further than names, classes and ties tell: the weights may be on the meta device.

    Raises:
        UserError: if a pattern has no effect, nothing is left, a layer is of no known class, layers that share a weight
            would be quantized differently, a group does not divide a layer's inputs, or a weight has no finite value.
    """
    for name in quantized_layers(model):
        raise UserError("is quantized already", key=key, value=name, hint="begin from the student before that")
    check_widths(overrides or {}, f"{key}.overrides")
    able = candidates(model, kinds if embeddings is None else (*kinds, nn.Embedding), include, exclude, key=key)
    chosen: dict[str, LayerScheme] = {}
    for name, module in able.items():
        _check_class(name, module, key)
        table = isinstance(module, nn.Embedding)
        scheme = _overridden(name, overrides, embeddings or weights if table else weights)
        if scheme is not None:
            chosen[name] = LayerScheme(weights=scheme, activations=None if table else activations)
    chosen = _with_ties(model, chosen, overrides, key)
    check_overrides(model, overrides, {*able, *chosen}, f"{key}.overrides")
    if not chosen:
        raise UserError("no layer of the student is chosen", key=key, hint="widen include, or exclude less")
    for name, layer in () if by_name else chosen.items():
        _check_values(name, model.get_submodule(name), key)
        _check_groups(name, model.get_submodule(name), layer.weights, key)
    return chosen


def _overridden(
    name: str, overrides: Mapping[str, Bits | WeightScheme | None] | None, default: WeightScheme
) -> WeightScheme | None:
    found = override(name, overrides, default)
    return default.with_bits(found) if isinstance(found, int) else found


def check_widths(overrides: Mapping[str, Bits | WeightScheme | None], key: str) -> None:
    """Refuse widths that no scheme has.

    Raises:
        UserError: naming the pattern.
    """
    for pattern, found in overrides.items():
        if found is not None and not isinstance(found, WeightScheme):
            check_bits(found, f"{key}.{pattern}")


def _check_class(name: str, module: nn.Module, key: str) -> None:
    if not quantizable(module):
        raise UserError(
            f"is a {type(module).__name__}, which may compute something else than the class it is derived from",
            key=key,
            value=name,
            hint=f"leave it out: exclude: ['{name}']",
        )


def _check_values(name: str, module: nn.Module, key: str) -> None:
    refuse_broken(name, module.weight, key, "scale")
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        problem = "max_norm shortens its rows anew in every pass, which would undo the rounding"
        raise UserError(problem, key=key, value=name, hint=f"set max_norm to None, or exclude: ['{name}']")


def _check_groups(name: str, module: nn.Module, scheme: WeightScheme, key: str) -> None:
    if scheme.group_size is None:
        return
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    inputs = class_of(type(module)).as_rows(cast(Any, module), weight).shape[1]
    if inputs % scheme.group_size:
        raise UserError(
            f"must divide the {inputs} inputs of {name}",
            key=f"{key}.{'embeddings' if isinstance(module, nn.Embedding) else 'weights'}.group_size",
            value=scheme.group_size,
            hint="give another size, or this layer another scheme in overrides",
        )


def _with_ties(
    model: nn.Module,
    chosen: dict[str, LayerScheme],
    overrides: Mapping[str, Bits | WeightScheme | None] | None,
    key: str,
) -> dict[str, LayerScheme]:
    """``chosen`` with one scheme for each weight, however many modules compute with it."""
    for places in sharing(model):
        names = [name for name, own in places if own == "weight"]
        if not any(name in chosen for name in names):
            continue  # a shared bias, which is not quantized
        for name, own in places:
            if own != "weight":
                raise UserError(
                    f"its weight is the {own} of {name or 'the model'} too, which would not round it",
                    key=key,
                    value=names[0],
                    hint=f"leave it out: exclude: ['{names[0]}']",
                )
        modules = {name: model.get_submodule(name) for name in names}
        table = next((name for name in names if isinstance(modules[name], nn.Embedding)), None)
        lead = table if table in chosen else next(name for name in names if name in chosen)
        for name, module in modules.items():
            _check_class(name, module, key)
            shared = chosen[lead].weights
            if lead == table and _overridden(name, overrides, shared) == shared:
                chosen[name] = replace(chosen.get(name, LayerScheme(weights=shared)), weights=shared)
            elif name not in chosen or chosen[name].weights != shared:
                raise UserError(
                    f"shares its weight with {lead}, and one weight has one scheme",
                    key=key,
                    value=name,
                    hint="give both the same scheme, or leave both out",
                )
    return chosen


def swap(model: nn.Module, chosen: Mapping[str, LayerScheme], *, held: bool = False) -> dict[str, QuantizedLayer]:
    """Make the chosen layers quantized ones, in ``float`` mode, in place; they share learned scales like weights.

    Args:
        model: The student.
        chosen: Of :func:`choose`.
        held: Whether the weights' grids stand still once something sets them.
    """
    scales: dict[int, nn.Parameter] = {}
    for name, scheme in chosen.items():
        layer = quantize_layer(model.get_submodule(name), scheme, held=held)
        if scheme.weights.trains:
            assert isinstance(layer.weight_scale, nn.Parameter)
            layer.weight_scale = scales.setdefault(id(layer.weight), layer.weight_scale)
    guard(model)
    return quantized_layers(model)
