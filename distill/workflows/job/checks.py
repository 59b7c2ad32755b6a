"""What a run is refused for before anything of it is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, StochasticWeightAveraging, Timer, WeightAveraging
from pytorch_lightning.callbacks.pruning import ModelPruning

from distill.callbacks import QuantizationAwareTraining
from distill.config.yaml import texts
from distill.core.utils.errors import UserError
from distill.core.utils.secrets import HIDDEN
from distill.models.students import StudentConfig
from distill.training.sharding import NAME, UNSHARDED

__all__ = ["check_save_dtype", "check_sharding", "high_rate", "idle_settings", "refuse_hidden"]

_PRECISIONS = (None, "32", "32-true", "bf16-mixed")
_LIGHTNINGS = (StochasticWeightAveraging, WeightAveraging, ModelPruning)
"""Lightning's own callbacks that work on unsharded weights; others say so themselves (:class:`StepCallback`)."""


def refuse_hidden(config: Any) -> None:
    """Refuse a configuration in which a secret was replaced: it would be used as if it were the secret.

    Raises:
        UserError: naming the key.
    """
    for key, text in texts(config):
        if HIDDEN in text:
            problem, shown = "a secret was taken out here when the run was written", key.replace(".init_args", "")
            raise UserError(problem, key=shown, value=text, hint=f"give it with --{shown}")


def check_save_dtype(student: StudentConfig | None, callbacks: Sequence[Callback]) -> None:
    """Refuse to round weights that a quantization has put on grids of their own.

    Raises:
        UserError: naming the key.
    """
    save_dtype = student and student.save_dtype
    if save_dtype == "bfloat16" and any(isinstance(callback, QuantizationAwareTraining) for callback in callbacks):
        problem = "would round the weights that QuantizationAwareTraining has rounded"
        hint = "leave one of them out, or have the callback store integers"
        raise UserError(problem, key="model.student.save_dtype", value=save_dtype, hint=hint)


def check_sharding(arguments: Mapping[str, Any], callbacks: Sequence[Callback]) -> None:
    """Refuse what a sharded student cannot be trained with, and other spellings of sharding.

    Args:
        arguments: Of the Trainer, as written.
        callbacks: The run's, in their order.

    Raises:
        UserError: naming the key.
    """
    strategy = arguments.get("strategy")
    written = str(strategy.get("class_path") if isinstance(strategy, Mapping) else strategy)
    name = written.rpartition(".")[2]
    if name.lower().startswith("fsdp") or name in ("ModelParallelStrategy", "Sharded"):
        problem = "what shards the student here, and saves it so that it resumes exactly, has a name of its own"
        raise UserError(problem, key="trainer.strategy", value=written, hint=f"write trainer.strategy: {NAME}")
    if strategy != NAME:
        return
    # What needs the modules comes when they are built (:func:`check_modules`).
    precision = arguments.get("precision")
    if str(precision) not in map(str, _PRECISIONS):
        hint = "write bf16-mixed or 32-true"
        raise UserError("is not for a sharded student", key="trainer.precision", value=precision, hint=hint)
    for index, callback in enumerate(callbacks):
        if isinstance(callback, _LIGHTNINGS) or getattr(callback, "needs_unsharded_weights", False):
            problem = f"works on unsharded weights, of which under trainer.strategy: {NAME} each rank has a part"
            raise UserError(problem, key=f"callbacks.{index}", value=type(callback).__name__, hint=UNSHARDED)


def idle_settings(trainer: Mapping[str, Any], callbacks: Sequence[Callback], logs: bool) -> list[str]:
    """What is to be said of settings that change nothing. None is refused: a recipe's may be, beside what is typed.

    Args:
        trainer: Arguments of the trainer, as the user gave them.
        callbacks: Of the run.
        logs: Whether it has a logger.
    """
    ends = next((name for name in ("max_steps", "max_epochs") if (trainer.get(name) or -1) > 0), None)
    stops = [
        c for c in callbacks if isinstance(c, (EarlyStopping, Timer)) or not type(c).__module__.startswith("distill.")
    ]
    least = [f"trainer.{name}" for name in ("min_epochs", "min_steps") if trainer.get(name)]
    found = []
    if ends and least and not stops and trainer.get("max_time") is None:
        does = "has" if len(least) == 1 else "have"
        found.append(f"{' and '.join(least)} {does} no effect: nothing ends the run before trainer.{ends}")
    if trainer.get("log_every_n_steps") is not None and not logs:
        found.append("trainer.log_every_n_steps has no effect: all of logging is off")
    return found


def high_rate(optimizer: Mapping[str, Any]) -> list[str]:
    """What is to be said of a learning rate at which AdamW, which moves a weight by about that much, cannot train.

    Args:
        optimizer: As the configuration has it.
    """
    lr = optimizer.get("lr")
    if optimizer.get("name", "adamw") != "adamw" or not isinstance(lr, (int, float)) or lr <= 0.1:
        return []
    moved = "AdamW moves each weight by about this much a step, and 1e-5 to 1e-2 is usual"
    return [f"model.optimizer.lr = {lr:g}: {moved}"]
