"""Heads, neurons, layers, width and channels that are switched off one by one and removed in the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from distill.compression.base import Compression
from distill.compression.pruning.schedule import GradualSchedule
from distill.compression.structure.activations import ActivationSums
from distill.compression.structure.channel_plan import ChannelPlan
from distill.compression.structure.fractions import Scope
from distill.compression.structure.removal_plan import Criterion, RemovalPlan
from distill.core.argument_types import refuse_types
from distill.core.idle_settings import Idle, refuse_idle
from distill.core.internals.torch import tensors_in
from distill.core.model_call import call
from distill.core.schedules import step_at
from distill.core.step_callback import logs_now
from distill.core.trained_module import average_gradients, batch_of, require_student, total_steps
from distill.core.utils.errors import UserError, first_line, nearest
from distill.core.verdict import steps_to_prune

__all__ = ["StructuredPruning"]

KEY = "callbacks.StructuredPruning"

Curve = Literal["cubic", "linear", "one_shot"]


class StructuredPruning(Compression):
    """Remove heads, feed-forward neurons, layers and width, or channels: little by little in training, then physically.

    Between ``begin`` and ``end`` the least important ones are switched off, which is exactly as if they were
    removed, and what remains learns to do without; they do not come back. :meth:`finish` takes them out of the
    weights, so that the student is smaller and faster in fact. Known are the architectures of
    :data:`distill.core.architectures.FAMILIES`; where query heads share heads of keys and values, whole groups go,
    and how many heads that is is said. Channels are of any net: which hang together, by residual sums, concatenations,
    depthwise and grouped convolutions, norms and flattening, is found on the first batch, and that they can be removed
    is tried on copies. Channels that something else mixes, such as a layer norm, stay, and it is named.
    One of each stays in every layer.

    Args:
        heads: Part of the attention heads to remove, in [0, 1), of their original number.
        neurons: Part of the feed-forward neurons, likewise.
        hidden: Part of the coordinates of the residual stream (of the embeddings, and of what layers pass on),
            likewise. Norms are over those that stay.
        layers: How many layers to remove, or the numbers of those (1 is the first).
        channels: Part of the outputs of convolutions and linear maps, in [0, 1), with all that is tied to them; given
            alone. A convolution costs (1 - channels)^2 of what it did.
        criterion: What makes a unit important. ``magnitude``: the L2 norm of its weights. ``taylor``: |sum of
            w * dL/dw| over its weights, a moving average over the steps. ``activation``: the norm of what it adds to
            the layer's output, likewise; of a layer, how much it changes its input; not of channels.
        scope: Whether every ``layer`` loses the same part, or units are compared over the whole model (``global``).
        begin: When the first units may go: a step (integer), or a fraction of the run (float in [0, 1]).
        end: When the last ones are gone, likewise.
        every_n_steps: How often units go in between; as for ``GradualMagnitudePruning`` if not given.
        schedule: ``cubic`` (many at first, then fewer: 1 - (1 - p)^3), ``linear``, or ``one_shot`` (all at ``begin``).

    Raises:
        UserError: for values out of range, here or, where it takes the student to know, before training.
    """

    order: ClassVar[int] = 1

    def __init__(
        self,
        heads: float = 0.0,
        neurons: float = 0.0,
        hidden: float = 0.0,
        layers: int | list[int] = 0,
        criterion: Criterion = "magnitude",
        scope: Scope = "layer",
        begin: int | float = 0.0,
        end: int | float = 0.6,
        every_n_steps: int | None = None,
        schedule: Curve = "cubic",
        channels: float = 0.0,
    ) -> None:
        refuse_types(StructuredPruning, locals(), f"{KEY}.")
        for name, fraction in (("heads", heads), ("neurons", neurons), ("hidden", hidden), ("channels", channels)):
            if not 0 <= fraction < 1:
                problem, hint = "must lie in [0, 1)", "0.5 removes half of them"
                raise UserError(problem, key=f"{KEY}.{name}", value=fraction, hint=hint)
        for name, value, kind in (
            ("criterion", criterion, Criterion),
            ("scope", scope, Scope),
            ("schedule", schedule, Curve),
        ):
            if value not in get_args(kind):
                problem = f"must be one of {', '.join(get_args(kind))}"
                raise UserError(problem, key=f"{KEY}.{name}", value=value, hint=nearest(value, get_args(kind)))
        if not (heads or neurons or hidden or layers or channels):
            hint = "give heads, neurons, hidden or layers, or channels"
            raise UserError("nothing is to be removed", key=KEY, hint=hint)
        if channels:
            _check_channels(channels, bool(heads or neurons or hidden or layers), criterion)
        numbered = not (heads or neurons or hidden or channels) and isinstance(layers, list)
        once = schedule == "one_shot"
        rules = [
            Idle("end", once, "schedule: one_shot", "take cubic or linear"),
            Idle("every_n_steps", once, "schedule: one_shot", "take cubic or linear"),
            Idle("criterion", numbered, "layers by their numbers", "say how many"),
            Idle("scope", not (heads or neurons or channels), "neither heads nor neurons to remove", "give them"),
        ]
        values = {"end": end, "every_n_steps": every_n_steps, "criterion": criterion, "scope": scope}
        refuse_idle(StructuredPruning, values, rules, f"{KEY}.")
        self.plan: RemovalPlan | ChannelPlan = RemovalPlan(heads, neurons, hidden, layers, criterion, scope, KEY)
        if channels:
            self.plan = ChannelPlan(channels, criterion, scope, KEY)
        try:
            self.schedule = GradualSchedule(begin=begin, end=end, every=every_n_steps, curve=schedule)
        except UserError as error:
            raise error.within(KEY) from None
        self._parts: Any = None
        self._activations = ActivationSums()
        self._switches: list[RemovableHandle] = []
        self._hooks: list[RemovableHandle] = []
        self._factors: list[tuple[nn.Parameter, Tensor]] = []

    # ------------------------------------------------------------------ structure

    def check_names(self, student: nn.Module) -> None:
        self.plan.check(student)

    def prepare(self, student: nn.Module) -> None:
        _remove(self._switches)
        self._switches = self.plan.prepare(student)

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        _remove(self._switches)
        return self.plan.finish(student)

    def masked(self, student: nn.Module) -> list[str]:
        return self.plan.masked(student)

    @property
    def removes(self) -> bool:  # type: ignore[override]
        # A layer that goes takes names with it, by which others know the rest.
        return not self.plan.layers

    def cuts_at(self, step: int, total_steps: int) -> bool:
        return self.schedule.updates_at(step, total_steps)

    def factors(self) -> Sequence[tuple[Tensor, Tensor]]:
        return self._factors

    # ------------------------------------------------------------------ schedule

    def progress(self, step: int, total_steps: int) -> float:
        """How much of what is to be removed is gone after ``step`` optimizer steps, in [0, 1]."""
        return self.schedule.progress(step, total_steps)

    def target_reached(self, step: int, total_steps: int) -> bool:
        return step >= self.schedule.end_step(total_steps)

    def demands(self, total_steps: int) -> list[tuple[str, int, int]]:
        begin = step_at(self.schedule.begin, total_steps)
        asked = [(f"{part:.0%} of {kind} removed", part) for kind, part in self.plan.fractions.items()]
        return [(what, begin, steps_to_prune(part)) for what, part in asked]

    def timeline(self, steps: Iterable[int], total_steps: int) -> Mapping[str, list[float]]:
        progress = [self.progress(step, total_steps) for step in steps]
        removed: dict[str, float] = {str(kind): fraction for kind, fraction in self.plan.fractions.items()}
        if self.plan.layers:
            removed["layers"] = self.plan.layer_count
        return {f"{name} removed": [part * most for part in progress] for name, most in removed.items()}

    # ------------------------------------------------------------------ training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        total = total_steps(pl_module)
        try:
            self.schedule.check(total)
        except UserError as error:
            raise error.within(KEY) from None
        if self.plan.criterion != "magnitude" and self.progress(0, total):
            problem = f"{self.plan.criterion} is measured in training, and units go before the first step"
            raise UserError(problem, key=f"{KEY}.criterion", value=self.plan.criterion, hint="let begin be later")
        student = require_student(pl_module, type(self).__name__)
        self._parts = self.plan.parts(student)
        self._factors = []
        self.plan.check_quantized(self._parts)
        self._hooks = [trainer.optimizers[0].register_step_post_hook(self._apply)]
        if self.plan.criterion == "activation" and not self.target_reached(self._step, total):
            self.plan.watch(self._parts, self._activations)
        if self.plan.ready:
            self._advance(total)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._activations.tokens = batch_of(pl_module, batch).positions
        if not self.plan.ready:
            self._find_channels(pl_module, batch)
            self._advance(total_steps(pl_module))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        if not self.plan.ready:
            self._find_channels(pl_module, batch)

    def _find_channels(self, pl_module: LightningModule, raw: Any) -> None:
        """Follow two samples through the student.

        Raises:
            UserError: if it cannot be called with what the loader yields.
        """
        assert isinstance(self.plan, ChannelPlan)
        batch = batch_of(pl_module, raw).first(2)
        inputs = {name: x.float() if x.is_floating_point() else x for name, x in batch.inputs.items()}

        def run(student: nn.Module) -> list[Tensor]:
            try:
                return tensors_in(call(student, inputs, {}))
            except TypeError as error:
                problem = f"the student cannot be called with {' and '.join(inputs)} of a batch ({first_line(error)})"
                hint = "have the loader yield (x, y), or a mapping of its arguments, labels being called labels"
                raise UserError(problem, key=f"{KEY}.channels", hint=hint) from error

        self.plan.find(require_student(pl_module, type(self).__name__), run)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        # Of all micro-batches and ranks, unscaled, and not clipped yet.
        if self.plan.criterion == "taylor" and not self.target_reached(self._step, total_steps(pl_module)):
            average_gradients(pl_module, optimizer)
            self.plan.measure(self._parts, {})

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = total_steps(pl_module)
        sums = self._activations.take(trainer.world_size)
        if sums:
            self.plan.measure(self._parts, sums)
        self._advance(total)
        if logs_now(trainer):
            values = self.timeline([self._step], total)
            pl_module.log_dict({f"structure/{name}".replace(" ", "_"): value for name, (value,) in values.items()})

    def _advance(self, total: int) -> None:
        """Bring the masks to the present step. Done twice it changes nothing: what is gone is the least important."""
        if self.schedule.updates_at(self._step, total):
            self.plan.switch_off(self._parts, self.progress(self._step, total))
        if self.schedule.updates_at(self._step, total) or not self._factors:
            self._factors = self.plan.factors(self._parts)
        self._apply()
        if self.target_reached(self._step, total):
            self._activations.stop()

    @torch.no_grad()
    def _apply(self, *_: Any) -> None:
        for parameter, factor in self._factors:
            parameter.mul_(factor)  # ten times as fast as writing zeros into columns

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        self._activations.stop()
        _remove(self._hooks)


def _check_channels(fraction: float, beside: bool, criterion: str) -> None:
    """Refuse what channels are not removed with.

    Raises:
        UserError: saying what to leave out.
    """
    if beside:
        problem = "are of nets whose layers are not known beforehand; heads, neurons, hidden and layers of transformers"
        raise UserError(problem, key=f"{KEY}.channels", value=fraction, hint="give either")
    if criterion == "activation":
        problem, hint = "is not measured of channels", "take magnitude, or taylor"
        raise UserError(problem, key=f"{KEY}.criterion", value=criterion, hint=hint)


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()
