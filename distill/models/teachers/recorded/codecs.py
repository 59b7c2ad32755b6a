"""In which form signals are recorded: what is kept of each position that counts, and what comes of it in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from distill.core.lazy_logits import Curve, LazyLogits
from distill.core.signals import Batch, Request, Signals
from distill.models.teachers.recorded.shards import Kept

__all__ = ["DTYPES", "Codec", "HiddenCodec", "LogitsCodec", "at_positions"]

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


class Codec(ABC):
    """A form in which signals are recorded.

    Attributes:
        kind: As in ``distill record --as KIND``.
        lazy: Whether :meth:`decode` gives logits that are not computed, where it is asked to.
        sampled: Whether what it gives is the teacher's distribution in the mean alone.
    """

    kind: ClassVar[str]
    lazy: ClassVar[bool] = False
    sampled: ClassVar[bool] = False

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What :meth:`read` needs besides :attr:`common`; ``kind`` is among it."""

    @property
    def common(self) -> Kept:
        """What all positions share, kept once."""
        return {}

    @classmethod
    @abstractmethod
    def read(cls, settings: Mapping[str, Any], common: Kept) -> Self:
        """The codec that had these settings, and this in common."""

    @abstractmethod
    def encode(self, signals: Signals, batch: Batch) -> Kept:
        """What is kept of each position of ``batch`` that counts, ``[N, ...]``, on the host."""

    def split(self, rows: Kept, counts: list[int]) -> list[Kept]:
        """What :meth:`encode` gave, by sample.

        Args:
            rows: Of a batch.
            counts: Positions of each sample.
        """
        parts = {name: torch.split(tensor, counts) for name, tensor in rows.items()}
        return [{name: split[place] for name, split in parts.items()} for place in range(len(counts))]

    @abstractmethod
    def decode(self, rows: Kept, counts: list[int], batch: Batch, request: Request) -> Signals:
        """The logits that ``request`` asks for, of the rows of ``batch``, on its device.

        Args:
            rows: What was kept of its samples, one after the other.
            counts: Positions of each.
            batch: For which they are.
            request: Of logits alone.
        """

    def to(self, device: torch.device | str) -> None:  # noqa: B027  (most have nothing to move)
        """Move what all positions share."""


