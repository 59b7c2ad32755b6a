"""Passages of a query, ranked: pairs, labels, a run from its beginning to its predictions."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from distill.cli.main import main
from distill.core.task import GROUP
from distill.core.utils.errors import UserError
from distill.data import TextData
from distill.tasks import Reranking

WORDS = ["red", "hat", "two", "cats", "old", "book", "coin", "moon"]
word_pieces = runpy.run_path(str(Path(__file__).with_name("test_question_answering.py")))["word_pieces"]


@pytest.fixture(scope="module")
def tokenizer():
    return word_pieces(WORDS)


def cross_encoder(tokenizer, layers=2, outputs=1, seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    config = BertConfig(
        vocab_size=len(tokenizer), num_hidden_layers=layers, num_labels=outputs, initializer_range=0.5, **sizes
    )
    return BertForSequenceClassification(config).eval()


def pairs(queries, seed=0):
    """Five passages a query, of which those that hold its word are relevant, and the last half so."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(queries):
        word = WORDS[number % len(WORDS)]
        for passage in range(5):
            others = " ".join(draw.choice([w for w in WORDS if w != word], 3))
            found = {"query": f"{word} {number}", "passage": others, "label": 0.0}
            if passage == 2:
                found |= {"passage": f"{word} {others}", "label": 1.0}
            if passage == 4:
                found |= {"passage": f"{others} {word}", "label": 0.5}
            rows.append(found)
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def data_of(folder, tokenizer, rows, **settings):
    tokenizer.save_pretrained(folder / "tokenizer")
    write(folder / "rows.jsonl", rows)
    files = dict.fromkeys(("train", "validation"), str(folder / "rows.jsonl"))
    return TextData(
        files=files, tokenizer=str(folder / "tokenizer"), **{"task": "reranking", "max_length": 24} | settings
    )


@pytest.mark.parametrize(
    ("change", "why", "hint"),
    [
        ({"label": 3}, "3.0, which does not lie between 0 and 1", "divide each by the highest grade (3)"),
        ({"label": -0.5}, "-0.5, which does not lie between 0 and 1", "correct it"),
        ({"label": "good"}, "'good', which is no number", "give numbers"),
    ],
)
def test_a_label_that_is_no_relevance_is_refused(tmp_path, tokenizer, change, why, hint):
    rows = pairs(3)
    rows[7] |= change
    if isinstance(change["label"], str):  # a column has values of one kind
        rows = [row | {"label": "good"} for row in rows]
    with pytest.raises(UserError) as error:
        data_of(tmp_path, tokenizer, rows).setup("fit")
    assert why in error.value.problem
    assert error.value.hint == hint
    assert error.value.key == "data.columns.label"


def test_relevances_may_be_integers_and_are_never_classes(tmp_path, tokenizer):
    rows = [row | {"label": int(row["label"] > 0)} for row in pairs(3)]
    data = data_of(tmp_path, tokenizer, rows)
    data.setup("fit")
    assert data.task.head_config() == {"num_labels": 1}
    assert "classes" not in "\n".join(data.account)
    [batch] = list(data.val_dataloader())
    assert batch.labels.dtype is torch.float32
    assert sorted(batch.labels[:, 0].tolist()) == sorted(float(row["label"]) for row in rows)
    rows[0]["label"] = -1  # no label, as on the hub
    data = data_of(tmp_path, tokenizer, rows)
    data.setup("fit")
    [batch] = list(data.val_dataloader())
    assert batch.labels.isnan().sum() == 1
    assert batch.labels.nan_to_num(nan=1).min() == 0
    with pytest.raises(UserError, match="takes numbers") as error:
        data_of(tmp_path, tokenizer, rows, labels=["no", "yes"]).setup("fit")
    assert error.value.key == "data.labels"


def test_integers_are_scores_of_pairs_for_embeddings_too(tmp_path, tokenizer):
    rows = [{"sentence1": row["query"], "sentence2": row["passage"], "score": i % 6} for i, row in enumerate(pairs(3))]
    data = data_of(tmp_path, tokenizer, rows, task="sentence-embeddings")
    data.setup("fit")
    [batch] = list(data.val_dataloader())
    assert set(batch.extras["score"].tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def test_a_query_is_known_by_its_text_alone(tokenizer):
    task, rows = Reranking(), pairs(2)
    encode = task.encode(tokenizer, 24)
    numbers = [
        encode({"text": [row["query"]], "text_pair": [row["passage"]], "label": [row["label"]]})[GROUP][0]
        for row in rows
    ]
    assert len(set(numbers)) == 2
    assert numbers == sorted(numbers, key=numbers.index)
    assert all(0 <= number < 2**63 for number in numbers)


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory):
    """A teacher, pairs, and a run."""
    folder = tmp_path_factory.mktemp("pairs")
    cross_encoder(tokenizer, seed=2).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    write(folder / "train.jsonl", pairs(12))
    rows = pairs(8, seed=1)
    for row in rows[5:10]:
        row["label"] = 0.0  # a query that is not judged
    rows[11]["label"] = None  # a pair that is not
    write(folder / "validation.jsonl", rows)
    (folder / "my.yaml").write_text(
        f"""
model: {{teacher: {folder}/teacher}}
data:
  files: {{train: {folder}/train.jsonl, validation: {folder}/validation.jsonl}}
  batch_size: 8
  eval_batch_size: 7
  max_length: 24
trainer: {{accelerator: cpu, min_epochs: null, min_steps: null, max_steps: 4}}
runs: {folder}/runs
"""
    )
    assert not main(["fit", "-c", "reranking/distill", "-c", str(folder / "my.yaml"), "--id", "one"])
    return folder, rows, next(folder.glob("runs/**/one"))


