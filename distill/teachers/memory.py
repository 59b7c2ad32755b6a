"""Logits remembered by sample id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["LIMIT", "LogitMemory"]

LIMIT = 1024
"""Logits of more numbers a sample are not remembered: they would cost more memory than they save time."""


class LogitMemory:
    """Sample id -> its logits ``[C]``, in one host tensor that grows.

    A model's logits for a sample depend in their last bits on the shape of the batch round it. So the value
    that was seen first stays, and every later epoch (and every resumed run) trains on the same bits.
    """

    def __init__(self) -> None:
        self._row: dict[int, int] = {}
        self._values = torch.empty(0, 0)
        self._copying: tuple[list[int], list[int], Tensor, torch.cuda.Event | None] | None = None

    def __len__(self) -> int:
        self._settle()
        return len(self._row)

    @staticmethod
    def accepts(logits: Tensor, ids: Sequence[int]) -> bool:
        """Whether these are one prediction a sample, and small."""
        return logits.dim() == 2 and len(logits) == len(ids) and logits.shape[1] <= LIMIT

    def recall(self, ids: Sequence[int], device: torch.device) -> Tensor | None:
        """The logits ``[B, C]`` of these samples; ``None`` unless all are known."""
        self._settle()
        if not ids or not all(i in self._row for i in ids):
            return None
        return self._rows(ids, device)

    def merge(self, ids: Sequence[int], logits: Tensor) -> Tensor:
        """``logits`` ``[B, C]`` with the remembered values of known samples; those of the others are remembered."""
        self._settle()
        known = [place for place, i in enumerate(ids) if i in self._row]
        first = {i: place for i, place in _first_places(ids).items() if i not in self._row}
        if first:
            self._keep(list(first), list(first.values()), logits)
        if not known:
            return logits
        rows = self._rows([ids[place] for place in known], logits.device)
        places = _sent(torch.tensor(known), logits.device)
        return logits.index_copy(0, places, rows.to(logits.dtype))

    def _rows(self, ids: Sequence[int], device: torch.device) -> Tensor:
        return _sent(self._values[torch.tensor([self._row[i] for i in ids])], device)

    def _keep(self, ids: list[int], places: list[int], logits: Tensor) -> None:
        # On a GPU the copy runs behind the step's kernels; the next call, a step later, finds it finished.
        host = logits.detach().to("cpu", copy=True, non_blocking=logits.is_cuda)
        event = None
        if logits.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(logits.device))
        self._copying = ids, places, host, event

    def _settle(self) -> None:
        if self._copying is not None:
            ids, places, host, event = self._copying
            self._copying = None
            if event is not None:
                event.synchronize()
            self._append(ids, host[places])

    def _append(self, ids: list[int], rows: Tensor) -> None:
        start = len(self._row)
        end = start + len(ids)
        if end > len(self._values) or not start:
            room = rows.new_empty(max(end, 2 * start, 1024), rows.shape[1])
            if start:
                room[:start] = self._values[:start]
            self._values = room
        self._values[start:end] = rows
        self._row.update(zip(ids, range(start, end), strict=True))

    def state_dict(self) -> dict[str, Tensor]:
        """``ids`` ``[M]`` and ``logits`` ``[M, C]``, or nothing where nothing is remembered."""
        self._settle()
        if not self._row:
            return {}
        return {"ids": torch.tensor(list(self._row)), "logits": self._values[: len(self._row)].clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Forget everything but this; an id that stands there twice (of several ranks) keeps its first value."""
        self._row, self._copying = {}, None
        if state:
            first = _first_places(state["ids"].tolist())
            self._append(list(first), state["logits"].cpu()[list(first.values())])


def _first_places(ids: Sequence[int]) -> dict[int, int]:
    places: dict[int, int] = {}
    for place, i in enumerate(ids):
        places.setdefault(i, place)
    return places


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
