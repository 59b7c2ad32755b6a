"""Recordings that keep a few tokens of each position: the most likely ones, or a sample."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from distill.core.signals import Batch, Request, Signals
from distill.core.sparse_logits import SparseLogits
from distill.core.token_scores import LogitRows
from distill.models.teachers.recorded.codecs import Codec, at_positions
from distill.models.teachers.recorded.rank_code import class_bits, pack_ranks, row_classes, unpack_ranks
from distill.models.teachers.recorded.shards import Kept, counts_of

__all__ = ["SampledCodec", "TopKCodec"]

_LEVELS, _SCALE = 64, 4.0
_LEAST = 1e-7
"""What is left of 1 in float32 is not known to more digits."""
_NOWHERE = -1e4
"""The logit of a token that was not drawn: softmax makes 0 of it, and no product of it is NaN."""


class _Sparse(Codec):
    """Of each position a few tokens; :attr:`_base` has the others."""

    lazy = True
    _base: Tensor

    def to(self, device: torch.device | str) -> None:
        self._base = self._base.to(device)

    def _signals(self, found: tuple[Tensor, Tensor, Tensor], batch: Batch, request: Request) -> Signals:
        ids, values, rest = (one.to(self._base.device, non_blocking=True) for one in found)
        sparse = SparseLogits(ids, values, rest, self._base)
        if request.lazy:
            return Signals(sparse_logits=sparse)
        return Signals(at_positions(sparse.block(slice(0, len(sparse))), batch))


class TopKCodec(_Sparse):
    """The k most likely tokens, and the mass of all others.

    What comes of it is a whole distribution: p_i of the tokens kept, and of the others the tail's mass spread as they
    are in the training data, tail * u_j / (sum of u over the others). So every loss on logits can read it.

    A token's log-probability is kept as a level of 64 (1 - exp(-g / 4)), g being how far it lies below the most likely
    one's: steps of 1/16 nat at the top, and e times as wide every 4 nats. Which tokens they are is coded by
    :mod:`~distill.models.teachers.recorded.rank_code`. The tail's mass is exact to 0.4 %, and the sum of all to 1.

    Args:
        k: How many tokens.
        unigram: log u, ``[V]``: how likely each token is in the training data.
    """

    kind = "topk"

    def __init__(self, k: int, unigram: Tensor) -> None:
        self.k, self._base = k, unigram.float()
        order = self._base.cpu().argsort(descending=True, stable=True)
        self._tokens = order.numpy()
        self._ranks = np.empty(len(order), np.int64)
        self._ranks[self._tokens] = np.arange(len(order))
        self._bits = class_bits(len(order))

    @property
    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "k": self.k}

    @property
    def common(self) -> Kept:
        return {"unigram": self._base.cpu()}

    @classmethod
    def read(cls, settings: Mapping[str, Any], common: Kept) -> Self:
        return cls(int(settings["k"]), common["unigram"])

    def encode(self, signals: Signals, batch: Batch) -> Kept:
        value_NK, id_NK, tail_N = _most_likely(signals, batch, self.k)
        below = (value_NK[:, :1] - value_NK).double().numpy()
        levels = np.rint(_LEVELS * -np.expm1(-below / _SCALE)).astype(np.int64).clip(0, _LEVELS - 1)
        _, marked, packed, bits = pack_ranks(levels, self._ranks[id_NK.numpy()], _LEVELS, self._bits)
        lengths = row_classes(packed, self.k, self._bits).sum(1)
        rows, parts = counts_of(batch, len(levels)), []
        ends = np.cumsum([0, *(int(part.sum()) for part in np.split(lengths, np.cumsum(rows)[:-1]))])
        for first, last in pairwise(ends.tolist()):  # of each sample in bytes of its own
            parts.append(np.packbits(bits[first:last].astype(np.uint8)))
        return {
            "levels": torch.from_numpy(marked),
            "classes": torch.from_numpy(packed),
            "tail": tail_N.clamp(min=-30).to(torch.float16),
            "stream": torch.from_numpy(np.concatenate(parts)),
        }

    def split(self, rows: Kept, counts: list[int]) -> list[Kept]:
        lengths = torch.from_numpy(row_classes(rows["classes"].numpy(), self.k, self._bits).sum(1))
        parts = super().split({name: rows[name] for name in ("levels", "classes", "tail")}, counts)
        sizes = [-(-int(part.sum()) // 8) for part in torch.split(lengths, counts)]
        streams = torch.split(rows["stream"], sizes)
        return [part | {"stream": stream} for part, stream in zip(parts, streams, strict=True)]

    def decode(self, rows: Kept, counts: list[int], batch: Batch, request: Request) -> Signals:
        packed = rows["classes"].numpy()
        lengths = row_classes(packed, self.k, self._bits).sum(1)
        starts, done = [], 0
        for part in np.split(lengths, np.cumsum(counts)[:-1]):
            starts.append(8 * done + np.cumsum(part) - part)
            done += -(-int(part.sum()) // 8)
        levels, ranks = unpack_ranks(
            rows["levels"].numpy(),
            packed,
            rows["stream"].numpy(),
            np.concatenate(starts),
            self.k,
            _LEVELS,
            self._bits,
        )
        ids = torch.from_numpy(self._tokens[ranks])
        logits = torch.from_numpy(_SCALE * np.log1p(-levels / _LEVELS))
        tail = rows["tail"].double().clamp(max=-1e-6)
        values = logits.log_softmax(-1) + torch.log(-torch.expm1(tail))[:, None]
        others = (-self._base.cpu().double()[ids].exp().sum(1)).log1p()
        return self._signals((ids, values.float(), (tail - others).float()), batch, request)


def _most_likely(signals: Signals, batch: Batch, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each position that counts, on the host: log-probabilities and ids of the k most likely tokens, the likeliest
    first, ``[N, K]``, and the log of the mass of all others, ``[N]``.
    """
    sparse = signals.sparse_logits
    if sparse is not None and (found := _of_listed(sparse, k)) is not None:
        return found
    parts, done = [], 0
    for logits_nV in LogitRows(signals, batch.mask).blocks():
        logp_nV = logits_nV.log_softmax(-1)
        first_nV = logp_nV
        if sparse is not None:  # what is listed comes before all others, which are a guess
            listed_nM = sparse.ids[done : done + len(logp_nV)]
            first_nV = (logp_nV + _NOWHERE).scatter_(1, listed_nM, logp_nV.gather(1, listed_nM))
        value_nK, order = logp_nV.gather(1, chosen_nK := first_nV.topk(k).indices).sort(1, descending=True)
        id_nK = chosen_nK.gather(1, order)
        rest_nV = logp_nV.scatter(1, id_nK, -torch.inf)  # not 1 less the others, which has no digits left
        parts.append((value_nK.cpu(), id_nK.cpu(), rest_nV.logsumexp(-1).cpu()))
        done += len(logp_nV)
    values, ids, tails = (torch.cat(part) for part in zip(*parts, strict=True))
    return values, ids, tails


