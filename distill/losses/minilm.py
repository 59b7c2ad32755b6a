"""Relations between tokens, from queries, keys and values: MiniLM and MiniLMv2."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from distill.core.model_spec import ModelSpec
from distill.core.numerics import at_least_float32, full_precision
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Needs, Request, Signals
from distill.core.stacks import Stack
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum, check_stack
from distill.losses.features import visible_tokens

__all__ = ["RelationTransfer", "relation_kl", "resplit_heads"]

Projected = tuple[Tensor, Tensor]
"""Two projections ``[B, heads, T, size]`` whose products are the relation: (queries, keys), (values, values), ..."""


def relation_kl(student: Projected, teacher: Projected, weights_BT: Tensor, visible: Tensor) -> Tensor:
    """Sum over tokens of weight * mean over heads of KL(teacher's relation || student's relation).

    The relation of a, b is softmax(a b^T / sqrt(size)) over the visible tokens. Sizes of the two models may
    differ; the numbers of heads may not.

    Args:
        student: Two projections, each ``[B, heads, T, size]``; computed in float32 or better.
        teacher: Two projections, likewise; never written to.
        weights_BT: Weights ``[B, T]``, 0 on padding.
        visible: Which token (last axis) each token may relate to, boolean, broadcast to ``[B, heads, T, T]``.

    Returns:
        A scalar in at least float32; 0 with a zero gradient where all weights are 0.

    Reference:
        Wang et al.: MiniLM: Deep Self-Attention Distillation, NeurIPS 2020.
    """
    student_logp, teacher_logp = _log_relation(*student, visible), _log_relation(*teacher, visible)
    divergence_BAT = (teacher_logp.exp() * (teacher_logp - student_logp)).sum(-1)
    return (weights_BT * divergence_BAT.mean(1)).sum()


def _log_relation(a: Tensor, b: Tensor, visible: Tensor) -> Tensor:
    a, b = at_least_float32(a), at_least_float32(b)
    with full_precision(a):
        scores = (a * a.shape[-1] ** -0.5) @ b.transpose(-1, -2)
    # A finite stand-in for -inf: its probability is exactly 0, and rows without a visible token give no NaN.
    return log_softmax(scores.masked_fill(~visible, torch.finfo(scores.dtype).min / 4), dim=-1)


def resplit_heads(projection_BATD: Tensor, heads: int) -> Tensor:
    """``[B, A, T, D]`` as ``[B, heads, T, A * D / heads]``: the same features, cut into another number of heads."""
    joined_BTH = projection_BATD.transpose(1, 2).flatten(2)
    return joined_BTH.view(*joined_BTH.shape[:2], heads, -1).transpose(1, 2)


class RelationTransfer(DistillationLoss):
    """KL divergence of token-to-token relations in one layer of each model; works under any attention implementation.

    Version 1 (MiniLM) adds the attention distribution, softmax(Q K^T / sqrt(size)), and the relation of the
    values to each other; both models need the same number of heads. Version 2 (MiniLMv2) adds the relations of
    queries, keys and values to themselves, after cutting them into ``relation_heads`` heads, so the
    numbers of heads may differ. Relations are over the real tokens of a document; the attention distribution of
    decoders also over none but the past. Queries and keys are taken before any rotary embedding: for models with one,
    version 1's attention distribution is that of the contents alone.

    Args:
        version: 1 or 2.
        relation_heads: For version 2: number of heads of the relations; the teacher's number of heads if not given.
        student_layer: Layer of the student; 1 is the first, -1 the last.
        teacher_layer: Layer of the teacher. Of large teachers an upper-middle layer teaches better than the last.
        stack: Of encoder-decoders, ``encoder`` or ``decoder``: whose layers are compared.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if there is no teacher, no such layer, an architecture whose projections are not known, or the
            heads do not fit.

    Reference:
        Wang et al.: MiniLM, NeurIPS 2020; Wang et al.: MiniLMv2: Multi-Head Self-Attention Relation Distillation
        for Compressing Pretrained Transformers, Findings of ACL 2021.
    """

    def __init__(
        self,
        version: Literal[1, 2] = 2,
        relation_heads: int | None = None,
        student_layer: int = -1,
        teacher_layer: int = -1,
        stack: Stack | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        self.stack = check_stack(stack)
        if version not in (1, 2):
            raise UserError("must be 1 (MiniLM) or 2 (MiniLMv2)", key="version", value=version, hint="write 2")
        if relation_heads is not None and (version == 1 or relation_heads < 1):
            raise UserError(
                "must be 1 or more, and is for version 2",
                key="relation_heads",
                value=relation_heads,
                hint="leave it out",
            )
        self.version, self.relation_heads = version, relation_heads
        self.student_layer, self.teacher_layer = student_layer, teacher_layer
        self.heads = 0
        self.causal = False

    @property
    def needs(self) -> Needs:
        return Needs(
            student=Request(projections=frozenset({self.student_layer})),
            teacher=Request(projections=frozenset({self.teacher_layer})),
        )

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        teacher = self.require_teacher(teacher)
        causal = [
            model.is_causal(model.attention_layer(number, key), key)
            for model, number, key in (
                (student, self.student_layer, "student_layer"),
                (teacher, self.teacher_layer, "teacher_layer"),
            )
        ]
        self.causal = any(causal)
        heads, wanted = student.num_heads(self.student_layer), teacher.num_heads(self.teacher_layer)
        if self.version == 1 and heads != wanted:
            raise UserError(
                f"version 1 needs the teacher's number of heads, {wanted}",
                key=f"{student.key}.num_attention_heads",
                value=heads,
                hint="use version: 2",
            )
        self.heads = self.relation_heads or wanted
        for model, layer in ((student, self.student_layer), (teacher, self.teacher_layer)) if self.version == 2 else ():
            width = model.attention_width(layer)
            if width % self.heads:
                raise UserError(
                    f"must divide the width of the queries of {model.key}, {width}",
                    key="relation_heads",
                    value=self.heads,
                    hint="choose a common divisor of both models' widths",
                )

    def _split(self, projections: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        if self.version == 1:
            return projections
        q, k, v = projections
        return resplit_heads(q, self.heads), resplit_heads(k, self.heads), resplit_heads(v, self.heads)

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        q, k, v = self._split(student.projections[self.student_layer])
        q_, k_, v_ = self._split(teacher.projections[self.teacher_layer])
        tokens_BTA = q.transpose(1, 2)  # anything whose first two dimensions are B and T
        weights_BT = batch.token_weights(tokens_BTA)
        visible = visible_tokens(batch, tokens_BTA)
        total = relation_kl((v, v), (v_, v_), weights_BT, visible)
        if self.version == 2:
            total = total + relation_kl((q, q), (q_, q_), weights_BT, visible)
            total = total + relation_kl((k, k), (k_, k_), weights_BT, visible)
        else:
            length = visible.shape[-1]
            seen = visible.expand(-1, -1, length, -1).tril() if self.causal else visible
            total = total + relation_kl((q, k), (q_, k_), weights_BT, seen)
        return LossSum(total, batch.count)
