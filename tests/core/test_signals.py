"""The promises of batches and requests."""

from __future__ import annotations

import pytest
import torch

from distill.core.signals import Batch, Needs, Request, Signals


def test_token_weights_add_up_to_the_count_and_spare_padding() -> None:
    tokens = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    batch = Batch({"input_ids": torch.zeros(2, 4)}, labels=torch.tensor([0, 1]), tokens=tokens)
    weights = batch.token_weights(torch.zeros(2, 4, 5))
    torch.testing.assert_close(weights, torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0], [0.5, 0.5, 0, 0]]))
    assert weights.sum() == batch.count == 2


def test_token_weights_share_a_samples_predictions_among_its_tokens() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    batch = Batch({"input_ids": torch.zeros(2, 4)}, labels=torch.zeros(2, 4), mask=mask)
    torch.testing.assert_close(
        batch.token_weights(torch.zeros(2, 4, 5)),
        torch.tensor([[0.5] * 4, [0.0] * 4]),
        msg="two predictions, four tokens",
    )


def test_without_a_mask_every_label_is_a_prediction_and_without_labels_every_sample() -> None:
    ids = torch.zeros(2, 3, dtype=torch.long)
    assert int(Batch({"input_ids": ids}, labels=ids).count) == 6
    assert int(Batch({"input_ids": ids}, labels=ids[:, 0]).count) == 2
    assert int(Batch({"input_ids": ids}).count) == 2


def test_a_samples_weights_do_not_depend_on_the_batch_it_is_in() -> None:
    tokens = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    mask = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.bool)
    both = Batch({"x": torch.zeros(2, 4)}, labels=mask.long(), mask=mask, tokens=tokens)
    alone = Batch({"x": torch.zeros(1, 4)}, labels=mask[:1].long(), mask=mask[:1], tokens=tokens[:1])
    torch.testing.assert_close(
        both.token_weights(torch.zeros(2, 4, 3))[:1], alone.token_weights(torch.zeros(1, 4, 3)), rtol=0, atol=0
    )


def test_logits_of_masked_positions_are_dropped() -> None:
    logits = torch.arange(12.0).view(2, 2, 3)
    kept = Signals(logits=logits).at(torch.tensor([[True, False], [False, True]]))
    torch.testing.assert_close(kept, torch.tensor([[0.0, 1, 2], [9, 10, 11]]))


def test_reading_logits_that_were_not_requested_is_a_bug_reported_at_once() -> None:
    with pytest.raises(RuntimeError, match="not requested"):
        Signals().at(None)


def test_requests_add_up() -> None:
    both = Needs(Request(logits=True), Request(hidden_states=frozenset({1}))) | Needs(
        Request(taps=frozenset({"a"})), Request(hidden_states=frozenset({2}))
    )
    assert both.student == Request(logits=True, taps=frozenset({"a"}))
    assert both.teacher.hidden_states == {1, 2}
    assert not Request()
    assert both.student


def test_moving_a_batch_moves_all_its_tensors_and_keeps_the_rest() -> None:
    batch = Batch({"x": torch.zeros(2)}, labels=torch.zeros(2), extras={"bytes": torch.ones(2)}, ids=[4, 5]).at(3, 10)
    moved = batch.to(torch.device("meta"))
    assert moved.inputs["x"].is_meta
    assert moved.labels is not None
    assert moved.labels.is_meta
    assert moved.extras["bytes"].is_meta
    assert (moved.ids, moved.step, moved.total_steps) == ([4, 5], 3, 10)
