"""The masks of a student's layers: chosen anew update by update, and finished."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill.compression.pruning.granularity import as_matrix
from distill.compression.pruning.rankings import MASK, Layer, Ranking, rankings
from distill.compression.pruning.weights import name_beside
from distill.core.ranks import is_rank_zero

if TYPE_CHECKING:
    from distill.compression.pruning.masking_plan import MaskingPlan

__all__ = ["Masks", "few", "say"]

_log = logging.getLogger(__name__)


class Masks:
    """The masks of a student's layers. Their state is in the layers' buffers.

    Args:
        plan: How they are chosen.
        layers: These; they get their buffers.
        own: Layer -> a final sparsity of its own.

    Raises:
        UserError: if the granularity, the criterion, a group or the cap fits a layer not.
    """

    def __init__(self, plan: MaskingPlan, layers: Sequence[Layer], own: Mapping[str, float]) -> None:
        self.plan, self.layers = plan, layers
        for layer in layers:
            plan.granularity.check(as_matrix(layer.view, layer.weight).shape, layer.name)
            layer.view.register_buffer(MASK, torch.ones_like(layer.weight, dtype=torch.bool))
            plan.criterion.prepare(layer.view, layer.name)
        self._rankings: list[Ranking] = rankings(layers, plan.scope, own, plan.final, plan.max_layer_sparsity, "scope")
        for ranking in self._rankings:
            ranking.check(plan.granularity, plan.criterion)

    @property
    def buffers(self) -> list[str]:
        """Names of all buffers in the student."""
        return [
            f"{layer.path.removesuffix(layer.parameter)}{buffer}"
            for layer in self.layers
            for buffer in self._buffers(layer)
        ]

    def _buffers(self, layer: Layer) -> list[str]:
        return [name_beside(layer.parameter, buffer) for buffer in (MASK, *self.plan.criterion.buffers)]

    def zero(self) -> None:
        """Have every masked weight be zero."""
        for layer in self.layers:
            layer.zero()

    def gradients(self) -> dict[str, Tensor]:
        """Layer -> magnitudes of its gradient now."""
        return {layer.name: _magnitude(layer.weight) for layer in self.layers}

    def update(
        self,
        target: float,
        gradients: Mapping[str, Tensor],
        swapped: float,
        removed: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> dict[str, float]:
        """Choose the masks anew, from the scores as they are. Done twice it changes nothing.

        Args:
            target: The sparsity, of a way that ends at the plan's; those of overrides are as far on theirs.
            gradients: Of :meth:`gradients`, where pruned weights may come back.
            swapped: The part of the kept weights that may be given for them.
            removed: Parameters with factors that are 0 where they are to be taken out; what is there is not ranked.

        Returns:
            What is logged, under ``prune/``: target, sparsity of all and of each layer, and the part that changed.
        """
        plan, before = self.plan, [layer.mask.clone() for layer in self.layers]
        present = self._present(removed)
        for ranking in self._rankings:
            sparsity = target * (ranking.final / plan.final)
            ranking.update(sparsity, plan.granularity, plan.criterion, gradients, swapped, present)
        return {"prune/target_sparsity": target} | self._measure(before, present)

    def _present(self, removed: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Layer -> which of its weights are there in the end, of the layers that lose some."""
        present: dict[str, Tensor] = {}
        for parameter, factor in removed:
            for layer in self.layers:
                if layer.weight is parameter:
                    whole = torch.ones_like(layer.mask)
                    present[layer.name] = present.get(layer.name, whole) & (factor != 0)
        return present

    def _measure(self, before: Sequence[Tensor], present: Mapping[str, Tensor]) -> dict[str, float]:
        """What became of the masks, read from the device at once."""
        there = [present.get(layer.name, torch.ones_like(layer.mask)) for layer in self.layers]
        kept = torch.stack([(layer.mask & own).sum() for layer, own in zip(self.layers, there, strict=True)])
        changed = torch.stack([(layer.mask != old).sum() for layer, old in zip(self.layers, before, strict=True)])
        left = torch.stack([own.sum() for own in there])
        *counts, churn = torch.cat([kept, left, changed.sum()[None]]).tolist()
        counts, sizes = counts[: len(there)], counts[len(there) :]
        whole = {"prune/sparsity": 1 - sum(counts) / sum(sizes), "prune/churn": churn / sum(sizes)}
        return whole | {
            f"prune/sparsity/{layer.name}": 1 - count / size
            for layer, count, size in zip(self.layers, counts, sizes, strict=True)
        }

    def finish(self) -> dict[str, Any]:
        """Leave zeros and no buffers, and say what was done: a step of ``compression.json``."""
        self.zero()
        notes = self._notes()
        layers = {}
        for layer in self.layers:
            for name in self._buffers(layer):
                delattr(layer.module, name)
            layers[layer.name] = {"weights": layer.weight.numel(), "zeros": int((layer.weight == 0).sum())}
        total = sum(counts["weights"] for counts in layers.values())
        return {
            "kind": "sparsity",
            "target": self.plan.final,
            "actual": sum(counts["zeros"] for counts in layers.values()) / max(1, total),
            "granularity": str(self.plan.granularity),
            "criterion": type(self.plan.criterion).__name__,
            "layers": layers,
        } | notes

    def _notes(self) -> dict[str, Any]:
        """What kept layers from being pruned further, said and for the record."""
        plan = self.plan
        notes: dict[str, Any] = {}
        held = [name for ranking in self._rankings for name in ranking.held(plan.granularity)]
        if held:
            problem = (
                f"max_layer_sparsity, {'automatic' if plan.max_layer_sparsity is None else plan.max_layer_sparsity}"
            )
            say("%s, kept from being pruned further: %s", problem, few(held))
            notes["held"] = held
        blind = {layer.name: count for layer in self.layers if (count := layer.unscored(plan.criterion))}
        if blind:
            message = "%s scored some weights not, which are ranked by magnitude among themselves: %s"
            say(message, type(plan.criterion).__name__, few(list(blind)))
            notes["unscored"] = blind
        return notes


def say(text: str, *of: str) -> None:
    """Warn, in one process of the run."""
    if is_rank_zero():
        _log.warning(text, *of)


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _magnitude(weight: nn.Parameter) -> Tensor:
    """Of the gradient; zeros where there is none, and where a loss scale overflowed."""
    if weight.grad is None:
        return torch.zeros_like(weight)
    return weight.grad.float().abs().nan_to_num(0.0, 0.0)