def naive(model, tokenizer, rows):
    """Each pair by itself, by transformers alone."""
    with torch.no_grad():
        return [
            float(model(**tokenizer(row["query"], row["passage"], return_tensors="pt")).logits[0, 0]) for row in rows
        ]


def expected(rows, scores):
    found = []
    for query in dict.fromkeys(row["query"] for row in rows):
        mine = [i for i, row in enumerate(rows) if row["query"] == query and row["label"] is not None]
        gains = np.array([rows[i]["label"] for i in mine])
        if gains.any():
            found.append(ndcg_score(gains[None], np.array([scores[i] for i in mine])[None], k=10))
    return np.mean(found)


def test_a_run_scores_what_scikit_learn_does_beside_an_order_at_random(world, tokenizer):
    _, rows, run = world
    found = json.loads((run / "result.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(run / "student").eval()
    assert found["monitor"] == "ndcg"
    assert found["scores"]["student"]["ndcg"] == pytest.approx(expected(rows, naive(model, tokenizer, rows)), abs=1e-5)
    assert found["scores"]["guess"]["ndcg"] == pytest.approx(expected(rows, [0.0] * len(rows)), abs=1e-5)
    assert found["measured"]["guess_is"] == "an order at random"
    assert found["measured"]["predictions"] == len(rows) - 1
    assert found["measured"]["standard_error"] > 0


def test_predictions_are_the_scores_of_the_pairs(world, tokenizer, capsys):
    folder, rows, run = world
    capsys.readouterr()
    assert not main(["predict", str(run), str(folder / "validation.jsonl"), "--jsonl", "--batch-size", "3"])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model = AutoModelForSequenceClassification.from_pretrained(run / "student").eval()
    assert [one["query"] for one in printed] == [row["query"] for row in rows]
    assert [one["score"] for one in printed] == pytest.approx(naive(model, tokenizer, rows), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("to", [pytest.param("onnx", marks=pytest.mark.slow), "hf"])
def test_an_export_ranks_as_the_student_does(world, to, capsys):
    folder, _, run = world
    assert not main(["export", str(run), "--to", to, "--output", str(folder / to), "--no-timing"])
    verified = json.loads((folder / to / "export.json").read_text())["verified"]
    assert verified["metric"] == "ndcg"
    assert verified["exported"] == pytest.approx(verified["trained"], abs=1e-6)


def test_a_report_has_its_scores_and_draws_no_pairs_anew(world, capsys):
    _, _, run = world
    assert not main(["report", str(run), "--no-timing", "--draws", "10"])
    report = json.loads((run / "report.json").read_text())
    [student] = [one for one in report["models"] if one["key"] == "student"]
    result = json.loads((run / "result.json").read_text())
    assert student["scores"]["ndcg"]["value"] == pytest.approx(result["scores"]["student"]["ndcg"], abs=1e-6)
    assert student["scores"]["ndcg"].get("low") is None


def test_a_teacher_of_two_classes_is_refused_and_leaves_nothing(world, tokenizer, tmp_path, capsys):
    folder, _, _ = world
    cross_encoder(tokenizer, outputs=2).save_pretrained(tmp_path / "two")
    tokenizer.save_pretrained(tmp_path / "two")
    recipe = ["-c", "reranking/distill", "-c", str(folder / "my.yaml"), "--model.teacher", str(tmp_path / "two")]
    assert main(["fit", *recipe, "--model.student", f"{{path: {folder}/teacher}}", "--id", "two"]) == 2
    assert "model.teacher: has 2 outputs" in capsys.readouterr().err
    assert not list(folder.glob("runs/**/two"))


def test_pairs_are_learned_from_a_teacher_that_was_recorded_and_layers_are_scanned(world, capsys):
    folder, _, run = world
    recipe = ["-c", "reranking/distill", "-c", str(folder / "my.yaml")]
    assert not main(["record", *recipe, "--to", str(folder / "recorded"), "--as", "logits"])
    recorded = ["--model.teacher", f"{{recorded: {folder}/recorded}}", "--model.student", f"{{path: {run}}}"]
    losses = ["--model.losses", "[BinaryKL, LogitMSE]"]
    assert not main(["fit", *recipe, *recorded, *losses, "--id", "recorded"])
    assert json.loads((run.parent / "recorded/result.json").read_text())["scores"]["student"]["ndcg"] > 0
    assert not main(["sensitivity", str(run), "--samples", "16", "--output", str(folder / "scan")])


def test_rows_held_out_are_whole_queries_and_so_are_those_of_a_part(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    write(tmp_path / "rows.jsonl", pairs(20)[::-1] + pairs(1))  # the first query's passages stand in two places
    settings = {"tokenizer": str(tmp_path / "tokenizer"), "task": "reranking", "max_length": 24, "eval_batch_size": 7}
    data = TextData(files={"train": str(tmp_path / "rows.jsonl")}, validation_fraction=0.3, **settings)
    data.setup("fit")
    splits = {use: data.samples(use).features[GROUP].tolist() for use in ("train", "validation")}
    assert len(set(splits["validation"])) == 6
    assert not set(splits["train"]) & set(splits["validation"])
    first = next(iter(data.val_dataloader()))
    assert len(set(first.extras[GROUP].tolist())) <= 3
    rows = [{"query": "one", "passage": f"a {i}", "label": i % 2} for i in range(5)]
    write(tmp_path / "one.jsonl", rows)
    with pytest.raises(UserError, match="values of 'query' for training and validation, and there are 1"):
        TextData(files={"train": str(tmp_path / "one.jsonl")}, validation_fraction=0.3, **settings).setup("fit")
