from __future__ import annotations

import json

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from sklearn.metrics import f1_score

from distill.core.signals import IGNORE, Batch
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.data.labels import read_labels
from distill.tasks import TokenClassification

WORDS = ["good", "brightly", "dull", "zz"]
TAGS = ["O", "B-X", "I-X", "O"]


def make(path, tokenizer, rows, **options):
    for split in ("train", "validation"):
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TextData(str(path), task="token-classification", tokenizer=tokenizer, **options)


def test_a_words_first_token_has_its_tag_and_no_other_token_has_one(tmp_path, tiny_tokenizer_dir):
    data = make(tmp_path, tiny_tokenizer_dir, [{"tokens": WORDS, "ner_tags": TAGS}])
    batch = next(iter(data.train_dataloader()))
    assert data.labels == ["B-X", "I-X", "O"]
    pieces = [data.tokenizer.tokenize(word) for word in WORDS]
    assert max(map(len, pieces)) > 1
    ids = [
        tag for word, t in zip(pieces, TAGS, strict=True) for tag in [data.labels.index(t), *[IGNORE] * (len(word) - 1)]
    ]
    assert batch.labels.tolist() == [[IGNORE, *ids, IGNORE]]
    assert batch.mask.equal(batch.labels != IGNORE)


def test_words_that_are_cut_off_take_their_tags_along(tmp_path, tiny_tokenizer_dir):
    data = make(tmp_path, tiny_tokenizer_dir, [{"tokens": WORDS, "ner_tags": TAGS}], max_length=3)
    assert next(iter(data.train_dataloader())).labels.tolist() == [[IGNORE, 2, IGNORE]]


def test_byte_level_tokenizers_read_words(tmp_path):
    options = {"tokenizer": "distill:quickstart/tokenizer"}
    data = make(tmp_path, rows=[{"tokens": ["def", "return"], "tags": ["a", "b"]}], **options)
    assert next(iter(data.train_dataloader())).labels[0].tolist().count(IGNORE) >= 0
    assert (next(iter(data.train_dataloader())).labels != IGNORE).sum() == 2


def test_a_row_with_more_tags_than_words_is_refused(tmp_path, tiny_tokenizer_dir):
    data = make(tmp_path, tiny_tokenizer_dir, [{"tokens": WORDS, "ner_tags": TAGS[:3]}])
    with pytest.raises(
        UserError, match=r"data\.columns\.label = .*: each word needs a tag: 4 words begin .* 3 tags, in row 1"
    ):
        data.setup()


def test_text_that_is_not_split_into_words_is_refused(tmp_path, tiny_tokenizer_dir):
    data = make(tmp_path, tiny_tokenizer_dir, [{"tokens": "a good film", "ner_tags": TAGS}])
    with pytest.raises(UserError, match="the column must hold lists of words"):
        data.setup()


def test_names_of_the_classes_come_from_the_data_set():
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-X"]))})
    rows = Dataset.from_dict({"tokens": [["a", "b"]], "ner_tags": [[0, 1]]}, features=features)
    assert read_labels(TokenClassification(), {"train": rows}, "ner_tags").names == ["O", "B-X"]


def test_f1_is_the_micro_average_without_the_class_outside():
    generator = torch.Generator().manual_seed(0)
    task = TokenClassification(["O", "B-X", "I-X"])
    labels = torch.randint(3, (8, 10), generator=generator)
    labels[:, -2:] = IGNORE
    logits = torch.randn(8, 10, 3, generator=generator)
    metrics = task.metrics()
    task.update(metrics, logits, Batch(inputs={"input_ids": labels}, labels=labels, mask=labels != IGNORE))
    true, found = labels[:, :-2].flatten(), logits.argmax(-1)[:, :-2].flatten()
    assert metrics["f1"].compute() == pytest.approx(f1_score(true, found, labels=[1, 2], average="micro"))
    assert metrics["accuracy"].compute() == pytest.approx((true == found).float().mean())


def test_words_without_a_tag_count_for_the_teacher_and_not_for_cross_entropy(tmp_path, tiny_tokenizer_dir):
    rows = [{"tokens": WORDS, "ner_tags": tags} for tags in (TAGS, None, ["O", None, "B-X", None])]
    batch = next(iter(make(tmp_path, tiny_tokenizer_dir, rows, bucketing=False, batch_size=3).train_dataloader()))
    by_row = {row: batch.labels[i][batch.mask[i]].tolist() for i, row in enumerate(batch.ids)}
    assert by_row == {0: [2, 0, 1, 2], 1: [IGNORE] * 4, 2: [2, IGNORE, 0, IGNORE]}
    assert batch.count == 12
