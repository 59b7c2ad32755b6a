"""What callbacks that compress the student have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelPruning, StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from distill.compression.bypass import Held, refuse_bypass
from distill.core.internals.peft import adapter_layers
from distill.core.signals import Batch, Signals
from distill.core.signatures import refuse_signatures
from distill.core.step_callback import StepCallback
from distill.core.trained_module import batch_of, forward_of, require_student, task_of
from distill.core.utils.errors import UserError
from distill.core.utils.words import amount

__all__ = ["Compression", "compressions", "hurried", "refuse_broken_contract", "refuse_rivals", "refuse_twice"]


class Compression(StepCallback, ABC):
    """A callback that compresses the student while it is trained.

    Its life: :meth:`prepare` gives the student its final structure in ``setup``, before weights are restored and
    the optimizer is made, so that the optimizer, the state dict, a resumed run and the validation of a checkpoint
    see one structure from step 0;
    what happens when is a pure function of the optimizer step; :meth:`finish` leaves the student as it is saved
    and says what was done. State that belongs to a weight (masks, observers, scales) is in persistent buffers of
    the weight's module. The teacher is never touched.

    Several compress one student in a fixed order, by :attr:`order`: change the structure, mask, then quantize. No two
    of them mask the same weights.
    """

    order: ClassVar[int]
    """0 changes the structure (low rank, sharing), 1 masks, 2 quantizes."""

    needs_unsharded_weights: ClassVar[bool] = True

    removes: bool = False
    """Whether what it masks is taken out in the end, and so leaves whatever others do with it."""

    _prepared: nn.Module | None = None
    _tried: nn.Module | None = None

    @property
    def state_key(self) -> str:
        return type(self).__qualname__

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        student = require_student(pl_module, type(self).__name__)
        if stage != "fit" and self._prepared is student:
            return  # it is being trained, or finished
        refuse_rivals(trainer.callbacks)  # type: ignore[attr-defined]
        _refuse_adapter(self, student)
        self._check_order(compressions(trainer))
        self.prepare(student)
        self._prepared = student
        self._check_apart(compressions(trainer), student)

    def _check_order(self, others: list[Compression]) -> None:
        names = [type(other).__name__ for other in others]
        for before, after in pairwise(others):
            if before.order > after.order:
                raise UserError(
                    f"{type(after).__name__} comes before {type(before).__name__}: structure, then masks, then "
                    "quantization",
                    key="callbacks",
                    value=names,
                    hint="change their order",
                )
        refuse_twice(others)

    def _check_apart(self, others: list[Compression], student: nn.Module) -> None:
        mine = self.masked(student)
        for other in others[: others.index(self)]:  # those that are prepared
            if other.removes and self.masks_what_is_left:
                continue
            both = [name for name in other.masked(student) if name in mine]
            if both:
                more = f" and {amount(len(both) - 1, 'other weight')}" if len(both) > 1 else ""
                raise UserError(
                    f"both would mask {both[0]}{more}, of which neither would then have its part",
                    key="callbacks",
                    value=[type(other).__name__, type(self).__name__],
                    hint="leave one of them out, or have one leave what the other masks (include, exclude); single "
                    "weights are masked of what StructuredPruning leaves, where that comes first and removes no layers",
                )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._try(trainer, pl_module, batch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            self._try(trainer, pl_module, batch)

    def _try(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Have compressions meet the first batch, and refuse a student whose code passes by what is done to it."""
        ours, student = compressions(trainer), require_student(pl_module, type(self).__name__)
        # Of a sharded student no rank has the weights.
        if self is not ours[0] or self._tried is student or pl_module.device_mesh is not None:
            return
        self._tried = student
        held, read = _held(ours, student), batch_of(pl_module, batch)
        if task_of(pl_module) is None:  # how its student is called is a guess, of which no failure tells anything
            held = replace(held, changed=())
        if not read.inputs:
            return
        with trainer.precision_plugin.forward_context():
            for one in ours:
                one.meet(student, read, lambda part: forward_of(pl_module, student, part))
            if trainer.state.fn == TrainerFn.FITTING:
                refuse_bypass(student, read, lambda part: forward_of(pl_module, student, part), held)

    def prepares(self, student: nn.Module) -> bool:
        """Whether it has given ``student``, and no other, its structure."""
        return self._prepared is student

    def check_names(self, student: nn.Module) -> None:
        """Refuse patterns and names that :meth:`prepare` would refuse, before data and weights are read.

        Args:
            student: Without weights (on the meta device), and as wide as what it is made of; left as it is.

        Raises:
            UserError: as :meth:`prepare`.
        """

    @abstractmethod
    def prepare(self, student: nn.Module) -> None:
        """Give the student its structure for the run, exactly computing what it computed before where that is possible.

        Raises:
            UserError: if the settings do not fit this model.
        """

    def meet(self, student: nn.Module, batch: Batch, read: Callable[[Batch], Signals]) -> None:
        """See the first batch that the student is to read, in training, or in a validation before.

        What a compression does here adds nothing that is trained, and follows from the student's operations alone:
        after a resume it is done again.

        Args:
            student: As it is trained; a pass leaves its state as it was.
            batch: The batch.
            read: A pass of the student.
        """

    @abstractmethod
    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        """Leave the student as it is saved.

        Returns:
            The steps of ``compression.json``, each with its ``kind`` and what is needed to rebuild the structure.
        """

    def masked(self, student: nn.Module) -> list[str]:
        """Names of the student's parameters of which it sets values to zero; asked after :meth:`prepare`."""
        return []

    def rounded(self, student: nn.Module) -> Mapping[str, nn.Module]:
        """Layers, by name, whose ``weight`` is rounded as they answer, and so must be read by nobody past them."""
        return {}

    def replaced(self) -> Mapping[str, Tensor]:
        """Weights, by the name of their layer, in whose place it has others trained; handed over once."""
        return {}

    def reached(self, student: nn.Module) -> list[str]:
        """Names of the student's parameters that it makes smaller; asked after :meth:`prepare`."""
        return self.masked(student)

    @property
    def masks_what_is_left(self) -> bool:
        """Whether it may mask weights of which one before it removes parts."""
        return False

    def cuts_at(self, step: int, total_steps: int) -> bool:
        """Whether it removes something after ``step``."""
        return False

    def factors(self) -> Sequence[tuple[Tensor, Tensor]]:
        """Parameters that it masks now, and what each is multiplied by: 0 where it is masked, else 1."""
        return []

    def target_reached(self, step: int, total_steps: int) -> bool:
        """Whether after ``step`` optimizer steps the compression has reached what was asked for.

        Checkpoints before that are no candidates for the best.
        """
        return True

    def demands(self, total_steps: int) -> list[tuple[str, int, int]]:
        """What asks for time: what is done to the student, from which step on, and how many steps it should have.

        :mod:`distill.core.verdict` has the rules.
        """
        return []


