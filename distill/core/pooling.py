"""One vector a text: how a model's last hidden states are pooled, as the files of sentence-transformers say it.

A model that makes vectors has no head; what stands in its place has no parameters. It is noted in the model's
configuration, and so in its ``config.json``: then whoever runs the model (training, a score, an export) gets vectors
``[B, D]`` where other models give logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from distill.core.numerics import at_least_float32
from distill.core.utils.errors import UserError

__all__ = ["MODES", "Pooling", "drop_pooler", "pool", "pooled", "pooling_of", "set_pooling"]

MODES = ("mean", "cls", "max", "lasttoken")
"""The mean over a text's tokens, its first token, the largest value of each feature, its last token."""

_ENTRY = "sentence_pooling"


@dataclass(frozen=True)
class Pooling:
    """How a text's vector comes of its tokens.

    Attributes:
        mode: One of :data:`MODES`.
        normalize: Whether it is divided by its length.
    """

    mode: str = "mean"
    normalize: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            hint = f"take a model that pools by one of {', '.join(MODES)}"
            raise UserError("there is no such pooling here", key="pooling_mode", value=self.mode, hint=hint)


def pooling_of(model: nn.Module) -> Pooling | None:
    """How ``model`` pools; ``None`` where it gives what its own forward pass does."""
    noted = getattr(getattr(model, "config", None), _ENTRY, None)
    if not isinstance(noted, Mapping):
        return None
    return Pooling(str(noted.get("mode")), noted.get("normalize") is True)


def set_pooling(model: nn.Module, pooling: Pooling) -> None:
    """Have ``model``, of transformers and without a head, give vectors; in place.

    Its own pooler, a map of the first token that nothing would read or train, is taken out.
    """
    config: Any = model.config
    setattr(config, _ENTRY, asdict(pooling))
    drop_pooler(model)


def drop_pooler(model: nn.Module) -> None:
    """Take out the pooler of a model that pools otherwise (:func:`pooling_of`)."""
    if pooling_of(model) is not None and isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None  # type: ignore[assignment]


def pool(hidden_BTH: Tensor, mask_BT: Tensor | None, pooling: Pooling) -> Tensor:
    """The vectors ``[B, H]`` of texts, in at least float32.

    With m the mask: mean, sum_t m_t h_t / sum_t m_t; cls, h_0, or of a text that is padded on the left its first token;
    max, max over m_t = 1 of h_t; lasttoken, h of the last t with m_t = 1. With ``normalize``, v / max(|v|, 1e-12).

    Args:
        hidden_BTH: The last hidden states.
        mask_BT: 1 or true on real tokens; ``None`` where all are.
        pooling: See :class:`Pooling`.

    Reference:
        Reimers, Gurevych: Sentence-BERT, EMNLP 2019.
    """
    hidden = at_least_float32(hidden_BTH)
    mask_BT = torch.ones_like(hidden[..., 0]) if mask_BT is None else mask_BT.to(hidden.dtype)
    vectors = _POOLS[pooling.mode](hidden, mask_BT)
    return normalize(vectors, dim=-1) if pooling.normalize else vectors


def _mean(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    return (hidden_BTH * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1e-9)


def _max(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    return hidden_BTH.masked_fill(mask_BT[..., None] == 0, torch.finfo(hidden_BTH.dtype).min).amax(1)


def _first(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    return _at(hidden_BTH, mask_BT.argmax(1))


def _last(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    places_T = torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device, dtype=mask_BT.dtype)
    return _at(hidden_BTH, (mask_BT * places_T).argmax(1))


def _at(hidden_BTH: Tensor, place_B: Tensor) -> Tensor:
    return hidden_BTH.gather(1, place_B[:, None, None].expand(-1, 1, hidden_BTH.shape[-1])).squeeze(1)


_POOLS = {"mean": _mean, "cls": _first, "max": _max, "lasttoken": _last}


def pooled(model: nn.Module, output: Any, inputs: Mapping[str, Tensor], pooling: Pooling) -> Tensor:
    """The vectors of what ``model`` gave for ``inputs``.

    Raises:
        UserError: if it gave no last hidden states ``[B, T, H]``.
    """
    hidden = output.get("last_hidden_state") if isinstance(output, Mapping) else None
    if not isinstance(hidden, Tensor) or hidden.dim() != 3:
        problem = f"{type(model).__name__} gives no last_hidden_state of a vector a token, of which to make one a text"
        raise UserError(problem, key="model", hint="name an encoder of texts")
    return pool(hidden, inputs.get("attention_mask"), pooling)
