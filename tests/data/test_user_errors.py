from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.data.columns import check_rows
from distill.tasks import TextClassification


def rows(texts, labels):
    return [{"sentence": text, "label": label} for text, label in zip(texts, labels, strict=True)]


GOOD = rows(["a good film", "a bad film", "dull"], [1, 0, 0])


def folder(path, train=GOOD, validation=GOOD, **more):
    for split, lines in {"train": train, "validation": validation, **more}.items():
        if lines is not None:
            Path(path, f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def failing(**options):
    with pytest.raises(UserError) as caught:
        TextData(**options).setup()
    assert caught.value.hint
    return f"{caught.value.key} {caught.value}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "data.batch_size = 0: must be at least 1"),
        ({"eval_batch_size": 0}, "data.eval_batch_size = 0"),
        ({"max_length": 1}, "data.max_length = 1: must be at least 2"),
        ({"train_samples": 0}, "data.train_samples = 0: must be at least 1"),
        ({"pack_length": 64}, "data.pack_length = 64: text-classification cannot be packed"),
        ({"task": "causal-lm", "pack_length": 1}, "data.pack_length = 1"),
        ({"task": "causal-lm", "pack_length": 8}, "data.tokenizer = "),  # it has no end-of-text token
        ({"task": "text-clasification"}, "data.task = 'text-clasification': no such task. did you mean 'text-cl"),
        ({"task": "plain"}, "data.task = 'plain': this task reads no text"),
        ({"splits": {"validation": "validaton"}}, "data.splits.validation = 'validaton': no such split. did you mean"),
        ({"splits": {"dev": "validation"}}, "data.splits.dev: no such use"),
        ({"columns": {"text": "sentense"}}, "data.columns.text = 'sentense': no such column. did you mean 'sentence'"),
        ({"columns": {"txt": "sentence"}}, "data.columns.txt: text-classification has no such role"),
        ({"columns": {"text": "label"}}, "data.columns.text = 'label': the column must hold text, and it holds int64"),
        ({"validation_fraction": 1.5}, "data.validation_fraction = 1.5: must lie between 0 and 1"),
        (
            {"validation_fraction": 0.5, "splits": {"validation": "validation"}},
            "data.validation_fraction = 0.5: validation has a split already",
        ),
        ({"files": {"train": "x.csv"}}, "data.files = {'train': 'x.csv'}: give path or files, not both"),
        ({"path": None}, "data.path: the data is missing"),
        ({"path": "./nowhere"}, "data.path = './nowhere': no such folder"),
        ({"path": "distill:stdlb"}, "did you mean 'distill:stdlib'"),
        ({"path": None, "files": {"train": "gone.csv"}}, "data.files.train = 'gone.csv': no such file"),
        (
            {"path": None, "files": {"train": "gone*"}},
            "data.files.train = 'gone*': patterns are not expanded. list the",
        ),
        ({"path": None, "files": {"train": "gone.xls"}}, "data.files.train = 'gone.xls': the ending must be"),
        ({"path": None, "files": {"train": []}}, "data.files.train = []: a split needs a file"),
        ({"tokenizer": ""}, "data.tokenizer: a tokenizer is missing"),
        ({"tokenizer": "./nowhere"}, "data.tokenizer = './nowhere': no such folder"),
    ],
)
def test_a_wrong_setting_is_named_with_its_hint(tmp_path, tiny_tokenizer_dir, options, said):
    assert said in failing(**{"path": folder(tmp_path), "tokenizer": tiny_tokenizer_dir, **options})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"validation": None}, "data.splits.validation: a split for validation is missing"),
        ({"train": None}, "data.splits.train: a split for training is missing"),
        ({"train": rows(["a", "b"], [0, 2])}, "the split train has the label 2, which is none of the 2 classes (0, 1)"),
        (
            {"train": rows(["a", "b"], [0, -1])},
            "every label of the split train is 0, and a classifier needs two classes",
        ),
        ({"validation": rows(["a"], [7])}, "the split validation has the label 7"),
        ({"train": rows(["a", "b"], [0.5, float("inf")])}, "the split train has the label inf, which is no finite"),
        ({"train": rows(["a", None], [0, 1])}, "1 row of the split train without a text"),
        ({"validation": [{"sentence": "a"}]}, "needs labels for validation"),
        ({"validation": rows(["a"], [-1])}, "needs labels for validation"),
        ({"validation": [{"sentence": None, "label": 0}]}, "1 row of the split validation without a text"),
        ({"validation": [{"words": "a", "label": 0}]}, "data.columns.text = 'sentence': the split validation lacks"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_data_are_named_with_their_hint(tmp_path, tiny_tokenizer_dir, content, said):
    files = {
        split: str(tmp_path / f"{split}.jsonl")
        for split in ("train", "validation")
        if content.get(split, True) is not None
    }
    folder(tmp_path, **content)
    assert said in failing(files=files, tokenizer=tiny_tokenizer_dir)


def test_an_unknown_label_name_is_refused(tmp_path, tiny_tokenizer_dir):
    path = folder(tmp_path, rows(["a", "b"], ["no", "yes"]), rows(["a"], ["maybe"]))
    message = failing(path=path, tokenizer=tiny_tokenizer_dir)
    assert "the split validation has the label 'maybe', which is none of the 2 classes (no, yes)" in message
    assert "in row 1. list all classes in data.labels: ['no', 'yes', 'maybe']." in message


def test_a_column_of_identifiers_as_labels_is_said_to_be_one(tmp_path, tiny_tokenizer_dir):
    names = [f"film {i}" for i in range(120)]
    path = folder(tmp_path, rows(["a"] * 101, names[:101]), rows(["a"] * 19, names[101:]))
    assert "most rows have a label of their own, as an identifier has: name another column" in failing(
        path=path, tokenizer=tiny_tokenizer_dir
    )


def test_an_empty_split_is_refused(tmp_path, tiny_tokenizer_dir):
    files = {"train": str(tmp_path / "t.csv"), "validation": str(tmp_path / "v.csv")}
    Path(files["train"]).write_text("sentence,label\na,0\nb,1\n")
    Path(files["validation"]).write_text("sentence,label\n")
    assert "holds no data: a header, and no rows" in failing(files=files, tokenizer=tiny_tokenizer_dir)


def test_rows_for_training_and_validation_are_needed(tmp_path, tiny_tokenizer_dir):
    path = folder(tmp_path, GOOD[1:2], None)
    said = failing(path=path, tokenizer=tiny_tokenizer_dir, validation_fraction=0.5)
    assert "there must be rows for training and validation, and there are 1" in said
    with pytest.raises(UserError, match="the split holds no rows"):
        check_rows(TextClassification(), "train", Dataset.from_dict({"sentence": []}), {"text": "sentence"})


def test_files_that_cannot_be_read_are_named(tmp_path, tiny_tokenizer_dir):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")
    assert f"data.files.train = ['{broken}']: cannot be read" in failing(
        files={"train": str(broken)}, tokenizer=tiny_tokenizer_dir
    )


def test_a_folder_without_a_tokenizer_is_named(tmp_path, tiny_tokenizer_dir):
    assert "no tokenizer could be loaded" in failing(path=folder(tmp_path), tokenizer=str(tmp_path))


def test_an_encoder_task_needs_a_padding_token_and_a_language_model_pads_with_its_end(tmp_path, tiny_tokenizer_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    options = {"path": folder(tmp_path), "tokenizer": str(tmp_path / "tokenizer")}
    assert "text-classification needs a tokenizer with a padding token" in failing(**options)
    data = TextData(**options, task="causal-lm", pack_length=8)
    data.setup()
    assert data.tokenizer.pad_token == "[SEP]"


def test_a_data_set_without_texts_is_refused(tmp_path):
    path = folder(tmp_path, [{"text": ""}, {"text": ""}], [{"text": "a"}])
    options = {"task": "causal-lm", "tokenizer": "distill:quickstart/tokenizer"}
    assert "every text of the split is empty" in failing(path=path, **options)
