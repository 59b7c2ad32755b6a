"""What every loss promises, whatever it computes."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import distill.losses as package
from distill.core.model_spec import ModelSpec
from distill.core.signals import IGNORE, Batch, Signals
from distill.core.utils.errors import UserError
from distill.losses import (
    DIST,
    AlphaBeta,
    AttentionTransfer,
    BinaryKL,
    CosineHidden,
    CrossEntropy,
    DecoupledKD,
    DistillationLoss,
    FitNetHint,
    HintonKL,
    JensenShannon,
    LogitMSE,
    RelationalKD,
    RelationTransfer,
    ReverseKL,
    SharedVocabularyKL,
    SimilarityPreserving,
    SkewKL,
    TopKKL,
    TotalVariation,
    UniversalLogitDistillation,
)
from distill.losses import blockwise as rows_module
from distill.losses.shared_vocabulary import SharedTokens

B, T, H, HEADS, C = 8, 5, 8, 2, 4
LENGTHS = (5, 3, 1, 4, 2, 5, 2, 3)


def spec(layers, key):
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=H,
        num_attention_heads=HEADS,
        intermediate_size=8,
        vocab_size=9,
        attn_implementation="eager",
    )
    return ModelSpec(BertForSequenceClassification(config), key)


def shared_vocabulary_kl(weight=1.0, name=None):
    """Of two vocabularies that share all tokens but one of each."""
    loss = SharedVocabularyKL(temperature=2.0, weight=weight, name=name)
    loss._tokens = SharedTokens(torch.tensor([0, 2, 3]), torch.tensor([0, 3, 1, 2]))
    return loss


STUDENT, TEACHER = spec(2, "model.student"), spec(4, "model.teacher")
PER_SAMPLE = {
    "cross_entropy": lambda: CrossEntropy(label_smoothing=0.1, class_weights=[1.0, 2.0, 3.0, 0.5]),
    "hinton": lambda: HintonKL(3.0),
    "binary_kl": lambda: BinaryKL(3.0),
    "reverse": lambda: ReverseKL(2.0),
    "jensen_shannon": lambda: JensenShannon(0.3, 2.0),
    "skew": lambda: SkewKL(0.1, 2.0),
    "total_variation": lambda: TotalVariation(2.0),
    "alpha_beta": lambda: AlphaBeta(0.2, 0.7, 2.0),
    "top_k": lambda: TopKKL(2, 2.0),
    "shared_vocabulary": shared_vocabulary_kl,
    "universal_logit": lambda: UniversalLogitDistillation(2.0),
    "logit_mse": LogitMSE,
    "dkd": DecoupledKD,
    "dist_inter": lambda: DIST(gamma=0.0),
    "hint": lambda: FitNetHint(regressor="always"),
    "hint_cosine": lambda: FitNetHint("last", kind="cosine"),
    "hint_normalized": lambda: FitNetHint({1: 1, -1: -1}, normalize=True),
    "cosine": CosineHidden,
    "attention": AttentionTransfer,
    "relation_v1": lambda: RelationTransfer(1),
    "relation_v2": lambda: RelationTransfer(2, relation_heads=4),
}
IN_BATCH = {
    "dist": lambda: DIST(1.0, 1.0, 2.0),
    "relational": RelationalKD,
    "similarity": SimilarityPreserving,
}
EVERY = PER_SAMPLE | IN_BATCH
every_loss = pytest.mark.parametrize("name", EVERY)
every_task = pytest.mark.parametrize("task", ["samples", "tokens"])


def bound(name) -> DistillationLoss:
    torch.manual_seed(1)
    loss = EVERY[name]()
    loss.bind(STUDENT, TEACHER)
    return loss


def make_batch(task, keep=True) -> Batch:
    tokens = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    generator = torch.Generator().manual_seed(2)
    if task == "samples":
        labels = torch.randint(0, C, (B,), generator=generator)
        mask = torch.arange(B) != 2
    else:
        labels = torch.randint(0, C, (B, T), generator=generator)
        mask = tokens & (torch.rand(B, T, generator=generator) < 0.7)
    mask = mask & keep
    return Batch(
        inputs={"input_ids": torch.zeros(B, T)}, labels=labels.masked_fill(~mask, IGNORE), mask=mask, tokens=tokens
    )


def make_signals(request, task, seed, dtype=torch.float32) -> Signals:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    shape = (B, C) if task == "samples" else (B, T, C)
    return Signals(
        logits=random(*shape) if request.logits else None,
        hidden_states={k: random(B, T, H) for k in sorted(request.hidden_states)},
        attentions={k: random(B, HEADS, T, T).softmax(-1) for k in sorted(request.attentions)},
        projections={k: tuple(random(B, HEADS, T, H // HEADS) for _ in range(3)) for k in sorted(request.projections)},
    )


def mapped(signals, function) -> Signals:
    return Signals(
        logits=None if signals.logits is None else function(signals.logits),
        hidden_states={k: function(v) for k, v in signals.hidden_states.items()},
        attentions={k: function(v) for k, v in signals.attentions.items()},
        projections={k: tuple(function(v) for v in parts) for k, parts in signals.projections.items()},
    )


def leaves(signals) -> list[torch.Tensor]:
    found = []
    mapped(signals, found.append)
    return found


def case(name, task, dtype=torch.float32):
    loss = bound(name)
    student = mapped(make_signals(loss.needs.student, task, 3, dtype), lambda x: x.requires_grad_())
    return loss, student, make_signals(loss.needs.teacher, task, 4, dtype)


def part(x, rows, length):
    """Samples of a tensor, with its dimensions over tokens cut to their longest."""
    x = x[rows]
    for dim in range(1, x.dim()):
        if x.shape[dim] == T:
            x = x.narrow(dim, 0, length)
    return x


def cut(batch, rows, length) -> Batch:
    return Batch(
        inputs={"input_ids": part(batch.inputs["input_ids"], rows, length)},
        labels=part(batch.labels, rows, length),
        mask=part(batch.mask, rows, length),
        tokens=part(batch.tokens, rows, length),
    )


def gradients(loss, student) -> list[torch.Tensor]:
    found = [x.grad for x in leaves(student)] + [p.grad for p in loss.parameters()]
    assert found
    assert all(g is not None for g in found)
    return found


def test_every_exported_loss_is_tested_here():
    exported = {getattr(package, name) for name in package.__all__} - {DistillationLoss, package.LossSum}
    exported -= {package.L1}  # reads weights and no signals: test_l1.py
    maps = {package.FeatureAttention, package.FlowOfSolution}
    maps |= {package.VariationalInformation, package.ContrastiveRepresentation}
    exported -= maps  # of modules' outputs alone: test_feature_maps.py
    exported -= {package.BinaryCrossEntropy}  # of labels of another shape: test_binary_cross_entropy.py
    vectors = {package.VectorMSE, package.VectorCosine, package.VectorSimilarity}
    exported -= vectors | {package.InBatchNegatives, package.MarginMSE}  # of texts' vectors: test_vectors.py
    assert {type(make()) for make in EVERY.values()} == exported


@every_task
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_gradient_of_one_batch_of_eight_equals_two_of_four_and_eight_of_one(name, task):
    expected = None
    for size in (8, 4, 1):
        loss, student, teacher = case(name, task)
        batch, value, count = make_batch(task), 0.0, 0
        for start in range(0, B, size):
            rows = slice(start, start + size)
            length = max(LENGTHS[rows])
            total, positions = loss(
                mapped(student, lambda x: part(x, rows, length)),  # noqa: B023
                mapped(teacher, lambda x: part(x, rows, length)),  # noqa: B023
                cut(batch, rows, length),
            )
            total.backward()
            value, count = value + total.detach(), count + positions
        found = [value, count, *gradients(loss, student)]
        expected = expected or found
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@every_task
@every_loss
def test_a_fully_masked_batch_gives_zero_with_zero_gradient(name, task):
    loss, student, teacher = case(name, task)
    total, positions = loss(student, teacher, make_batch(task, keep=False))
    total.backward()
    assert total == 0
    assert positions == 0
    assert not any(g.any() for g in gradients(loss, student))


@every_loss
def test_a_batch_of_nothing_but_padding_gives_zero_with_zero_gradient(name):
    loss, student, teacher = case(name, "tokens")
    batch = make_batch("tokens", keep=False)
    batch.tokens = torch.zeros_like(batch.tokens)
    total = loss(student, teacher, batch).total
    total.backward()
    assert total == 0
    assert not any(g.any() for g in gradients(loss, student))


@every_task
@every_loss
def test_positions_are_the_count_of_the_batch_that_all_terms_share(name, task):
    loss, student, teacher = case(name, task)
    batch = make_batch(task)
    assert loss(student, teacher, batch).positions == batch.count


@every_task
@every_loss
def test_gradient_reaches_the_student_and_the_teacher_is_never_written_to(name, task):
    loss, student, teacher = case(name, task)
    before = copy.deepcopy(teacher)
    loss(student, teacher, make_batch(task)).total.backward()
    assert any(x.grad.any() for x in leaves(student))
    torch.testing.assert_close(leaves(teacher), leaves(before), rtol=0, atol=0)


@every_task
@every_loss
def test_gradient_is_the_derivative_of_the_value(name, task, monkeypatch):
    monkeypatch.setattr(rows_module, "_CPU_BLOCK", 12)
    loss, student, teacher = case(name, task, torch.float64)
    loss.double()
    batch, inputs = make_batch(task), [x.double().detach().requires_grad_() for x in leaves(student)]

    def value(*values):
        given = iter(values)
        return loss(mapped(student, lambda _: next(given)), teacher, batch).total

    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)


@every_task
@every_loss
def test_half_precision_is_computed_in_float32(name, task):
    loss, student, teacher = case(name, task, torch.bfloat16)
    batch = make_batch(task)
    total = loss(student, teacher, batch).total
    exact = loss(mapped(student, lambda x: x.float()), mapped(teacher, lambda x: x.float()), batch).total
    assert total.dtype is torch.float32
    torch.testing.assert_close(total, exact, rtol=1e-6, atol=0)


@every_loss
def test_autocast_lowers_the_precision_of_no_loss_but_of_its_regressors(name):
    loss, student, teacher = case(name, "tokens")
    batch = make_batch("tokens")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = loss(student, teacher, batch).total
    tolerance = 1e-2 if list(loss.parameters()) else 1e-6
    torch.testing.assert_close(total, loss(student, teacher, batch).total, rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"cross_entropy", "hint"}))
def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient(name):
    loss = EVERY[name]()
    loss.bind(TEACHER, TEACHER)
    student = make_signals(loss.needs.student, "samples", 3, torch.float64)
    student = mapped(student, lambda x: x.requires_grad_())
    if name == "hint_cosine":  # its rule pairs equal layers here
        assert loss.pairs == [(k, k) for k in (1, 2, 3, 4)]
    total = loss(student, mapped(student, torch.detach), make_batch("samples")).total
    total.backward()
    torch.testing.assert_close(total.item(), 0.0, rtol=0, atol=1e-6)
    assert all(x.grad.abs().max() < 1e-6 for x in leaves(student))


@pytest.mark.parametrize("name", [n for n in EVERY if not bound(n).needs.student.logits])
def test_what_stands_in_the_padding_has_no_influence(name):
    loss, student, teacher = case(name, "samples")
    batch = make_batch("samples")

    def spoil(x):
        x = x.detach().clone()
        for b, length in enumerate(LENGTHS):
            for dim in range(1, x.dim()):
                if x.shape[dim] == T:
                    x[b].narrow(dim - 1, length, T - length).fill_(1e3)
        return x.requires_grad_()

    spoilt = mapped(student, spoil)
    total = loss(spoilt, mapped(teacher, lambda x: spoil(x).detach()), batch).total
    total.backward()
    torch.testing.assert_close(total, loss(student, teacher, batch).total)
    for x in leaves(spoilt):
        assert not x.grad[x == 1e3].any()


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"cross_entropy"}))
def test_a_loss_that_reads_the_teacher_refuses_to_go_without(name):
    with pytest.raises(UserError, match=r"model\.teacher"):
        EVERY[name]().bind(STUDENT, None)


@pytest.mark.parametrize("kind", sorted({type(make()) for make in EVERY.values()}, key=lambda kind: kind.__name__))
def test_a_negative_weight_is_refused_and_the_name_is_the_class_in_snake_case(kind):
    with pytest.raises(UserError, match=r"weight = -1\.0: must be 0 or more"):
        kind(weight=-1.0)
    assert kind().name == kind().name.lower()
    assert kind(name="mine", weight=0.5).weight(0, 1) == 0.5
    assert "mine" in repr(kind(name="mine"))


@every_loss
def test_nothing_is_asked_of_the_models_but_what_the_loss_reads(name):
    loss, student, teacher = case(name, "samples")
    assert isinstance(loss, nn.Module)
    assert bool(loss.needs.student)
    assert bool(loss.needs.teacher) == (name != "cross_entropy")
    loss(student, teacher, make_batch("samples"))  # the signals hold exactly what was requested
