from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
from pytorch_lightning import Trainer
from transformers import AutoTokenizer

from distill.core import token_bytes
from distill.core.utils.errors import UserError
from distill.core.utils.paths import resolve
from distill.data import TextData, tokenize
from distill.tasks import alignment, causal_lm, make_task, next_token

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


@pytest.mark.slow
def test_texts_are_tokenized_once_also_for_another_process(
    text_folder, tiny_tokenizer_dir, monkeypatch, script, tmp_path
):
    calls = []
    encode = tokenize._Encode.__call__
    monkeypatch.setattr(tokenize._Encode, "__call__", lambda self, rows: calls.append(1) or encode(self, rows))
    fingerprint = make(text_folder, tiny_tokenizer_dir, max_length=17).fingerprint
    assert len(calls) == 2  # one batch of rows for training, one for validation
    make(text_folder, tiny_tokenizer_dir, max_length=17).setup()
    assert len(calls) == 2
    (tmp_path / "watch.py").write_text(WATCH)
    assert script(tmp_path / "watch.py", text_folder, tiny_tokenizer_dir).out.split() == ["0", fingerprint]


def test_other_settings_have_another_fingerprint(text_folder, tiny_tokenizer_dir):
    options = [{}, {"max_length": 10}, {"train_samples": 50}, {"task": "masked-lm"}]
    assert len({make(text_folder, tiny_tokenizer_dir, **o).fingerprint for o in options}) == 4
    lm = {"task": "causal-lm", "tokenizer": "distill:quickstart/tokenizer"}
    packed = [{"pack_length": 16}, {"pack_length": 32}, {"pack_length": 16, "isolate_documents": False}]
    assert len({TextData(text_folder, **lm, **o).fingerprint for o in packed}) == 3


def test_classes_are_known_before_anything_is_tokenized(text_folder, tiny_tokenizer_dir):
    data = make(text_folder, tiny_tokenizer_dir)
    assert data.labels == ["negative", "positive"]
    assert data.task.head_config()["id2label"] == {0: "negative", 1: "positive"}


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
    statistics = data.describe()
    assert statistics["validation_samples"] > 100
    assert statistics["labels"] is None
    samples = data.samples("validation")
    assert set(samples.lengths[:-1]) == {256}
    assert 0 < samples.lengths[-1] <= 256
    texts = list(data._rows.splits["validation"]["text"])
    assert samples.features["bytes"].values.sum() == sum(len(text.encode()) for text in texts)
    ends = samples.features["labels"].values == data.tokenizer.eos_token_id
    assert ends.sum() == len(texts)
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs["input_ids"].shape == (32, 256)
    assert batch.tokens is None


def test_plain_text_keeps_its_line_breaks_for_language_models_and_is_read_by_lines_for_others(
    tmp_path, tiny_tokenizer_dir
):
    text = "a good film\nwith heart\n\ndull\n"
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text(text * 3)
    lm = {"task": "causal-lm", "tokenizer": "distill:quickstart/tokenizer", "pack_length": 8}
    documents = {
        None: ["a good film\nwith heart\n\n", *["dull\na good film\nwith heart\n\n"] * 2, "dull\n"],
        "file": [text * 3],
        "line": ["a good film", "with heart", "", "dull"] * 3,
    }
    for document, expected in documents.items():
        data = TextData(str(tmp_path), document=document, **lm)
        assert list(data._rows.splits["train"]["text"]) == expected
        predicted = sum(int(batch.extras["bytes"].sum()) for batch in data.val_dataloader())
        assert predicted == sum(len(part) for part in expected)
    assert len({TextData(str(tmp_path), document=document, **lm).fingerprint for document in documents}) == 3
    lines = TextData(str(tmp_path), task="masked-lm", tokenizer=tiny_tokenizer_dir)
    assert list(lines._rows.splits["train"]["text"]) == documents["line"]


def test_names_in_another_order_and_another_separator_are_other_data(tmp_path, tiny_tokenizer_dir):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("text,label\na good film,0\ndull,1\n")
    options = [{}, {"labels": ["dull", "good"]}, {"labels": ["good", "dull"]}, {"labels": ["1", "0"]}]
    assert len({make(str(tmp_path), tiny_tokenizer_dir, **o).fingerprint for o in options}) == 4
    again = {make(str(tmp_path), tiny_tokenizer_dir, reader=o).fingerprint for o in (None, {"sep": ","})}
    assert len(again) == 1
    other = make(str(tmp_path), tiny_tokenizer_dir, reader={"na_values": ["0"]}, labels=["0", "1"])
    assert other.fingerprint not in again


def test_what_is_read_is_not_tokenized_again_when_the_trainer_prepares(text_folder, tiny_tokenizer_dir, monkeypatch):
    data = make(text_folder, tiny_tokenizer_dir)
    data.setup("fit")
    data.task.padding = "left"  # what a task has learnt of the models is part of the cache's key
    monkeypatch.setattr(tokenize._Encode, "__call__", lambda self, rows: pytest.fail("tokenized again"))
    data.prepare_data()


