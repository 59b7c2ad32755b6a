"""The promises of classification in which a sample has any number of classes."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from distill.core.signals import Batch, Request
from distill.core.tally import Counts, Tally
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.losses import (
    DIST,
    BinaryCrossEntropy,
    BinaryKL,
    CrossEntropy,
    DecoupledKD,
    HintonKL,
    JensenShannon,
    LogitMSE,
    ReverseKL,
    SkewKL,
)
from distill.tasks import MultiLabelClassification, Plain, TextClassification, make_task
from distill.training.module import Distillation

NAMES = ["good", "bad", "story"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TASK = MultiLabelClassification(NAMES)


def sentence(row: int) -> str:
    return " ".join([name for i, name in enumerate(NAMES) if row >> i & 1] + ["film"] * (row % 4))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def words(row: int) -> list[str]:
    return [name for name in NAMES if name in sentence(row).split()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: str) -> Any:
    folder = tmp_path_factory.mktemp("topics")
    train = [{"text": sentence(r), "label": words(r) if r % 5 else None} for r in range(60)]
    validation = [{"text": sentence(r), "label": words(r)} for r in range(60, 90)]
    files = {
        "train": write_rows(folder / "train.jsonl", train),
        "validation": write_rows(folder / "validation.jsonl", validation),
    }
    made = TextData(
        files=files, task="multi-label-classification", tokenizer=tiny_tokenizer_dir, batch_size=8, labels=NAMES
    )
    made.setup("fit")
    return made


def logits_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(40, 3, generator=generator) > 0.6).float()
    return torch.randn(40, 3, generator=generator), labels


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_scores_are_those_of_scikit_learn_at_the_threshold(threshold: float) -> None:
    logits, labels = logits_and_labels()
    task = MultiLabelClassification(NAMES, threshold)
    metrics = task.metrics()
    for part in (slice(25), slice(25, None)):
        task.update(metrics, logits[part], Batch(inputs={}, labels=labels[part]))
    predicted = 1 / (1 + np.exp(-logits.double().numpy())) > threshold
    expected = {
        "f1_micro": f1_score(labels, predicted, average="micro"),
        "f1_macro": f1_score(labels, predicted, average="macro"),
        "subset_accuracy": accuracy_score(labels, predicted),
    }
    assert {name: float(metric.compute()) for name, metric in metrics.items()} == pytest.approx(expected, abs=1e-6)


def test_the_score_that_a_run_is_judged_by_has_a_standard_error_over_the_rows() -> None:
    logits, labels = logits_and_labels()
    metrics = TASK.metrics()
    TASK.update(metrics, logits, Batch(inputs={}, labels=labels))
    metrics[TASK.monitor].compute()
    draws, said, true = np.random.default_rng(0), logits.numpy() > 0, labels.numpy() > 0
    both, either = 2 * (said & true).sum(1), said.sum(1) + true.sum(1)
    rows = draws.integers(0, 40, (2000, 40))
    bootstrap = (both[rows].sum(1) / either[rows].sum(1)).std()
    assert float(metrics[TASK.monitor].standard_error) == pytest.approx(bootstrap, rel=0.1)  # type: ignore[arg-type]


def test_rows_without_a_label_are_not_judged() -> None:
    logits, labels = logits_and_labels()
    some, all_labels = labels.clone(), TASK.metrics()
    some[10:] = math.nan
    TASK.update(all_labels, logits, Batch(inputs={}, labels=some))
    alone = TASK.metrics()
    TASK.update(alone, logits[:10], Batch(inputs={}, labels=labels[:10]))
    assert {n: float(m.compute()) for n, m in all_labels.items()} == {n: float(m.compute()) for n, m in alone.items()}
    none = TASK.metrics()
    TASK.update(none, logits, Batch(inputs={}, labels=torch.full((40, 3), math.nan)))


def test_the_guess_is_the_best_set_of_classes_for_every_input() -> None:
    logits, labels = logits_and_labels()
    tally = Tally()
    tally.add(TASK.predict(logits), Batch(inputs={}, labels=labels), logits)
    counts = tally.take(1)
    assert counts.total == 40
    found = TASK.guess(counts, None)
    assert found is not None
    sets = [s for s in itertools.product([0, 1], repeat=3) if any(s)]
    constants = {s: np.tile(s, (40, 1)) for s in sets}
    best = max(sets, key=lambda s: f1_score(labels, constants[s], average="micro"))
    assert found.scores["f1_micro"] == pytest.approx(f1_score(labels, constants[best], average="micro"))
    assert found.scores["f1_macro"] == pytest.approx(f1_score(labels, constants[best], average="macro"))
    assert TASK.guess(Counts(), None) is None


def test_a_batch_counts_its_samples_and_rows_without_a_label_are_nan(data: Any) -> None:
    batch = next(iter(data.val_dataloader()))
    assert batch.labels.shape == (30, 3)
    assert batch.count == 30
    for row, labels in zip(batch.ids, batch.labels.tolist(), strict=True):
        assert labels == [float(name in words(60 + row)) for name in NAMES]
    train = [data.task.collate([data.samples("train")[0, row]], data.tokenizer).labels for row in range(60)]
    assert [bool(labels.isnan().all()) for labels in train] == [r % 5 == 0 for r in range(60)]


@pytest.mark.parametrize("loss", [HintonKL, ReverseKL, JensenShannon, SkewKL, CrossEntropy, DecoupledKD, DIST])
def test_losses_of_one_class_a_sample_are_refused_by_name(loss: Any) -> None:
    with pytest.raises(UserError, match=rf"{loss.__name__}.*yes or no.*BinaryKL"):
        Distillation(student=nn.Linear(2, 3), teacher=nn.Linear(2, 3), task=TASK, losses=[LogitMSE(), loss()])


@pytest.mark.parametrize("loss", [BinaryCrossEntropy, BinaryKL])
def test_losses_of_many_classes_a_sample_are_refused_elsewhere(loss: Any) -> None:
    with pytest.raises(UserError, match=rf"model\.losses\.0 = '{loss.__name__}'.*one class.*HintonKL"):
        Distillation(nn.Linear(2, 3), TextClassification(["a", "b", "c"]), nn.Linear(2, 3), [loss()])
    Distillation(nn.Linear(2, 3), Plain(), nn.Linear(2, 3), [loss()])  # which knows what its outputs are


def test_without_losses_the_labels_are_learned_by_binary_cross_entropy() -> None:
    module = Distillation(student=nn.Linear(2, 3), task=TASK)
    assert [type(loss) for loss in module._losses()] == [BinaryCrossEntropy]


def test_a_threshold_outside_of_0_and_1_is_refused() -> None:
    for threshold in (0.0, 1.0, 3.0):
        with pytest.raises(UserError, match=r"data\.task\.threshold"):
            MultiLabelClassification(NAMES, threshold)
    assert make_task("multi-label-classification", NAMES).labels == NAMES  # type: ignore[attr-defined]


def test_a_run_saves_a_student_that_transformers_trains_on_the_same_loss(
    data: Any, tmp_path: Path, tiny_tokenizer_dir: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from distill.cli.main import main

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    config = AutoConfig.for_model(
        **BERT,
        intermediate_size=16,
        vocab_size=len(tokenizer),
        id2label=dict(enumerate(NAMES)),
        label2id=dict(zip(NAMES, range(3), strict=True)),
    )
    teacher = AutoModelForSequenceClassification.from_config(config)
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    recipe = f"""
model:
  task: multi-label-classification
  teacher: {tmp_path / "teacher"}
  student: {{layers: uniform, num_layers: 1}}
  losses: [{{class_path: BinaryKL}}, {{class_path: BinaryCrossEntropy}}]
data: {{files: {data.files}, labels: {NAMES}, batch_size: 8}}
trainer: {{max_steps: 2, accelerator: cpu, enable_progress_bar: false}}
logging: {{tensorboard: false}}
"""
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert main(["fit", "-c", "recipe.yaml", "--id", "one"]) == 0
    assert main(["export", "runs/recipe/one", "--to", "hf"]) == 0  # compares decisions at the threshold
    capsys.readouterr()
    shipped = AutoModelForSequenceClassification.from_pretrained("runs/recipe/one/exports/hf").eval()
    assert shipped.config.problem_type == "multi_label_classification"
    assert list(shipped.config.id2label.values()) == NAMES
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        theirs = shipped(**batch.inputs, labels=batch.labels).loss
        signals = TASK.forward(shipped, batch, Request(logits=True))
    total, positions = BinaryCrossEntropy()(signals, signals, batch)
    torch.testing.assert_close(total / positions, theirs)
