"""Packed documents that must not see each other: how a model keeps them apart, found by trying it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.model_call import call, logits_of, of_transformers
from distill.core.utils.errors import UserError

__all__ = [
    "FAILURES",
    "check_causal",
    "check_isolation",
    "distance",
    "hide_documents",
    "must_run_unpacked",
    "still",
    "tolerance",
]

_log = logging.getLogger(__name__)

_LENGTHS = 3, 5
"""Tokens of the two documents that a model is tried with."""

FAILURES = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError)
"""What models raise for inputs that they do not take."""

Inputs = Mapping[str, Any]


def hide_documents(model: nn.Module, inputs: Inputs) -> Inputs:
    """``inputs`` as ``model`` must have them for the documents of a block not to see each other.

    Positions that begin again at 0 mark where a document begins. Most decoders of transformers make their mask from
    them; others are given the mask. Which way works is found when the model is first met (:func:`check_isolation`);
    where none does, the documents must be run apart (:func:`must_run_unpacked`).

    Args:
        model: Of transformers.
        inputs: Where they have position ids and no attention mask, they may be blocks of documents.
    """
    way = _way(model, inputs)
    return _WAYS[way](model, inputs) if way in _WAYS else inputs


def must_run_unpacked(model: nn.Module, inputs: Inputs) -> bool:
    """Whether ``inputs`` are blocks, and the documents in them would see each other in whatever way they are given."""
    return _way(model, inputs) == "none"


def _way(model: nn.Module, inputs: Inputs) -> str | None:
    if "position_ids" not in inputs or "attention_mask" in inputs:
        return None
    way: str | None = getattr(model, "_documents", None)
    if way is None:
        way = _remember(model)
        if way == "none":  # a run was refused when it was built; this is a loop of one's own
            name = type(model).__name__
            why = "has no way to mark where a document begins, so those that share a block are run one by one"
            _log.warning("%s %s: right, and slow; data.pack_length: 0 gives each a row of its own", name, why)
    return way


def check_isolation(who: str, model: nn.Module) -> None:
    """Refuse a model in which packed documents see each other, whatever it is given.

    Two short documents are run in a block, beside it with the first one changed, and the second by itself: its logits
    must be the same bits in the first two cases, and nearly those of the third. Where they differ no more than kernels
    do that see other numbers of rows (experts), they must have no gradient with respect to the first.

    Args:
        who: The model's key.
        model: A module that is not of transformers is taken at its word.

    Raises:
        UserError: naming the two settings that correct it.
    """
    if of_transformers(model) and _remember(model) == "none":
        raise _visible(who, type(model).__name__)


def check_causal(who: str, model: nn.Module) -> None:
    """Refuse a language model that sees the tokens it is to predict (BERT, unless it is configured as a decoder).

    Raises:
        UserError: naming the model.
    """
    if of_transformers(model) and _sees_ahead(model):
        raise UserError(
            f"this {type(model).__name__} sees the tokens that it is to predict",
            key=who,
            hint="name a decoder, set is_decoder in its configuration, or train it on masked-lm",
        )


def _visible(who: str, name: str) -> UserError:
    return UserError(
        f"documents that share a block would see each other in {who}: {name} neither reads from the positions where "
        "one begins nor takes a mask that hides them",
        key="data.isolate_documents",
        value=True,
        hint="set data.isolate_documents: false to train on such blocks as they are, or data.pack_length: 0 to give "
        "each document a row of its own",
    )


# ---------------------------------------------------------------------- the ways


def _by_positions(_model: nn.Module, inputs: Inputs) -> Inputs:
    return inputs


def _by_mask(model: nn.Module, inputs: Inputs) -> Inputs:
    return {**inputs, "attention_mask": _mask(model, inputs["position_ids"])}


def _by_mask_alone(model: nn.Module, inputs: Inputs) -> Inputs:
    return {name: value for name, value in _by_mask(model, inputs).items() if name != "position_ids"}


def _by_masks(model: nn.Module, inputs: Inputs) -> Inputs:
    positions, config = inputs["position_ids"], _text(model)
    masks = {"full_attention": _mask(model, positions)}
    masks["sliding_attention"] = _mask(model, positions, config.sliding_window)
    return {**inputs, "attention_mask": masks}


_WAYS: dict[str, Callable[[nn.Module, Inputs], Inputs]] = {
    "positions": _by_positions,
    "masks": _by_masks,
    "mask": _by_mask,
    "mask alone": _by_mask_alone,
}


def _ways(model: nn.Module) -> list[str]:
    """Those that could work. One mask for all layers would open the windows of those that have one."""
    config = _text(model)
    if hasattr(config, "keep_window_size"):  # Doge chooses its keys among all of a long block's
        return []
    kinds = set(getattr(config, "layer_types", None) or ())
    windows = [name for name in vars(config) if name.endswith("window") or name == "window_size"]
    if kinds > {"full_attention"} or kinds == {"sliding_attention"}:
        return ["positions", "masks"]
    if any(getattr(config, name) for name in windows if name != "sliding_window" or not kinds):
        return ["positions"]
    return ["positions", "mask", "mask alone"]


def _mask(model: nn.Module, positions: Tensor, window: int | None = None) -> Tensor:
    """What is added to the scores ``[B, 1, T, T]``: 0 for what a position sees, its own document up to itself."""
    length = positions.shape[1]
    places = torch.arange(length, device=positions.device)
    document = (positions == 0).cumsum(1)
    seen = (document[:, :, None] == document[:, None, :]) & (places[:, None] >= places)
    if window is not None:
        seen = seen & (places[:, None] - places < window)
    dtype = _dtype(model)
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _text(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config()


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


# ---------------------------------------------------------------------- trying them


def _remember(model: nn.Module) -> str | None:
    """The way found, ``"none"`` where there is none, and ``None`` where the model does not run here."""
    known: str | None = getattr(model, "_documents", None)
    if known is None:
        known = _find(model)
        if known is not None:
            model._documents = known  # type: ignore[assignment]
    return known


def _find(model: nn.Module) -> str | None:
    ids = _tokens(model)
    if ids is None:
        return None
    first, second = _LENGTHS
    positions = torch.cat([torch.arange(first), torch.arange(second)])[None].to(ids.device)
    with still(model):
        try:
            alone = _logits(model, {"input_ids": ids[:1, first:]})
        except FAILURES:  # kernels of another device, say
            return None
        if _sees_ahead(model):  # no decoder: what it is given is not packed
            return "positions"
        for way in _ways(model):
            try:
                if _isolates(model, way, ids, positions, alone):
                    return way
            except FAILURES:
                continue
    return "none"


def _isolates(model: nn.Module, way: str, ids: Tensor, positions: Tensor, alone: Tensor) -> bool:
    first = _LENGTHS[0]
    both = torch.cat([ids[:1], torch.cat([ids[1:, :first], ids[:1, first:]], 1)])  # the first document changed
    given = _WAYS[way](model, {"input_ids": both, "position_ids": positions.expand(2, -1)})
    block, changed = _logits(model, given)[:, first:].chunk(2)
    if distance(block, alone) > tolerance(model, block):
        return False
    return not _depends(
        model,
        block,
        changed,
        lambda: _WAYS[way](model, {"input_ids": ids[:1], "position_ids": positions}),
        slice(first, None),
        slice(first),
    )


def _sees_ahead(model: nn.Module) -> bool:
    """Whether the last token changes what is predicted before it; tried once.

    ``False`` where the model does not run here.
    """
    known: bool | None = getattr(model, "_ahead", None)
    ids = _tokens(model) if known is None else None
    if ids is None:
        return bool(known)
    both = torch.cat([ids[:1], torch.cat([ids[:1, :-1], ids[1:, -1:]], 1)])
    with still(model):
        try:
            before, after = _logits(model, {"input_ids": both})[:, :-1].chunk(2)
            known = _depends(model, before, after, lambda: {"input_ids": ids[:1]}, slice(-1), slice(-1, None))
        except (*FAILURES, UserError):
            return False
    model._ahead = known  # type: ignore[assignment]
    return known


def _depends(
    model: nn.Module, before: Tensor, after: Tensor, inputs: Callable[[], Inputs], read: slice, changed: slice
) -> bool:
    """Whether the logits at ``read``, ``before`` and ``after`` tokens at ``changed`` were, depend on these tokens.

    Args:
        inputs: Makes those that ``before`` is of, for a gradient where the values are no proof.
    """
    if torch.equal(before, after):
        return False
    if distance(before, after) > tolerance(model, before):
        return True
    kept = _gradient(model, inputs(), read)
    return kept is None or bool(kept[:, changed].any())


def _gradient(model: nn.Module, inputs: Inputs, read: slice) -> Tensor | None:
    """The gradient of the logits at ``read`` with respect to the embeddings ``[1, T, H]``, where there is one."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    table: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    handle = table.register_forward_hook(keep)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = logits_of(model, call(model, inputs))[:, read]
            return torch.autograd.grad(logits.float().square().sum(), kept[0], allow_unused=True)[0]
    finally:
        handle.remove()


