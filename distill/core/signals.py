"""What travels between data, models and losses: a batch, a request for signals, and the signals.

A loss declares with a :class:`Request` what it reads of the student and of the teacher. The union of the
requests is what the forward pass computes and keeps; nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor

from distill.core.digests import input_digests
from distill.core.lazy_logits import LazyLogits
from distill.core.sparse_logits import SparseLogits
from distill.core.stacks import Stack
from distill.core.utils.errors import UserError

__all__ = [
    "DECODER_INPUT",
    "IGNORE",
    "ROUTE",
    "TEACHER_AT",
    "TEACHER_PATH",
    "Batch",
    "Needs",
    "OutputKind",
    "Positions",
    "Request",
    "Signals",
    "tokens_within",
]

IGNORE = -100
"""Label of a position that does not count, as everywhere in torch and transformers."""

DECODER_INPUT = "decoder_input_ids"
"""Of a batch's inputs: what a decoder reads beside the text that its encoder reads, ``[B, T]``."""

TEACHER_AT = "teacher_at"
"""Of a batch's extras: which position of a teacher that reads other tokens belongs to each of the student's,
``[B, T]``; -1 where none does."""

TEACHER_PATH = "teacher_path"
"""Of a batch's extras, where the two models' tokenizers differ: what the student has read since the teacher's position,
``[B, T]``, by the node of :class:`~distill.core.token_paths.TokenPaths`; 0 where both have read the same bytes."""

ROUTE = "route"
"""Of a batch's extras: which of several teachers each row is for, ``[B]``, by the number of its name among those that
the data has."""

OutputKind = Literal["any", "classes", "labels", "vectors", "positions"]
"""What the C outputs of a head are: the alternatives of one softmax (``classes``), each a yes or no of its own
(``labels``), or together a vector, whose width is the model's own (``vectors``); the alternatives of a softmax over the
positions of a sample, as many as it has tokens (``positions``, :mod:`distill.core.candidates`); ``any`` where that is
not known, or makes no difference."""

_QUICK = 2**20
"""Numbers of a batch whose digest is quickly made on the host; of images it is left to the device."""


@dataclass(frozen=True)
class Request:
    """The signals that a forward pass must yield.

    Attributes:
        logits: The head's output.
        lazy: Whether the logits may come as :attr:`Signals.lazy_logits`, uncomputed, where the model can give them so.
        hidden_states: Layers whose output is kept. 0 is the embedding output and k the output of
            layer k; negative numbers count from the end. See trap: ``hidden_states[k]`` is layer k.
        attentions: Layers (1 is the first; negative from the end) whose attention maps are kept.
        projections: Layers (likewise) whose self-attention queries, keys and values are kept.
        taps: Names of modules, as in ``named_modules()``, whose output is kept.
        decoder: Of an encoder-decoder, whose encoder's layers are meant in all of these, likewise of its decoder's.
    """

    logits: bool = False
    hidden_states: frozenset[int] = frozenset()
    attentions: frozenset[int] = frozenset()
    projections: frozenset[int] = frozenset()
    taps: frozenset[str] = frozenset()
    lazy: bool = False
    decoder: Request | None = None

    def __post_init__(self) -> None:
        for name in ("hidden_states", "attentions", "projections", "taps"):
            given: Any = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Collection):
                hint = f"put it in braces: {{{given!r}}}"
                raise UserError("must be a set", key=f"Request.{name}", value=given, hint=hint)
            object.__setattr__(self, name, frozenset(given))

    def __or__(self, other: Request) -> Request:
        return Request(
            logits=self.logits or other.logits,
            hidden_states=self.hidden_states | other.hidden_states,
            attentions=self.attentions | other.attentions,
            projections=self.projections | other.projections,
            taps=self.taps | other.taps,
            lazy=self.lazy and other.lazy,
            decoder=self.decoder if other.decoder is None else other.decoder | (self.decoder or Request()),
        )

    def of(self, stack: Stack | None) -> Request:
        """The same layers of the decoder, where ``stack`` says so."""
        if stack != "decoder":
            return self
        layers = replace(self, logits=False, lazy=False, taps=frozenset())
        none = frozenset[int]()
        return replace(self, hidden_states=none, attentions=none, projections=none, decoder=layers)

    def __bool__(self) -> bool:
        return self != Request()


@dataclass(frozen=True)
class Needs:
    """What a loss reads of each of the two models."""

    student: Request = field(default_factory=Request)
    teacher: Request = field(default_factory=Request)

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.student | other.student, self.teacher | other.teacher)

    def of(self, stack: Stack | None) -> Needs:
        """As :meth:`Request.of`, of both."""
        return Needs(self.student.of(stack), self.teacher.of(stack))


