"""KL divergence over the tokens that two tokenizers share."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import log_softmax

from distill.core.schedules import Schedule
from distill.core.token_bytes import token_bytes
from distill.core.token_paths import TokenPaths, token_paths
from distill.core.utils.errors import UserError
from distill.losses.across import AcrossTokenizers

__all__ = ["SharedTokens", "SharedVocabularyKL", "Within", "of_spellings", "shared_tokens", "shared_vocabulary_kl"]


class Within(NamedTuple):
    """How the teacher's tokens go on where the student has read a part of one.

    Attributes:
        offsets: Where the rows below begin of each node of :class:`TokenPaths`, ``[nodes + 1]``; of node 0 there are
            none.
        teacher: The tokens of the teacher that go on from there, M in all.
        events: For which of the K tokens of the student each then counts, ``[M]``.
    """

    offsets: Tensor
    teacher: Tensor
    events: Tensor


class SharedTokens(NamedTuple):
    """What the tokens of two tokenizers have in common.

    Attributes:
        student: Ids of the K tokens of the student that are compared one by one.
        events: Of each token of the teacher, ``[V]``, which of these it counts for; K for none.
        within: What is known within a token; ``None`` where nothing is compared there.
    """

    student: Tensor
    events: Tensor
    within: Within | None = None


def shared_tokens(student: Any, teacher: Any, *, beginnings: bool = True) -> SharedTokens:
    """Find the tokens of equal bytes, and the two ends of text, which are one event.

    Args:
        student: Its tokenizer, of transformers.
        teacher: Likewise.
        beginnings: Whether another token of the teacher counts for the one that the student's tokenizer begins it with
            (`` government`` for `` go``), and within it for those that follow.
    """
    paths = token_paths(student, teacher)
    return of_spellings(paths) if beginnings else _equal(student, teacher, paths)


def of_spellings(paths: TokenPaths) -> SharedTokens:
    """Each of the teacher's tokens counts for the first of those that spell it, and within it for the others."""
    ids = sorted({token for spelling in paths.spellings for token in spelling})
    place = {number: at for at, number in enumerate(ids)}
    events = [place[spelling[0]] if spelling else len(ids) for spelling in paths.spellings]
    rows = sorted((node, token, place[following]) for node, token, following in paths.within())
    nodes, tokens, follow = torch.tensor(rows, dtype=torch.long).view(-1, 3).t().contiguous()
    offsets = torch.searchsorted(nodes, torch.arange(len(paths.steps) + 2))
    return SharedTokens(torch.tensor(ids), torch.tensor(events), Within(offsets, tokens, follow))


def _equal(student: Any, teacher: Any, paths: TokenPaths) -> SharedTokens:
    ours, theirs = token_bytes(student), token_bytes(teacher, "data.teacher_tokenizer")
    ends = teacher.eos_token_id
    found = {
        number: spelling[0]
        for number, spelling in enumerate(paths.spellings)
        if spelling and (number == ends or ours[spelling[0]] == theirs[number])
    }
    ids = sorted(set(found.values()))
    place = {number: at for at, number in enumerate(ids)}
    events = [place[found[number]] if number in found else len(ids) for number in range(len(paths.spellings))]
    return SharedTokens(torch.tensor(ids), torch.tensor(events))


def shared_vocabulary_kl(
    student_NC: Tensor,
    teacher_NV: Tensor,
    tokens: SharedTokens,
    rest_C: Tensor,
    temperature: float = 1.0,
    path_N: Tensor | None = None,
) -> Tensor:
    """Sum over positions of T^2 * (sum over k of P_k log(P_k / Q_k) + P_rest log(P_rest / Q_rest)).

    P_k is the sum of softmax(teacher / T) over the teacher's tokens that count for the k-th shared one, Q_k that one's
    softmax(student / T), and P_rest and Q_rest what is left of 1. Where the student has no other tokens there is no
    rest, and the teacher's is shared out among the P_k.

    Where the student has read a part of what may be a token of the teacher's, the P_k are of the tokens that go on
    from there, by the student's token that each goes on with, and add up to 1.

    Args:
        student_NC: Logits ``[N, C]``, in float32 or better.
        teacher_NV: Logits ``[N, V]``; ids beyond ``tokens.events`` (a padded head) are of the rest.
        tokens: What is shared, on the device.
        rest_C: Ids of the student's other tokens.
        temperature: T > 0.
        path_N: The node of each position (:class:`TokenPaths`); ``None`` for 0.

    Returns:
        A scalar; 0 with a zero gradient for N = 0.
    """
    shared, width = len(tokens.student), teacher_NV.shape[-1]
    events = F.pad(tokens.events[:width], (0, max(0, width - len(tokens.events))), value=shared)
    p = (teacher_NV / temperature).softmax(-1)
    target = p.new_zeros(len(p), shared + 1).index_add_(1, events, p)
    log_q = log_softmax(student_NC / temperature, dim=-1)
    logp = log_q.index_select(-1, tokens.student)
    if len(rest_C):
        logp = torch.cat([logp, log_q.index_select(-1, rest_C).logsumexp(-1, keepdim=True)], -1)
    else:
        target = target[:, :shared]
        target = target / target.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
    if path_N is not None and tokens.within is not None:
        inside = path_N.nonzero().flatten()
        target[inside] = _going_on(p, inside, path_N[inside], tokens.within, target.shape[-1])
    return temperature**2 * (torch.xlogy(target, target).sum() - (target * logp).sum())


