"""Features of any shape as positions and widths, and how much each position counts."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distill.core.model_spec import Features
from distill.core.numerics import at_least_float32
from distill.core.signals import Batch
from distill.core.utils.errors import UserError

__all__ = [
    "as_positions",
    "check_same_positions",
    "features_last",
    "position_weights",
    "real_tokens",
    "sample_embeddings",
    "valid_samples",
    "visible_tokens",
]


def features_last(feature: Tensor, layout: Features | None, name: str) -> Tensor:
    """``feature`` ``[B, F]``, ``[B, P, F]``, ``[B, F, H, W, ...]`` or ``[B, H, W, ..., F]`` with the features last.

    They lie where the size is the module's width; where that is so behind the batch and at the end, where its last
    layer puts them. Without a layout they are last up to three dimensions, and behind the batch in more.

    Args:
        feature: A module's output.
        layout: What the module says, if anything.
        name: The module's.

    Raises:
        UserError: if it is ambiguous: a map as wide as it has features, of a module that may have moved them.
    """
    last = feature.dim() - 1
    if last < 2:
        return feature
    axis = 1 if last > 2 else last
    if layout is not None:
        fits = [place for place in (1, last) if feature.shape[place] == layout.width]
        if len(fits) == 1:
            axis = fits[0]
        elif fits:
            axis = 1 if layout.first else last
            if last > 2 and not layout.first and not layout.settled:
                raise UserError(
                    f"which dimension of {list(feature.shape)} holds the {layout.width} features is ambiguous",
                    key="taps",
                    value=name,
                    hint="name the norm, convolution or linear map inside that puts them out",
                )
    return feature.movedim(axis, -1)


def as_positions(feature: Tensor) -> Tensor:
    """``[B, P, F]`` of ``[B, F]`` (one position), ``[B, P, F]``, or ``[B, H, W, ..., F]`` (P = H * W * ...)."""
    return feature[:, None] if feature.dim() == 2 else feature.flatten(1, -2)


def check_same_positions(student: Tensor, teacher: Tensor, key: str) -> None:
    """Refuse features, each last, whose positions cannot be compared one by one.

    Raises:
        UserError: if they are not of one rank, or not of one length, height and width.
    """
    if student.shape[1:-1] != teacher.shape[1:-1] or student.dim() != teacher.dim():
        raise UserError(
            f"student's and teacher's features must have the same positions, and are {list(student.shape)} and "
            f"{list(teacher.shape)}",
            key=key,
            hint="name modules whose outputs have the same length, height and width",
        )


def position_weights(batch: Batch, feature_BPF: Tensor) -> Tensor:
    """Weights ``[B, P]`` that add up to ``batch.count``; padding has none where the positions are the batch's tokens.

    They are :meth:`Batch.token_weights`, for features that need not be over tokens.
    """
    if batch.decoder_tokens is not None and batch.decoder_tokens.shape == feature_BPF.shape[:2]:
        return batch.of("decoder").token_weights(feature_BPF)
    over_tokens = batch.tokens is None or batch.tokens.shape == feature_BPF.shape[:2]
    return (batch if over_tokens else replace(batch, tokens=None)).token_weights(feature_BPF)


def real_tokens(batch: Batch, feature_BTF: Tensor) -> Tensor:
    """Which positions hold a real token, boolean ``[B, T]``."""
    if batch.tokens is not None:
        return batch.tokens
    return torch.ones(feature_BTF.shape[:2], dtype=torch.bool, device=feature_BTF.device)


def visible_tokens(batch: Batch, feature_BTF: Tensor) -> Tensor:
    """Which tokens (last axis) a token may relate to: the real ones of its document, ``[B, 1, T or 1, T]``.

    Several documents lie in one row where the batch gives position ids: each begins at position 0.
    """
    tokens_BT = real_tokens(batch, feature_BTF)
    visible = tokens_BT[:, None, None, :]
    if "position_ids" in batch.inputs:
        document_BT = (batch.inputs["position_ids"] == 0).cumsum(1)
        visible = visible & (document_BT[:, None, :, None] == document_BT[:, None, None, :])
    return visible


def valid_samples(batch: Batch, like: Tensor) -> Tensor:
    """Which samples have a prediction that counts, boolean ``[B]``."""
    if batch.mask is None:
        return torch.ones(len(like), dtype=torch.bool, device=like.device)
    return batch.mask.flatten(1).any(1) if batch.mask.dim() > 1 else batch.mask


def sample_embeddings(feature: Tensor, batch: Batch, *, pool: bool) -> Tensor:
    """One vector a sample, ``[B, F]``: the mean over real tokens of ``[B, T, F]``, or all features flattened."""
    feature = at_least_float32(feature)
    if not pool:
        return feature.flatten(1)
    tokens = real_tokens(batch, feature)
    total = (feature * tokens[..., None]).sum(1)
    return total / tokens.sum(1, keepdim=True).clamp(min=1)
