"""Linear maps and convolutions factorized before training, and trained as two thin ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distill.compression.base import Compression
from distill.compression.structure.low_rank import (
    FACTORIZED,
    LowRankLinear,
    factorize,
    rank_of_energy,
    replace,
    saves,
    shape,
)
from distill.core.argument_types import refuse_types
from distill.core.internals.torch import own_parameters
from distill.core.module_selection import CONVOLUTIONS, refuse_broken, refuse_rewritten, select, sharing
from distill.core.orientation import output_axis
from distill.core.record import steps_of
from distill.core.utils.errors import UserError

__all__ = ["LowRank"]

KEY = "callbacks.LowRank"


class LowRank(Compression):
    """Replace linear maps and convolutions W by the best product B A of a low rank, and train the two factors.

    A is ``[rank, in]`` and B ``[out, rank]``, from the singular value decomposition W = U S V^T: the first ``rank``
    columns of U sqrt(S) and of V sqrt(S). A map is left as it is where its factors would not have fewer weights,
    or where all of it is 0. A convolution's W is ``[out, in * k * k]``: a convolution with the kernel to ``rank``
    channels, and one over single places from there. Those with groups, and classes derived from torch's, are left.

    Args:
        rank: The rank of every map. Either this or ``energy`` is given.
        energy: In (0, 1): of each map the least rank that keeps this share of the sum of its squared singular values.
        include: Regular expressions searched in module names; all maps and convolutions but the head if not given.
        exclude: Likewise, of those to leave out.

    Raises:
        UserError: for values out of range, patterns found in no name, or where no map becomes smaller.
    """

    order: ClassVar[int] = 0

    def __init__(
        self,
        rank: int | None = None,
        energy: float | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
    ) -> None:
        refuse_types(LowRank, locals(), f"{KEY}.")
        if (rank is None) == (energy is None):
            raise UserError("either a rank or an energy is given", key=KEY, hint="give rank: 64, or energy: 0.9")
        if rank is not None and rank < 1:
            raise UserError("must be at least 1", key=f"{KEY}.rank", value=rank, hint="give 64")
        if energy is not None and not 0 < energy < 1:
            raise UserError("must lie in (0, 1)", key=f"{KEY}.energy", value=energy, hint="give 0.9")
        self.rank, self.energy, self.include, self.exclude = rank, energy, include, exclude or []
        self._replaced: dict[str, Tensor] = {}

    def check_names(self, student: nn.Module) -> None:
        self._select(student)

    def _select(self, student: nn.Module) -> dict[str, nn.Module]:
        return select(student, FACTORIZED, self.include, self.exclude, key=KEY)

    def prepare(self, student: nn.Module) -> None:
        chosen = self._select(student)
        chosen = {name: module for name, module in chosen.items() if not _has_groups(module)}
        factors = {id(f) for m in student.modules() if isinstance(m, LowRankLinear) for f in (m.down, m.up)}
        whole = {name: module for name, module in chosen.items() if id(module) not in factors}
        refuse_rewritten(whole, KEY)
        for name, module in whole.items():
            refuse_broken(name, module.weight, KEY, "decomposition")
            _refuse_written_bias(name, module)
        self._check_ties(student, whole)
        self._check_rank(whole)
        ranks = {}
        values = {}
        for name, module in whole.items():
            out, into = shape(module)
            weight = _matrix(module)
            if not weight.any():
                continue  # both factors would be 0, and their gradients too, for ever
            rank = self.rank or rank_of_energy(torch.linalg.svdvals(weight.float()), self.energy or 0.0)
            if saves(out, into, rank):
                ranks[name], values[name] = rank, factorize(weight, rank)
        if not ranks and not factors:
            key, value = ("rank", self.rank) if self.rank else ("energy", self.energy)
            problem = "no map becomes smaller: rank * (in + out) is at least in * out of all of them"
            raise UserError(problem, key=f"{KEY}.{key}", value=value, hint="give a smaller one")
        self._replaced = {name: whole[name].get_parameter("weight").detach() for name in ranks}
        replace(student, ranks)
        with torch.no_grad():
            for name, (down, up) in values.items():
                module = student.get_submodule(name)
                assert isinstance(module, LowRankLinear)
                module.down.weight.copy_(down.view_as(module.down.weight))
                module.up.weight.copy_(up.view_as(module.up.weight))

    def _check_ties(self, student: nn.Module, modules: dict[str, nn.Module]) -> None:
        for places in sharing(student):
            maps = [name for name, own in places if own == "weight" and name in modules]
            for name, own in places if maps else ():
                if name not in modules:
                    problem = f"shares its weight with {name or 'the model'}.{own}, which would keep the whole matrix"
                    raise UserError(problem, key=KEY, value=maps[0], hint=f"leave it out: exclude: ['{maps[0]}']")

    def _check_rank(self, modules: dict[str, nn.Module]) -> None:
        full = max((min(shape(module)) for module in modules.values()), default=0)
        if self.rank is not None and modules and self.rank > full:
            problem = f"the chosen maps have ranks up to {full}"
            raise UserError(problem, key=f"{KEY}.rank", value=self.rank, hint="give a smaller one")

    def replaced(self) -> Mapping[str, Tensor]:
        found, self._replaced = self._replaced, {}
        return found

    def reached(self, student: nn.Module) -> list[str]:
        maps = [name for name, module in student.named_modules() if isinstance(module, LowRankLinear)]
        return [f"{name}.{factor}.weight" for name in maps for factor in ("down", "up")]

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        before = {name for step in steps_of(student) if step["kind"] == "low_rank" for name in step["modules"]}
        ranks = {
            name: module.rank
            for name, module in student.named_modules(remove_duplicate=False)
            if isinstance(module, LowRankLinear) and name not in before
        }
        return [{"kind": "low_rank", "modules": ranks}] if ranks else []


def _refuse_written_bias(name: str, module: nn.Module) -> None:
    """A factor takes over the bias itself, which a hook or a parametrization would keep writing elsewhere."""
    if module.bias is not None and not isinstance(own_parameters(module).get("bias"), nn.Parameter):
        problem = "its bias is written anew before every pass, which a factor would not follow"
        raise UserError(
            problem, key=KEY, value=name, hint=f"let it be a parameter, or leave it out: exclude: ['{name}']"
        )


def _has_groups(module: nn.Module) -> bool:
    """Whether it is a convolution that is no product of two: with groups, or that may compute something else."""
    return isinstance(module, CONVOLUTIONS) and (module.groups > 1 or type(module) not in CONVOLUTIONS)


def _matrix(module: nn.Module) -> Tensor:
    """The weight as ``[out, in]``."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().movedim(output_axis(module), 0).flatten(1)
