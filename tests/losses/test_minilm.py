import numpy as np
import pytest
import torch

from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import RelationTransfer
from distill.losses.minilm import relation_kl, resplit_heads

LENGTHS = (2, 3)
TOKENS = torch.tensor([[True, True, False], [True, True, True]])


def relation(a, b, causal=False):
    """[T, T] of two [T, size], row by row."""
    out = np.zeros((len(a), len(a)))
    for i in range(len(a)):
        scores = np.array([a[i] @ b[j] / np.sqrt(a.shape[1]) for j in range(i + 1 if causal else len(a))])
        out[i, : len(scores)] = np.exp(scores) / np.exp(scores).sum()
    return out


def kl(student, teacher, causal=False):
    """Mean over heads and tokens, per sample, summed over samples: of lists of pairs [B, heads, T, size]."""
    total = 0.0
    for b, length in enumerate(LENGTHS):
        heads = student[0].shape[1]
        for h in range(heads):
            q = relation(student[0][b, h, :length], student[1][b, h, :length], causal)
            p = relation(teacher[0][b, h, :length], teacher[1][b, h, :length], causal)
            seen = p > 0
            total += (p[seen] * np.log(p[seen] / q[seen])).sum() / heads / length
    return total


@pytest.mark.parametrize("causal", [False, True])
def test_value_and_gradient_are_those_of_the_formula(agrees, causal):
    keys = torch.randn(2, 2, 3, 4).double()
    teacher = (torch.randn(2, 2, 3, 5).double(), torch.randn(2, 2, 3, 5).double())
    weights = TOKENS / TOKENS.sum(1, keepdim=True).double()
    visible = TOKENS[:, None, None, :].expand(-1, -1, 3, -1)
    agrees(
        lambda s: relation_kl((s, keys), teacher, weights, visible.tril() if causal else visible),
        lambda s: kl((s, keys.numpy()), [t.numpy() for t in teacher], causal),
        torch.randn(2, 2, 3, 4),
    )


def projections(heads, size):
    return tuple(torch.randn(2, heads, 3, size).double() for _ in range(3))


def total(loss, student, teacher):
    batch = Batch(inputs={"x": torch.zeros(2, 3)}, labels=torch.zeros(2, dtype=torch.long), tokens=TOKENS)
    return loss(Signals(projections={-1: student}), Signals(projections={-1: teacher}), batch).total.item()


@pytest.mark.parametrize("causal", [False, True])
def test_version_1_adds_the_attention_distribution_and_the_value_relation(causal):
    student, teacher = projections(2, 4), projections(2, 6)
    loss = RelationTransfer(version=1)
    loss.causal = causal
    (q, k, v), (q_, k_, v_) = ([x.numpy() for x in parts] for parts in (student, teacher))
    np.testing.assert_allclose(total(loss, student, teacher), kl((q, k), (q_, k_), causal) + kl((v, v), (v_, v_)), 1e-6)


def test_version_2_adds_the_relations_of_queries_keys_and_values_cut_into_relation_heads():
    student, teacher = projections(2, 4), projections(4, 3)
    loss = RelationTransfer(version=2)
    loss.heads = 4

    def cut(x):  # by hand: features of all heads side by side, then slices
        joined = np.concatenate([x[:, h].numpy() for h in range(x.shape[1])], axis=-1)
        return np.stack(np.split(joined, 4, axis=-1), axis=1)

    pairs = [((cut(x), cut(x)), (cut(y), cut(y))) for x, y in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(total(loss, student, teacher), sum(kl(s, t) for s, t in pairs), 1e-6)


def test_cutting_into_the_same_number_of_heads_changes_nothing():
    x = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(resplit_heads(x, 4), x)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"version": 3}, "version"),
        ({"relation_heads": 0}, "relation_heads"),
        ({"version": 1, "relation_heads": 4}, "relation_heads"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, key):
    with pytest.raises(UserError) as error:
        RelationTransfer(**arguments)
    assert error.value.key == key


@pytest.mark.parametrize("version", [1, 2])
def test_documents_packed_into_one_row_have_no_relations_to_each_other(version):
    student, teacher = projections(2, 4), projections(2, 4)
    loss = RelationTransfer(version=version, student_layer=1, teacher_layer=1)
    loss.heads = 2

    def of(part):
        cut = [tuple(p[:1, :, part] for p in model) for model in (student, teacher)]
        length = cut[0][0].shape[2]
        batch = Batch(
            {"input_ids": torch.zeros(1, length)},
            labels=torch.zeros(1, length, dtype=torch.long),
            mask=torch.ones(1, length, dtype=torch.bool),
        )
        return loss(Signals(projections={1: cut[0]}), Signals(projections={1: cut[1]}), batch).total

    packed = Batch(
        {"input_ids": torch.zeros(1, 3), "position_ids": torch.tensor([[0, 1, 0]])},
        labels=torch.zeros(1, 3, dtype=torch.long),
        mask=torch.ones(1, 3, dtype=torch.bool),
    )
    together = loss(
        Signals(projections={1: tuple(p[:1] for p in student)}),
        Signals(projections={1: tuple(p[:1] for p in teacher)}),
        packed,
    ).total
    apart = of(slice(0, 2)) + of(slice(2, 3))
    torch.testing.assert_close(together, apart)
    assert not torch.isclose(together, of(slice(0, 3)))
