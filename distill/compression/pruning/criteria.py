"""What a weight is worth: the higher its score, the longer it is kept."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distill.compression.operations import aside
from distill.core.internals.torch import ConvNd
from distill.core.orientation import TRANSPOSED, input_axis
from distill.core.signals import Batch, Positions, tokens_within
from distill.core.utils.errors import UserError

__all__ = ["CRITERIA", "Criterion", "FunctionCriterion", "Magnitude", "Movement", "Random", "Wanda"]


class Criterion(ABC):
    """Scores of a module's weights. Give :meth:`score`; the rest is for scores that are learnt while training."""

    learns: ClassVar[bool] = False
    """Whether there is no score before the first step."""

    by_gradient: ClassVar[bool] = False
    """Whether a weight that is frozen has no score."""

    by_input: ClassVar[bool] = False
    """Whether scores are of what a module reads, so that there are none of weights of which a module has several."""

    comparable: ClassVar[bool] = False
    """Whether scores of several layers are on one scale as they are; a ranking over several divides those of each by
    their root mean square if not."""

    buffers: ClassVar[tuple[str, ...]] = ()
    """Names of the buffers that :meth:`prepare` registers."""

    def prepare(self, module: nn.Module, name: str) -> None:
        """Register persistent buffers on the module of the name, before weights are restored."""
        return

    @torch.no_grad()
    def learn(self, module: nn.Module) -> None:
        """Called before every optimizer step until masks are frozen; ``module.weight.grad`` is the objective's."""
        return

    def watch(self, module: nn.Module) -> RemovableHandle | None:
        """Called before a step after which masks are chosen: hook what the step's forward passes are to show."""
        return None

    def begin(self, batch: Batch) -> None:
        """Called before each forward pass that is watched, with what it reads."""
        return

    def settle(self, module: nn.Module) -> None:
        """Called after that step, before the scores are read: must leave equal state on all ranks."""
        return

    @abstractmethod
    def score(self, module: nn.Module) -> Tensor:
        """Scores of ``module.weight``, of its shape, equal on all ranks; finite."""

    def scored(self, module: nn.Module) -> Tensor | None:
        """Which weights have a score, boolean, of the weight's shape; ``None`` for all.

        Those without one, of which training has shown nothing, are ranked by magnitude among themselves.
        """
        return None


