"""A model's pass without its head, of which what the head would have read is kept.

Whether that gives the model's own logits is found by trying it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.document_masking import FAILURES, still
from distill.core.internals.torch import hooks, pre_hooks
from distill.core.lazy_logits import Curve, LazyLogits
from distill.core.model_call import call, logits_of, of_transformers
from distill.core.signals import DECODER_INPUT, Request
from distill.core.utils.errors import UserError

__all__ = ["can_be_lazy", "headless", "logits_request", "why_not_lazy", "within_taps"]

_PROBED = (-90.0, -20.0, -3.0, -0.5, 0.25, 1.0, 7.0, 60.0)
"""What is given in a head's place, to see what the model makes of it."""

_CAPS = ("final_logit_softcapping", "final_logit_softcap", "logits_soft_cap", "output_logit_soft_cap")
"""Where configurations keep the c of a soft cap c * tanh(z / c)."""

_KNOWN = "_curve_after_head"


def why_not_lazy(model: nn.Module) -> str:
    """Why the logits of ``model`` can only be had as a whole, in words; nothing where they can be lazy.

    It is found by trying: a row of values stands for the head's product, which shows what the model does with it, and
    a few tokens are read both ways, whose logits must agree.
    """
    if not of_transformers(model):
        return "it is not a model of transformers"
    head = _head(model)
    if head is None:
        return "it names no output embeddings"
    if not _multiplies(head):
        return f"its head is a {type(head).__name__}"
    if hooks(head):
        return "its head has hooks"
    with still(model), torch.no_grad():
        try:
            return _tried(model, head)
        except (*FAILURES, UserError) as error:
            return f"its head could not be tried ({type(error).__name__}: {error})"


def _tried(model: nn.Module, head: nn.Module) -> str:
    config: Any = model.config
    known = min(len(_PROBED), config.get_text_config().vocab_size)
    inputs = {"input_ids": torch.arange(len(_PROBED), device=next(model.parameters()).device)[None] % known}
    if getattr(config, "is_encoder_decoder", False):
        inputs[DECODER_INPUT] = inputs["input_ids"]
    curve = _curve(model, head, inputs)
    if curve is None:
        return "what it does with the product of its head is none of a factor and a soft cap"
    with headless(model, curve) as taken:
        call(model, inputs)
    if len(taken) != 1:
        return "its head is called more than once"
    lazily, plainly = taken[0].whole(), logits_of(model, call(model, inputs))
    if lazily.shape != plainly.shape:
        return f"its logits are of another shape ({list(plainly.shape)})"
    near = 1e-4 if plainly.dtype in (torch.float32, torch.float64) else 2e-2
    if not bool((lazily - plainly).abs().max() <= near * plainly.abs().max().clamp(min=1e-6)):
        return "its logits are not those of its head"
    model.__dict__[_KNOWN] = curve
    return ""


def can_be_lazy(model: nn.Module) -> bool:
    """Whether a model for which :func:`why_not_lazy` has found nothing still has the head that it was tried with.

    A compression may have replaced it, or a callback looks at what it gives.
    """
    head = _head(model) if _KNOWN in model.__dict__ else None
    return head is not None and _multiplies(head) and len(hooks(head)) == len(pre_hooks(head))


def within_taps(model: nn.Module, names: Collection[str]) -> bool:
    """Whether one of the modules ``names`` of ``model`` is its head, or has it in itself."""
    head, modules = _head(model), dict(model.named_modules()) if names else {}
    return any(inner is head for name in names if name in modules for inner in modules[name].modules())


def _curve(model: nn.Module, head: nn.Module, inputs: Mapping[str, Tensor]) -> Curve | None:
    """What the model does with ``_PROBED`` in the place of its head's product, if that is a known form."""
    with _answering(head, lambda x: torch.tensor(_PROBED).to(x).view(1, -1, 1)):
        answered = logits_of(model, call(model, inputs))
    found, given = answered.double().flatten().cpu(), torch.tensor(_PROBED, dtype=answered.dtype).double()
    if found.shape != given.shape:
        return None
    near = 8 * torch.finfo(answered.dtype).eps
    config: Any = model.config
    text = config.get_text_config()
    caps = [None, *(float(cap) for name in _CAPS if (cap := getattr(text, name, None)))]
    for cap in caps:
        # The slope near 0, from which the cap has taken the less the larger it is.
        linear = found if cap is None else cap * torch.atanh((found / cap).clamp(-1 + 1e-12, 1 - 1e-12))
        scale = float(linear[4] / given[4])
        curve = Curve(1.0 if abs(scale - 1) < near else scale, cap)
        if torch.allclose(curve(given), found, rtol=near, atol=near):
            return curve
    return None


def logits_request(model: nn.Module) -> Request:
    """Logits, lazy where ``model`` was tried and can give them so."""
    return Request(logits=True, lazy=can_be_lazy(model))


@contextmanager
def headless(model: nn.Module, curve: Curve | None = None) -> Iterator[list[LazyLogits]]:
    """Inside the block the head of ``model`` computes nothing; what it would have computed is kept.

    Args:
        model: For which :func:`why_not_lazy` has found nothing.
        curve: What follows the product; found before if not given.
    """
    head = _head(model)
    assert head is not None
    known: Curve = model.__dict__[_KNOWN] if curve is None else curve
    taken: list[LazyLogits] = []

    def keep(x: Tensor) -> Tensor:
        taken.append(LazyLogits(*_operands(head, x), known))
        return x.mean(-1, keepdim=True)  # one logit a position: whatever follows costs nothing

    with _answering(head, keep):
        yield taken


@contextmanager
def _answering(head: nn.Module, answer: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Have ``head`` answer so inside the block."""
    before = head.__dict__.get("forward")
    head.__dict__["forward"] = answer
    try:
        yield
    finally:
        if before is None:
            del head.__dict__["forward"]
        else:
            head.__dict__["forward"] = before


def _head(model: nn.Module) -> nn.Module | None:
    model = getattr(model, "get_base_model", lambda: model)()
    get = getattr(model, "get_output_embeddings", None)
    try:
        found = None if get is None else get()
    except (NotImplementedError, AttributeError):
        return None
    return found if isinstance(found, nn.Module) else None


def _multiplies(head: nn.Module) -> bool:
    """Whether a head is a matrix product; a layer that rounds its operands says by ``operands`` what they are."""
    return type(head) is nn.Linear or hasattr(head, "operands")


def _operands(head: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias of the product."""
    own: Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]] | None = getattr(head, "operands", None)
    return (x, head.weight, head.bias) if own is None else own(x)