def refuse_broken_contract(callback: Callback, key: str) -> None:
    """Refuse a callback of one's own that cannot be called as a run calls it.

    Raises:
        UserError: naming the method, or the attribute that is missing.
    """
    refuse_signatures(callback, key)
    if isinstance(callback, Compression) and getattr(callback, "order", None) not in (0, 1, 2):
        name, problem = type(callback).__name__, "nothing says when it compresses beside others"
        raise UserError(
            problem, key=key, value=name, hint="give the class order = 0 (structure), 1 (masks) or 2 (bits)"
        )


def _held(ours: Sequence[Compression], student: nn.Module) -> Held:
    """What these keep the student's code from."""
    named = {type(one).__name__: (one.rounded(student), one.replaced(), one.masked(student)) for one in ours}
    return Held(
        rounded={name: layer for rounded, _, _ in named.values() for name, layer in rounded.items()},
        replaced={name: weight for _, replaced, _ in named.values() for name, weight in replaced.items()},
        masked=[name for _, _, masked in named.values() for name in masked],
        by={name: by for by, parts in named.items() for part in parts for name in part},
        changed=[type(one).__name__ for one in ours if not one.order],
    )


def _refuse_adapter(callback: Callback, student: nn.Module) -> None:
    """Refuse to compress weights beside which an adapter is trained: merged, it would fill zeros and leave grids.

    Raises:
        UserError: saying what to do instead.
    """
    if adapter_layers(student):
        problem = "compresses weights that model.student.lora has frozen, and merging the adapter would undo it"
        hint = "train the adapter first, then compress what it was merged into: --model.student.path RUN"
        raise UserError(problem, key="callbacks", value=type(callback).__name__, hint=hint)


def refuse_twice(callbacks: Iterable[Callback]) -> None:
    """Refuse two callbacks of ours of one kind, which would also have one state between them.

    Raises:
        UserError: naming them.
    """
    ours = [one for one in callbacks if isinstance(one, Compression) or _once(one)]
    names = [type(callback).__name__ for callback in ours]
    if len(set(names)) < len(names):
        twice = next(one for one in ours if names.count(type(one).__name__) > 1)
        joined = "join their targets; per-layer overrides take what differs"
        hint = joined if isinstance(twice, Compression) else f"leave one {type(twice).__name__} out"
        raise UserError("each of them is given once", key="callbacks", value=names, hint=hint)


def _once(callback: Callback) -> bool:
    """Whether it is one of ours, of which a second one does nothing more."""
    return type(callback).__module__.startswith("distill.callbacks.") and not isinstance(callback, Checkpoint)


def refuse_rivals(callbacks: Sequence[Callback]) -> None:
    """Refuse Lightning's own callbacks that prune or average the student, where they disturb a compression.

    Raises:
        UserError: naming both.
    """
    ours = [index for index, callback in enumerate(callbacks) if isinstance(callback, Compression)]
    for index, callback in enumerate(callbacks if ours else ()):
        if isinstance(callback, ModelPruning):
            problem, hint = "keeps masks and weights under names of its own", "use GradualMagnitudePruning alone"
        elif isinstance(callback, WeightAveraging):
            problem, hint = "averages masks and ranges too", "use ExponentialMovingAverage"
        elif isinstance(callback, StochasticWeightAveraging) and index < ours[-1]:
            problem, hint = "copies the student before it has the structure that is trained", "let it come last"
        else:
            continue
        names = [type(callbacks[at]).__name__ for at in sorted([index, *ours])]
        raise UserError(
            f"beside a compression {type(callback).__name__} {problem}", key="callbacks", value=names, hint=hint
        )


def hurried(callbacks: Iterable[Compression], total_steps: int, taken: int | None = None) -> list[dict[str, Any]]:
    """The demands of which a student falls short, as ``result.json`` reports them.

    Args:
        callbacks: The compressions.
        total_steps: Of the run.
        taken: How many of them the student had, if it is not the last one's: the best may come from just where
            rounding begins, and has then not learned with it.
    """
    asked = [demand for callback in callbacks for demand in callback.demands(total_steps)]
    had = total_steps if taken is None else taken
    return [
        {"what": what, "steps": max(0, had - begin), "needed": needed}
        | ({"saved": had, "of": total_steps} if had < total_steps else {})
        for what, begin, needed in asked
        if had - begin < needed
    ]


def compressions(trainer: Trainer) -> list[Compression]:
    """The compressions among the callbacks, in their order."""
    return [callback for callback in trainer.callbacks if isinstance(callback, Compression)]  # type: ignore[attr-defined]