class HiddenCodec(Codec):
    """What the head reads, and the head: every divergence of them is exact, but for the rounding of the former.

    A position takes 4 H bytes (float32), 2 H (bf16), or H + 4: int8 of x = (h - center) / spread, with the scale
    max |x| / 127 of its row. Some channels are twenty times as large as most; without these two the others would have
    few of the 255 steps (KL of SmolLM2-135M's logits 0.0066 nats, with them 0.0003).

    Args:
        dtype: Of what is kept: ``float32``, ``bf16`` or ``int8``.
        head: What makes logits of it; its hidden states give center and spread where these are not given.
        channels: Mean and standard deviation of each channel, ``[2, H]``.
    """

    kind = "hidden"
    lazy = True

    def __init__(self, dtype: str, head: LazyLogits, channels: Tensor | None = None) -> None:
        self.dtype = dtype
        if channels is None:
            seen_MH = head.hidden.detach().flatten(0, -2).float().cpu()
            spread = seen_MH.std(0, correction=0).clamp(min=1e-6 * seen_MH.abs().max().clamp(min=1e-30))
            channels = torch.stack([seen_MH.mean(0), spread])
        self._channels = channels
        self._weight, self._bias, self._curve = head.weight.detach(), head.bias, head.curve

    @property
    def settings(self) -> dict[str, Any]:
        curve = {"scale": self._curve.scale, "cap": self._curve.cap}
        computed = str(self._weight.dtype).removeprefix("torch.")
        return {"kind": self.kind, "dtype": self.dtype, "computed": computed, **curve}

    @property
    def common(self) -> Kept:
        weight = self._weight.cpu()
        half = weight.bfloat16()
        found = {"weight": half if bool((half == weight).all()) else weight}  # most were stored so, and lose nothing
        found |= {"channels": self._channels.cpu()} if self.dtype == "int8" else {}
        return found if self._bias is None else found | {"bias": self._bias.detach().cpu()}

    @classmethod
    def read(cls, settings: Mapping[str, Any], common: Kept) -> Self:
        weight = common["weight"].to(getattr(torch, settings["computed"]))
        bias = common["bias"].to(weight.dtype) if "bias" in common else None
        curve = Curve(float(settings["scale"]), settings["cap"])
        head = LazyLogits(weight.new_zeros(1, weight.shape[1]), weight, bias, curve)
        return cls(settings["dtype"], head, common.get("channels"))

    def encode(self, signals: Signals, batch: Batch) -> Kept:
        assert signals.lazy_logits is not None
        rows_NH = signals.lazy_logits.at(batch.mask).hidden.cpu()
        if self.dtype != "int8":
            return {"hidden": rows_NH.to(DTYPES[self.dtype])}
        center, spread = self._channels.cpu()
        exact_NH = (rows_NH.float() - center) / spread
        scale_N1 = (exact_NH.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return {"hidden": (exact_NH / scale_N1).round().to(torch.int8), "scale": scale_N1}

    def decode(self, rows: Kept, counts: list[int], batch: Batch, request: Request) -> Signals:
        device = self._weight.device
        hidden_NH = rows["hidden"].to(device, non_blocking=True)
        if "scale" in rows:
            center, spread = self._channels
            hidden_NH = hidden_NH.float() * rows["scale"].to(device, non_blocking=True) * spread + center
        hidden = at_positions(hidden_NH.to(self._weight.dtype), batch)
        lazy = LazyLogits(hidden, self._weight, self._bias, self._curve)
        return Signals(lazy_logits=lazy) if request.lazy else Signals(lazy.whole())

    def to(self, device: torch.device | str) -> None:
        self._weight, self._channels = self._weight.to(device), self._channels.to(device)
        self._bias = None if self._bias is None else self._bias.to(device)


class LogitsCodec(Codec):
    """All logits, as they are: little where there is one prediction a sample.

    Args:
        dtype: ``float32`` or ``bf16``.
    """

    kind = "logits"

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    @property
    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "dtype": self.dtype}

    @classmethod
    def read(cls, settings: Mapping[str, Any], common: Kept) -> Self:
        return cls(settings["dtype"])

    def encode(self, signals: Signals, batch: Batch) -> Kept:
        logits = signals.at(batch.mask) if signals.lazy_logits is None else _whole(signals.lazy_logits, batch)
        return {"logits": logits.to(DTYPES[self.dtype]).cpu()}

    def decode(self, rows: Kept, counts: list[int], batch: Batch, request: Request) -> Signals:
        device = next(iter(batch.inputs.values())).device
        return Signals(at_positions(rows["logits"].to(device, non_blocking=True).float(), batch))


def _whole(lazy: LazyLogits, batch: Batch) -> Tensor:
    rows = lazy.at(batch.mask)
    return rows.block(slice(0, len(rows.hidden)))


def at_positions(rows: Tensor, batch: Batch) -> Tensor:
    """Rows ``[N, F]`` of the positions that count where these are in the batch, ``[B, ..., F]``; 0 elsewhere."""
    if batch.mask is None:
        shape = (batch.size,) if batch.labels is None else _positions(batch.labels.shape, len(rows))
        return rows.view(*shape, rows.shape[-1])
    places = batch.mask.flatten().nonzero().squeeze(1)
    whole = rows.new_zeros(batch.mask.numel(), rows.shape[-1])
    return whole.index_copy_(0, places, rows).view(*batch.mask.shape, rows.shape[-1])


def _positions(shape: torch.Size, count: int) -> tuple[int, ...]:
    """The shape of labels, of as many predictions; a set of classes is the label of one prediction."""
    return tuple(shape) if shape.numel() == count else (shape[0],)
