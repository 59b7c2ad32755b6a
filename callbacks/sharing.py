"""Layers that share their parameters, as in ALBERT."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import nn

from distill.compression.base import Compression
from distill.compression.coverage import reached_by
from distill.compression.structure.sharing import average, blocks, check_alike, check_groups, share, shared_layers
from distill.core.argument_types import refuse_types
from distill.core.internals.torch import ConvNd
from distill.core.module_selection import LINEAR, refuse_rewritten
from distill.core.utils.errors import UserError

__all__ = ["ShareParameters"]

KEY = "callbacks.ShareParameters"

_WEIGHTED = (*LINEAR, ConvNd, nn.Embedding)


class ShareParameters(Compression):
    """Let layers use the same parameters: the student takes as long to run, and is stored in less space.

    The optimizer sees shared parameters once, with the sum of their gradients; the saved student holds them once.

    Args:
        groups: Lists of layers that share (1 is the first), or a number n: every n neighbours do.
        initial: What a group starts from: the ``mean`` of its layers' parameters, or those of its ``first`` layer.

    Raises:
        UserError: if the student has no such layers, or those of a group are not alike.

    Reference:
        Lan et al.: ALBERT: A Lite BERT for Self-supervised Learning of Language Representations, 2020.
    """

    order: ClassVar[int] = 0

    def __init__(self, groups: int | list[list[int]] = 2, initial: Literal["mean", "first"] = "mean") -> None:
        refuse_types(ShareParameters, locals(), f"{KEY}.")
        if isinstance(groups, int) and groups < 2:
            raise UserError("at least two layers share", key=f"{KEY}.groups", value=groups, hint="give 2")
        if initial not in ("mean", "first"):
            raise UserError("must be mean or first", key=f"{KEY}.initial", value=initial, hint="choose one")
        self.groups, self.initial = groups, initial

    def check_names(self, student: nn.Module) -> None:
        self._checked(student)

    def _checked(self, student: nn.Module) -> tuple[nn.ModuleList, list[list[int]]]:
        layers = shared_layers(student, KEY)
        groups, key = self._groups(layers), f"{KEY}.groups"
        check_groups(groups, len(layers), key)
        check_alike(layers, groups, key)
        return layers, groups

    def prepare(self, student: nn.Module) -> None:
        layers, groups = self._checked(student)
        weighted = {name: m for name, m in layers.named_modules() if isinstance(m, _WEIGHTED)}
        refuse_rewritten(weighted, KEY, excludes=False)
        if self.initial == "mean":
            average(layers, groups)
        share(layers, groups)

    def _groups(self, layers: nn.ModuleList) -> list[list[int]]:
        return blocks(len(layers), self.groups) if isinstance(self.groups, int) else self.groups

    def reached(self, student: nn.Module) -> list[str]:
        return reached_by(student, self._record(student))

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        return [self._record(student)]

    def _record(self, student: nn.Module) -> dict[str, Any]:
        return {"kind": "share", "groups": self._groups(shared_layers(student, KEY))}
