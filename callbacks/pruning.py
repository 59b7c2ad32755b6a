"""Gradual magnitude pruning while the student is trained."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.hooks import RemovableHandle

from distill.compression.base import Compression, compressions
from distill.compression.pruning.criteria import CRITERIA, Criterion
from distill.compression.pruning.granularity import Granularity
from distill.compression.pruning.masking_plan import MaskingPlan
from distill.compression.pruning.masks import Masks
from distill.compression.pruning.rankings import Layer
from distill.compression.pruning.schedule import CURVES, SparsitySchedule
from distill.compression.pruning.weights import PRUNABLE
from distill.core.argument_types import refuse_types
from distill.core.idle_settings import Idle, refuse_idle
from distill.core.internals.torch import not_sent_by_ddp
from distill.core.module_selection import of_types
from distill.core.schedules import step_at
from distill.core.step_callback import logs_now
from distill.core.trained_module import average_gradients, batch_of, prefix_of, require_student, total_steps
from distill.core.utils.errors import UserError, check_choice
from distill.core.verdict import steps_to_prune

__all__ = ["GradualMagnitudePruning"]


_log = logging.getLogger(__name__)

_ELEMENTWISE = (SGD, Adam, AdamW)
"""Optimizers that leave a weight at zero whose gradient and moments are zero."""


def _idle(schedule: Any, scope: Any, granularity: Granularity, regrow: float) -> list[Idle]:
    """Which settings these leave without effect."""
    table, at_once = not isinstance(schedule, str), schedule == "one_shot" and not regrow
    own, once = "a table of steps", "schedule: one_shot"
    groups = granularity.keep > 0
    return [
        *(Idle(key, table, own, "say it there") for key in ("final_sparsity", "initial_sparsity", "begin", "end")),
        Idle("every_n_steps", table, own, "say it there"),
        *(Idle(key, at_once, once, "take cubic or linear") for key in ("initial_sparsity", "end", "every_n_steps")),
        Idle("freeze", not regrow, "regrow: 0", "give regrow"),
        Idle("scope", groups and not isinstance(scope, str), f"granularity: {granularity}", "take unstructured"),
        Idle("max_layer_sparsity", groups, f"granularity: {granularity}", "take unstructured"),
    ]


class GradualMagnitudePruning(Compression):
    """Zero the student's least weights, more and more of them, by a schedule over optimizer steps.

    The mask of a weight is the boolean buffer ``weight_mask`` of its module (``weight_ih_l0_mask`` beside
    ``weight_ih_l0``, and so on), true where the weight is kept. At an
    update, masks are chosen anew, and weights and optimizer moments are zeroed under them. Gradients are zeroed
    under the masks before every optimizer step, ahead of clipping; so a pruned weight is exactly zero after each
    step. A pruned weight stays pruned, unless ``regrow`` is given. Sparsity is of the original number of weights:
    a ranking over n weights prunes the nearest integer to sparsity * n, of equal scores some all over the layers.
    A ranking over several layers compares scores as multiples of their layer's root mean square, and leaves something
    of each. What StructuredPruning before it removes is neither ranked nor counted: sparsity is of what is left.
    Frozen layers are left out under a criterion that reads gradients; weights of which training showed a
    criterion nothing, as the rows of words that never came, are ranked among themselves, by magnitude.

    Embeddings, norms, biases and the head are not pruned; weights that are tied are pruned once.

    Args:
        final_sparsity: In [0, 1); 0.8 if not given, and 1 - n/m where ``granularity`` is n:m.
        initial_sparsity: At ``begin``.
        begin: When the first update comes: a step (integer), or a fraction of the run (float in [0, 1]).
        end: When ``final_sparsity`` is reached, likewise.
        every_n_steps: Steps from one update to the next; a fiftieth of the run, and at least 20, but at most a tenth of
            the way from ``begin`` to ``end``, if not given.
        schedule: ``cubic`` (Zhu & Gupta 2017), ``linear``, ``one_shot`` (at ``begin``), or a table of steps and
            the sparsity from then on, which takes the place of sparsities, ``begin`` and ``end``.
        scope: One ranking over all weights (``global``), one a layer (``layer``), or regular expressions searched
            in the layers' names: one ranking for each, and one for the layers in which none is found.
        granularity: ``unstructured``; n:m, such as ``2:4``, of neighbours along the inputs; or a block of outputs
            by inputs, such as ``4x1``.
        criterion: ``magnitude``, ``movement`` (Sanh 2020), ``wanda`` (Sun 2024), ``random``, or a
            :class:`~distill.compression.pruning.Criterion` of your own
            (:class:`~distill.compression.pruning.FunctionCriterion` takes a function).
        include: Regular expressions searched in module names; all of the ``types`` below but the head if
            not given.
        exclude: Likewise, of those to leave out.
        types: Names of classes, of ``Linear``, ``Conv1D`` (GPT-2's linear map), ``Conv1d`` to ``Conv3d``,
            ``ConvTranspose1d`` to ``ConvTranspose3d``, ``LSTM``, ``GRU``, ``RNN``, ``MultiheadAttention`` (the weights
            of its inputs) and ``Experts`` (stacked in one parameter, as Mixtral's): only modules of these are pruned;
            of all of them if not given.
        embeddings: Whether embedding tables are among the modules, whatever the ``types``.
        overrides: Regular expression -> final sparsity of the layers in whose name it is found, each of which gets
            a ranking of its own; 0 leaves them. The others reach ``final_sparsity`` among themselves.
        max_layer_sparsity: In (0, 1]: the most of a layer that a ranking over several may prune. No override may lie
            above it, and with ``scope: layer`` it has no place. If not given, a layer keeps at least one weight (or
            block), and a quarter of the part that all keep together: at 0.8 it is pruned to 0.95 at most.
        regrow: In [0, 1): the part of the kept weights that an update may give for pruned ones with the largest
            gradient (Evci 2020); it falls to 0 at ``freeze`` as half a cosine. Frozen weights are ranked by themselves.
        freeze: When masks stop changing; ``end`` if not given. Later than ``end`` is of use with
            ``regrow`` only.

    Raises:
        UserError: if a value is out of range, a pattern has no effect, or a granularity fits a layer not.

    Reference:
        Zhu, Gupta: To prune, or not to prune: exploring the efficacy of pruning for model compression, 2017.
    """

    order: ClassVar[int] = 1

    def __init__(
        self,
        final_sparsity: float | None = None,
        initial_sparsity: float = 0.0,
        begin: int | float = 0.0,
        end: int | float = 0.6,
        every_n_steps: int | None = None,
        schedule: Literal["cubic", "linear", "one_shot"] | dict[int | float, float] = "cubic",
        scope: Literal["global", "layer"] | list[str] = "global",
        granularity: str = "unstructured",
        criterion: str | Criterion = "magnitude",
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        types: list[str] | None = None,
        embeddings: bool = False,
        overrides: dict[str, float] | None = None,
        max_layer_sparsity: float | None = None,
        regrow: float = 0.0,
        freeze: int | float | None = None,
    ) -> None:
        given = dict(locals())
        try:
            refuse_types(GradualMagnitudePruning, given)
            parsed = Granularity.parse(granularity)
            curve = schedule if isinstance(schedule, str) else "cubic"
            check_choice("schedule", curve, CURVES)
            refuse_idle(GradualMagnitudePruning, given, _idle(schedule, scope, parsed, regrow))
            self.schedule = SparsitySchedule(
                final=(parsed.most if parsed.keep else 0.8) if final_sparsity is None else final_sparsity,
                initial=initial_sparsity,
                begin=begin,
                end=end,
                every=every_n_steps,
                freeze=freeze,
                curve=curve,
                table=None if isinstance(schedule, str) else schedule,
            )
            if isinstance(scope, str):
                check_choice("scope", scope, ("global", "layer"))
            kinds = of_types(PRUNABLE, types, "types")
            self.plan = MaskingPlan(
                final=self.schedule.final,
                granularity=parsed,
                criterion=_criterion(criterion),
                scope=scope,
                kinds=(*kinds, nn.Embedding) if embeddings else kinds,
                include=include,
                exclude=exclude or [],
                overrides=overrides or {},
                max_layer_sparsity=max_layer_sparsity,
                regrow=regrow,
            )
        except UserError as error:
            raise error.within(self._key) from None
        self._masks: Masks | None = None
        self._handles: list[RemovableHandle] = []
        self._watching: list[RemovableHandle] = []
        self._gradients: dict[str, Tensor] = {}
        self._metrics: dict[str, float] = {}
        self._pruned = False
        self._begun = False

    @property
    def _key(self) -> str:
        return f"callbacks.{type(self).__name__}"

    @property
    def _layers(self) -> Sequence[Layer]:
        """Those that are pruned: none before the student is prepared, nor once it is finished."""
        return self._masks.layers if self._masks else ()

    # ------------------------------------------------------------------ before and after training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            # Equal on all ranks by construction; they would be sent with every forward pass.
            prefix = prefix_of(pl_module, require_student(pl_module, type(self).__name__))
            ours = [f"{prefix}{name}" for name in self._masks.buffers] if self._masks else []
            not_sent_by_ddp(pl_module, ours)

    def check_names(self, student: nn.Module) -> None:
        self.plan.choose(student, self._key)

    def prepare(self, student: nn.Module) -> None:
        self._masks = self.plan.prepare(student, self._key)
        self._gradients, self._metrics, self._pruned = {}, {}, False

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        assert self._masks is not None
        step, self._masks = self._masks.finish(), None
        return [step]

    def masked(self, student: nn.Module) -> list[str]:
        return [layer.path for layer in self._layers]

    @property
    def masks_what_is_left(self) -> bool:
        return self.plan.granularity.size == 1  # others count their neighbours

    def factors(self) -> Sequence[tuple[Tensor, Tensor]]:
        return [(layer.weight, layer.factor) for layer in self._layers]

    def target_reached(self, step: int, total_steps: int) -> bool:
        return step >= self.schedule.last_step(total_steps)

    def demands(self, total_steps: int) -> list[tuple[str, int, int]]:
        begin, final = step_at(self.schedule.begin, total_steps), self.schedule.final
        return [(f"{final:.0%} sparsity", begin, steps_to_prune(final))]

    def timeline(self, steps: Iterable[int], total_steps: int) -> Mapping[str, list[float]]:
        return {"sparsity": [self.schedule(step, total_steps) for step in steps]}

    # ------------------------------------------------------------------ training

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.schedule.final and trainer.is_global_zero:
            _log.warning("%s.final_sparsity = 0: nothing is pruned", self._key)
        try:
            self.schedule.check(total_steps(pl_module))
            if self.plan.criterion.learns and self.schedule(0, total_steps(pl_module)):
                problem = f"{type(self.plan.criterion).__name__} has no scores before the first step"
                raise UserError(problem, key="begin", value=self.schedule.begin, hint="begin: 1, or later")
        except UserError as error:
            raise error.within(self._key) from None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        before = self._metrics
        for optimizer in trainer.optimizers:
            if type(optimizer) not in _ELEMENTWISE:
                self._handles.append(optimizer.register_step_post_hook(lambda *_: self._zero()))
        self._begun = not self._removers(trainer)
        if self._begun and self.schedule.updates_at(self._step, total_steps(pl_module)):
            self._update(trainer, total_steps(pl_module))
        self._pruned = bool(self.schedule(self._step, total_steps(pl_module)))
        self._metrics = before or self._metrics  # of a resumed run, whose masks did not change just now

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if not self._begun:  # what is removed may be known from the first batch on
            self._begun, before = True, self._metrics
            if self._chooses(trainer, total_steps(pl_module)):
                self._update(trainer, total_steps(pl_module))
            self._metrics = before or self._metrics
        if not self._watching and self.schedule.updates_at(trainer.global_step + 1, total_steps(pl_module)):
            handles = [self.plan.criterion.watch(layer.view) for layer in self._layers]
            self._watching = [handle for handle in handles if handle is not None]
        if self._watching:
            self.plan.criterion.begin(batch_of(pl_module, batch))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        # Of all micro-batches and ranks, unscaled, and not clipped yet.
        average_gradients(pl_module, optimizer)
        step, total = trainer.global_step, total_steps(pl_module)
        if step < self.schedule.last_step(total):
            for layer in self._layers:
                self.plan.criterion.learn(layer.view)
            if self.plan.regrow and self._masks and self.schedule.updates_at(step + 1, total):
                self._gradients = self._masks.gradients()
        if self._pruned:
            for layer in self._layers:
                if layer.weight.grad is not None:
                    layer.weight.grad.mul_(layer.factor)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = total_steps(pl_module)
        if self._chooses(trainer, total):
            self._settle()
            self._update(trainer, total)
        if self._metrics and logs_now(trainer):
            pl_module.log_dict(self._metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self._metrics}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._metrics = dict(state_dict["metrics"])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for handle in (*self._handles, *self._watching):
            handle.remove()
        self._handles, self._watching = [], []

    def _settle(self) -> None:
        for handle in self._watching:
            handle.remove()
        self._watching = []
        for layer in self._layers:
            self.plan.criterion.settle(layer.view)

    def _removers(self, trainer: Trainer) -> list[Compression]:
        """Those before it that take out parts of what it masks."""
        ours = compressions(trainer)
        return [other for other in ours[: ours.index(self)] if other.removes]

    def _chooses(self, trainer: Trainer, total: int) -> bool:
        """Whether masks are chosen anew now: by the schedule, or as something was removed of what they are of."""
        removed = any(other.cuts_at(self._step, total) for other in self._removers(trainer))
        return removed or self.schedule.updates_at(self._step, total)

    def _update(self, trainer: Trainer, total: int) -> None:
        """Choose the masks of the last update. Once more, as at the start of a resumed run, this changes nothing."""
        target = self.schedule(self._step, total)
        if not target:
            return
        assert self._masks is not None
        left = (1 + math.cos(math.pi * min(1.0, self._step / max(1, self.schedule.last_step(total))))) / 2
        removed = [pair for other in self._removers(trainer) for pair in other.factors()]
        self._metrics = self._masks.update(target, self._gradients, self.plan.regrow * left, removed)
        self._gradients, self._pruned = {}, True
        for optimizer in trainer.optimizers:
            for layer in self._layers:
                for moment in optimizer.state.get(layer.weight, {}).values():
                    if isinstance(moment, Tensor) and moment.shape == layer.weight.shape:
                        moment.mul_(layer.factor)

    def _zero(self) -> None:
        for layer in self._layers:
            layer.zero()


def _criterion(criterion: str | Criterion) -> Criterion:
    if isinstance(criterion, Criterion):
        return criterion
    check_choice("criterion", criterion, CRITERIA)
    return CRITERIA[criterion]()
