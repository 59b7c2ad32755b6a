"""Losses on the vectors of texts, held against formulas in numpy."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from distill.core.model_spec import ModelSpec
from distill.core.pairs import ROLE, ROW
from distill.core.signals import Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import InBatchNegatives, MarginMSE, VectorCosine, VectorMSE, VectorSimilarity
from distill.losses.in_batch_negatives import in_batch_negatives
from distill.losses.margin_mse import margin_mse
from distill.losses.vector_distance import vector_mse
from distill.losses.vector_similarity import similarity_kl, similarity_mse


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_mse_is_the_sum_of_squared_differences(agrees):
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    agrees(lambda s: vector_mse(s, teacher.double()), lambda s: ((s - teacher.numpy()) ** 2).sum(), student)


def cosines_off_diagonal(x):
    return [(i, j, float(units(x)[i] @ units(x)[j])) for i in range(len(x)) for j in range(len(x)) if i != j]


def test_similarities_are_compared_pair_by_pair(agrees):
    student, teacher = torch.randn(4, 3), torch.randn(4, 5)
    expected = [c for *_, c in cosines_off_diagonal(teacher.double().numpy())]

    def oracle(s):
        return np.mean([(a - b) ** 2 for (*_, a), b in zip(cosines_off_diagonal(s), expected, strict=True)])

    agrees(lambda s: similarity_mse(s, teacher.double()), oracle, student)


def test_kl_is_between_the_softmax_over_the_other_texts(agrees):
    student, teacher, temperature = torch.randn(4, 3), torch.randn(4, 5), 0.5

    def distributions(x):
        rows = [[c / temperature for i, _, c in cosines_off_diagonal(x) if i == row] for row in range(len(x))]
        return [np.exp(r) / np.exp(r).sum() for r in rows]

    def oracle(s):
        pairs = zip(distributions(teacher.double().numpy()), distributions(s), strict=True)
        return np.mean([(p * np.log(p / q)).sum() for p, q in pairs])

    agrees(lambda s: similarity_kl(s, teacher.double(), temperature), oracle, student)


@pytest.mark.parametrize("loss", [similarity_mse, lambda s, t: similarity_kl(s, t, 0.1)])
def test_one_text_has_no_relation_and_a_gradient_of_zero(loss):
    student = torch.randn(1, 3, requires_grad=True)
    value = loss(student, torch.randn(1, 3))
    value.backward()
    assert value == 0
    assert not student.grad.any()


def test_in_batch_negatives_is_the_cross_entropy_of_the_own_second_text(agrees):
    others, place = torch.randn(5, 3), torch.tensor([1, 0, 4])

    def oracle(x):
        scores = units(x) @ units(others.double().numpy()).T / 0.3
        return np.mean([np.log(np.exp(row).sum()) - row[j] for row, j in zip(scores, place.numpy(), strict=True)])

    agrees(lambda s: in_batch_negatives(s, others.double(), place, 0.3), oracle, torch.randn(3, 3))


def test_margins_are_compared_row_by_row(agrees):
    teacher = torch.randn(4)
    agrees(lambda s: margin_mse(s, teacher.double()), lambda s: ((s - teacher.numpy()) ** 2).sum(), torch.randn(4))


def triples(rows, width=4):
    """A batch of three texts a row, and a student's and a teacher's vectors of it."""
    ids, roles = torch.arange(rows).repeat_interleave(3), torch.arange(3).repeat(rows)
    batch = Batch({"input_ids": torch.ones(3 * rows, 2, dtype=torch.long)}, extras={ROW: ids, ROLE: roles})
    return batch, torch.randn(3 * rows, width), torch.randn(3 * rows, 6)


def spec(width, key):
    config = BertConfig(
        hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4, vocab_size=9
    )
    return ModelSpec(BertModel(config), key)


@pytest.mark.parametrize("loss", [VectorMSE(), VectorCosine(dimensions=[2, 4]), MarginMSE(), MarginMSE("dot")])
def test_a_batch_in_parts_has_the_sum_of_the_whole(loss):
    batch, student, teacher = triples(4)
    loss.bind(spec(4, "model.student"), spec(6, "model.teacher"))
    whole = loss(Signals(student), Signals(teacher), batch)
    parts = [
        loss(Signals(student[rows]), Signals(teacher[rows]), batch.rows(rows))
        for rows in (list(range(3)), list(range(3, 12)))
    ]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
    assert whole.positions == 12 == parts[0].positions + parts[1].positions


def test_a_row_of_three_counts_its_error_once_in_the_mean():
    batch, student, teacher = triples(2)
    found = MarginMSE("dot")(Signals(student), Signals(teacher), batch)

    def margins(x):
        return [float(x[i] @ x[i + 1] - x[i] @ x[i + 2]) for i in (0, 3)]

    expected = np.mean([(a - b) ** 2 for a, b in zip(margins(student), margins(teacher), strict=True)])
    np.testing.assert_allclose(float(found.total / found.positions), expected, rtol=1e-5)


def test_texts_find_their_own_second_text_in_any_order():
    batch, student, _ = triples(3)
    loss = InBatchNegatives(temperature=0.3)
    expected = loss(Signals(student), Signals(), batch).total
    order = [4, 8, 0, 2, 7, 1, 3, 6, 5]
    torch.testing.assert_close(loss(Signals(student[order]), Signals(), batch.rows(order)).total, expected)


def test_widths_that_differ_get_a_map_that_is_trained_and_each_cut_its_own():
    loss = VectorMSE(dimensions=[2, 4])
    loss.bind(spec(4, "model.student"), spec(6, "model.teacher"))
    assert {name: tuple(m.weight.shape) for name, m in loss.projections.items()} == {"2": (6, 2), "4": (6, 4)}
    before = loss.projections["2"].weight
    loss.bind(spec(4, "model.student"), spec(6, "model.teacher"))
    assert loss.projections["2"].weight is before
    batch, student, teacher = triples(1)
    expected = sum(((student[:, :n] @ loss.projections[str(n)].weight.T - teacher) ** 2).sum() for n in (2, 4))
    torch.testing.assert_close(loss(Signals(student), Signals(teacher), batch).total, expected)


def test_one_width_needs_no_map():
    loss = VectorMSE()
    loss.bind(spec(4, "model.student"), spec(4, "model.teacher"))
    assert not loss.projections


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VectorMSE(projection="never").bind(spec(4, "s"), spec(6, "t")), "4 features and the teacher's 6"),
        (lambda: VectorSimilarity(dimensions=[8]).bind(spec(4, "s"), spec(6, "t")), "have 4 features"),
        (lambda: VectorMSE(dimensions=[0]), "numbers of features"),
        (lambda: VectorSimilarity(temperature=0.0), "greater than 0"),
        (lambda: VectorCosine().bind(spec(4, "s"), None), "compares the student with a teacher"),
    ],
)
def test_what_cannot_work_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize(("loss", "key"), [(InBatchNegatives(), "text_pair"), (MarginMSE(), "negative")])
def test_single_texts_are_refused_where_pairs_are_read(loss, key):
    batch = Batch({"input_ids": torch.ones(2, 2, dtype=torch.long)})
    with pytest.raises(UserError) as error:
        loss(Signals(torch.randn(2, 3)), Signals(torch.randn(2, 3)), batch)
    assert error.value.key == f"data.columns.{key}"
