"""Logits remembered by sample id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

__all__ = ["LIMIT", "LogitMemory"]

LIMIT = 1024
"""Logits of more numbers a sample are not remembered: they would cost more memory than they save time."""


class LogitMemory:
    """Sample id -> its logits ``[C]`` and the digest of the inputs that they are for, in host tensors that grow.

    A model's logits for a sample depend in their last bits on the shape of the batch round it. So the value
    that was seen first stays, and every later epoch (and every resumed run) trains on the same bits.

    Where one id comes with other inputs (an augmentation that keeps it), what is remembered is no answer to them:
    all of it is forgotten, and nothing is remembered any more. So it is of a model that draws what it says.
    """

    def __init__(self) -> None:
        self.changed: int | None = None
        """The id that came with other inputs, once one has."""
        self.random: bool | None = None
        """Whether the model said something else of the same batch; ``None`` until that was tried."""
        self._forget()

    def _forget(self) -> None:
        self._row: dict[int, int] = {}
        self._values, self._digests = torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
        self._shared = 0  # the first rows, which all ranks have
        self._copying: tuple[list[int], list[int], Tensor, Tensor, torch.cuda.Event | None] | None = None

    def __len__(self) -> int:
        self._settle()
        return len(self._row)

    def note_random(self, random: bool) -> None:
        """Say what :attr:`random` is; once it is true it stays."""
        self.random = random or bool(self.random)
        if self.random:
            self._forget()

    @property
    def closed(self) -> bool:
        """Whether nothing is remembered any more."""
        return self.changed is not None or bool(self.random)

    @staticmethod
    def accepts(logits: Tensor, ids: Sequence[int]) -> bool:
        """Whether these are one prediction a sample, and small."""
        return logits.dim() == 2 and len(logits) == len(ids) and logits.shape[1] <= LIMIT

    def recall(self, ids: Sequence[int], digests_B: Tensor, device: torch.device) -> Tensor | None:
        """The logits ``[B, C]`` of these samples; ``None`` unless all are known, with inputs of these digests."""
        self._settle()
        if not ids or not all(i in self._row for i in ids) or not self._unchanged(ids, digests_B):
            return None
        return self._rows(ids, device)

    def merge(self, ids: Sequence[int], digests_B: Tensor, logits: Tensor) -> Tensor:
        """``logits`` ``[B, C]`` with the remembered values of known samples; those of the others are remembered."""
        self._settle()
        known = [place for place, i in enumerate(ids) if i in self._row]
        if self.changed is not None or not self._unchanged([ids[place] for place in known], digests_B[known]):
            return logits
        first = {i: place for i, place in _first_places(ids).items() if i not in self._row}
        if first:
            self._keep(list(first), list(first.values()), digests_B, logits)
        if not known:
            return logits
        rows = self._rows([ids[place] for place in known], logits.device)
        places = _sent(torch.tensor(known), logits.device)
        return logits.index_copy(0, places, rows.to(logits.dtype))

    def share(self, gather: Callable[[dict[str, Tensor]], Sequence[dict[str, Tensor]]]) -> None:
        """Have every rank remember what any of them does; all ranks take part.

        Without it a sample is known to the one rank that had it, and of four ranks hardly ever all of a batch.

        Args:
            gather: Takes a rank's state and gives those of all ranks, in their order.
        """
        states = gather(self.state_dict(own=True))
        self._row = dict(islice(self._row.items(), self._shared))  # its own come back in the order of all ranks
        for state in states:
            self._take(state)
        self._shared = len(self._row)

    def _unchanged(self, ids: Sequence[int], digests: Tensor) -> bool:
        """Whether these known ids come with the inputs that they had; if not, all is forgotten."""
        same = self._digests[[self._row[i] for i in ids]] == digests
        if not bool(same.all()):
            self._change(ids[int(same.int().argmin())])
        return self.changed is None

    def _change(self, i: int) -> None:
        self._forget()
        self.changed = i

    def _rows(self, ids: Sequence[int], device: torch.device) -> Tensor:
        return _sent(self._values[torch.tensor([self._row[i] for i in ids])], device)

    def _keep(self, ids: list[int], places: list[int], digests: Tensor, logits: Tensor) -> None:
        # On a GPU the copy runs behind the step's kernels; the next call, a step later, finds it finished.
        host = logits.detach().to("cpu", copy=True, non_blocking=logits.is_cuda)
        event = None
        if logits.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(logits.device))
        self._copying = ids, places, digests, host, event

    def _settle(self) -> None:
        if self._copying is not None:
            ids, places, digests, host, event = self._copying
            self._copying = None
            if event is not None:
                event.synchronize()
            self._append(ids, digests[places], host[places])

    def _append(self, ids: list[int], digests: Tensor, rows: Tensor) -> None:
        start = len(self._row)
        end = start + len(ids)
        if end > len(self._values) or not start:
            size = max(end, 2 * start, 1024)
            values, known = rows.new_empty(size, rows.shape[1]), digests.new_empty(size)
            if start:
                values[:start], known[:start] = self._values[:start], self._digests[:start]
            self._values, self._digests = values, known
        self._values[start:end], self._digests[start:end] = rows, digests
        self._row.update(zip(ids, range(start, end), strict=True))

    def state_dict(self, own: bool = False) -> dict[str, Tensor]:
        """``ids`` ``[M]``, ``digests`` ``[M]`` and ``logits`` ``[M, C]``, or nothing where nothing is remembered.

        ``shared`` says how many of them, the first ones, all ranks have; ``random`` is there once it was tried;
        ``changed`` stands alone.

        Args:
            own: Without those that all ranks have.
        """
        self._settle()
        if self.changed is not None:
            return {"changed": torch.tensor(self.changed)}
        tried = {} if self.random is None else {"random": torch.tensor(self.random)}
        part = slice(self._shared if own else 0, len(self._row))
        if part.start == part.stop:
            return tried
        ids = torch.tensor(list(self._row)[part])
        state = tried | {"ids": ids, "digests": self._digests[part].clone(), "logits": self._values[part].clone()}
        return state if own else state | {"shared": torch.tensor(self._shared)}

    def load_state_dict(self, state: Mapping[str, Tensor], of_all: Mapping[str, Tensor] | None = None) -> None:
        """Forget everything but this; an id that stands there twice (of several ranks) keeps its first value.

        Args:
            state: Of :meth:`state_dict`.
            of_all: For a state of a rank's ``own``: another's, of whose rows the shared ones are taken before.
        """
        self.changed = self.random = None
        self._forget()
        source = state if of_all is None else of_all
        shared = int(source["shared"]) if "shared" in source else 0
        if of_all is not None:
            self._take({name: tensor[:shared] for name, tensor in of_all.items() if tensor.dim()})
        self._take(state)
        self._shared = min(shared, len(self._row))

    def _take(self, state: Mapping[str, Tensor]) -> None:
        """Remember, behind what is known, what a state has besides."""
        if "changed" in state:
            self._change(int(state["changed"]))
        if "random" in state:
            self.note_random(bool(state["random"]))
        if self.closed or "digests" not in state:  # nothing, or of a version that did not keep them
            return
        first = _first_places(state["ids"].tolist())
        known = [i for i in first if i in self._row]
        if self._unchanged(known, state["digests"][[first[i] for i in known]]):
            new = {i: place for i, place in first.items() if i not in self._row}
            places = list(new.values())
            if new:
                self._append(list(new), state["digests"][places], state["logits"].cpu()[places])


def _first_places(ids: Sequence[int]) -> dict[int, int]:
    places: dict[int, int] = {}
    for place, i in enumerate(ids):
        places.setdefault(i, place)
    return places


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
