"""What is kept of a teacher's distribution comes back: exactly, nearly, or in the mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.core.lazy_logits import Curve, LazyLogits
from distill.core.signals import Batch, Request, Signals
from distill.losses import CrossEntropy, HintonKL, ReverseKL
from distill.losses.head_terms import head_terms
from distill.models.teachers.recorded.codecs import Codec, HiddenCodec, LogitsCodec
from distill.models.teachers.recorded.rank_code import class_bits, pack_ranks, row_classes, unpack_ranks
from distill.models.teachers.recorded.sparse import SampledCodec, TopKCodec

LAZY = Request(logits=True, lazy=True)


def batch_of(mask: Tensor | None, shape: tuple[int, ...] = (3, 5)) -> Batch:
    ids = torch.arange(int(np.prod(shape))).view(shape)
    return Batch({"input_ids": ids}, labels=ids % 7, mask=mask, ids=[4, 0, 9])


def kept_and_read(codec: Codec, signals: Signals, batch: Batch, request: Request = LAZY) -> Signals:
    """As through a shard: taken apart by sample, and joined again."""
    rows = codec.encode(signals, batch)
    total = len(next(iter(rows.values())))
    counts = [total // 3] * 3 if batch.mask is None else batch.mask.sum(1).tolist()
    samples = codec.split(rows, counts)
    joined = {name: torch.cat([sample[name] for sample in samples]) for name in rows}
    read = type(codec).read(codec.settings, {name: tensor.clone() for name, tensor in codec.common.items()})
    return read.decode(joined, counts, batch, request)


@pytest.fixture
def mask() -> Tensor:
    return torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]).bool()


def head(width: int = 300, hidden: int = 8) -> LazyLogits:
    generator = torch.Generator().manual_seed(0)
    states, weight, bias = (
        torch.randn(shape, generator=generator) for shape in ((3, 5, hidden), (width, hidden), (width,))
    )
    return LazyLogits(states, 1.5 * weight, bias, Curve(cap=30.0))


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("bf16", 0.05), ("int8", 0.1)])
def test_hidden_states_give_all_logits_again(mask: Tensor, dtype: str, near: float) -> None:
    lazy = head()
    for kept in (mask, None):
        found = kept_and_read(HiddenCodec(dtype, lazy), Signals(lazy_logits=lazy), batch_of(kept))
        assert found.lazy_logits is not None
        rows = found.lazy_logits.whole()[mask]
        torch.testing.assert_close(rows, lazy.whole()[mask], rtol=near, atol=near)
    whole = kept_and_read(HiddenCodec(dtype, lazy), Signals(lazy_logits=lazy), batch_of(mask), Request(logits=True))
    assert whole.logits is not None
    torch.testing.assert_close(whole.logits[mask], lazy.whole()[mask], rtol=near, atol=near)


def test_int8_takes_a_byte_a_number_and_four(mask: Tensor) -> None:
    rows = HiddenCodec("int8", head()).encode(Signals(lazy_logits=head()), batch_of(mask))
    assert sum(tensor.nbytes for tensor in rows.values()) == 9 * (8 + 4)


def test_int8_serves_channels_of_all_sizes(mask: Tensor) -> None:
    lazy = head()
    sizes = torch.tensor([100.0, 1, 1, 1, 1, 1, 1, 0.01])
    lazy = LazyLogits(lazy.hidden * sizes + 10 * sizes, lazy.weight)
    read = kept_and_read(HiddenCodec("int8", lazy), Signals(lazy_logits=lazy), batch_of(mask)).lazy_logits
    assert read is not None
    error = (read.hidden - lazy.hidden)[mask].abs().amax(0) / sizes
    assert float(error.max()) < 0.02
    assert kept_and_read(HiddenCodec("int8", lazy), Signals(lazy_logits=lazy), batch_of(None)).lazy_logits is not None


def test_logits_of_one_prediction_a_sample_are_kept_as_they_are() -> None:
    logits = torch.randn(3, 4)
    batch = Batch({"input_ids": torch.zeros(3, 5, dtype=torch.long)}, labels=torch.tensor([0, -100, 2]))
    found = kept_and_read(LogitsCodec("float32"), Signals(logits), batch)
    assert torch.equal(found.logits, logits)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [60, 49_152, 65_536, 262_144])
def test_ranks_and_levels_come_back(width: int) -> None:
    generator = np.random.default_rng(0)
    ranks = np.stack([generator.choice(width, 50, replace=False) for _ in range(20)])
    ranks[0] = np.arange(50)
    ranks[1] = np.arange(width - 50, width)
    levels = np.sort(generator.integers(0, 64, (20, 50)), axis=1)
    levels[2], levels[3] = 0, 63
    bits = class_bits(width)
    order, marked, packed, stream = pack_ranks(levels, ranks, 64, bits)
    lengths = row_classes(packed, 50, bits).sum(1)
    found, read = unpack_ranks(
        marked, packed, np.packbits(stream.astype(np.uint8)), np.cumsum(lengths) - lengths, 50, 64, bits
    )
    assert (found == levels).all()
    assert (read == np.take_along_axis(ranks, order, 1)).all()


def zipf(width: int) -> tuple[Tensor, Tensor]:
    """Logits ``[3, 5, V]`` of peaked and of flat distributions, and the tokens' frequencies."""
    generator = torch.Generator().manual_seed(1)
    unigram = (1.0 / torch.arange(1, width + 1)).log()[torch.randperm(width, generator=generator)].log_softmax(0)
    sharp = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0]).view(1, 5, 1)
    return unigram + sharp * torch.randn(3, 5, width, generator=generator), unigram


