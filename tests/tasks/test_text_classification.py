from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from distill.core.signals import IGNORE, Batch
from distill.data import TextData
from distill.tasks import TextClassification


def folder(path, rows):
    for split in ("train", "validation"):
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def scores(task, logits, labels):
    metrics = task.metrics()
    for part in np.array_split(np.arange(len(labels)), 3):
        batch = Batch(inputs={"input_ids": logits[part]}, labels=labels[part])
        task.update(metrics, logits[part], batch)
    return {name: metric.compute().item() for name, metric in metrics.items()}


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_classes_are_scikit_learns(classes):
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(classes, (200,), generator=generator)
    logits = torch.randn(200, classes, generator=generator) + 2 * torch.nn.functional.one_hot(labels, classes)
    found = logits.argmax(-1)
    assert scores(TextClassification([str(c) for c in range(classes)]), logits, labels) == pytest.approx(
        {
            "accuracy": accuracy_score(labels, found),
            "f1": f1_score(labels, found, average="binary" if classes == 2 else "macro"),
            "matthews": matthews_corrcoef(labels, found),
        },
        abs=1e-6,
    )


def test_scores_of_numbers_are_scipys():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn(90, generator=generator)
    logits = (labels + torch.randn(90, generator=generator))[:, None]
    task = TextClassification(None)
    expected = {"pearson": pearsonr(labels, logits[:, 0])[0], "spearman": spearmanr(labels, logits[:, 0])[0]}
    assert scores(task, logits, labels) == pytest.approx(expected, abs=1e-5)
    assert task.predict(logits) is None
    assert task.head_config() == {"num_labels": 1, "problem_type": "regression"}


def test_rows_without_a_label_are_not_judged():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    classes = torch.tensor([0, IGNORE, 1, 1])
    assert scores(TextClassification(["no", "yes"]), logits, classes)["accuracy"] == pytest.approx(2 / 3)
    numbers = torch.tensor([1.0, torch.nan, 2.0, 4.0])
    found = scores(TextClassification(None), torch.tensor([[1.0], [9.0], [2.0], [4.0]]), numbers)
    assert found["pearson"] == pytest.approx(1.0)


@pytest.mark.parametrize("labels", [None, ["a", "b"], ["a", "b", "c"]])
def test_the_monitored_score_is_one_of_the_metrics(labels):
    task = TextClassification(labels)
    assert task.monitor in task.metrics()
    assert task.mode == "max"


def test_pairs_are_recognized_and_joined_with_token_types(tmp_path, tiny_tokenizer_dir):
    rows = [{"question": "is it good", "sentence": "a very good film", "label": i % 2, "idx": i} for i in range(4)]
    data = TextData(folder(tmp_path, rows), tokenizer=tiny_tokenizer_dir)
    batch = next(iter(data.train_dataloader()))
    expected = data.tokenizer("is it good", "a very good film")
    assert batch.inputs["input_ids"][0].tolist() == expected["input_ids"]
    assert batch.inputs["token_type_ids"][0].tolist() == expected["token_type_ids"]


def test_numbers_as_labels_make_it_a_regression(tmp_path, tiny_tokenizer_dir):
    rows = [{"sentence1": "a film", "sentence2": "a story", "label": 2.5 + i} for i in range(4)]
    data = TextData(folder(tmp_path, rows), tokenizer=tiny_tokenizer_dir)
    batch = next(iter(data.train_dataloader()))
    assert data.labels is None
    assert data.task.regression
    assert batch.labels.dtype == torch.float32
    assert sorted(batch.labels.tolist()) == [2.5, 3.5, 4.5, 5.5]


def test_a_test_split_without_labels_has_none(tmp_path, tiny_tokenizer_dir):
    path = folder(tmp_path, [{"text": "a good film", "label": i % 2} for i in range(4)])
    (tmp_path / "test.jsonl").write_text('{"text": "a bad film", "label": -1}\n')
    data = TextData(path, tokenizer=tiny_tokenizer_dir)
    assert next(iter(data.test_dataloader())).labels.tolist() == [IGNORE]
    assert data.labels == ["0", "1"]


def test_training_rows_may_lack_labels(tmp_path, tiny_tokenizer_dir):
    path = folder(tmp_path, [{"text": "a good film", "label": i % 2} for i in range(4)])
    (tmp_path / "train.jsonl").write_text('{"text": "a bad film", "label": -1}\n')
    data = TextData(path, tokenizer=tiny_tokenizer_dir)
    assert next(iter(data.train_dataloader())).labels.tolist() == [IGNORE]
    assert (next(iter(data.val_dataloader())).labels != IGNORE).all()


def test_padding_is_masked_and_long_texts_are_cut(text_folder, tiny_tokenizer_dir):
    data = TextData(text_folder, tokenizer=tiny_tokenizer_dir, max_length=12, bucketing=False)
    for batch in data.train_dataloader():
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert ids.dtype == mask.dtype == torch.int64
        assert ids.shape[1] <= 12
        assert (ids[~batch.tokens] == data.tokenizer.pad_token_id).all()
        assert (ids[batch.tokens] != data.tokenizer.pad_token_id).all()
        assert mask.bool().equal(batch.tokens)
        assert all(isinstance(i, int) for i in batch.ids)