def test_numbers_of_a_csv_stay_numbers_whatever_their_column_is_called(tmp_path, tiny_tokenizer_dir):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("text,label\na good film,0.5\ndull,4.25\n")
    data = make(str(tmp_path), tiny_tokenizer_dir)
    data.setup("fit")
    assert data.samples("train").features["label"].tolist() == [0.5, 4.25]
    assert "(numbers from 0.5 to 4.25, 2.375 on average)" in data.account[1]


def test_a_run_begins_by_saying_what_was_taken_for_what(tmp_path, tiny_tokenizer_dir):
    rows = "Text,LABEL\na good film,pos\ndull,neg\n,pos\nbright,\nlong,-1\n"
    (tmp_path / "train.csv").write_text(rows)
    (tmp_path / "validation.csv").write_text("Text,LABEL\ndull,neg\nbright,\n")
    data = make(str(tmp_path), tiny_tokenizer_dir)
    data.setup("fit")
    assert data.account == [
        "data: 5 rows for training, 2 for validation",
        "data: text is the column 'Text', label is the column 'LABEL' (2 classes: neg 33 %, pos 67 %)",
        "data: 2 of 5 rows of train have no label: a teacher alone says what to learn there",
        "data: 1 of 2 rows of validation have no label: they are not judged",
        "data: 1 of 5 texts of train are empty or blank: read as they are",
        "data: validation has rows of 'neg' alone: no score will say anything",
        "data: 2 of 2 texts of validation are in train too: their score is of what was learned by heart",
    ]


def test_texts_that_are_judged_and_trained_on_are_counted(tmp_path, tiny_tokenizer_dir):
    (tmp_path / "train.csv").write_text("text,text_pair,label\na,b,0\na,b,1\nc,d,1\n,x,0\n")
    (tmp_path / "validation.csv").write_text("text,text_pair,label\na,b,0\na,d,0\na b,,1\nc,d,0\nab,,1\n")
    data = make(str(tmp_path), tiny_tokenizer_dir)
    data.setup("fit")
    assert data.in_train == {"validation": (2, 5)}
    assert [line for line in data.account if "by heart" in line] == [
        "data: 2 of 5 texts of validation are in train too: their score is of what was learned by heart"
    ]
    words = [json.dumps({"tokens": row, "tags": ["O"] * len(row)}) for row in (["a", "b"], ["c"], ["d"])]
    (tmp_path / "words").mkdir()
    (tmp_path / "words/train.jsonl").write_text("\n".join(words[:2]))
    (tmp_path / "words/validation.jsonl").write_text("\n".join(words[1:]))
    data = TextData(str(tmp_path / "words"), tokenizer=tiny_tokenizer_dir, task="token-classification")
    data.setup("fit")
    assert "data: 1 of 2 texts of validation are in train too" in "\n".join(data.account)


def test_lines_of_prose_and_blank_texts_are_no_repeats(tmp_path, tiny_tokenizer_dir):
    def counted(train, validation, task="causal-lm"):
        for split, texts in (("train", train), ("validation", validation)):
            rows = "\n".join(json.dumps({"text": one, "label": "ab"[i % 2]}) for i, one in enumerate(texts))
            (tmp_path / f"{split}.jsonl").write_text(rows)
        files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation")}
        data = TextData(files=files, tokenizer=tiny_tokenizer_dir, task=task)
        return data.in_train.get("validation")

    heading, blank = "= Heading =\n", " \u3000\n"
    assert counted(["", heading, "one"], ["", heading, "two"]) is None
    assert counted(["", heading, "a\nb"], ["", heading, blank, "a\nb"]) == (2, 4)
    assert counted(["", blank, "one", "b"], ["", blank, "one"], "text-classification") == (1, 3)


def test_a_split_for_validation_that_is_not_read_is_reported(text_folder, tiny_tokenizer_dir):
    told = "data: the split validation is not read: data.validation_fraction takes rows from training"
    assert told in make(text_folder, tiny_tokenizer_dir, validation_fraction=0.2).account
    assert told not in make(text_folder, tiny_tokenizer_dir).account


