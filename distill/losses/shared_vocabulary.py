"""KL divergence over the tokens that two tokenizers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import log_softmax

from distill.core.schedules import Schedule
from distill.core.token_bytes import token_bytes
from distill.core.utils.errors import UserError
from distill.losses.across import AcrossTokenizers

__all__ = ["SharedTokens", "SharedVocabularyKL", "shared_tokens", "shared_vocabulary_kl"]


class SharedTokens(NamedTuple):
    """What the tokens of two tokenizers have in common.

    Attributes:
        student: Ids of the K tokens of the student that are compared one by one.
        events: Of each token of the teacher, ``[V]``, which of these it counts for; K for none.
    """

    student: Tensor
    events: Tensor


def shared_tokens(student: Any, teacher: Any, *, beginnings: bool = True) -> SharedTokens:
    """Find the tokens of equal bytes, and the two ends of text, which are one event.

    Args:
        student: Its tokenizer, of transformers.
        teacher: Likewise.
        beginnings: Whether another token of the teacher counts for the one that the student's tokenizer begins it with
            (`` government`` for `` go``): a text that begins with the first begins with the second.
    """
    ours, theirs = token_bytes(student), token_bytes(teacher, "data.teacher_tokenizer")
    by_bytes = _by_bytes(student, ours)
    special = _special(teacher)
    found = {number: by_bytes[text] for number, text in enumerate(theirs) if text in by_bytes}
    if beginnings:
        others = [n for n, text in enumerate(theirs) if text and n not in found and n not in special]
        found |= _beginnings(student, ours, by_bytes, {n: theirs[n] for n in others})
    found[teacher.eos_token_id] = student.eos_token_id
    ids = sorted(set(found.values()))
    place = {number: at for at, number in enumerate(ids)}
    events = [place[found[number]] if number in found else len(ids) for number in range(len(theirs))]
    return SharedTokens(torch.tensor(ids), torch.tensor(events))


def _by_bytes(tokenizer: Any, table: Sequence[bytes]) -> dict[bytes, int]:
    """Bytes -> the token that stands for them; of several one that is no single byte's makeshift."""
    names = tokenizer.convert_ids_to_tokens(range(len(table)))
    makeshift = [number for number, name in enumerate(names) if str(name).startswith("<0x")]
    others = sorted(set(range(len(table))) - set(makeshift), reverse=True)
    return {table[number]: number for number in [*makeshift, *others] if table[number]}


def _special(tokenizer: Any) -> set[int]:
    return {n for n, token in tokenizer.added_tokens_decoder.items() if token.special} | set(tokenizer.all_special_ids)


def _beginnings(
    tokenizer: Any, table: Sequence[bytes], by_bytes: dict[bytes, int], tokens: dict[int, bytes]
) -> dict[int, int]:
    """Which token begins the bytes of each of ``tokens``, where one does."""
    texts = {number: text for number, data in tokens.items() if (text := _text(data)) is not None}
    first: dict[int, int] = {}
    for space in ("", " "):  # which SentencePiece puts before each text
        left = {n: text.removeprefix(space) for n, text in texts.items() if n not in first and text.startswith(space)}
        encoded = tokenizer(list(left.values()), add_special_tokens=False, verbose=False)["input_ids"] if left else []
        for number, ids in zip(left, encoded, strict=True):
            if ids and b"".join(table[i] for i in ids) == tokens[number]:
                first[number] = ids[0]
    found = {}
    for number, data in tokens.items():
        begin = first.get(number)
        if begin is None:  # a part of a character, or within a word of SentencePiece
            begin = next((by_bytes[data[:n]] for n in range(len(data), 0, -1) if data[:n] in by_bytes), None)
        if begin is not None:
            found[number] = begin
    return found


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def shared_vocabulary_kl(
    student_NC: Tensor, teacher_NV: Tensor, tokens: SharedTokens, rest_C: Tensor, temperature: float = 1.0
) -> Tensor:
    """Sum over positions of T^2 * (sum over k of P_k log(P_k / Q_k) + P_rest log(P_rest / Q_rest)).

    P_k is the sum of softmax(teacher / T) over the teacher's tokens that count for the k-th shared one, Q_k that one's
    softmax(student / T), and P_rest and Q_rest what is left of 1. Where the student has no other tokens there is no
    rest, and the teacher's is shared out among the P_k.

    Args:
        student_NC: Logits ``[N, C]``, in float32 or better.
        teacher_NV: Logits ``[N, V]``; ids beyond ``tokens.events`` (a padded head) are of the rest.
        tokens: What is shared, on the device.
        rest_C: Ids of the student's other tokens.
        temperature: T > 0.

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
    return temperature**2 * (torch.xlogy(target, target).sum() - (target * logp).sum())


class SharedVocabularyKL(AcrossTokenizers):
    """T^2 * KL(teacher || student) over the tokens of both tokenizers, at positions that have read the same bytes.

    Tokens of equal bytes are compared one by one, the two ends of text are one event, and what is left of either
    distribution is one bucket. A token of equal text is the same event only up to tokenization: that the student goes
    on with ``in`` says that no longer token of its own follows, and the same of the teacher is said of other tokens.

    Args:
        beginnings: Whether the teacher's other tokens count for the token that the student's tokenizer begins them
            with. Without it all of their probability is in the bucket, and the student is told to give as much to
            tokens that the teacher does not have.
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
        self.beginnings = beginnings
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
            + (", by what they begin with" if self.beginnings else "")
        )

    def compared(self, student_NC: Tensor, teacher_NV: Tensor, temperature: float) -> Tensor:
        return shared_vocabulary_kl(student_NC, teacher_NV, *self._on(student_NC), temperature)

    def _on(self, student_NC: Tensor) -> tuple[SharedTokens, Tensor]:
        """What is shared and the student's other tokens, on the device of its logits."""
        assert self._tokens is not None
        width, device = student_NC.shape[-1], student_NC.device
        if self._ready is None or self._ready[0] != width or self._ready[2].device != device:
            rest = torch.from_numpy(np.setdiff1d(np.arange(width), self._tokens.student.numpy()))
            tokens = SharedTokens(*(one.to(device) for one in self._tokens))
            self._ready = width, tokens, rest.to(device)
        return self._ready[1:]
