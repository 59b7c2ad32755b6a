"""``distill predict`` says of each row what the model says, in their order, and nothing that a terminal would obey."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GPT2Config,
    pipeline,
)

Distill = Callable[..., Any]


def predicted(distill: Distill, *argv: object) -> list[dict[str, Any]]:
    code, out, err = distill("predict", *map(str, argv), "--jsonl")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# ---------------------------------------------------------------------- what a run shipped


@pytest.mark.parametrize("part", ["", "student", "exports/hf", "exports/onnx-int8"])
def test_the_predictions_of_the_validation_rows_score_what_validation_counted(
    place: tuple[Path, Path], distill: Distill, part: str
) -> None:
    run, file = place
    rows = rows_of(file)
    found = predicted(distill, run / part, file)
    assert [one["text"] for one in found] == [row["sentence"] for row in rows]
    right = sum(one["label"] == row["label"] for one, row in zip(found, rows, strict=True))
    counted = json.loads((run / "result.json").read_text())["scores"]["student"]["accuracy"]
    assert right / len(rows) == pytest.approx(counted)
    assert 2 < right < len(rows)
    assert len({one["label"] for one in found}) == 2


@pytest.mark.parametrize("size", [1, 3])
def test_answers_come_in_the_rows_order_and_are_the_same_in_batches_of_any_size(
    place: tuple[Path, Path], distill: Distill, size: int
) -> None:
    run, file = place
    one, other = predicted(distill, run, file), predicted(distill, run, file, "--batch-size", size)
    assert [a["text"] for a in other] == [row["sentence"] for row in rows_of(file)]
    assert [a["label"] for a in other] == [a["label"] for a in one]
    assert [a["score"] for a in other] == pytest.approx([a["score"] for a in one], rel=1e-5)


def test_an_export_is_predicted_with_where_nothing_of_its_run_is_left(
    place: tuple[Path, Path], distill: Distill, tmp_path: Path
) -> None:
    run, file = place
    shutil.copytree(run / "exports" / "onnx-int8", tmp_path / "shipped")
    assert predicted(distill, tmp_path / "shipped", file) == predicted(distill, run / "exports" / "onnx-int8", file)


# ---------------------------------------------------------------------- every task, beside transformers itself


def table(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


NAMES = {0: "bad", 1: "fair", 2: "good"}
TEXTS = ("a good film", "a bad story with heart", "dull", "it is never too long")


def test_classes_and_their_probabilities_are_those_of_the_pipeline(
    saved: Callable[..., Path], distill: Distill, tmp_path: Path
) -> None:
    folder = saved(AutoModelForSequenceClassification, id2label=NAMES)
    file = table(tmp_path / "rows.jsonl", *({"text": text} for text in TEXTS))
    theirs = pipeline("text-classification", str(folder), top_k=None)(list(TEXTS))
    found = predicted(distill, folder, file, "--top", "2")
    for one, other in zip(found, theirs, strict=True):
        assert one["label"] == other[0]["label"]
        assert list(one["top"].items()) == [(o["label"], pytest.approx(o["score"], rel=1e-4)) for o in other[:2]]
    _, out, _ = distill("predict", str(folder), str(file), "--top", "2")
    first = theirs[0]
    assert out.splitlines()[0].split("\t") == [
        *(part for one in first[:2] for part in (one["label"], f"{one['score']:.4f}")),
        TEXTS[0],
    ]


def test_pairs_of_texts_are_read_together(saved: Callable[..., Path], distill: Distill, tmp_path: Path) -> None:
    folder = saved(AutoModelForSequenceClassification, id2label=NAMES, type_vocab_size=2)
    file = table(tmp_path / "rows.jsonl", {"premise": TEXTS[0], "hypothesis": TEXTS[1]})
    [theirs] = pipeline("text-classification", str(folder))([{"text": TEXTS[0], "text_pair": TEXTS[1]}])
    [found] = predicted(distill, folder, file)
    assert found["text_pair"] == TEXTS[1]
    assert found["score"] == pytest.approx(theirs["score"], rel=1e-4)


def test_a_model_of_pairs_refuses_a_file_of_single_texts(
    saved: Callable[..., Path], distill: Distill, tmp_path: Path
) -> None:
    folder = saved(AutoModelForSequenceClassification, id2label=NAMES)
    trained = {"task": "text-classification", "max_length": 32, "columns": {"text": "text", "text_pair": "second"}}
    (folder / "task.json").write_text(json.dumps(trained))
    file = table(tmp_path / "rows.jsonl", {"text": "a film", "id": 1})
    code, _, err = distill("predict", str(folder), str(file))
    assert code == 2
    assert "data.columns.text_pair" in err
    (tmp_path / "rows.txt").write_text("a film\ta story\nno tab\n")
    code, _, err = distill("predict", str(folder), str(tmp_path / "rows.txt"))
    assert code == 2
    assert "line 2 has 0 tabs" in err


def test_numbers_are_the_logits(saved: Callable[..., Path], distill: Distill, tmp_path: Path) -> None:
    folder = saved(AutoModelForSequenceClassification, num_labels=1)
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    expected = [model.eval()(**tokenizer(text, return_tensors="pt")).logits.item() for text in TEXTS]
    found = predicted(distill, folder, table(tmp_path / "rows.jsonl", *({"text": text} for text in TEXTS)))
    assert [one["score"] for one in found] == pytest.approx(expected, rel=1e-4)
    assert distill("predict", str(folder), str(tmp_path / "rows.jsonl"), "--top", "1").code == 2


def test_of_many_labels_those_above_the_threshold_are_named(
    saved: Callable[..., Path], distill: Distill, tmp_path: Path
) -> None:
    folder = saved(AutoModelForSequenceClassification, id2label=NAMES, problem_type="multi_label_classification")
    theirs = pipeline("text-classification", str(folder), top_k=None)(list(TEXTS))  # sigmoid, by the problem's type
    scores = [{one["label"]: one["score"] for one in row} for row in theirs]
    file = table(tmp_path / "rows.jsonl", *({"text": text} for text in TEXTS))
    found = predicted(distill, folder, file)
    assert [set(one["labels"]) for one in found] == [{n for n, s in row.items() if s > 0.5} for row in scores]
    assert {len(one["labels"]) for one in found} - {0, 3}
    assert found[0]["scores"] == pytest.approx({n: s for n, s in scores[0].items() if s > 0.5}, rel=1e-4)
    assert predicted(distill, folder, file, "--top", "3")[0]["scores"] == pytest.approx(scores[0], rel=1e-4)


def test_each_word_has_the_tag_of_its_first_token(saved: Callable[..., Path], distill: Distill, tmp_path: Path) -> None:
    folder = saved(AutoModelForTokenClassification, id2label=NAMES)
    words = ["a", "never", "good", "", "storyline", "x" * 70]  # one becomes no token, one is cut off with its tokens
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForTokenClassification, AutoTokenizer))
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=64, return_tensors="pt")
    logits = model.eval()(**encoded).logits[0]
    firsts = [encoded.word_ids().index(i) if i in encoded.word_ids() else None for i in range(len(words))]
    expected = [None if at is None else NAMES[int(logits[at].argmax())] for at in firsts]
    [found, empty] = predicted(distill, folder, table(tmp_path / "r.jsonl", {"tokens": words}, {"tokens": []}))
    assert found["tags"] == expected
    assert found["tags"][3] is None
    assert len(set(found["tags"])) > 2
    assert empty == {"words": [], "tags": [], "scores": []}
    (tmp_path / "r.txt").write_text("a never\n\ngood\n")
    _, out, _ = distill("predict", str(folder), str(tmp_path / "r.txt"))
    assert [line.split("\t")[0] for line in out.splitlines()] == ["a", "never", "", "", "good", ""]


def test_the_most_probable_tokens_stand_for_a_mask(
    saved: Callable[..., Path], distill: Distill, tmp_path: Path
) -> None:
    folder = saved(AutoModelForMaskedLM)
    text = "a [MASK] film with heart"
    theirs = pipeline("fill-mask", str(folder), top_k=3)(text)
    file = table(tmp_path / "rows.jsonl", {"text": text}, {"text": "[MASK] and [MASK]"})
    one, two = predicted(distill, folder, file, "--top", "3")
    assert [(f["token"], f["score"]) for f in one["fillings"][0]] == [
        (t["token_str"], pytest.approx(t["score"], rel=1e-4)) for t in theirs
    ]
    assert len(two["fillings"]) == 2
    code, _, err = distill("predict", str(folder), str(table(tmp_path / "none.jsonl", {"text": "nothing"})))
    assert code == 2
    assert "row 1" in err
    assert "[MASK]" in err


def test_a_language_model_goes_on_with_the_most_probable_tokens(distill: Distill, tmp_path: Path) -> None:
    tokenizer_dir = Path(__file__).parents[2] / "configs" / "quickstart" / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.5}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, **ends)
    model = AutoModelForCausalLM.from_config(config).eval()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    text = "def main(argv):"
    ids = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    labels = [*ids[1:], tokenizer.eos_token_id]
    logits = model(torch.tensor([ids])).logits[0]
    nats = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
    going = list(ids)
    for _ in range(8):
        going.append(int(model(torch.tensor([going])).logits[0, -1].argmax()))
    file = table(tmp_path / "rows.jsonl", {"text": text}, {"text": ""})
    found, empty = predicted(distill, tmp_path / "model", file, "--max-new-tokens", "8")
    assert text + found["completion"] == tokenizer.decode(going[1:])
    assert found["bits_per_byte"] == pytest.approx(nats.item() / math.log(2) / len(text), rel=1e-4)
    assert empty["completion"] == ""
    assert distill("predict", str(tmp_path / "model"), str(file), "--max-new-tokens", "64").code == 2


# ---------------------------------------------------------------------- where rows come from, and what is shown


def test_lines_of_the_standard_input_are_rows(
    place: tuple[Path, Path], distill: Distill, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = place
    lines = "a good film\r\n\ndull story"
    for argv in ([], ["-"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        found = predicted(distill, run, *argv)
        assert [one["text"] for one in found] == ["a good film", "", "dull story"]
        assert all(one["label"] in ("negative", "positive") for one in found)
    for given, told in ((b"", "holds no text"), (b"good\n\xff\n", "line 2 is no text")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        code, _, err = distill("predict", str(run))
        assert code == 2
        assert told in err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "id,sentence\n1,a good film\n2,dull\n"),
        ("rows.tsv", "sentence\tlabel\na good film\t\ndull\tx\n"),
        ("rows.txt", "a good film\ndull\n"),
        ("rows.csv", "review\na good film\ndull\n"),
        ("rows.csv", "Text,id\na good film,1\ndull,2\n"),
    ],
)
def test_files_of_every_kind_are_read_by_the_columns_of_the_run(
    place: tuple[Path, Path], distill: Distill, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    assert [one["text"] for one in predicted(distill, place[0], tmp_path / name)] == ["a good film", "dull"]


def test_parquet_is_read_too_and_the_user_names_columns(
    place: tuple[Path, Path], distill: Distill, tmp_path: Path
) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"a": ["a good film", "dull"], "sentence": ["x", "y"]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    found = predicted(distill, place[0], tmp_path / "rows.parquet", "--data.columns.text", "a")
    assert [one["text"] for one in found] == ["a good film", "dull"]


def test_what_a_terminal_would_obey_is_shown_instead(
    place: tuple[Path, Path], distill: Distill, tmp_path: Path
) -> None:
    text = "good\x1b[2J \t\n \u202e film \x9b"
    file = table(tmp_path / "rows.jsonl", {"text": text, "id": 1})
    for argv in ([], ["--jsonl"]):
        code, out, _ = distill("predict", str(place[0]), str(file), *argv)
        assert code == 0
        assert not set("\x1b\u202e\x9b\r") & set(out)
        assert out.count("\n") == 1
    assert json.loads(out)["text"] == text


def test_texts_are_read_from_the_column_and_to_the_length_of_the_training(
    saved: Callable[..., Path], distill: Distill, tmp_path: Path
) -> None:
    folder = saved(AutoModelForSequenceClassification, id2label=NAMES)
    trained = {"task": "text-classification", "max_length": 8, "columns": {"text": "body"}}
    (folder / "task.json").write_text(json.dumps(trained))
    long = "never " * 20
    file = table(tmp_path / "rows.jsonl", {"text": "other", "body": long})
    [found] = predicted(distill, folder, file)
    assert found["text"] == long
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    logits = model.eval()(**tokenizer(long, truncation=True, max_length=8, return_tensors="pt")).logits
    assert found["score"] == pytest.approx(logits.softmax(-1).max().item(), rel=1e-4)


def test_texts_that_are_cut_are_counted(place: tuple[Path, Path], distill: Distill, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("good " * 500 + "\ngood\n")
    _, out, err = distill("predict", str(place[0]), str(tmp_path / "rows.txt"), "--data.max_length", "16")
    assert len(out.splitlines()) == 2
    assert "1 of 2 rows fill 16 tokens" in err


# ---------------------------------------------------------------------- what is refused


def refused(distill: Distill, *argv: object) -> str:
    code, out, err = distill("predict", *map(str, argv))
    assert code == 2
    assert out == ""
    assert err.count("distill: error: ") == 1
    return str(err)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("rows.csv", "a,b\n1,2\n", "needs a column for its text"),
        ("rows.csv", "sentence\n", "holds no data"),
        ("rows.txt", "", "holds no text"),
        ("rows.jsonl", '{"sentence": 3, "id": 1}\n', "must hold text"),
        ("rows.jsonl", '{"sentence": null}\n{"sentence": "a"}\n', "without a text"),
        ("rows.xlsx", "", "the ending must be one of"),
        (".", "", "this is a folder"),
        ("none.csv", None, "no such file"),
    ],
)
def test_files_that_hold_no_rows_are_refused(
    place: tuple[Path, Path], distill: Distill, tmp_path: Path, name: str, content: str | None, told: str
) -> None:
    if content is not None and name != ".":
        (tmp_path / name).write_text(content)
    assert told in refused(distill, place[0], tmp_path / name)


def test_folders_that_hold_no_model_for_texts_are_refused(
    place: tuple[Path, Path], saved: Callable[..., Path], distill: Distill, tmp_path: Path
) -> None:
    run, file = place
    assert "no such folder" in refused(distill, tmp_path / "none", file)
    assert "is a file" in refused(distill, file)
    assert "no config.json" in refused(distill, tmp_path, file)
    folder = saved(AutoModelForSequenceClassification, id2label=NAMES)
    for left in folder.glob("tokenizer*"):
        left.unlink()
    assert "no tokenizer" in refused(distill, folder, file)
    shutil.copytree(run / "student", tmp_path / "student")
    (tmp_path / "student" / "task.json").write_text('{"task": "nope", "max_length": 3}')
    assert "task.json" in refused(distill, tmp_path / "student", file)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--batch-size", "0"], "at least 1"),
        (["--top", "x"], "integer"),
        (["--max-new-tokens", "3"], "has no effect"),
        (["--model.losses", "[L1]"], "has no effect"),
        (["--data.batch_size", "3"], "has no effect"),
        (["--data.max_length", "1000"], "reads at most"),
        (["--data.max_length", "few"], "integer"),
        (["--data.max_length", "2"], "leaves no room"),
        (["--data.columns", "sentence"], "must be a mapping"),
        (["--data.reader.sep", "::"], "one character"),
    ],
)
def test_options_that_say_nothing_are_refused(
    place: tuple[Path, Path], distill: Distill, argv: list[str], told: str
) -> None:
    assert told in refused(distill, *place, *argv)


def test_vectors_are_those_of_the_pooled_model_and_a_pair_has_its_cosine(
    saved: Callable[..., Path], distill: Distill, tmp_path: Path
) -> None:
    folder = saved(AutoModel)
    file = table(
        tmp_path / "pairs.jsonl", {"text": "a good film", "other": "dull"}, {"text": "a", "other": "good film"}
    )
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def vector(text: str) -> Tensor:
        with torch.no_grad():
            found: Tensor = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        return found

    for row, said in zip(rows_of(file), predicted(distill, folder, file), strict=True):
        assert said["embedding"] == pytest.approx(vector(row["text"]).tolist(), rel=1e-4, abs=1e-5)
    task = {"task": "sentence-embeddings", "max_length": 32, "columns": {"text": "text", "text_pair": "other"}}
    (folder / "task.json").write_text(json.dumps(task))
    for row, said in zip(rows_of(file), predicted(distill, folder, file), strict=True):
        texts = [vector(row[name]) for name in ("text", "other")]
        assert said["cosine"] == pytest.approx(float(torch.cosine_similarity(*texts, dim=0)), abs=1e-4)