def _going_on(p_NV: Tensor, rows: Tensor, nodes: Tensor, within: Within, events: int) -> Tensor:
    """Of some rows of the teacher's probabilities those of what follows each one's node, ``[rows, events]``."""
    begin = within.offsets[nodes]
    sizes = within.offsets[nodes + 1] - begin
    row = torch.arange(len(rows), device=rows.device).repeat_interleave(sizes)
    entry = torch.arange(len(row), device=rows.device) - (sizes.cumsum(0) - sizes)[row] + begin[row]
    token, width = within.teacher[entry], p_NV.shape[-1]
    mass = torch.where(token < width, p_NV[rows[row], token.clamp(max=width - 1)], 0)
    found = p_NV.new_zeros(len(rows) * events).index_add_(0, row * events + within.events[entry], mass)
    found = found.view(len(rows), events)
    return found / found.sum(-1, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny)


class SharedVocabularyKL(AcrossTokenizers):
    """T^2 * KL(teacher || student) over the tokens of both tokenizers, where both have read the same bytes, and within.

    Tokens of equal bytes are compared one by one, the two ends of text are one event, and what is left of either
    distribution is one bucket. A token of equal text is the same event only up to tokenization: that the student goes
    on with ``in`` says that no longer token of its own follows, and the same of the teacher is said of other tokens.

    Where the student's tokenizer cuts a token of the teacher's in several, the teacher teaches each of them: the first
    by all tokens that begin so, and another by those of them that also have what was read since.

    Args:
        beginnings: Whether the teacher's other tokens count for the tokens that the student's tokenizer spells them
            with. Without it all of their probability is in the bucket, the student is told to give as much to
            tokens that the teacher does not have, and within a token nothing is compared.
        temperature: T > 0, or a schedule of it.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if the temperature is not greater than 0, there is no teacher, or the tokenizers share no token.
    """

    row_wise: ClassVar[bool] = True

    def __init__(
        self,
        beginnings: bool = True,
        temperature: float | Schedule = 1.0,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(temperature, weight, name)
        self.beginnings = self.within = beginnings
        self._tokens: SharedTokens | None = None
        self._ready: tuple[int, SharedTokens, Tensor] | None = None

    def meet_tokenizers(self, student: Any, teacher: Any) -> None:
        self._tokens, self._ready = shared_tokens(student, teacher, beginnings=self.beginnings), None
        alike = len(set(token_bytes(student)) & set(token_bytes(teacher)) - {b""})
        if not alike:
            problem = "the tokenizers of student and teacher share no token"
            raise UserError(problem, key=self.name, hint="use UniversalLogitDistillation")
        shared, events = len(self._tokens.student), self._tokens.events
        self.described = (
            f"{alike:,} of the student's {len(student):,} tokens are the teacher's too; "
            f"{int((events < shared).sum()):,} of the teacher's {len(events):,} count for one"
            + (", by how it spells them" if self.beginnings else "")
        )

    def compared(self, student_NC: Tensor, teacher_NV: Tensor, path_N: Tensor, temperature: float) -> Tensor:
        return shared_vocabulary_kl(student_NC, teacher_NV, *self._on(student_NC), temperature, path_N)

    def _on(self, student_NC: Tensor) -> tuple[SharedTokens, Tensor]:
        """What is shared and the student's other tokens, on the device of its logits."""
        assert self._tokens is not None
        width, device = student_NC.shape[-1], student_NC.device
        if self._ready is None or self._ready[0] != width or self._ready[2].device != device:
            rest = torch.from_numpy(np.setdiff1d(np.arange(width), self._tokens.student.numpy()))
            student, events, within = self._tokens
            within = None if within is None else Within(*(one.to(device) for one in within))
            tokens = SharedTokens(student.to(device), events.to(device), within)
            self._ready = width, tokens, rest.to(device)
        return self._ready[1:]
