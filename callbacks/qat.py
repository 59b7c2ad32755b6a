"""Quantization-aware training: the student learns with the rounding that it is saved with."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, get_args

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import Metric

from distill.compression.base import Compression
from distill.compression.bypass import smallest_pass
from distill.compression.quantization.layers import QuantizedLayer, quantized_layers
from distill.compression.quantization.lifecycle import as_float, attend, find_ranged, finish, follow, start_scales
from distill.compression.quantization.metrics import quantization_metrics
from distill.compression.quantization.outputs import Outputs, points_of, round_outputs, rounds_outputs
from distill.compression.quantization.scheme import ActivationScheme, Bits, WeightScheme
from distill.compression.quantization.select import QUANTIZABLE, check_widths, choose, swap
from distill.compression.quantization.starts.begin import refuse_formats
from distill.compression.quantization.starts.settings import Start
from distill.compression.quantization.storage import Store, step_of
from distill.compression.quantization.temperatures import too_hot
from distill.core.argument_types import refuse_types
from distill.core.idle_settings import Idle, refuse_idle
from distill.core.lazy_head import logits_request
from distill.core.module_selection import of_types
from distill.core.schedules import check_when, step_at
from distill.core.signals import Batch, Signals
from distill.core.step_callback import logs_now
from distill.core.trained_module import batch_of, require_student, task_of, total_steps
from distill.core.utils.errors import TrainingError, UserError
from distill.core.utils.words import amount
from distill.core.verdict import steps_to_quantize
from distill.training.calibration import start_in_training

__all__ = ["QuantizationAwareTraining"]

_log = logging.getLogger(__name__)

_INT8 = WeightScheme()
_INPUTS = ActivationScheme()
_KEY, _ORDER = "callbacks.QuantizationAwareTraining", "order them: observe, begin, freeze"
_OBSERVED = ("observe", "freeze_observers")


class QuantizationAwareTraining(Compression):
    """Round the student's weights and inputs in every forward pass, with a straight-through gradient.

    Time line, in optimizer steps (integers) or fractions of the run (floats): the student computes in floating point
    until ``begin``; the ranges of static inputs are followed from ``observe`` to ``freeze_observers``. Weights that
    were pruned stay exactly 0. Observers look at training batches only, all ranks' together, and at no padding.
    Linear maps, convolutions and embeddings are quantized; head and first layer (of a model that reads numbers) are
    not, unless ``include`` names them, but a head tied to a quantized embedding is quantized with it.

    Weights of 3 bits or fewer want losses of temperature 1, and a warning says so from above 2 on: soft targets that
    help in floating point can ruin the training of so few levels.

    Logged under ``qat/``: whether rounding and observing are on, the mean and widest input range, and mean scales;
    validation is of the rounded student, and the last one gives ``val/float_<metric>`` too: of the same weights without
    rounding.

    Args:
        weights: Of linear maps and convolutions.
        activations: Of their inputs; ``None`` leaves these as they are.
        embeddings: Of embeddings, half of a small model; ``None`` leaves them as they are.
        overrides: Mixed precision: regular expression -> width, scheme, or null to leave a layer out; the last that is
            found in a name holds.
        include: Regular expressions of the layers to quantize; everything but head and first layer by default.
        exclude: Of those to leave out.
        types: Names of classes, of ``Linear``, ``Conv1D`` (GPT-2's linear map), ``Conv1d``, ``ConvTranspose1d``, and
            those of 2 and 3 dimensions: only modules of these are quantized, besides embeddings and what is tied to
            them; of all of them if not given.
        observe: When observers begin.
        begin: When rounding begins.
        freeze_observers: When observers stop. Where inputs learn their scales, they stop at ``begin`` (but see one
            batch of each layer at least), and training moves the scales from there to the end of the run.
        lr_factor: The learning rate is multiplied by it from ``begin`` on.
        float_validation: Whether the last validation of the run is done once more without rounding.
        log_layers: Whether the range and the scale of every layer are logged.
        start: What the weights are scaled and rounded by at ``begin``, from the first training samples. The grids are
            then the start's, and stand still, or are trained (``learned``); with ``rtn``, ``smoothquant`` or none given
            they follow the largest weight.
        outputs: What is rounded besides the inputs of layers. ``auto``: where convolutions multiply integers of 8 bits,
            what lies between them too (sums, products, joined tensors, average pools), so that a runtime computes with
            integers all along; nothing of other students. ``none``: nothing.
        store: How the saved student keeps its weights: ``float``, which transformers opens too, or as ``integers``,
            which :func:`distill.load` alone opens.

    Raises:
        UserError: if milestones contradict each other, a pattern has no effect, or the schemes do not fit the student.

    Reference:
        Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        CVPR 2018. Esser et al.: Learned Step Size Quantization, ICLR 2020. Bhalgat et al.: LSQ+, CVPR Workshops 2020.
    """

    order: ClassVar[int] = 2

    def __init__(
        self,
        weights: WeightScheme = _INT8,
        activations: ActivationScheme | None = _INPUTS,
        embeddings: WeightScheme | None = _INT8,
        overrides: dict[str, Bits | WeightScheme | None] | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        types: list[str] | None = None,
        observe: int | float = 0.0,
        begin: int | float = 0.1,
        freeze_observers: int | float = 0.9,
        lr_factor: float = 1.0,
        float_validation: bool = True,
        log_layers: bool = False,
        start: Start | None = None,
        outputs: Outputs = "auto",
        store: Store = "float",
    ) -> None:
        refuse_types(QuantizationAwareTraining, locals(), f"{_KEY}.")
        self.weights, self.embeddings = weights, embeddings
        if activations is not None:
            activations.refuse_idle(f"{_KEY}.activations")
        self.activations = None if activations is None or activations.kind == "none" else activations
        self.overrides, self.include, self.exclude = overrides or {}, include, exclude or []
        self.kinds = of_types(QUANTIZABLE, types, f"{_KEY}.types")
        self.observe, self.begin, self.freeze_observers = observe, begin, freeze_observers
        self.lr_factor, self.float_validation, self.log_layers = lr_factor, float_validation, log_layers
        self.outputs: Outputs = outputs
        self.store: Store = store
        self.start = start or Start()
        self.start.refuse_idle(f"{_KEY}.start")
        self._started = False
        self._check()
        self._layers: dict[str, QuantizedLayer] = {}
        self._float_metrics: dict[str, Metric] = {}

    def _check(self) -> None:
        milestones = {name: getattr(self, name) for name in ("observe", "begin", "freeze_observers")}
        for name, when in milestones.items():
            check_when(f"{_KEY}.{name}", when)
        rules = [Idle(key, not self._static, "inputs that are not static", "take kind: static") for key in _OBSERVED]
        rules.append(Idle("outputs", not self._static, "inputs that are not static", "take kind: static"))
        refuse_idle(QuantizationAwareTraining, milestones | {"outputs": self.outputs}, rules, f"{_KEY}.")
        if len({type(when) for when in milestones.values()}) == 1:
            self._check_milestones(*milestones.values())
        check_widths(self.overrides, f"{_KEY}.overrides")
        if not self.lr_factor > 0:
            raise UserError("must be greater than 0", key=f"{_KEY}.lr_factor", value=self.lr_factor, hint="0.1 is low")
        for key, kind in (("store", Store), ("outputs", Outputs)):
            if getattr(self, key) not in get_args(kind):
                problem = f"must be {' or '.join(get_args(kind))}"
                raise UserError(problem, key=f"{_KEY}.{key}", value=getattr(self, key), hint="choose one of them")

    @property
    def _static(self) -> bool:
        return self.activations is not None and self.activations.kind == "static"

    def _milestones(self, total_steps: int) -> tuple[int, int, int]:
        """Steps after which observers begin, rounding begins, and observers stop."""
        milestones = (self.observe, self.begin, self.freeze_observers)
        observe, begin, freeze = (step_at(when, total_steps) for when in milestones)
        return observe, begin, freeze

    def _observed(self, total_steps: int) -> range:
        """Steps after which ranges are followed: until they stand still, or are trained."""
        observe, begin, freeze = self._milestones(total_steps)
        return range(observe, max(begin, observe + 1) if self.activations and self.activations.learned else freeze)

    def _check_milestones(self, observe: float, begin: float, freeze: float) -> None:
        rules = (
            ("begin", begin <= freeze, f"must not lie after freeze_observers ({self.freeze_observers})"),
            ("observe", observe <= begin, f"must not lie after begin ({self.begin})"),
            ("freeze_observers", observe < freeze, f"must lie after observe ({self.observe})"),
        )
        for name, holds, problem in rules if self._static else ():
            if not holds:
                raise UserError(problem, key=f"{_KEY}.{name}", value=getattr(self, name), hint=_ORDER)

    def _check_run(self, total_steps: int) -> None:
        """Refuse milestones that are in no order, or too late, in a run of so many steps."""
        observe, begin, freeze = self._milestones(total_steps)
        self._check_milestones(observe, begin, freeze)
        late = ("begin", begin > total_steps), ("observe", self._static and observe >= total_steps)
        for name in (name for name, is_late in late if is_late):
            problem, value = f"the run ends after {amount(total_steps, 'step')}, before this", getattr(self, name)
            raise UserError(problem, key=f"{_KEY}.{name}", value=value, hint="let it be earlier, or train longer")

    # ------------------------------------------------------------------ structure

    @property
    def _chosen(self) -> dict[str, Any]:
        names = ("weights", "activations", "embeddings", "overrides", "include", "exclude", "kinds")
        return {name: getattr(self, name) for name in names} | {"key": _KEY}

    def check_names(self, student: nn.Module) -> None:
        choose(student, **self._chosen, by_name=True)

    def prepare(self, student: nn.Module) -> None:
        if self._layers and self._layers == quantized_layers(student):
            return  # fit once more, in this process
        chosen = choose(student, **self._chosen)
        refuse_formats(self.start, (layer.weights for layer in chosen.values()), _KEY)
        self._layers, self._started = swap(student, chosen, held=self.start.holds_grids), False

    def meet(self, student: nn.Module, batch: Batch, read: Callable[[Batch], Signals]) -> None:
        if not rounds_outputs(self._layers, self.outputs) or points_of(self._layers):
            return
        run = smallest_pass(student, batch, read)
        if run is not None:
            round_outputs(student, self._layers, run, trains=True, key=_KEY)
            find_ranged(self._layers.values())

    def rounded(self, student: nn.Module) -> Mapping[str, nn.Module]:
        return self._layers

    def reached(self, student: nn.Module) -> list[str]:
        return [f"{name}.weight" for name in self._layers]

    def finish(self, student: nn.Module) -> list[dict[str, Any]]:
        layers = quantized_layers(student)
        find_ranged(layers.values())
        static = [layer for layer in layers.values() if layer.static]
        if static and not any(layer.ranged or layer.mode == "fake" for layer in static):
            problem = "the run ended before any input's range was observed: nothing can be quantized"
            raise TrainingError(f"{problem}. Train longer, or let {_KEY}.observe and begin be earlier.")
        for layer in layers.values():
            layer.held &= self._started  # or its grid is still that of the weights at the run's begin
        self._layers = {}
        return [step_of(finish(layers), self.store)]

    def target_reached(self, step: int, total_steps: int) -> bool:
        observe, begin, _ = self._milestones(total_steps)
        return step >= max(begin, observe + 1 if self._static else 0)

    def demands(self, total_steps: int) -> list[tuple[str, int, int]]:
        bits, begin = self.weights.bits, self._milestones(total_steps)[1]
        return [(f"{bits} bits", begin, steps_to_quantize(bits))]

    def learning_rate_factor(self, step: int, total_steps: int) -> float:
        return self.lr_factor if step >= self._milestones(total_steps)[1] else 1.0

    def timeline(self, steps: Iterable[int], total_steps: int) -> Mapping[str, list[float]]:
        begin, observed = self._milestones(total_steps)[1], self._observed(total_steps)
        steps = list(steps)
        lines = {"fake_quant": [float(step >= begin) for step in steps]}
        return lines | ({"observing": [float(step in observed) for step in steps]} if self._static else {})

    # ------------------------------------------------------------------ training

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total, losses = total_steps(pl_module), getattr(pl_module, "losses", ())
        self._check_run(total)
        bits = min(layer.scheme.weights.bits for layer in self._layers.values())
        for key, highest in too_hot(losses, bits, self._milestones(total)[1], total).items():
            if trainer.is_global_zero:
                _log.warning("%s = %g: can ruin the training of weights of %d bits; set it to 1", key, highest, bits)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        find_ranged(self._layers.values())
        self._act(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        observed = [layer for layer in self._layers.values() if layer.observing]
        if observed:
            attend(observed, batch_of(pl_module, batch).positions)

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        observed = [layer for layer in self._layers.values() if layer.observing]
        if observed:
            follow(observed)
        self._act(trainer, pl_module)
        if logs_now(trainer):
            pl_module.log_dict(quantization_metrics(self._layers, self.log_layers))

    def _act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch to what holds after so many steps."""
        step, total = self._step, total_steps(pl_module)
        begin, observed = self._milestones(total)[1], self._observed(total)
        if step == begin and self.start.method != "rtn" and not self._started:
            start_in_training(trainer, pl_module, self._layers, self.start, f"{_KEY}.start")
            self._started = True
        for layer in self._layers.values():
            # A scale that is trained has to begin somewhere: an expert's first rows may come late.
            late = layer.learns_input and step >= observed.stop and not layer.ranged
            layer.observing = layer.static and (step in observed or late)
            layer.mode = "fake" if step >= begin else "float"
        if step == begin:
            start_scales(self._layers.values())

    # ------------------------------------------------------------------ validation without rounding

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rounding = any(layer.mode == "fake" for layer in self._layers.values())
        self._float_metrics = {}
        task = task_of(pl_module)  # without one only the module knows what its scores are
        if task is not None and self.float_validation and rounding and self._is_last(trainer, pl_module):
            self._float_metrics = {name: metric.to(pl_module.device) for name, metric in task.metrics().items()}

    @staticmethod
    def _is_last(trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether the run ends before the next validation; one that was asked for by itself is the last, too."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return not trainer.sanity_checking
        batches = (trainer.val_check_batch or math.inf) * (trainer.check_val_every_n_epoch or 1)
        return trainer.global_step + batches / trainer.accumulate_grad_batches > total_steps(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        task = task_of(pl_module)
        if not self._float_metrics or task is None:
            return
        student, prepared = require_student(pl_module, type(self).__name__), task.batch(batch)
        with as_float(student), trainer.precision_plugin.forward_context():
            signals = task.forward(student, prepared, logits_request(student))
        task.score(self._float_metrics, signals, prepared)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scores: dict[str, Tensor] = {
            f"val/float_{name}": metric.compute().float() for name, metric in self._float_metrics.items()
        }
        if scores:
            pl_module.log_dict(scores, sync_dist=trainer.world_size > 1)
        self._float_metrics = {}

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        # The validation of a checkpoint knows no step: it must be told whether the student rounds.
        rounding = any(layer.mode == "fake" for layer in self._layers.values())
        return {"rounding": rounding, "started": self._started}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        find_ranged(self._layers.values())
        self._started = state_dict["started"]
        for layer in self._layers.values():
            layer.mode = "fake" if state_dict["rounding"] else "float"
