"""Which words a prediction follows from: integrated gradients over the embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["STEPS", "Attribution", "Score", "integrated_gradients", "word_ends", "word_values"]

STEPS = 16
_CLOSE = 0.02
_AT_ONCE = 16

Score = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
"""A model and inputs of B samples -> one score for each, ``[B]``."""


@dataclass(frozen=True)
class Attribution:
    """What each token counts for.

    Attributes:
        tokens: ``[T]``.
        score: F of the sample.
        baseline: F of the tokens that it is compared with.
    """

    tokens: Tensor
    score: float
    baseline: float

    @property
    def missing(self) -> float:
        """What the tokens do not account for, as a part of F - F of the baseline: 0 where the sum is complete."""
        whole = self.score - self.baseline
        return abs(whole - float(self.tokens.sum())) / max(abs(whole), 1e-12)


def integrated_gradients(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    baseline: Tensor,
    score: Score,
    steps: int = STEPS,
    most: int = 8 * STEPS,
) -> Attribution:
    """What each token adds to a score F, by the integrated gradients of its embedding x from that of another token, b.

    a_t = sum_h (x_th - b_th) · ∫₀¹ ∂F(b + α (x - b)) / ∂x_th dα, the integral by the midpoints of m equal parts. It is
    complete: sum_t a_t = F(x) - F(b), but for the error of the sum; m is doubled until that is small.

    Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, 2017, https://arxiv.org/abs/1703.01365. The
    paper's baseline is an embedding of zeros; a model that normalizes its embeddings by their size is not smooth there.

    Args:
        model: In eval mode, with ``get_input_embeddings``.
        inputs: Of one sample, each ``[1, ...]``.
        baseline: Tokens in place of ``input_ids``, ``[1, T]``.
        score: F.
        steps: The least of m.
        most: And the largest.
    """
    table: Any = model.get_input_embeddings()  # type: ignore[operator]
    ends = []
    for tokens in (inputs["input_ids"], baseline):
        with torch.no_grad(), _kept(table) as kept:
            value = float(score(model, {**inputs, "input_ids": tokens})[0])
        ends.append((kept[0].detach(), value))
    (x, whole), (b, nothing) = ends
    while True:
        gradient = _mean_gradient(model, table, inputs, score, x, b, steps)
        found = Attribution(((x - b)[0].float() * gradient).sum(-1).cpu(), whole, nothing)
        if found.missing <= _CLOSE or 2 * steps > most:
            return found
        steps *= 2


def _mean_gradient(
    model: nn.Module, table: nn.Module, inputs: Mapping[str, Tensor], score: Score, x: Tensor, b: Tensor, steps: int
) -> Tensor:
    """The mean of dF/dx over the path from ``b`` to ``x``, ``[T, H]``."""
    total = torch.zeros_like(x[0], dtype=torch.float32)
    for start in range(0, steps, _AT_ONCE):
        places = torch.arange(start, min(start + _AT_ONCE, steps), device=x.device)
        alphas = ((places + 0.5) / steps).view(-1, 1, 1)
        between = (b + alphas * (x - b)).to(x.dtype).requires_grad_()
        many = {name: tensor.expand(len(places), *tensor.shape[1:]) for name, tensor in inputs.items()}
        with torch.enable_grad(), _replaced(table, between):
            [gradient] = torch.autograd.grad(score(model, many).sum(), between)
        total += gradient.detach().float().sum(0)
    return total / steps


@contextmanager
def _kept(module: nn.Module) -> Iterator[list[Tensor]]:
    """What the module gives within."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _args, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def _replaced(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Have the module give ``output`` within."""
    handle = module.register_forward_hook(lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


def word_ends(ids: Sequence[int], decode: Callable[[Sequence[int]], str], special: Sequence[int] = ()) -> list[int]:
    """Behind which token each word ends: one begins where a token adds text after a blank.

    So it needs no tokenizer of a certain kind. A special token is a word of its own.

    Args:
        ids: Tokens.
        decode: Tokens to text.
        special: Tokens of no text.
    """
    begins = [True]
    for at in range(1, len(ids)):
        if ids[at] in special or ids[at - 1] in special:
            begins.append(True)
            continue
        before, both = decode(ids[at - 1 : at]), decode(ids[at - 1 : at + 1])
        added = both.removeprefix(before) if both.startswith(before) else ""
        begins.append(added[:1].isspace() or before[-1:].isspace())
    return [at for at in range(1, len(ids)) if begins[at]] + [len(ids)]


def word_values(
    ids: Sequence[int], values: Sequence[float], decode: Callable[[Sequence[int]], str], special: Sequence[int] = ()
) -> list[tuple[str, float]]:
    """The words of a sample, and the sums of their tokens' values.

    Args:
        ids: Tokens.
        values: As many.
        decode: As of :func:`word_ends`.
        special: Likewise.
    """
    ends = word_ends(ids, decode, special)
    spans = list(zip([0, *ends], ends, strict=False))
    return [(decode(ids[a:b]).strip() or "·", float(sum(values[a:b]))) for a, b in spans]
