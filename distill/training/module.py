"""The Lightning module that pairs a teacher with a student and adds up the losses."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from distill.compression.base import refuse_broken_contract
from distill.core.argument_types import refuse_types
from distill.core.internals.lightning import has_trainer
from distill.core.lazy_head import can_be_lazy
from distill.core.record import recount_zeros
from distill.core.schedules import check_schedule, check_schedules
from distill.core.signals import Batch, Request, Signals
from distill.core.step_callback import logged, scale_learning_rate, step_callbacks
from distill.core.trained_module import check_steps, count_steps
from distill.losses import DistillationLoss
from distill.models.compatibility import check_pair, check_widths
from distill.models.students import StudentConfig
from distill.models.teachers import TeacherConfig, TeacherSource
from distill.tasks import DEFAULT, Task, make_task
from distill.training.across import check_across, meet_tokenizers
from distill.training.assemble import (
    bind,
    check_trainable,
    make_losses,
    make_student,
    make_teacher,
    meet_data,
    own_tokenizer,
    try_reading,
)
from distill.training.averaging import GlobalMean
from distill.training.completions import CompletionsConfig, settle_completions
from distill.training.evidence import Evidence
from distill.training.judging import Judge
from distill.training.lora import refuse_agreement, shares_base
from distill.training.metrics import StepSums, logged_names, term_metrics
from distill.training.nonfinite import FiniteWatch
from distill.training.objective import lazily, objective, why_whole
from distill.training.on_policy import OnPolicy, OnPolicyConfig, check_reaches_student, refuse_sharded, student_batch
from distill.training.optimizer import (
    OptimizerConfig,
    make_optimizer,
    make_scheduler,
)
from distill.training.resume_state import resume, share, state_of
from distill.training.sharding import shard_run
from distill.training.trained import TrainedModule

__all__ = ["Distillation"]


class Distillation(TrainedModule):
    """Train a student on the weighted sum of pluggable losses against a teacher.

    The objective of one optimizer step is the sum over the losses k of w_k * S_k / N, where S_k is the loss
    summed over every valid position of all micro-batches and ranks, and N the number of these positions.

    The teacher is no submodule: it is in no optimizer, checkpoint, gradient bucket or export.

    Args:
        student: Where the student comes from; a hub id, folder or run as a string; or a ready module.
        task: Name of a task (``text-classification``), or a task of your own.
        teacher: Hub id, folder or run; several with weights; a ready module or source; none for plain fine-tuning.
        losses: The terms of the objective; (binary) cross entropy against the labels if none are given. A function of
            the two models' logits is one too (:class:`~distill.losses.callable.CallableLoss`).
        optimizer: Optimizer and learning-rate schedule.
        labels: Names of the classes. On the command line they come from the data.
        on_policy: Which batches the student writes itself (:mod:`distill.training.on_policy`); none if not given.
        completions: What a language model writes after held-out prompts when a run ends, to be read and to be scored.

    Raises:
        UserError: for whatever cannot work, before anything is trained or written.
    """

    def __init__(
        self,
        student: StudentConfig | str | nn.Module,
        task: str | Task = DEFAULT,
        teacher: str | TeacherConfig | list[TeacherConfig] | nn.Module | TeacherSource | None = None,
        losses: Sequence[DistillationLoss] | None = None,
        optimizer: OptimizerConfig | None = None,
        labels: list[str] | None = None,
        on_policy: OnPolicyConfig | None = None,
        completions: CompletionsConfig | None = None,
    ) -> None:
        super().__init__()
        given = {"student": student, "optimizer": optimizer, "labels": labels}
        refuse_types(Distillation, given | {"on_policy": on_policy, "completions": completions}, "model.")
        self.task = make_task(task, labels)
        terms = make_losses(losses, self.task)  # before a model is loaded, which takes long
        self.teacher = make_teacher(teacher, self.task, labels)
        self.student = make_student(student, self.task, self.teacher, labels, teacher)
        self.student_config = student if isinstance(student, StudentConfig) else None
        self.own_base = shares_base(student, teacher, self.task)
        self.completions = settle_completions(completions, self.task, self.student)
        self.task.meet_models(self.student, self.teacher.models if self.teacher else None)
        self.losses = nn.ModuleList(terms)
        self.optimizer_config = optimizer or OptimizerConfig()
        self.needs = bind(self._losses(), self.task, self.student, self.teacher)
        if self.teacher is not None:
            self.teacher.check_losses(self._losses())
        # Where the tokenizers agree one head may be a padded version of the other; no other widths may differ.
        self._across = check_across(self._losses(), self.task, self.teacher, on_policy is not None)
        self._tokenizer = own_tokenizer(student, self.task, None if self._across else self.teacher)
        self._may_be_padded = self._across or check_pair(self.task, self._tokenizer, self.student, self.teacher)
        self._judge = Judge(self.task, self.teacher)
        self._counted: tuple[weakref.ref[Trainer], int] | None = None
        pair = self.task, self.student, self.teacher, self.needs
        self.on_policy = None if on_policy is None else OnPolicy(on_policy, *pair)
        self._finite = FiniteWatch()
        self._mean, self._sums = GlobalMean(), StepSums()
        self._whole: str | None = None
        self._gather: Callable[[], nn.Module | None] | None = None
        # Weak: Lightning's averages copy the module, and through its data would copy the trainer.
        self._met: weakref.ref[Any] | None = None

    @property
    def teacher_scores(self) -> dict[str, float]:
        """The teacher's metrics on the data of the last evaluation; empty where there is none."""
        return {} if self._judge.teacher is None else self._judge.teacher.scores

    @property
    def evidence(self) -> Evidence:
        """What its evaluations measure besides metrics."""
        return self._judge.evidence

    def _losses(self) -> list[DistillationLoss]:
        return list(self.losses)  # type: ignore[arg-type]

    def meet(self, data: Any) -> None:
        """Have both models read what ``data`` makes; done by :meth:`setup` for the data module of a trainer.

        Raises:
            UserError: if its tokenizer is not theirs, its samples are longer than they read, or they read none.
        """
        if data is not None and (self._met is None or data is not self._met()):
            check_reaches_student(self.on_policy, data)
            meet_tokenizers(self._losses(), data)
            meet_data(data, self.task, self.student, self._tokenizer, self.teacher)
            try_reading(data, self.task, self.student, self.teacher, self.needs)
            if self.own_base:
                refuse_agreement(data, self._losses())
            if self.on_policy is not None:
                self.on_policy.meet(data)
            self._met = weakref.ref(data)

    def setup(self, stage: str) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            refuse_broken_contract(callback, "callbacks")
        self.meet(getattr(self.trainer, "datamodule", None))

    def configure_model(self) -> None:
        # Called again for a validation after training.
        if self.device_mesh is not None and self._gather is None:
            refuse_sharded(self.on_policy)
            self._gather = shard_run(self.student, self._losses(), self.device_mesh)

    def unsharded_student(self) -> nn.Module | None:
        """The student with all of its weights, as a plain module.

        Of a sharded run it is gathered, in which all ranks take part: a copy on rank 0, and nothing on the others.
        """
        return self.student if self._gather is None else self._gather()

    # ------------------------------------------------------------------ training

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = make_optimizer(self.optimizer_config, [self.student, self.losses])
        total = self._count_steps()
        scheduler = make_scheduler(self.optimizer_config, optimizer, total)
        check_schedules(self._losses(), total)
        if self.on_policy is not None:
            check_schedule(self.on_policy.share, total, "model.on_policy.share")
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "learning_rate"},
        }

    @property
    def total_steps(self) -> int:
        """How many optimizer steps the run has, for all that is scheduled over it; 1 before there is a run."""
        if not has_trainer(self):
            return 1
        # Counted for the first who asks, as a subclass may have made configure_optimizers anew.
        counted = self._counted
        return counted[1] if counted is not None and counted[0]() is self.trainer else self._count_steps()

    def _count_steps(self) -> int:
        total = count_steps(self.trainer)
        self._counted = weakref.ref(self.trainer), total
        return total

    def on_fit_start(self) -> None:
        check_trainable(self.student, self.trainer)
        check_steps(self)
        self._judge.to(self.device)
        self._mean.forget()
        self._sums = StepSums()

    def on_validation_start(self) -> None:
        self._judge.to(self.device)

    def on_test_start(self) -> None:
        self._judge.to(self.device)
        if self._judge.teacher is not None:
            self._judge.teacher.clear()

    def on_train_end(self) -> None:
        self._finite.check()
        recount_zeros(self.student)

    def on_train_start(self) -> None:
        scale_learning_rate(self.trainer, self.total_steps)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # not told of an epoch resumed in its middle
                callback.on_train_epoch_start(self.trainer)
        self._begin()

    def on_train_epoch_start(self) -> None:
        self._begin()  # once more: a callback may change the accumulation from epoch to epoch

    def on_train_epoch_end(self) -> None:
        if self.teacher is not None:
            share(self.teacher, self.trainer.world_size)

    def _begin(self) -> None:
        """What must hold at every step. Resuming within an epoch or at its end, Lightning does not start it anew."""
        self._mean.begin(self.trainer.accumulate_grad_batches, self.trainer.world_size)
        # from_pretrained returns eval mode, and Lightning leaves modes as it finds them.
        self.student.train()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # Of Lightning's hooks the one that comes before all callbacks, which are then told of what is trained on.
        return batch if self.on_policy is None else student_batch(self, self.on_policy, batch)

    def terms(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective summed over the batch's valid positions, and each term's raw mean.

        Args:
            batch: With its step set (:meth:`Batch.at`), which the schedules read.
        """
        lazy = not self.why_whole()
        teacher = Signals()
        if self.teacher is not None and self.needs.teacher:
            asked, blocks = self.needs.teacher, (lazy or self._across) and self.teacher.lazy
            teacher = self.teacher.signals(batch, lazily(asked) if blocks else asked)
        asked = self.needs.student
        student = self.task.forward(self.student, batch, lazily(asked) if lazy else asked)
        if not self._may_be_padded:
            check_widths(student, teacher)
        return objective(self._losses(), student, teacher, batch)

    def why_whole(self) -> str:
        """Why logits are computed as a whole; nothing where they are not (:mod:`distill.losses.head_terms`)."""
        if self._whole is None:
            self._whole = why_whole(self.task, self._losses(), self.student)
        if self._whole:
            return self._whole
        if self.device_mesh is not None:
            return "the student is sharded"
        return "" if can_be_lazy(self.student) else "the head has been replaced, or has hooks"

    def training_step(self, raw_batch: Any, batch_idx: int) -> Tensor:
        batch = self.task.batch(raw_batch).at(self.global_step, self.total_steps)
        for callback in step_callbacks(self.trainer):
            batch = callback.trained_on(self.trainer, batch)
        objective, terms = self.terms(batch)
        self._finite.watch(terms, batch)
        if logged(self.trainer, self.global_step + 1):
            self._log_terms(objective / batch.count.clamp(min=1), terms, batch)
        return self._mean.loss(objective, batch.count)

    def _log_terms(self, objective: Tensor, terms: dict[str, Tensor], batch: Batch) -> None:
        sums = self._sums.add(objective, terms, batch)
        values = term_metrics(self._losses(), sums, batch, self.trainer.world_size)
        values |= {} if self.on_policy is None else {"train/on_policy": float(self.on_policy.replaced)}
        values["train/learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict(values, batch_size=batch.size)
        self.log("loss", values["train/loss"], prog_bar=True, logger=False, batch_size=batch.size)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.average_gradients(optimizer)  # after unscaling and before clipping

    def average_gradients(self, optimizer: Optimizer) -> None:
        """Turn gradients of the sum over the step's predictions into those of the global mean, if they are not yet.

        For callbacks to call in ``on_before_optimizer_step``, where their turn comes before the module's.
        """
        self._mean.average(optimizer)

    # ------------------------------------------------------------------ validation

    @property
    def measures_acceptance(self) -> bool:
        """As :attr:`Judge.measures_acceptance`."""
        return self._judge.measures_acceptance

    def validation_step(self, raw_batch: Any, batch_idx: int) -> None:
        self._evaluate(raw_batch, batch_idx)

    def test_step(self, raw_batch: Any, batch_idx: int) -> None:
        self._evaluate(raw_batch, batch_idx)

    def _evaluate(self, raw_batch: Any, index: int) -> None:
        batch = self.task.for_evaluation(self.task.batch(raw_batch))
        whole = bool(self.why_whole())
        with self.evidence.watching(self.student, index):
            signals = self.task.forward(self.student, batch, Request(logits=True, lazy=not whole))
        self._judge.add(signals, batch, self.trainer)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, split: str) -> None:
        scores = self._judge.compute(split, self.trainer)
        # Equal on all ranks already; every rank needs them, as each decides which checkpoint is best.
        several = self.trainer.world_size > 1
        self.log_dict(scores, sync_dist=several)
        best = scores[f"{split}/{self.task.monitor}"]
        self.log(self.task.monitor, best, prog_bar=True, logger=False, sync_dist=several)

    def metric_names(self, validates: bool = True) -> list[str]:
        """The names of all metrics that a run logs, validated or not (``validates``), those of callbacks left out."""
        scores = (self.task.monitor, *self._judge.metrics) if validates else ()
        return logged_names(self._losses(), scores, self.teacher is not None, self.on_policy is not None)

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._finite.check()  # no checkpoint of a run that has already gone wrong
        checkpoint["total_steps"], checkpoint["predictions"] = self.total_steps, self._mean.predictions
        checkpoint |= state_of(self.trainer, self.teacher, self.teacher_scores)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        scores = resume(checkpoint, self.trainer, self.teacher)
        self._mean.predictions = checkpoint.get("predictions")
        if self._judge.teacher is not None:
            self._judge.teacher.scores = scores