def _of_listed(sparse: SparseLogits, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """The same, where the values are log-probabilities of at least k tokens of every position; else ``None``.

    So no row over the vocabulary is made, which would take longer than a server does.
    """
    ids_NM, values_NM = sparse.ids.cpu(), sparse.values.cpu()
    again_NM = torch.zeros_like(ids_NM, dtype=torch.bool)
    again_NM[:, 1:] = ids_NM[:, 1:] == ids_NM[:, :1]
    if bool(((~again_NM).sum(1) < k).any()):
        return None
    value_NK, place_NK = values_NM.masked_fill(again_NM, -torch.inf).topk(k)
    tail_N = (1 - value_NK.double().exp().sum(1)).clamp(min=_LEAST)
    return value_NK, ids_NM.gather(1, place_NK), tail_N.log().float()


class SampledCodec(_Sparse):
    """Tokens drawn from the teacher's distribution, with replacement; each weighs as often as it was drawn.

    The mean over draws of count / n is the teacher's probability. So what is linear in the teacher's distribution, as
    the gradient of the forward KL divergence at temperature 1, has no bias (Anshumann et al.: Sparse Logit Sampling:
    Accelerating Knowledge Distillation in LLMs, 2025); the k most likely tokens alone have one.

    Draws are a function of the seed and the sample.

    Args:
        draws: n, of each position.
        width: V, the number of logits.
        seed: Of the draws.
    """

    kind = "sampled"
    sampled = True

    def __init__(self, draws: int, width: int, seed: int) -> None:
        self.draws, self.width, self.seed = draws, width, seed
        self._bytes = 2 if width <= 2**16 else 3
        self._base = torch.full((width,), _NOWHERE)

    @property
    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "draws": self.draws, "width": self.width, "seed": self.seed}

    @classmethod
    def read(cls, settings: Mapping[str, Any], common: Kept) -> Self:
        return cls(*(int(settings[name]) for name in ("draws", "width", "seed")))

    def encode(self, signals: Signals, batch: Batch) -> Kept:
        assert batch.ids is not None
        logits = LogitRows(signals, batch.mask)
        rows = zip(batch.ids, counts_of(batch, len(logits)), strict=True)
        uniform = [np.random.Generator(np.random.Philox(key=[self.seed, i])).random((n, self.draws)) for i, n in rows]
        uniform_ND, drawn, done = torch.from_numpy(np.concatenate(uniform)), [], 0
        for logits_nV in logits.blocks():
            sums_nV = logits_nV.softmax(-1).double().cumsum(-1)
            at_nD = uniform_ND[done : done + len(sums_nV)].to(sums_nV.device) * sums_nV[:, -1:]
            drawn.append(torch.searchsorted(sums_nV, at_nD, right=True).clamp(max=self.width - 1).cpu())
            done += len(sums_nV)
        shifts = 8 * torch.arange(self._bytes)
        ids_ND = torch.cat(drawn).sort(1).values
        return {"ids": ((ids_ND[..., None] >> shifts) & 255).to(torch.uint8)}

    def decode(self, rows: Kept, counts: list[int], batch: Batch, request: Request) -> Signals:
        ids_ND = (rows["ids"].long() << (8 * torch.arange(self._bytes))).sum(2)
        counts_ND = (ids_ND[:, :, None] == ids_ND[:, None, :]).sum(2)
        values = (counts_ND / self.draws).log()
        return self._signals((ids_ND, values, torch.zeros(len(ids_ND))), batch, request)
