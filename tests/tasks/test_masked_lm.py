from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from distill.core.signals import IGNORE
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.tasks import MaskedLM
from distill.tasks.masked_lm import mask_tokens


def masked(samples, epoch=0, seed=0, length=50, probability=0.15):
    ids = np.full((len(samples), length), 7)
    allowed = np.ones_like(ids, bool)
    allowed[:, 0] = False
    return mask_tokens(
        ids,
        allowed,
        seed=seed,
        epoch=epoch,
        samples=np.asarray(samples),
        probability=probability,
        mask_id=1,
        vocabulary=1000,
    )


def test_shares_are_those_of_the_paper():
    inputs, labels = masked(range(8000))
    chosen = labels != IGNORE
    assert chosen[:, 1:].mean() == pytest.approx(0.15, abs=0.003)
    assert (inputs[chosen] == 1).mean() == pytest.approx(0.8, abs=0.008)
    assert (inputs[chosen] == 7).mean() == pytest.approx(0.1, abs=0.006)
    assert len(np.unique(inputs[chosen])) > 900
    assert (labels[chosen] == 7).all()


def test_what_is_not_chosen_stays_and_special_tokens_are_never_chosen():
    inputs, labels = masked(range(500), probability=0.9)
    assert (labels[:, 0] == IGNORE).all()
    assert (inputs[labels == IGNORE] == 7).all()


def test_a_samples_masks_depend_on_seed_epoch_and_sample_alone():
    together, alone = masked([3, 11, 42], length=50), masked([11], length=20)
    assert (together[0][1, :20] == alone[0][0]).all()
    assert (together[1][1, :20] == alone[1][0]).all()
    for other in (masked([11], epoch=1), masked([11], seed=1), masked([12])):
        assert (other[1] != masked([11])[1]).any()


def test_batches_hide_no_special_token_and_no_padding(text_folder, tiny_tokenizer_dir):
    data = TextData(text_folder, task="masked-lm", tokenizer=tiny_tokenizer_dir)
    special = torch.tensor(data.tokenizer.all_special_ids)
    rows = data._rows.splits["train"]
    for batch in data.train_dataloader():
        assert batch.mask.equal(batch.labels != IGNORE)
        assert not torch.isin(batch.labels[batch.mask], special).any()
        assert (batch.mask <= batch.tokens).all()
        whole = torch.where(batch.mask, batch.labels, batch.inputs["input_ids"])
        assert whole[0][batch.tokens[0]].tolist() == data.tokenizer(rows[batch.ids[0]]["sentence"])["input_ids"]


def test_other_tokens_are_hidden_in_every_epoch_and_the_same_in_one_that_is_seen_again(tiny_tokenizer_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    tokens = np.array(tokenizer("a good bad film story with and without any heart " * 4)["input_ids"])

    def hidden(epoch):
        return MaskedLM().collate([{"input_ids": tokens, "id": 3, "seed": 1, "epoch": epoch}], tokenizer).mask.tolist()

    assert hidden(0) != hidden(1) != hidden(2)
    assert hidden(1) == hidden(1)


def test_validation_hides_the_same_tokens_every_time(text_folder, tiny_tokenizer_dir):
    data = TextData(text_folder, task="masked-lm", tokenizer=tiny_tokenizer_dir)
    first = [b.labels.tolist() for b in data.val_dataloader()]
    data.epoch = 3
    assert first == [b.labels.tolist() for b in data.val_dataloader()]


def test_a_tokenizer_without_a_mask_token_is_refused(text_folder):
    data = TextData(text_folder, task="masked-lm", tokenizer="distill:quickstart/tokenizer")
    with pytest.raises(UserError, match="needs a tokenizer with a mask token"):
        data.setup()


def test_a_share_outside_the_unit_interval_is_refused():
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        MaskedLM(probability=1.5)