@dataclass(frozen=True)
class Signals:
    """What one forward pass yielded; only what was requested is there.

    Attributes:
        logits: ``[B, C]`` for one prediction a sample, ``[B, T, C]`` for one a position, ``[B, K, T]`` for K positions.
        hidden_states: Layer -> ``[B, T, H]``, by the numbers of the request.
        attentions: Layer -> ``[B, heads, T, T]``, after the softmax, by the numbers of the request.
        projections: Layer -> (queries, keys, values), each ``[B, heads, T, H / heads]``.
        taps: Module name -> its output.
        lazy_logits: Instead of the logits, where :attr:`Request.lazy` allowed it.
        sparse_logits: Likewise, of a recorded teacher: of the positions that count alone.
        decoder: Of an encoder-decoder, what was kept of the decoder's layers (:attr:`Request.decoder`).
    """

    logits: Tensor | None = None
    hidden_states: Mapping[int, Tensor] = field(default_factory=dict)
    attentions: Mapping[int, Tensor] = field(default_factory=dict)
    projections: Mapping[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    lazy_logits: LazyLogits | None = None
    sparse_logits: SparseLogits | None = None
    decoder: Signals | None = None

    def of(self, stack: Stack | None) -> Signals:
        """The same with the layers of the decoder, where ``stack`` says so."""
        if stack != "decoder" or self.decoder is None:
            return self
        of = self.decoder
        return replace(self, hidden_states=of.hidden_states, attentions=of.attentions, projections=of.projections)

    @property
    def width(self) -> int | None:
        """The logits of a position, lazy or not; ``None`` without."""
        if self.lazy_logits is not None:
            return self.lazy_logits.width
        if self.sparse_logits is not None:
            return self.sparse_logits.width
        return None if self.logits is None else self.logits.shape[-1]

    def at(self, mask: Tensor | None) -> Tensor:
        """The logits of the positions that count, ``[N, C]``.

        Args:
            mask: Boolean, the shape of the logits without their last axis; ``None`` keeps all.
        """
        if self.logits is None:
            raise RuntimeError(
                "logits were not requested of this forward pass: Request(logits=True) in the loss's needs"
            )
        flat = self.logits.flatten(0, -2)
        return flat if mask is None else flat[mask.flatten()]

    def repeated(self, times: int) -> Signals:
        """The logits alone, every sample ``times`` over."""
        return Signals(None if self.logits is None else torch.cat([self.logits] * times))


Positions = Tensor | tuple[Tensor, ...] | None
"""Which positions hold a token, boolean ``[B, T]``; of two texts both, of different lengths; ``None``: all do."""


def tokens_within(x: Tensor, tokens: Positions) -> Tensor | None:
    """Which positions of a layer's input hold a token, as statistics of all layers leave padding out alike.

    Args:
        x: ``[B, T, features]``, or ``[B T, features]``.
        tokens: Of the batch (:attr:`Batch.positions`).

    Returns:
        Boolean, of the shape of ``x`` without its last axis; ``None`` where all positions count: where there is no
        padding, or they are none of a sequence, as an image's or a sample's one pooled vector.
    """
    if tokens is None or x.dim() < 2:
        return None
    if isinstance(tokens, tuple):
        return next((found for one in tokens if (found := tokens_within(x, one)) is not None), None)
    if tokens.shape == x.shape[:-1]:
        return tokens
    return tokens.flatten() if x.shape[:-1] == (tokens.numel(),) else None


@dataclass
class Batch:
    """One batch as every loss sees it, whatever the task.

    Attributes:
        inputs: The keyword arguments of both models, or ``{"input": x}`` for plain modules. Never the
            labels: a model that is given labels computes a loss of its own.
        labels: Aligned with the logits without their last axis (a causal language model's are already
            shifted): ``[B]`` or ``[B, T]``, integers with :data:`IGNORE`, or floats for regression with
            NaN where a sample has no label.
            ``None`` where the data has none.
        mask: Which predictions count, boolean, ``[B]`` or ``[B, T]``; ``None`` when all do. The *one*
            mask of cross entropy and KL alike.
        tokens: Which positions hold a real token, boolean ``[B, T]``; ``None`` when all do or when
            the samples are no sequences.
        ids: The samples' ids in the training data, on the host; ``None`` where they have none.
        extras: What a task's metrics need besides, by name (the bytes that each label covers, say).
        step: Optimizer steps done so far.
        total_steps: Optimizer steps of the whole run, for schedules given in fractions.
        decoder_tokens: As ``tokens``, of what a decoder reads (:data:`DECODER_INPUT`) where an encoder reads another
            text; it has another length. ``None`` without one.
        on_host: The batch that this one was copied from, for what would otherwise wait for the device.
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None = None
    mask: Tensor | None = None
    tokens: Tensor | None = None
    ids: list[int] | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    total_steps: int = 1
    decoder_tokens: Tensor | None = None
    on_host: Batch | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """The number of samples, B."""
        return len(next(iter(self.inputs.values())))

    @property
    def positions(self) -> Positions:
        """Which positions hold a token, of all texts that a model reads of a sample."""
        if self.tokens is None or self.decoder_tokens is None:
            return self.tokens
        return self.tokens, self.decoder_tokens

    def of(self, stack: Stack | None) -> Batch:
        """The same as layers of the decoder have its positions, where ``stack`` says so."""
        return self if stack != "decoder" else replace(self, tokens=self.decoder_tokens)

    @cached_property
    def count(self) -> Tensor:
        """The number of predictions that count, a scalar: the batch's share in the global mean."""
        if self.mask is not None:
            return self.mask.sum()
        reference = next(iter(self.inputs.values())) if self.labels is None else self.labels
        return torch.tensor(self.size if self.labels is None else reference.numel(), device=reference.device)

    def token_weights(self, like: Tensor) -> Tensor:
        """Weights ``[B, T]`` for losses over hidden states ``like`` ``[B, T, H]``; they add up to :attr:`count`.

        A sample's tokens share its number of predictions equally, w[b, t] = n_b / T_b on real tokens and
        0 on padding. So a sample's contribution depends on nothing but the sample, and the gradient of a
        large batch is exactly that of the same samples in several small ones.
        """
        shape = like.shape[:2]
        tokens = torch.ones(shape, dtype=torch.bool, device=like.device) if self.tokens is None else self.tokens
        if self.mask is None:
            units = torch.ones(shape[:1], dtype=torch.float32, device=like.device)  # also where bf16 is the default
            if self.labels is not None and self.labels.dim() > 1:
                units = units * self.labels.shape[1]
        else:
            units = self.mask.float().reshape(shape[0], -1).sum(1)
        lengths = tokens.sum(1).clamp(min=1)
        return tokens * (units / lengths)[:, None]

    @property
    def input_digests(self) -> Tensor:
        """A digest of each sample's inputs, ``[B]``: equal for equal inputs, whatever the padding."""
        small = self.on_host is not None and sum(t.numel() for t in self.on_host.inputs.values()) <= _QUICK
        batch = self.on_host if self.on_host is not None and small else self
        others = () if batch.decoder_tokens is None else (batch.decoder_tokens,)
        return input_digests(batch.inputs, batch.tokens, others)

    def at(self, step: int, total_steps: int) -> Batch:
        """The same batch at a step of the run."""
        return replace(self, step=step, total_steps=total_steps)

    def rows(self, rows: list[int]) -> Batch:
        """Some of its samples, with their ids."""
        index = torch.tensor(rows, device=next(iter(self.inputs.values())).device)
        ids = None if self.ids is None else [self.ids[row] for row in rows]
        return replace(self._map_rows(lambda tensor: tensor.index_select(0, index)), ids=ids, on_host=None)

    def first(self, count: int) -> Batch:
        """The first ``count`` of its samples."""
        return replace(self._map_rows(lambda tensor: tensor[:count]), ids=None, on_host=None)

    def parts(self, size: int) -> Iterator[Batch]:
        """Its samples, ``size`` at a time."""
        for start in range(0, self.size, size):
            yield replace(self._map_rows(itemgetter(slice(start, start + size))), ids=None, on_host=None)

    def repeated(self, times: int) -> Batch:
        """Its samples ``times`` over."""
        return replace(self._map_rows(lambda tensor: torch.cat([tensor] * times)), ids=None, on_host=None)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch on a device (called by Lightning)."""
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        return moved if torch.device(device).type == "cpu" else replace(moved, on_host=self)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by ``DataLoader(pin_memory=True)``)."""
        return self._map(Tensor.pin_memory)

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Of a number that is the whole batch's, nothing changes."""
        return self._map(lambda tensor: change(tensor) if tensor.dim() else tensor)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            inputs={name: change(tensor) for name, tensor in self.inputs.items()},
            labels=None if self.labels is None else change(self.labels),
            mask=None if self.mask is None else change(self.mask),
            tokens=None if self.tokens is None else change(self.tokens),
            decoder_tokens=None if self.decoder_tokens is None else change(self.decoder_tokens),
            extras={name: change(tensor) for name, tensor in self.extras.items()},
        )
