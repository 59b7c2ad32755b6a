"""A hash that tells one teacher from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.images import ImageProcessor

__all__ = ["fingerprint"]


def fingerprint(model: nn.Module, tokenizer: Any = None) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of the weights, and over the tokenizer's vocabulary, or what
    the image processor does.

    Takes about 0.6 s a gigabyte on one core; tensors are hashed in parallel (hashlib lets other threads run),
    tied ones once.

    Args:
        model: Any module; all that its ``state_dict`` holds counts.
        tokenizer: Of transformers; its map from token to id counts.
    """
    tensors = {name: t for name, t in sorted(model.state_dict().items()) if isinstance(t, Tensor)}
    places = {name: (t.data_ptr(), t.shape, t.stride(), t.dtype) for name, t in tensors.items()}
    distinct: Mapping[Any, Tensor] = {place: tensors[name] for name, place in places.items()}
    with ThreadPoolExecutor(4) as pool:
        digests = dict(zip(distinct, pool.map(_digest, distinct.values()), strict=True))
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + digests[places[name]])
    if isinstance(tokenizer, ImageProcessor):
        total.update(tokenizer.identity.encode())
    elif tokenizer is not None:
        total.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    return total.hexdigest()


def _digest(tensor: Tensor) -> bytes:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).digest()
