"""The promises of input digests."""

from __future__ import annotations

import pytest
import torch

from distill.core.digests import input_digests
from distill.core.signals import Batch


def padded(rows: list[list[int]], length: int, left: bool = False) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Token ids with their mask, padded with 0 or, on the left, with 9."""
    ids, tokens = torch.full((len(rows), length), 9 if left else 0), torch.zeros(len(rows), length, dtype=torch.bool)
    for place, row in enumerate(rows):
        part = slice(length - len(row), length) if left else slice(len(row))
        ids[place, part], tokens[place, part] = torch.tensor(row), True
    return {"input_ids": ids, "attention_mask": tokens.long()}, tokens


ROWS = [[3, 1, 2], [4, 4], [7]]


def test_a_samples_digest_is_the_same_in_batches_of_any_length_order_and_padding() -> None:
    first = input_digests(*padded(ROWS, 3))
    assert torch.equal(first, input_digests(*padded(ROWS, 8)))
    assert torch.equal(first, input_digests(*padded(ROWS, 5, left=True)))
    assert torch.equal(first, input_digests(padded(ROWS, 4)[0]))  # the attention mask tells too
    assert torch.equal(first.flip(0), input_digests(*padded(ROWS[::-1], 6)))


def test_a_sample_that_fills_its_batch_has_the_digest_that_it_has_beside_longer_ones() -> None:
    places = {"position_ids": torch.tensor([[0, 1, 0, 0], [0, 1, 2, 3]])}
    inputs, tokens = padded([[3, 1, 2], [5, 6, 7, 8]], 4)
    packed = input_digests({"input_ids": inputs["input_ids"], **places}, tokens)
    alone = {"input_ids": torch.tensor([[3, 1, 2]]), "position_ids": torch.tensor([[0, 1, 0]])}
    assert torch.equal(packed[:1], input_digests(alone))
    assert torch.equal(input_digests(inputs)[:1], input_digests({"input_ids": torch.tensor([[3, 1, 2]])}))


def test_a_sample_of_two_texts_has_one_digest_however_far_either_is_padded() -> None:
    def digests(lengths: tuple[int, int], targets: list[list[int]]) -> torch.Tensor:
        (read, tokens), (written, decoder) = padded(ROWS, lengths[0]), padded(targets, lengths[1])
        inputs = {**read, "decoder_input_ids": written["input_ids"].masked_fill(~decoder, 9)}
        return Batch(inputs, tokens=tokens, decoder_tokens=decoder).input_digests

    first = digests((3, 4), [[0, 5], [0], [0, 5, 6, 7]])
    assert torch.equal(first, digests((7, 6), [[0, 5], [0], [0, 5, 6, 7]]))
    assert (first == digests((3, 4), [[0, 6], [0, 5], [0, 5, 7, 6]])).sum() == 0


@pytest.mark.parametrize("row", [[3, 2, 1], [3, 1], [3, 1, 2, 2], [3, 1, 3], [1, 3, 2], [3, 1, 2, 0]])
def test_other_tokens_or_another_order_have_another_digest(row: list[int]) -> None:
    assert input_digests(*padded([row], 6)) != input_digests(*padded([ROWS[0]], 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8])
def test_every_change_of_an_image_has_another_digest(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    image = (torch.rand(3, 12, 12) * 200).to(dtype)
    one_pixel = image.clone()
    one_pixel[1, 4, 5] += 1
    views = [image, image.flip(-1), image.flip(-2), image.roll(1, -1), image.roll(1, 0), image.mT, one_pixel]
    views += [torch.zeros_like(image), torch.ones_like(image)]
    digests = input_digests({"input": torch.stack(views)})
    assert len(set(digests.tolist())) == len(views)
    assert torch.equal(digests[:1], input_digests({"input": image[None]}))


def test_ten_thousand_short_rows_have_as_many_digests() -> None:
    rows = torch.cartesian_prod(*[torch.arange(10)] * 4)
    assert len(set(input_digests({"input": rows}).tolist())) == 10_000


def test_inputs_that_change_places_have_another_digest() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    assert input_digests({"a": a, "b": b}) != input_digests({"a": b, "b": a})


def test_a_batch_that_was_moved_reads_its_digests_off_the_host() -> None:
    inputs, tokens = padded(ROWS, 5)
    batch = Batch(inputs=inputs, tokens=tokens, ids=[1, 2, 3])
    moved = batch.to(torch.device("meta")).at(3, 10)  # a device from which nothing can be read
    assert torch.equal(moved.input_digests, batch.input_digests)
