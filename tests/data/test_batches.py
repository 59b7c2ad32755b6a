from __future__ import annotations

import os
import signal
from itertools import chain, pairwise

import numpy as np
import pytest

from distill.core.draws import order
from distill.core.utils.errors import UserError
from distill.data.batches import EvaluationBatches, TrainingBatches
from distill.data.features import Ragged, Samples
from distill.data.loader import Loader, heed_parent_alone
from distill.data.text import TextData

LENGTHS = order(1003, 5) % 97 + 1


def batches(epoch=0, start=0, lengths=LENGTHS, batch_size=8, **options):
    sampler = TrainingBatches(
        lengths, batch_size, position=lambda: epoch * len(sampler) + start, **{"seed": 1, **options}
    )
    return sampler


def rows(sampler):
    return [[row for _, row in batch] for batch in sampler]


def padding(samplers_batches, lengths):
    real = sum(lengths[b].sum() for b in samplers_batches)
    return 1 - real / sum(len(b) * lengths[b].max() for b in samplers_batches)


@pytest.mark.parametrize("bucketing", [True, False])
def test_an_epoch_holds_every_sample_once(bucketing):
    sampler = batches(epoch=3, bucketing=bucketing)
    assert sorted(chain(*rows(sampler))) == list(range(1003))
    assert len(rows(sampler)) == len(sampler) == 126


def test_batches_are_a_function_of_seed_and_epoch():
    assert rows(batches(epoch=2)) == rows(batches(epoch=2))
    assert rows(batches(epoch=2)) != rows(batches(epoch=3))
    assert rows(batches(epoch=2)) != rows(batches(epoch=2, seed=2))


@pytest.mark.parametrize("bucketing", [True, False])
def test_other_samples_meet_in_a_batch_in_every_epoch(bucketing):
    met = [{frozenset(batch.tolist()) for batch in batches(bucketing=bucketing).epoch(e)} for e in range(3)]
    assert not met[0] & met[1]
    assert not met[1] & met[2]


def test_long_and_short_batches_come_in_another_order_in_every_epoch():
    lengths = np.arange(1, 61).repeat(8)  # one stretch, so every batch is of one length, whichever samples meet in it
    orders = [[int(lengths[batch[0]]) for batch in batches(lengths=lengths).epoch(epoch)] for epoch in range(3)]
    assert sorted(orders[0]) == sorted(orders[1])
    apart = [np.mean(np.asarray(a) == np.asarray(b)) for a, b in pairwise(orders)]
    assert max(apart) < 0.1  # of orders that have nothing in common a hundredth is equal


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_have_batches_of_like_length_at_every_step(world):
    ranks = [rows(batches(batch_size=8, rank=rank, world_size=world)) for rank in range(world)]
    longest = np.array([[LENGTHS[batch].max() for batch in rank] for rank in ranks])
    mean = np.array([[LENGTHS[batch].mean() for batch in rank] for rank in ranks])
    assert abs(mean[0] - mean[-1]).mean() < 0.5
    assert (longest.max(0) - longest.min(0)).mean() < 1.0


@pytest.mark.parametrize("start", [0, 1, 77, 125])
def test_iteration_starts_where_training_stands_and_its_length_stays(start):
    assert rows(batches(epoch=1, start=start)) == rows(batches(epoch=1))[start:] + rows(batches(epoch=2))[:start]
    assert len(batches(epoch=1, start=start)) == 126


