"""What was done to each layer: its zeros, its bits, and what rounding took from its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distill.workflows.report.views.blocks import Cell, Column, Table

__all__ = ["Layer", "compressed_layers", "layer_table", "rounding_error"]


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: Of the module.
        weights: How many; ``None`` where the record does not say.
        zeros: Of them; ``None`` where none were pruned.
        bits: Of each; ``None`` where it is in float.
        error: As :func:`rounding_error`; ``None`` where the weights before rounding are not there.
    """

    name: str
    weights: int | None
    zeros: int | None
    bits: int | None
    error: float | None = None


def rounding_error(before: Tensor, rounded: Tensor) -> float:
    """||W - Q(W)|| / ||W||, by the norms of Frobenius, in float64."""
    whole, rounded = before.detach().double(), rounded.detach()
    size = float(whole.norm())
    return float((whole - rounded.double()).norm()) / size if size else 0.0


def compressed_layers(
    steps: Sequence[Mapping[str, Any]],
    saved: Mapping[str, Tensor],
    before: Mapping[str, Tensor] | None = None,
) -> list[Layer]:
    """The layers that a student's record names.

    Args:
        steps: The record.
        saved: Parameters as they were saved, by name.
        before: As they were before they were rounded; nothing where they are not there.
    """
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        if step["kind"] == "sparsity":
            for name, count in (step.get("layers") or {}).items():
                found.setdefault(name, {}).update(weights=count.get("weights"), zeros=count.get("zeros"))
        elif step["kind"] == "quantize":
            for name, scheme in step["modules"].items():
                found.setdefault(name, {}).update(bits=scheme["weights"]["bits"])
    return [_layer(name, facts, saved, before or {}) for name, facts in found.items()]


def _layer(name: str, facts: Mapping[str, Any], saved: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Layer:
    key = next((key for key in (f"{name}.weight", name) if key in saved), None)
    weight, earlier = (None, None) if key is None else (saved[key], before.get(key))
    weights = facts.get("weights") or (None if weight is None else weight.numel())
    error = None
    if weight is not None and earlier is not None and facts.get("bits") and earlier.shape == weight.shape:
        error = rounding_error(earlier, weight)
    return Layer(name, weights, facts.get("zeros"), facts.get("bits"), error)


def layer_table(caption: str, layers: Sequence[Layer]) -> Table:
    """The layers as a table, with bars; without columns that would be empty."""
    largest = max((layer.error for layer in layers if layer.error is not None), default=0.0) or 1.0
    columns = [Column("layer", numeric=False), Column("weights")]
    pruned = any(layer.zeros is not None for layer in layers)
    rounded = any(layer.bits is not None for layer in layers)
    known = any(layer.error is not None for layer in layers)
    columns += [Column("zeros")] if pruned else []
    columns += [Column("bits")] if rounded else []
    columns += [Column("error of rounding")] if known else []
    rows = []
    for layer in layers:
        row = [Cell(layer.name), Cell("" if layer.weights is None else f"{layer.weights:,}")]
        part = None if layer.zeros is None or not layer.weights else layer.zeros / layer.weights
        row += [Cell("" if part is None else f"{100 * part:.1f} %", part)] if pruned else []
        row += [Cell("float" if layer.bits is None else str(layer.bits))] if rounded else []
        error = layer.error
        row += (
            [Cell("" if error is None else f"{error:.2g}", None if error is None else error / largest)] if known else []
        )
        rows.append(row)
    return Table(caption, columns, rows)