def weight_of(module: nn.Module) -> Tensor:
    """The module's weight in at least float32, detached."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach()
    return weight if weight.dtype is torch.float64 else weight.float()


class Magnitude(Criterion):
    """|W|: Zhu & Gupta 2017, Han et al. 2015."""

    def score(self, module: nn.Module) -> Tensor:
        return weight_of(module).abs()


class Movement(Criterion):
    """S = - sum over the steps so far of W * dL/dW: what moves away from zero is kept.

    This is S trained by gradient descent with the straight-through estimator and a constant learning rate, which,
    as S begins at zero, changes no ranking. L is the step's objective, the mean over the predictions of all
    micro-batches and ranks, and its gradient is not clipped. A pruned weight is zero, so its score stands still. One
    that never had a gradient, as in the row of a word that no batch holds, has no score.

    Reference:
        Sanh, Wolf, Rush: Movement Pruning, NeurIPS 2020.
    """

    learns = True
    by_gradient = True
    buffers = ("weight_score",)

    def prepare(self, module: nn.Module, name: str) -> None:
        module.register_buffer("weight_score", torch.zeros_like(weight_of(module)))

    @torch.no_grad()
    def learn(self, module: nn.Module) -> None:
        gradient: Any = module.weight.grad
        if gradient is not None:
            # Where the loss scale of float16 overflows, the optimizer skips the step; the score must outlive it.
            gradient = gradient.to(weight_of(module).dtype).nan_to_num(0.0, 0.0, 0.0)
            module.weight_score.addcmul_(weight_of(module), gradient, value=-1)  # type: ignore[operator]

    def score(self, module: nn.Module) -> Tensor:
        score = module.weight_score
        assert isinstance(score, Tensor)
        return score

    def scored(self, module: nn.Module) -> Tensor:
        return self.score(module) != 0


class Wanda(Criterion):
    """|W| * |x|, with |x| the root mean square of the weight's input over positions that hold a token.

    Padding is left out of inputs ``[B, T, features]`` (of a convolution, ``[B, features, T]``) of a batch that has
    tokens ``[B, T]``; all positions of other inputs count, as those of images, or a sample's one pooled vector. The
    mean square is taken in the training steps just before masks are chosen, over all micro-batches and ranks, and
    averaged over these steps exponentially, a tenth of weight to the newest. A module that was never called, as an
    expert to which nothing is sent, has no scores.

    Reference:
        Sun, Liu, Bair, Kolter: A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024.
    """

    learns = True
    by_input = True
    buffers = ("input_square",)

    def __init__(self) -> None:
        self._tokens: Positions = None  # of the batch that is read now
        self._seen: dict[nn.Module, Tensor] = {}  # sums of squares by feature, and last the number of positions

    def prepare(self, module: nn.Module, name: str) -> None:
        if isinstance(module, nn.Embedding):
            problem, hint = f"an embedding has no activations to be aware of ({name})", "use magnitude or movement"
            raise UserError(problem, key="criterion", value="wanda", hint=hint)
        groups = 1 if isinstance(module, TRANSPOSED) else getattr(module, "groups", 1)
        features = weight_of(module).shape[input_axis(module)] * groups
        module.register_buffer("input_square", weight_of(module).new_zeros(features))

    def watch(self, module: nn.Module) -> RemovableHandle | None:
        dim = 1 if isinstance(module, ConvNd) else -1

        def collect(module: nn.Module, args: tuple[Any, ...]) -> None:
            if module.training:
                with aside():
                    squares = _squares(args[0].movedim(dim, -1), self._tokens)
                self._seen[module] = self._seen.get(module, 0) + squares

        return module.register_forward_pre_hook(collect)

    def begin(self, batch: Batch) -> None:
        self._tokens = batch.positions

    @torch.no_grad()
    def settle(self, module: nn.Module) -> None:
        square = module.input_square
        assert isinstance(square, Tensor)
        seen = self._seen.pop(module, square.new_zeros(len(square) + 1))
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen)
        # It begins at zero in every layer, which changes no ranking. A layer that no position reached stays as it is.
        mean = (seen[:-1] / seen[-1:].clamp(min=1)).to(square.dtype)
        square.lerp_(torch.where(seen[-1] > 0, mean, square), 0.1)

    def score(self, module: nn.Module) -> Tensor:
        weight, square = weight_of(module), module.input_square
        assert isinstance(square, Tensor)
        norm = square.sqrt()
        if input_axis(module) == 0:
            return weight.abs() * norm.view(-1, *[1] * (weight.dim() - 1))
        groups = getattr(module, "groups", 1)
        outputs, inputs = weight.shape[:2]
        by_output = norm.view(groups, 1, inputs).expand(groups, outputs // groups, inputs).reshape(outputs, inputs)
        return weight.abs() * by_output.view(outputs, inputs, *[1] * (weight.dim() - 2))

    def scored(self, module: nn.Module) -> Tensor:
        square = module.input_square
        assert isinstance(square, Tensor)
        return square.any().expand(weight_of(module).shape)


@torch.no_grad()
def _squares(x: Tensor, tokens: Positions) -> Tensor:
    """Sums of the squares of each feature of ``x`` ``[..., features]``, and last the number of positions in them."""
    if (within := tokens_within(x, tokens)) is not None:
        # Filled, not multiplied: what stands in padding need not be finite.
        x, count = x.masked_fill(~within[..., None], 0.0), within.sum(dtype=torch.float32)[None]
    else:
        count = torch.full((1,), float(x[..., 0].numel()), device=x.device)
    sums = torch.linalg.vector_norm(x.flatten(0, -2), dim=0, dtype=torch.float32).square()
    return torch.cat([sums, count])


class Random(Criterion):
    """A number drawn for each weight, uniform in (0, 1): what every other criterion has to beat.

    A weight has the same number as long as the run lasts, and after a resume, so that what is pruned stays so. It is
    drawn from the run's seed (``seed_everything``) and the layer's name, and is the same on every rank. The seed is a
    buffer of the module.
    """

    comparable = True
    buffers = ("weight_seed",)

    def prepare(self, module: nn.Module, name: str) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        device = weight_of(module).device
        module.register_buffer("weight_seed", torch.tensor(crc32(f"{seed} {name}".encode()), device=device))

    def score(self, module: nn.Module) -> Tensor:
        weight, seed = weight_of(module), module.weight_seed
        assert isinstance(seed, Tensor)
        drawn = torch.rand(weight.shape, generator=torch.Generator().manual_seed(int(seed)), dtype=weight.dtype)
        return drawn.to(weight.device)


class FunctionCriterion(Criterion):
    """Scores by a function of your own.

    Args:
        function: (weight, module) -> scores of the weight's shape, equal on all ranks.
    """

    def __init__(self, function: Callable[[Tensor, nn.Module], Tensor]) -> None:
        self.function = function

    @torch.no_grad()
    def score(self, module: nn.Module) -> Tensor:
        return self.function(weight_of(module), module)


CRITERIA: dict[str, type[Criterion]] = {
    "magnitude": Magnitude,
    "movement": Movement,
    "random": Random,
    "wanda": Wanda,
}
"""Criteria by the names that a configuration may use."""