@pytest.mark.parametrize("count", [16, 17, 1003])
def test_two_ranks_share_the_global_batches_of_one(count):
    lengths = LENGTHS[:count]
    ranks = [rows(batches(lengths=lengths, batch_size=4, rank=r, world_size=2)) for r in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == len(batches(lengths=lengths, batch_size=4, world_size=2))
    assert sorted(chain(*ranks[0], *ranks[1])) == list(range(count))
    assert all(abs(len(a) - len(b)) <= 1 and a and b for a, b in zip(*ranks, strict=True))
    if count % 8 != 1:  # a rest of one sample joins another batch when two ranks need one each
        together = [sorted(a + b) for a, b in zip(*ranks, strict=True)]
        assert together == [sorted(b) for b in rows(batches(lengths=lengths, batch_size=8))]


def test_bucketing_leaves_little_padding_and_batches_in_random_order():
    sampler = batches()
    assert padding(sampler.epoch(0), LENGTHS) < 0.2 * padding(batches(bucketing=False).epoch(0), LENGTHS)
    means = [LENGTHS[b].mean() for b in sampler.epoch(0)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


@pytest.mark.parametrize(("count", "size", "world"), [(1003, 8, 1), (1003, 8, 2), (5, 64, 2), (3, 1, 2), (9, 4, 4)])
def test_evaluation_sees_every_sample_once_with_equally_many_batches_a_rank(count, size, world):
    ranks = [rows(EvaluationBatches(LENGTHS[:count], size, rank=rank, world_size=world)) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    assert sorted(chain(*chain(*ranks))) == list(range(count))
    assert max(len(batch) for rank in ranks for batch in rank) <= max(size, 2)
    assert ranks == [rows(EvaluationBatches(LENGTHS[:count], size, rank=r, world_size=world)) for r in range(world)]


def test_fewer_samples_than_ranks_are_refused():
    with pytest.raises(UserError, match=r"trainer\.devices = 4: a split needs a sample for each rank"):
        batches(lengths=LENGTHS[:3], world_size=4)
    with pytest.raises(UserError, match=r"trainer\.devices"):
        EvaluationBatches(LENGTHS[:3], 8, world_size=4)


def test_any_number_of_workers_gives_the_same_batches(text_folder, tiny_tokenizer_dir):
    def seen(workers):
        data = TextData(text_folder, task="masked-lm", tokenizer=tiny_tokenizer_dir, num_workers=workers, max_length=20)
        data.epoch = 1
        loader = data.train_dataloader()
        return [(b.ids, b.inputs["input_ids"].tolist(), b.labels.tolist()) for b in loader]

    assert seen(0) == seen(2)


@pytest.mark.slow
def test_padding_on_sst2_is_below_a_twentieth(data_folder):
    data = TextData(str(data_folder / "sst2"), tokenizer="distill:quickstart/tokenizer")
    assert data.describe()["padding"] < 0.05


def test_workers_that_are_told_to_stop_as_they_start_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(worker: int) -> None:  # before they could say whom they heed
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        heed_parent_alone(worker)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    loader = Loader([1, 2, 3], batch_size=None, num_workers=2, worker_init_fn=told, multiprocessing_context="fork")  # type: ignore[arg-type]
    batches = iter(loader)
    assert next(batches) == 1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert list(batches) == [2, 3]


@pytest.mark.parametrize("world", [1, 2])
def test_the_first_batches_of_an_evaluation_hold_samples_of_any_length(world):
    def first(lengths, count):
        ranks = [rows(EvaluationBatches(lengths, 8, rank=rank, world_size=world)) for rank in range(world)]
        return sorted(chain(*(chain(*rank[:count]) for rank in ranks)))

    for count in (1, 2, 4, 8, 16):
        assert first(LENGTHS, count) == first(LENGTHS[::-1], count) == first(np.ones_like(LENGTHS), count)
    means = [LENGTHS[first(LENGTHS, count)].mean() for count in (8, 11, 16, 23)]
    assert means == pytest.approx([LENGTHS.mean()] * 4, rel=0.15)


def test_an_evaluation_pads_little():
    at_random = np.array_split(order(1003, 1), 126)
    assert padding(rows(EvaluationBatches(LENGTHS, 8)), LENGTHS) < 0.3 * padding(at_random, LENGTHS)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_what_is_judged_together_is_read_together_and_torn_by_no_part_but_at_its_end(size, world):
    groups = np.random.default_rng(0).integers(0, 60, 500) * 2**55
    sizes = dict(zip(*np.unique(groups, return_counts=True), strict=True))
    ranks = [rows(EvaluationBatches(LENGTHS[:500], size, groups, rank=rank, world_size=world)) for rank in range(world)]
    assert sorted(chain(*chain(*ranks))) == list(range(500))
    assert len({len(rank) for rank in ranks}) == 1
    for limit in range(1, len(ranks[0]) + 1):
        read = list(chain(*(chain(*part) for part in zip(*(rank[:limit] for rank in ranks), strict=True))))
        seen = dict(zip(*np.unique(groups[read], return_counts=True), strict=True))
        assert sum(seen[group] < sizes[group] for group in seen) <= 1
        for group in seen:
            mine = [row for row in read if groups[row] == group]
            assert mine == sorted(mine)


def test_windows_of_one_row_are_one_group():
    ids = [np.arange(3)] * 5
    features = {"input_ids": Ragged(np.concatenate(ids), np.arange(6) * 3), "part": np.array([0, 1, 0, 0, 1])}
    assert Samples(features, 0).groups.tolist() == [1, 1, 2, 3, 3]
    assert Samples({"input_ids": features["input_ids"]}, 0).groups is None
