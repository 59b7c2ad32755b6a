"""Small weights for their own sake."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from distill.core.model_spec import ModelSpec
from distill.core.module_selection import CONVOLUTIONS, LINEAR, select
from distill.core.numerics import at_least_float32
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Needs, Signals
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum

__all__ = ["L1", "l1_norm"]

_KINDS = (*LINEAR, *CONVOLUTIONS)


def l1_norm(weights: Iterable[Tensor]) -> Tensor:
    """The sum of |w| over all elements of ``weights``, in at least float32; its gradient at 0 is 0.

    Reference:
        Tibshirani: Regression Shrinkage and Selection via the Lasso, 1996.
    """
    return torch.stack([at_least_float32(weight).abs().sum() for weight in weights]).sum()


class L1(DistillationLoss):
    """The sum of the absolute values of the student's weights, which draws small ones to zero ahead of pruning.

    Its size is that of the number of weights, so its ``weight`` is small. Embeddings, norms and biases are not among
    them; weights that are tied count once.

    Args:
        include: Regular expressions searched in module names; all linear maps and convolutions but the head if
            not given.
        exclude: Likewise, of those to leave out.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if a pattern is found in no name, or no module is left.
    """

    reads_weights = True

    def __init__(
        self,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        weight: float | Schedule = 1e-6,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        self.include, self.exclude = include, exclude or []
        self._student: tuple[nn.Module, ...] = ()  # in a tuple it is no submodule, so its weights are not ours
        self._modules_read: tuple[nn.Module, ...] = ()

    @property
    def needs(self) -> Needs:
        return Needs()

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        self._student, self._modules_read = (student.model,), ()
        self._select()

    def _select(self) -> tuple[nn.Module, ...]:
        [student] = self._student
        try:
            return tuple(select(student, _KINDS, self.include, self.exclude, key="").values())
        except UserError as error:
            raise UserError(error.problem, key=error.key.lstrip("."), value=error.value, hint=error.hint) from None

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        # Callbacks may have changed the student's layers since it was bound.
        self._modules_read = self._modules_read or self._select()
        weights = {id(module.weight): module.weight for module in self._modules_read}
        norm = l1_norm(weight for weight in weights.values() if isinstance(weight, Tensor))
        return LossSum(norm * batch.count, batch.count)
