"""The contract of every loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from distill.core.argument_types import refuse_type
from distill.core.model_spec import ModelSpec
from distill.core.schedules import Constant, Schedule, as_schedule, values_of
from distill.core.signals import Batch, Needs, OutputKind, Request, Signals
from distill.core.stacks import STACKS, Stack
from distill.core.utils.errors import UserError, check_choice
from distill.losses.softened import Softened

__all__ = [
    "DistillationLoss",
    "LossSum",
    "aligned_logits",
    "check_not_negative",
    "check_positive",
    "check_some",
    "check_stack",
    "counted",
    "is_row_wise",
    "of_rows_alone",
]


class LossSum(NamedTuple):
    """A loss summed over what counts, and how much counts.

    Attributes:
        total: Scalar, float32: the *sum* over the valid positions.
        positions: Scalar: the number of valid positions. Where it is ``batch.count``, as in
            all losses here, the sums of all micro-batches and ranks are divided by the sum of their counts; a loss
            that counts otherwise is averaged within its micro-batch, which then weighs by ``batch.count``.
    """

    total: Tensor
    positions: Tensor


class DistillationLoss(nn.Module, ABC):
    """One term of the objective.

    A subclass gives :attr:`needs` and :meth:`forward`; one with parameters, or with layers to choose,
    also :meth:`bind`. Parameters it owns are trained with the student and saved with the run.

    Args:
        weight: Factor of the term in the objective, 0 or more, or a schedule of it.
        name: Name of the term in the logs; the class name in snake case if none is given.
    """

    reads_weights: ClassVar[bool] = False
    """Whether it reads the student's weights themselves, of which a rank has not all where the student is sharded."""

    reads_labels: ClassVar[bool] = False
    """Whether samples without a label add nothing to it."""

    outputs: ClassVar[OutputKind] = "any"
    """What the outputs of a head must be for it; see :attr:`distill.tasks.Task.outputs`."""

    stack: Stack | None = None
    """Of which stack of an encoder-decoder it reads layers; ``None``: it reads none, or models have one stack."""

    row_wise: ClassVar[bool] = False
    """Whether it is a sum over the predictions of what depends on the logits (and the label) of each alone, and on
    nothing else of the batch; its ``positions`` are ``batch.count``. It may then be given a part of them, ``[n, V]``
    with labels ``[n]``, several times a batch, and logits over a large vocabulary need never be there as a whole
    (:mod:`distill.losses.head_terms`). One that reads more than logits, or trains parameters of its own, is not."""

    across_tokenizers: ClassVar[bool] = False
    """Whether it compares a student with a teacher of another tokenizer (:mod:`distill.losses.across`)."""

    @property
    def why_not_positions(self) -> str:
        """Why it is not for positions (:data:`~distill.core.signals.OutputKind`), whose number is a batch's longest
        sample's: those that a sample lacks would count. Nothing where they add nothing."""
        return ""

    tried = False
    """Whether a loss of one's own was tried for what it must hold to (:mod:`distill.losses.contract`)."""

    @property
    def takes_samples(self) -> bool:
        """Whether its gradient is linear in the teacher's softmax(logits), and so right in the mean where tokens drawn
        from it stand for it."""
        return False

    def __init__(self, weight: float | Schedule = 1.0, name: str | None = None) -> None:
        super().__init__()
        self.weight: Schedule = check_not_negative("weight", weight)
        refuse_type(str | None, name, "name")
        self.name = name or snake_case(type(self).__name__)

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What the loss reads of the student and of the teacher; valid after :meth:`bind`."""

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        """Meet the two models before training: resolve layers, make regressors, refuse what cannot work.

        A second call with the same models keeps the parameters that the first one made.

        Raises:
            UserError: if the models cannot give what the loss needs.
        """

    def require_teacher(self, teacher: ModelSpec | None) -> ModelSpec:
        """``teacher``, which must be there.

        Raises:
            UserError: if the run has none.
        """
        if teacher is None:
            loss = type(self).__name__
            raise UserError(
                f"{loss} compares the student with a teacher",
                key="model.teacher",
                hint=f"name a teacher or drop {loss}",
            )
        return teacher

    def closed_form(
        self, at: Callable[..., Softened], batch: Batch, gradient_nV: Tensor | None, factor: float
    ) -> Tensor | None:
        """The sum over some rows, of a row-wise loss that knows its gradient; ``None`` where it leaves it to autograd.

        Args:
            at: Gives the two models' distributions at a temperature, shared with the other losses; the student's
                over all of its own vocabulary for ``alone=True``.
            batch: With the rows' labels ``[n]``.
            gradient_nV: To which ``factor`` times the gradient with respect to the student's logits is added.
            factor: See ``gradient_nV``.
        """
        return None

    @abstractmethod
    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        """The sum over the batch's valid positions, and their count."""

    def extra_repr(self) -> str:
        weight = self.weight.value if isinstance(self.weight, Constant) else type(self.weight).__name__
        return f"name={self.name!r}, weight={weight}"


