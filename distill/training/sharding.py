"""A student that is sharded over the ranks: each keeps a part of every weight, gradient and moment (FSDP2).

Weights are gathered block by block for a pass, and gradients averaged over the ranks and cut up again after it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from distill.core.internals.lightning import DataParallelStrategy
from distill.core.internals.peft import adapter_layers
from distill.core.internals.torch import RunningNorm
from distill.core.utils.errors import UserError
from distill.losses import DistillationLoss
from distill.run.checkpoints.shards import ShardedCheckpointIO, shard_like

__all__ = [
    "NAME",
    "UNSHARDED",
    "Sharded",
    "check_modules",
    "gathered",
    "local",
    "shard",
    "shard_run",
    "without_weights",
]

NAME = "sharded"
"""What ``trainer.strategy`` says."""

_BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.\d+$")
UNSHARDED = "set trainer.strategy: ddp, or leave it out"
"""The way out, in messages."""


# ---------------------------------------------------------------------- modules


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Have each rank of ``mesh`` keep its part of ``model``, in place; its blocks are gathered one at a time.

    A block that shares weights with other modules is gathered with what is in no block, for the whole pass.
    """
    for block in list(_blocks(model)):  # found before any of their parameters gives way to parts
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    owners = [id(p) for module in model.modules() for p in module.parameters(recurse=False)]
    found: list[str] = []
    for name, block in model.named_modules():
        if not _BLOCK.search(name) or any(name.startswith(f"{outer}.") for outer in found):
            continue
        if type(block).forward is nn.Module.forward:  # a list of modules, which nobody calls
            continue
        found.append(name)
        inside = [id(p) for module in block.modules() for p in module.parameters(recurse=False)]
        if inside and all(owners.count(p) == inside.count(p) for p in set(inside)):
            yield block


def without_weights(model: nn.Module) -> nn.Module:
    """A copy of ``model`` without its weights: what is tied is tied, and buffers are there."""
    empty = {p: nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return _with(model, empty)


@torch.no_grad()
def gathered(model: nn.Module, like: nn.Module) -> nn.Module | None:
    """The unsharded copy of a sharded ``model``, on the CPU of rank 0; nothing on the others, all of which take part.

    Args:
        model: After :func:`shard`.
        like: What :func:`without_weights` made of it before.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    main = torch.distributed.get_rank() == 0
    full = {}
    for own, empty in zip(model.parameters(), like.parameters(), strict=True):
        value = own.full_tensor() if isinstance(own, DTensor) else own
        if main:
            full[empty] = nn.Parameter(value.detach().cpu(), own.requires_grad)
    if not main:
        return None
    made = _with(like, full)
    for buffer, now in zip(made.buffers(), model.buffers(), strict=True):
        buffer.copy_(now)
    return made


def _with(model: nn.Module, parameters: Mapping[nn.Parameter, nn.Parameter]) -> nn.Module:
    """A copy of ``model`` with other parameters in place of its own."""
    return copy.deepcopy(model, {id(own): other for own, other in parameters.items()})


def shard_run(
    student: nn.Module, losses: Sequence[DistillationLoss], mesh: DeviceMesh
) -> Callable[[], nn.Module | None]:
    """Shard what a run trains: the student, and each loss that has parameters of its own.

    Args:
        student: On the way in with all of its weights, the same ones on every rank.
        losses: Called as modules.
        mesh: Of a :class:`Sharded`.

    Returns:
        What gathers the unsharded student again (:func:`gathered`).

    Raises:
        UserError: as :func:`check_modules`, or if the mesh is of another strategy.
    """
    if mesh["tensor_parallel"].size() > 1:
        hint = f"write trainer.strategy: {NAME}"
        raise UserError("weights are sharded, and computed with as a whole", key="trainer.strategy", hint=hint)
    check_modules(student, losses)
    plain = without_weights(student)
    shard(student, mesh["data_parallel"])
    for loss in losses:
        if any(True for _ in loss.parameters()):
            fully_shard(loss, mesh=mesh["data_parallel"])
    return partial(gathered, student, plain)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of ``tensor``, in the same memory; all of it where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


# ---------------------------------------------------------------------- Lightning


class Sharded(DataParallelStrategy):
    """Shards over all ranks what :meth:`Distillation.configure_model` shards, and saves by the rank.

    Checkpoints are folders (``shards.py``). A run resumes from one of another strategy or number of ranks, too.

    Refused (``check_sharding``, ``check_modules``) is what needs unsharded weights: the callbacks that compress
    or average them, and losses like L1; further norms with running statistics, which each rank would keep of its own
    batches, parameters of no dimension, and float16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.checkpoint_io = ShardedCheckpointIO()
        self._raised = False

    # What follows goes back from ModelParallelStrategy, which saves and loads by itself, to what all strategies do: the
    # names and numbers in a checkpoint are then the same, sharded or not.

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return Strategy.optimizer_state(self, optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        self.checkpoint_io.save_checkpoint(checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        own, saved = self.lightning_module.state_dict(), checkpoint["state_dict"]
        state = {name: shard_like(value, own[name]) if name in own else value for name, value in saved.items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                index: {name: _moment(value, parameters[index]) for name, value in moments.items()}
                for index, moments in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})

    def on_exception(self, exception: BaseException) -> None:
        super().on_exception(exception)
        self._raised = True

    def teardown(self) -> None:
        writer, raised, self._raised = self.checkpoint_io, self._raised, False
        if raised and isinstance(writer, ShardedCheckpointIO):  # perhaps on this rank alone: it waits for no other
            writer.flush()
        else:
            writer.teardown()
        super().teardown()


def _moment(value: Any, parameter: Tensor) -> Any:
    """A value of an optimizer's state: sharded as its parameter is, where it has the parameter's shape."""
    part = isinstance(value, dict)
    return shard_like(value, parameter) if part or getattr(value, "shape", None) == parameter.shape else value


# ---------------------------------------------------------------------- what is refused


def check_modules(student: nn.Module, losses: Sequence[DistillationLoss]) -> None:
    """Refuse modules that a sharded run would train otherwise than an unsharded one, or not at all.

    Args:
        student: The run's.
        losses: Likewise, in their order.

    Raises:
        UserError: naming the key.
    """
    if adapter_layers(student):
        problem = f"is not for trainer.strategy: {NAME}, which gathers the student as it was loaded"
        raise UserError(problem, key="model.student.lora", hint="use ddp: the frozen weights need no optimizer state")
    for place, module in (("model.student", student), *((f"model.losses.{i}", loss) for i, loss in enumerate(losses))):
        for name, part in module.named_modules():
            if isinstance(part, RunningNorm) and part.running_mean is not None:
                problem = f"has running statistics, of which under trainer.strategy: {NAME} each rank keeps its own"
                raise UserError(problem, key=place, value=name or type(part).__name__, hint=UNSHARDED)
        for name, parameter in module.named_parameters():
            if not parameter.dim():
                problem = f"is a single number, which trainer.strategy: {NAME} cannot cut up"
                raise UserError(problem, key=place, value=name, hint=UNSHARDED)
        if isinstance(module, DistillationLoss) and module.reads_weights:
            problem = f"reads unsharded weights, of which under trainer.strategy: {NAME} each rank has a part"
            raise UserError(problem, key=place, value=type(module).__name__, hint=UNSHARDED)