def _logits(model: nn.Module, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        return logits_of(model, call(model, inputs))


def distance(a: Tensor, b: Tensor) -> float:
    """max |a - b|, infinite where one is not a number."""
    return float((a.float() - b.float()).abs().nan_to_num(torch.inf).max())


def tolerance(model: nn.Module, logits: Tensor) -> float:
    """How far ``logits`` of kernels of other shapes may be apart: half of the digits."""
    half = torch.is_autocast_enabled(logits.device.type)
    digits = max(torch.finfo(dtype).eps for dtype in (logits.dtype, _dtype(model), *[torch.bfloat16] * half))
    return float(digits**0.5 * logits.float().abs().max())


def _tokens(model: nn.Module) -> Tensor | None:
    """Two rows of ordinary tokens that differ at every place; ``None`` where the vocabulary is not known."""
    config = _text(model)
    size = getattr(config, "vocab_size", None)
    special = {getattr(config, f"{role}_token_id", None) for role in ("pad", "bos", "eos")}
    known = [i for i in range(min(size, 4096)) if i not in special] if isinstance(size, int) else []
    device = next((p.device for p in model.parameters()), torch.device("meta"))
    if len(known) < 2 or device.type == "meta":
        return None
    length, half = sum(_LENGTHS), len(known) // 2
    rows = [[known[(7 * place + shift) % len(known)] for place in range(length)] for shift in (0, half)]
    return torch.tensor(rows, device=device)


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """In eval mode, each module's own mode restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
