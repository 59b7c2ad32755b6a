"""Attention maps of the student follow the teacher's."""

from __future__ import annotations

from torch import Tensor

from distill.core.model_spec import ModelSpec
from distill.core.numerics import at_least_float32
from distill.core.schedules import Schedule
from distill.core.signals import Batch, Needs, Request, Signals
from distill.core.stacks import Stack
from distill.core.utils.errors import UserError
from distill.losses.base import DistillationLoss, LossSum, check_stack
from distill.losses.features import real_tokens
from distill.losses.layer_map import LayerMap, check_layers, layer_pairs

__all__ = ["AttentionTransfer", "attention_mse"]


def attention_mse(student_BATT: Tensor, teacher_BATT: Tensor, weights_BT: Tensor, tokens_BT: Tensor) -> Tensor:
    """Sum over samples of n * mean over heads, real queries and real keys of (student - teacher)^2.

    Args:
        student_BATT: Attention maps ``[B, heads, T, T]``, after the softmax; computed in float32 or better.
        teacher_BATT: Attention maps ``[B, heads, T, T]``; never written to.
        weights_BT: Weights of the queries ``[B, T]``, 0 on padding; a sample's add up to its n predictions.
        tokens_BT: Which positions are real, boolean ``[B, T]``.

    Returns:
        A scalar in at least float32; 0 with a zero gradient where all weights are 0.

    Reference:
        Jiao et al.: TinyBERT: Distilling BERT for Natural Language Understanding, Findings of EMNLP 2020 (there of
        the scores before the softmax, which models do not return).
    """
    squares_BTT = (at_least_float32(student_BATT) - at_least_float32(teacher_BATT)).square().mean(1)
    keys_BT = tokens_BT / tokens_BT.sum(1, keepdim=True).clamp(min=1)
    return (squares_BTT * weights_BT[:, :, None] * keys_BT[:, None, :]).sum()


class AttentionTransfer(DistillationLoss):
    """Mean squared error of the attention maps, averaged over pairs of layers.

    Both models need ``attn_implementation: eager`` and as many heads as each other;
    :class:`~distill.losses.minilm.RelationTransfer` needs neither.

    Args:
        layers: Student layer -> teacher layer (1 is the first, -1 the last); ``uniform`` spreads the
            student's layers over the teacher's, ``last`` takes the teacher's last ones.
        stack: Of encoder-decoders, ``encoder`` or ``decoder``: whose self-attention is compared.
        weight: See :class:`DistillationLoss`.
        name: See :class:`DistillationLoss`.

    Raises:
        UserError: if there is no teacher, no such layer, no attention maps, or not the same number of heads.
    """

    def __init__(
        self,
        layers: LayerMap = "uniform",
        stack: Stack | None = None,
        weight: float | Schedule = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        self.stack = check_stack(stack)
        check_layers(layers)
        self.layers = layers
        self.pairs: list[tuple[int, int]] = []

    @property
    def needs(self) -> Needs:
        return Needs(
            Request(attentions=frozenset(ours for ours, _ in self.pairs)),
            Request(attentions=frozenset(theirs for _, theirs in self.pairs)),
        )

    def bind(self, student: ModelSpec, teacher: ModelSpec | None) -> None:
        teacher = self.require_teacher(teacher)
        for model in (student, teacher):
            model.check_attentions("AttentionTransfer")
        self.pairs = layer_pairs(self.layers, student, teacher, attention=True)
        for ours, theirs in self.pairs:
            heads, wanted = student.num_heads(ours), teacher.num_heads(theirs)
            if heads != wanted:
                raise UserError(
                    f"AttentionTransfer needs the teacher's number of heads, {wanted}",
                    key=f"{student.key}.num_attention_heads",
                    value=heads,
                    hint="use RelationTransfer with version: 2",
                )

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        totals = [
            self._distance(student.attentions[ours], teacher.attentions[theirs], batch) for ours, theirs in self.pairs
        ]
        return LossSum(sum(totals[1:], start=totals[0]) / len(totals), batch.count)

    def _distance(self, student_BATT: Tensor, teacher_BATT: Tensor, batch: Batch) -> Tensor:
        queries_BTA = student_BATT[:, 0]  # anything whose first two dimensions are B and T
        return attention_mse(
            student_BATT, teacher_BATT, batch.token_weights(queries_BTA), real_tokens(batch, queries_BTA)
        )