def is_row_wise(loss: DistillationLoss) -> bool:
    """Whether ``loss`` can be computed of parts: it says so, and nobody has changed what it computes since.

    A class that computes otherwise than the one it inherits from has to say so again.
    """
    if not of_rows_alone(loss):
        return False
    if "row_wise" in vars(loss):
        return loss.row_wise
    for kind in type(loss).__mro__:
        if "row_wise" in vars(kind):
            return loss.row_wise
        if vars(kind).keys() & {"forward", "summed", "divergence"}:
            return False
    return False


def of_rows_alone(loss: DistillationLoss) -> bool:
    """Whether ``loss`` reads nothing but logits, and has no parameters of its own, which would get no gradient."""
    logits = Request(logits=True)
    alone = loss.needs.student == logits and loss.needs.teacher in (logits, Request())
    return alone and not any(parameter.requires_grad for parameter in loss.parameters())


def aligned_logits(student: Signals, teacher: Signals, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The logits of the positions that count, student's and teacher's, ``[N, C]`` of one width C.

    Where one vocabulary is a padded version of the other (151,936 and 152,064 rows for the same tokens), the
    shared range is compared. Whether the widths may differ at all is for the module to judge, which knows the
    tokenizers.
    """
    if student.logits is None or teacher.logits is None:
        raise RuntimeError("logits were not requested of this forward pass")
    width = min(student.logits.shape[-1], teacher.logits.shape[-1])
    student_NC, teacher_NC = counted(
        mask, *(logits[..., :width].flatten(0, -2) for logits in (student.logits, teacher.logits))
    )
    return student_NC, teacher_NC


def counted(mask: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows of ``tensors`` ``[M, ...]`` at which ``mask``, of M elements, is true; ``None`` keeps all."""
    if mask is None:
        return tensors
    # One search for the rows serves all, and the gradient of index_select is cheaper than that of a mask.
    rows = mask.flatten().nonzero().squeeze(1)
    return tuple(tensor.index_select(0, rows) for tensor in tensors)


def _values(key: str, value: float | Schedule) -> list[float]:
    refuse_type(float | Schedule, value, key)
    return values_of(value)


def check_positive(key: str, value: float | Schedule) -> Schedule:
    """``value`` as a schedule.

    Raises:
        UserError: if it is, or begins or ends at, a number that is not greater than 0.
    """
    for number in _values(key, value):
        if not 0 < number < math.inf:
            raise UserError("must be greater than 0", key=key, value=number, hint="1.0 leaves the logits as they are")
    return as_schedule(value)


def check_not_negative(key: str, value: float | Schedule) -> Schedule:
    """``value`` as a schedule.

    Raises:
        UserError: if it is, or begins or ends at, a negative number.
    """
    for number in _values(key, value):
        if not 0 <= number < math.inf:
            raise UserError("must be 0 or more", key=key, value=number, hint=f"give a {key} of 0 or more")
    return as_schedule(value)


def check_some(**parts: float) -> None:
    """Refuse a loss of which no part counts: it would be 0 whatever the student says.

    Raises:
        UserError: naming the first part.
    """
    if not any(parts.values()):
        first, problem = next(iter(parts)), f"{' and '.join(parts)} are 0, so the loss is"
        raise UserError(problem, key=first, value=parts[first], hint="raise one of them, or leave the loss out")


def snake_case(name: str) -> str:
    """``HintonKL`` -> ``hinton_kl``."""
    out = ""
    for i, c in enumerate(name):
        starts_word = c.isupper() and i > 0 and (not name[i - 1].isupper() or name[i + 1 : i + 2].islower())
        out += ("_" if starts_word else "") + c.lower()
    return out


def check_stack(value: Stack | None) -> Stack | None:
    """``value``, if it is a stack or none.

    Raises:
        UserError: with the nearest.
    """
    if value is not None:
        check_choice("stack", value, STACKS)
    return value
