from __future__ import annotations

import subprocess
import sys
from itertools import chain

import pytest
from pytorch_lightning import Trainer

from distill.data import TextData, tokenize
from distill.errors import UserError

WATCH = """
import sys
from distill.data import TextData, tokenize
data = TextData(sys.argv[1], tokenizer=sys.argv[2], max_length=17)
calls = []
encode = tokenize._Encode.__call__
tokenize._Encode.__call__ = lambda self, rows: calls.append(1) or encode(self, rows)
data.prepare_data()
data.setup("fit")
print(len(calls), data.fingerprint)
"""


def make(text_folder, tokenizer, **options):
    return TextData(text_folder, tokenizer=tokenizer, **options)


def test_texts_are_tokenised_once_also_for_another_process(text_folder, tiny_tokenizer_dir, monkeypatch):
    calls = []
    encode = tokenize._Encode.__call__
    monkeypatch.setattr(tokenize._Encode, "__call__", lambda self, rows: calls.append(1) or encode(self, rows))
    fingerprint = make(text_folder, tiny_tokenizer_dir, max_length=17).fingerprint
    assert len(calls) == 2  # one batch of rows for training, one for validation
    make(text_folder, tiny_tokenizer_dir, max_length=17).setup()
    assert len(calls) == 2
    command = [sys.executable, "-c", WATCH, text_folder, tiny_tokenizer_dir]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert said == ["0", fingerprint]


def test_other_settings_have_another_fingerprint(text_folder, tiny_tokenizer_dir):
    options = [{}, {"max_length": 10}, {"train_samples": 50}, {"task": "masked-lm"}]
    assert len({make(text_folder, tiny_tokenizer_dir, **o).fingerprint for o in options}) == 4
    lm = {"task": "causal-lm", "tokenizer": "distill:quickstart/tokenizer"}
    packed = [{"pack_length": 16}, {"pack_length": 32}, {"pack_length": 16, "isolate_documents": False}]
    assert len({TextData(text_folder, **lm, **o).fingerprint for o in packed}) == 3


def test_classes_are_known_before_anything_is_tokenised(text_folder, tiny_tokenizer_dir):
    data = make(text_folder, tiny_tokenizer_dir)
    assert data.labels == ["negative", "positive"]
    assert data.task.head()["id2label"] == {0: "negative", 1: "positive"}


def test_batches_hold_the_rows_that_their_ids_name(text_folder, tiny_tokenizer_dir):
    data = make(text_folder, tiny_tokenizer_dir)
    rows = data._rows.splits["train"]
    for batch in data.train_dataloader():
        for i, row in enumerate(batch.ids):
            tokens = batch.inputs["input_ids"][i][batch.tokens[i]].tolist()
            assert tokens == data.tokenizer(rows[row]["sentence"])["input_ids"]
            assert data.labels[batch.labels[i]] == rows[row]["label"]


def test_validation_rows_are_the_same_for_every_seed_and_none_is_trained_on(text_folder, tiny_tokenizer_dir):
    splits = {"train": "train", "test": "validation"}
    made = [
        make(text_folder, tiny_tokenizer_dir, splits=splits, validation_fraction=0.2, seed=seed)._rows.splits
        for seed in (0, 1)
    ]
    assert [len(made[0][use]) for use in ("train", "validation", "test")] == [120, 30, 41]
    assert made[0]["validation"].to_list() == made[1]["validation"].to_list()
    whole = sorted(map(str, make(text_folder, tiny_tokenizer_dir)._rows.splits["train"].to_list()))
    assert sorted(map(str, [*made[0]["train"], *made[0]["validation"]])) == whole


def test_fewer_training_samples_are_a_part_of_more_and_keep_every_class(text_folder, tiny_tokenizer_dir):
    rows = {
        count: make(text_folder, tiny_tokenizer_dir, train_samples=count)._rows.splits["train"]["sentence"]
        for count in (1, 20, 100, 1000)
    }
    assert [len(list(texts)) for texts in rows.values()] == [1, 20, 100, 150]
    assert set(rows[1]) <= set(rows[20]) <= set(rows[100])
    assert make(text_folder, tiny_tokenizer_dir, train_samples=1).labels == ["negative", "positive"]


def test_evaluation_sees_every_sample_once(text_folder, tiny_tokenizer_dir):
    data = make(text_folder, tiny_tokenizer_dir, splits={"test": "validation"}, eval_batch_size=10)
    assert sorted(chain(*(b.ids for b in data.val_dataloader()))) == list(range(41))
    assert sorted(chain(*(b.ids for b in data.test_dataloader()))) == list(range(41))


def test_lightnings_own_sampler_is_refused_on_several_ranks(text_folder, tiny_tokenizer_dir):
    data = make(text_folder, tiny_tokenizer_dir)
    data.trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match=r"trainer\.use_distributed_sampler = True"):
        data.train_dataloader()


def test_the_standard_library_is_packed_for_language_models():
    data = TextData("distill:stdlib", task="causal-lm", tokenizer="distill:quickstart/tokenizer", train_samples=20)
    figures = data.describe()
    assert figures["validation_samples"] > 100
    assert figures["labels"] is None
    batch = next(iter(data.val_dataloader()))
    assert batch.inputs["input_ids"].shape[1] == 256 or batch.tokens is not None


def test_figures_of_the_data_are_those_of_its_batches(text_folder, tiny_tokenizer_dir):
    data = make(text_folder, tiny_tokenizer_dir)
    batches = list(data.train_dataloader())
    figures = data.describe()
    assert figures["batches_per_epoch"] == len(batches)
    assert figures["train_tokens"] == sum(int(b.tokens.sum()) for b in batches)
    assert figures["padding"] == pytest.approx(1 - figures["train_tokens"] / sum(b.tokens.numel() for b in batches))
    assert (figures["train_samples"], figures["validation_samples"]) == (150, 41)


def test_sst2_is_read_from_its_folder(data_folder):
    data = TextData(str(data_folder / "sst2"), tokenizer="distill:quickstart/tokenizer", train_samples=100)
    data.setup()
    assert data.labels == ["0", "1"]
    assert len(data.samples("validation")) == 872