def test_empty_texts_of_which_a_tokenizer_makes_nothing_are_left_out_and_counted(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("text,label\na good film,0\n,1\ndull,1\n")
    data = make(str(tmp_path), "distill:quickstart/tokenizer")
    data.tokenizer.pad_token = data.tokenizer.eos_token
    data.setup("fit")
    assert (data.samples("train").lengths > 0).all()
    assert data.samples("train").features["label"].tolist() == [0, 1]
    assert (
        "data: 1 of 3 texts of train are empty or blank: left out, as the tokenizer makes nothing of them"
        in data.account
    )


def account_of(folder, tokenizer, rows, **options):
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = TextData(str(folder), tokenizer=tokenizer, **options)
    data.setup("fit")
    return [line.removeprefix("data: ") for line in data.account if "of train" in line or "train " not in line]


def test_what_a_model_will_not_see_is_said_with_its_numbers(tmp_path, tiny_tokenizer_dir):
    # Read are [CLS] good ж film [SEP]: the letter is of another script, nothing is made of the empty word.
    rows = [
        {"tokens": ["good", "", "ж", "film", "good"], "tags": ["a", "O", "O", "a", "O"]},
        {"tokens": ["a"], "tags": ["O"]},
    ]
    account = account_of(tmp_path, tiny_tokenizer_dir, rows, task="token-classification", max_length=5)
    assert "1 of 2 texts of train fill data.max_length (5 tokens): longer ones are cut" in account
    tokens = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    cut = [tokens(row["tokens"], is_split_into_words=True, truncation=True, max_length=5) for row in rows]
    read = sum(len({word for word in one.word_ids() if word is not None}) for one in cut)
    ids = [i for one in cut for i in one["input_ids"]]
    assert f"{6 - read} of 6 words of train are left out: cut off, or the tokenizer makes nothing of them" in account
    share = ids.count(tokens.unk_token_id) / len(ids)
    assert share > 0.01
    assert f"{share:.1%} of the tokens of train are unknown to the tokenizer ([UNK])" in account
    with pytest.raises(UserError, match="leaves no room for a text: the tokenizer adds 2 tokens of its own"):
        account_of(tmp_path, tiny_tokenizer_dir, rows, task="token-classification", max_length=2)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([-1, 0, 1], "in 'label' -1 stands for no label; if it is a class, say so with data.labels: [-1, 0, 1]"),
        ([0.0, 1.0, None], "labels are numbers to regress on; data.labels: [0, 1] would make classes of them"),
        ([f"row {i}" for i in range(24)], "there are 24 classes for 24 rows: is 'label' the column of the labels?"),
    ],
)
def test_what_may_have_been_taken_for_something_else_is_said(labels, said, tmp_path, tiny_tokenizer_dir):
    rows = [{"text": "a good film", "label": label} for label in labels]
    assert said in account_of(tmp_path, tiny_tokenizer_dir, rows)
    if len(labels) == 3:
        names = said.partition("data.labels: ")[2].partition("]")[0].strip("[").split(", ")
        account = account_of(tmp_path, tiny_tokenizer_dir, rows, labels=[int(name) for name in names])
        assert said.partition(";")[0] not in "\n".join(account)


def test_statistics_of_the_data_are_those_of_its_batches(text_folder, tiny_tokenizer_dir):
    data = make(text_folder, tiny_tokenizer_dir)
    batches = list(data.train_dataloader())
    statistics = data.describe()
    assert statistics["batches_per_epoch"] == len(batches)
    assert statistics["train_tokens"] == sum(int(b.tokens.sum()) for b in batches)
    assert statistics["padding"] == pytest.approx(
        1 - statistics["train_tokens"] / sum(b.tokens.numel() for b in batches)
    )
    assert (statistics["train_samples"], statistics["validation_samples"]) == (150, 41)


def test_sst2_is_read_from_its_folder(data_folder):
    data = TextData(str(data_folder / "sst2"), tokenizer="distill:quickstart/tokenizer", train_samples=100)
    data.setup()
    assert data.labels == ["0", "1"]
    assert len(data.samples("validation")) == 872


def test_a_log_gets_no_bar_of_the_tokenizing(text_folder, tiny_tokenizer_dir, capfd, monkeypatch):
    make(text_folder, tiny_tokenizer_dir, max_length=9).setup()
    assert "Tokenizing" not in capfd.readouterr().err
    monkeypatch.setattr(tokenize, "due", lambda done, total, seconds: True)
    make(text_folder, tiny_tokenizer_dir, max_length=8).setup()
    assert "tokenizing train: 150 of 150 rows\n" in capfd.readouterr().err


def test_a_length_beyond_the_tokenizers_note_is_reported_and_works(text_folder, tiny_tokenizer_dir, caplog):
    data = make(text_folder, tiny_tokenizer_dir, max_length=129)
    assert data.tokenizer.model_max_length == 128
    assert "data.max_length = 129, and the tokenizer says model_max_length: 128" in caplog.text
    assert "--data.max_length 128 keeps to it" in caplog.text


def test_whoever_edits_what_encodes_rows_gets_no_samples_of_an_earlier_time():
    task = make_task("causal-lm")
    encode = task.encode(AutoTokenizer.from_pretrained(resolve("distill:quickstart/tokenizer", "tokenizer")), 8)
    read = tokenize._source(task, encode)
    for module in (causal_lm, next_token, alignment, token_bytes):
        assert Path(module.__file__).read_text() in read