@pytest.mark.parametrize("request_", [LAZY, Request(logits=True)], ids=["lazy", "whole"])
def test_the_most_likely_tokens_come_back_with_the_tails_mass(mask: Tensor, request_: Request) -> None:
    logits, unigram = zipf(2000)
    codec, batch = TopKCodec(50, unigram), batch_of(mask)
    found = kept_and_read(codec, Signals(logits), batch, request_)
    sparse = found.sparse_logits
    given = sparse.block(slice(0, 9)) if sparse is not None else found.logits[mask]  # type: ignore[index]
    p, q = logits[mask].double().softmax(-1), given.double().softmax(-1)
    torch.testing.assert_close(given.double().exp().sum(-1), torch.ones(9, dtype=torch.double), rtol=1e-4, atol=0)
    top = p.topk(50).indices
    tail = 1 - p.gather(1, top).sum(1)
    torch.testing.assert_close(1 - q.gather(1, top).sum(1), tail, rtol=6e-3, atol=1e-7)
    first = top[:, 0]
    rows = torch.arange(9)
    torch.testing.assert_close(q[rows, first], p[rows, first], rtol=0.07, atol=0)
    others = torch.ones(9, 2000, dtype=torch.bool).scatter_(1, top, False)
    spread = unigram.double().exp() * others
    expected = (spread / spread.sum(1, keepdim=True) * tail[:, None])[others]
    torch.testing.assert_close(q[others], expected, rtol=6e-3, atol=1e-12)


def gradient(student: LazyLogits, teacher: Any, batch: Batch, losses: list[Any]) -> Tensor:
    hidden = student.hidden.clone().requires_grad_()
    total, _ = head_terms(losses, LazyLogits(hidden, student.weight, student.bias), teacher, batch)
    total.backward()
    assert hidden.grad is not None
    return hidden.grad


def test_drawn_tokens_have_the_right_gradient_in_the_mean(mask: Tensor) -> None:
    teacher, student, batch = head(60), LazyLogits(torch.randn(3, 5, 4), torch.randn(60, 4)), batch_of(mask)
    losses = [HintonKL(temperature=1.0), CrossEntropy(weight=0.1)]
    exact = gradient(student, teacher, batch, losses)
    found = [
        gradient(
            student,
            kept_and_read(SampledCodec(50, 60, seed), Signals(lazy_logits=teacher), batch).sparse_logits,
            batch,
            losses,
        )
        for seed in range(100)
    ]
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / 10
    assert bool(((mean - exact).abs() <= 4.5 * error + 1e-5).all())
    assert bool((error[mask] < 0.2).all())
    again = [SampledCodec(12, 60, 0).encode(Signals(lazy_logits=teacher), batch)["ids"] for _ in range(2)]
    assert torch.equal(*again)
    assert again[0].shape == (9, 12, 2)


def test_which_losses_take_drawn_tokens() -> None:
    assert HintonKL(temperature=1.0).takes_samples
    assert not HintonKL(temperature=2.0).takes_samples
    assert not ReverseKL().takes_samples
