"""Quantization without training: the baseline that quantization-aware training must beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast, get_args

import torch
from torch import nn

from distill.compression.bypass import watched_writes, written_by_pass
from distill.compression.quantization.lifecycle import attend, finish, follow
from distill.compression.quantization.outputs import Outputs, round_outputs, rounds_outputs
from distill.compression.quantization.scheme import ActivationScheme, Bits, WeightScheme
from distill.compression.quantization.select import choose, swap
from distill.compression.quantization.starts.begin import Progress, refuse_formats, start_weights, tokens_of
from distill.compression.quantization.starts.settings import Start
from distill.compression.quantization.storage import Store, step_of
from distill.core.utils.errors import UserError

__all__ = ["quantize"]


@torch.no_grad()
def quantize(
    model: nn.Module,
    batches: Iterable[Any] = (),
    forward: Callable[[nn.Module, Any], Any] | None = None,
    *,
    weights: WeightScheme | None = None,
    activations: ActivationScheme | None = None,
    embeddings: WeightScheme | None = None,
    overrides: Mapping[str, Bits | WeightScheme | None] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    start: Start | None = None,
    outputs: Outputs = "auto",
    store: Store = "float",
    progress: Progress = iter,
    key: str = "quantize",
) -> list[dict[str, Any]]:
    """Quantize a trained model in place, in the layers that quantization-aware training makes, and without training.

    Static inputs get the ranges of ``batches``, seen by the model as it predicts (no dropout, everything in floating
    point), without the padding of those that have ``tokens`` or an ``attention_mask``. Without static inputs no batch
    is needed.

    Args:
        model: Trained; left in eval mode.
        batches: To calibrate with.
        forward: How the model reads a batch: ``lambda model, batch: task.forward(model, batch, Request(logits=True))``;
            called with the batch alone if not given.
        weights: 8 bits a channel by default.
        activations: Inputs of layers; ``None`` leaves them as they are.
        embeddings: ``None`` leaves them as they are.
        overrides: See :func:`~.select.choose`; and likewise ``include`` and ``exclude``.
        include: See above.
        exclude: See above.
        start: What the weights are scaled and rounded by; to the nearest value if not given.
        outputs: Whether what lies between convolutions is rounded where a runtime then computes with integers:
            ``auto``, or ``none``.
        store: How the saved student keeps its weights: ``float``, which transformers opens too, or as ``integers``.
        progress: Wraps the list of layers that a start rounds.
        key: Where the settings stand, for error messages.

    Returns:
        The steps of ``compression.json``.

    Raises:
        UserError: if the settings do not fit the model, or no batch calibrated its static inputs.
    """
    for name, value, kind in (("store", store, Store), ("outputs", outputs, Outputs)):
        if value not in get_args(kind):
            problem = f"must be {' or '.join(get_args(kind))}"
            raise UserError(problem, key=f"{key}.{name}", value=value, hint="choose one of them")
    inputs = None if activations is None or activations.kind == "none" else activations
    chosen = choose(
        model,
        weights=weights or WeightScheme(),
        activations=inputs,
        embeddings=embeddings,
        overrides=overrides,
        include=include,
        exclude=exclude,
        key=key,
    )
    model.eval()
    start = start or Start()
    refuse_formats(start, (layer.weights for layer in chosen.values()), key)
    layers = swap(model, chosen, held=start.holds_grids)
    if start.method != "rtn":
        batches = list(batches) if start.reads_inputs else batches
        if start.reads_inputs and not batches:
            raise _needs_batches(f"{start.method} needs batches to see what layers read", key)
        start_weights(model, layers, start, cast(Sequence[Any], batches), forward, progress)
    static = [layer for layer in layers.values() if layer.static]
    for layer in static:
        layer.observing = True
        layer.train()  # observers move in training only; these layers themselves know no other difference
    empty = True
    if static:
        for batch in batches:
            run = partial(model, batch) if forward is None else partial(forward, model, batch)
            if empty and rounds_outputs(layers, outputs):
                round_outputs(model, layers, run, trains=False, key=key)
            attend(static, tokens_of(batch))
            with watched_writes(layers if empty else {}) as written:
                run()
            if written:
                raise written_by_pass(written, "rounding", key)
            empty = False
            follow(static)
    model.eval()
    if static and empty:
        raise _needs_batches("static inputs need batches to find their ranges", key)
    return [step_of(finish(layers), store)]


def _needs_batches(problem: str, key: str) -> UserError:
    return UserError(problem, key=f"{key}.calibrate", value=0, hint="give some batches")
