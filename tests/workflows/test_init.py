"""``distill init`` finds what stands in a folder, writes what trains on it, and says where it may be wrong."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.core.utils.paths import RECIPES

Distill = Callable[..., Any]

TEXTS = ("a good film and a long story", "dull", "never a bright heart in it", "it is too short, not good at all")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(name: str, rows: list[dict[str, Any]]) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(count: int, **columns: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [{name: of(row) for name, of in columns.items()} for row in range(count)]


def text(row: int) -> str:
    return f"{TEXTS[row % 4]} {row}"


def _tags(row: int) -> list[str]:
    return ["B-X" if word.isdigit() else "O" for word in text(row).split()]


def begun(distill: Distill, *argv: str) -> tuple[dict[str, Any], str]:
    """The configuration that was written, and all that was said."""
    code, out, err = distill("init", *argv)
    assert code == 0, err
    written = Path("my.yaml").read_text()
    config: dict[str, Any] = yaml.safe_load(written)
    assert config.keys() == {"name", "model", "data"}
    return config, out + written


def test_what_it_writes_trains(distill: Distill, teacher_dir: str) -> None:
    rows = rows_of(40, review=text, sentiment=lambda row: ("positive", "negative")[row % 2])
    table("reviews/reviews-train.jsonl", rows[:30])
    table("reviews/reviews-dev.jsonl", rows[30:])
    config, said = begun(distill, "reviews")
    assert config["model"] == {"task": "text-classification"}
    data = config["data"]
    assert data["files"] == {"train": "reviews/reviews-train.jsonl", "validation": "reviews/reviews-dev.jsonl"}
    assert data["columns"] == {"text": "review", "label": "sentiment"}
    assert "2 classes: negative 50 %, positive 50 %" in said
    argv = ("--model.student.path", teacher_dir, "--trainer.max_steps", "2", "--dry-run")
    code, _, err = distill("fit", "-c", "text-classification/teacher", "-c", "my.yaml", *argv)
    assert code == 0, err


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("text-classification", {"text": text, "label": lambda row: row % 2}),
        ("multi-label-classification", {"text": text, "label": lambda row: ["a", "b"][: 1 + row % 2]}),
        ("token-classification", {"tokens": lambda row: text(row).split(), "ner_tags": _tags}),
        pytest.param("causal-lm", {"text": text}, marks=pytest.mark.slow),
        ("masked-lm", {"text": text}),
        ("seq2seq", {"source": text, "target": text}),
    ],
)
def test_the_commands_that_it_prints_work_as_they_stand(
    task: str, columns: dict[str, Any], distill: Distill, teacher_dir: str, tmp_path: Path
) -> None:
    table("my rows.jsonl", rows_of(40, **columns))
    output = ("--output", "my file.yaml")
    model = _model(task, teacher_dir, tmp_path)
    code, out, err = distill("init", "my rows.jsonl", "--model", model, *output, "--task", task)
    assert code == 0, err
    typed = [line[line.index("distill fit") :] for line in out.splitlines() if "distill fit" in line]
    assert len(typed) == (2 if task in ("causal-lm", "seq2seq") else 1)
    for line in typed:
        assert line in Path("my file.yaml").read_text()
        _, *words = shlex.split(line)
        code, _, err = distill(*words, "--dry-run")
        assert code == 0, err


def _model(task: str, teacher_dir: str, folder: Path) -> str:
    if task == "seq2seq":
        small: Any = runpy.run_path(str(Path(__file__).parents[1] / "encoder_decoders.py"))
        return str(small["save"](small["encoder_decoder"]("t5"), folder / "writer"))
    return "distill:quickstart/teacher" if task == "causal-lm" else teacher_dir


def test_without_a_model_the_command_takes_the_recipes_from_the_hub_and_says_how_to_give_another(
    distill: Distill,
) -> None:
    words, tags = (lambda row: text(row).split()), (lambda row: ["O"] * len(text(row).split()))
    table("one.jsonl", rows_of(20, tokens=words, ner_tags=tags))
    config, said = begun(distill, "one.jsonl")
    assert config["model"]["task"] == "token-classification"
    assert "distill fit -c token-classification/teacher -c my.yaml --id teacher\n" in said
    hub = yaml.safe_load(Path(RECIPES, "token-classification/teacher.yaml").read_text())["model"]["student"]["path"]
    assert f"it trains {hub}, which the hub has; one that you have: --model.student.path FOLDER" in said


CASES: dict[str, tuple[dict[str, Callable[[int], Any]], str, dict[str, str]]] = {
    "numbers": (
        {"text": text, "score": lambda row: row / 7},
        "text-classification",
        {"text": "text", "label": "score"},
    ),
    "pairs": (
        {"premise": text, "hypothesis": text, "label": lambda row: row % 3},
        "text-classification",
        {"text": "premise", "text_pair": "hypothesis", "label": "label"},
    ),
    "rankings": (
        {"query": lambda row: text(row // 4), "passage": text, "label": lambda row: int(row % 4 == 0)},
        "reranking",
        {"text": "query", "text_pair": "passage", "label": "label"},
    ),
    "triples": (
        {"query": text, "positive": text, "negative": text, "topic": lambda row: row % 2},
        "sentence-embeddings",
        {"text": "query", "text_pair": "positive"},
    ),
    "answers": (
        {
            "question": lambda row: f"what {row}",
            "context": text,
            "answers": lambda row: {"text": [str(row)], "answer_start": [text(row).rindex(" ") + 1]},
        },
        "question-answering",
        {"text": "question", "text_pair": "context", "label": "answers"},
    ),
    "sets": (
        {"content": text, "topics": lambda row: ["a", "b", "c"][: row % 4]},
        "multi-label-classification",
        {"text": "content", "label": "topics"},
    ),
    "tags": (
        {"words": lambda row: text(row).split(), "tags": lambda row: ["O", *["X"] * (len(text(row).split()) - 1)]},
        "token-classification",
        {"text": "words", "label": "tags"},
    ),
    "chats": (
        {
            "messages": lambda row: [
                {"role": "user", "content": f"x {row}"},
                {"role": "assistant", "content": text(row)},
            ]
        },
        "causal-lm",
        {"messages": "messages"},
    ),
    "prompts": (
        {"prompt": text, "completion": lambda row: f"y {row}", "source": lambda row: "ab"[row % 2]},
        "causal-lm",
        {"prompt": "prompt", "completion": "completion"},
    ),
    "translations": (
        {"id": lambda row: row, "src": text, "tgt": lambda row: f"z {row}"},
        "seq2seq",
        {"text": "src", "target": "tgt"},
    ),
    "summaries": (
        {"Article": text, "highlights": lambda row: f"z {row}", "author": lambda row: "ab"[row % 2]},
        "seq2seq",
        {"text": "Article", "target": "highlights"},
    ),
    "classes called a target": (
        {"text": text, "target": lambda row: ("good", "bad")[row % 2]},
        "text-classification",
        {"text": "text", "label": "target"},
    ),
    "plain": ({"document": text, "url": lambda row: f"u{row}"}, "causal-lm", {"text": "document"}),
    "unusual": (
        {"id": lambda row: row, "kind": lambda row: "xy"[row % 2], "body": text},
        "text-classification",
        {"text": "body", "label": "kind"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_task_and_the_columns_are_found(distill: Distill, case: str) -> None:
    made, task, columns = CASES[case]
    table("rows.jsonl", rows_of(30, **made))
    config, _ = begun(distill, "rows.jsonl")
    assert config["model"]["task"] == task
    assert config["data"]["columns"] == columns
    assert config["data"]["validation_fraction"] == 0.1


def test_where_several_columns_may_be_the_labels_it_says_so(distill: Distill) -> None:
    table("rows.jsonl", rows_of(30, body=text, source=lambda row: "ab"[row % 2], intent=lambda row: "cde"[row % 3]))
    config, said = begun(distill, "rows.jsonl")
    assert config["data"]["columns"]["label"] == "intent"
    assert "'source' as well (data.columns.label)" in said
    config, _ = begun(distill, "rows.jsonl", "--data.columns.label", "source", "--force")
    assert config["data"]["columns"]["label"] == "source"


def test_a_text_alone_is_for_a_language_model(distill: Distill) -> None:
    Path("book.txt").write_text("\n\n".join(text(row) for row in range(30)))
    config, said = begun(distill, "book.txt")
    assert config["model"]["task"] == "causal-lm"
    assert "max_length" not in config["data"]
    assert "data.document" in said
    assert len(re.findall("(?m)^#   (distill fit|it trains|or, with a teacher)", said)) == 3  # a line of its own each


def test_the_separator_of_a_csv_is_found(distill: Distill) -> None:
    lines = [f"{text(row).replace(',', '')};{row % 2}\n" for row in range(30)]
    Path("rows.csv").write_text("".join(["text;label\n", *lines]))
    config, _ = begun(distill, "rows.csv")
    assert config["data"]["reader"] == {"sep": ";"}


def test_rows_without_a_label_and_texts_of_both_splits_are_counted(distill: Distill) -> None:
    rows = rows_of(40, text=text, label=lambda row: None if row % 4 == 3 else "ab"[row % 2])
    table("train.jsonl", rows)
    table("validation.jsonl", rows_of(5, text=text, label=lambda row: "ab"[row % 2]))
    _, said = begun(distill, "train.jsonl", "validation.jsonl")
    assert "10 of 40 rows of train have no label" in said
    assert "5 of 5 texts of validation are in train too" in said


def test_what_is_no_data_or_tells_no_split_is_left_out_and_said(distill: Distill) -> None:
    rows = rows_of(30, text=text, label=lambda row: row % 2)
    for name in ("data/train.jsonl", "data/unlabelled.jsonl"):
        table(name, rows)
    Path("data/notes.txt").write_text("x\n")
    Path("data/README.txt").write_text("x\n")
    config, said = begun(distill, "data")
    assert config["data"]["files"] == {"train": "data/train.jsonl"}
    assert "data/unlabelled.jsonl" in said
    assert "data/notes.txt" in said


@pytest.mark.parametrize(("words", "least", "most"), [(4, 32, 32), (100, 128, 176), (900, 512, 512)])
def test_the_length_leaves_nearly_all_texts_whole(distill: Distill, words: int, least: int, most: int) -> None:
    table("rows.jsonl", rows_of(30, text=lambda row: "good " * words + str(row), label=lambda row: row % 2))
    config, said = begun(distill, "rows.jsonl")
    assert least <= config["data"]["max_length"] <= most
    assert ("are longer and will be cut" in said) == (words == 900)


@pytest.mark.parametrize(("longest", "length"), [(60, 64), (70, 32)])
def test_no_text_is_cut_where_the_longest_is_at_most_twice_as_long(
    longest: int, length: int, distill: Distill, tiny_tokenizer_dir: str
) -> None:
    words = [longest - 2 if row == 50 else 20 for row in range(100)]  # and two special tokens
    table("rows.jsonl", rows_of(100, text=lambda row: "x " * words[row], label=lambda row: row % 2))
    config, said = begun(distill, "rows.jsonl", "--tokenizer", tiny_tokenizer_dir)
    assert config["data"]["max_length"] == length
    assert f"the longest {longest} " in said
    assert ("will be cut" in said) == (longest > length)


def test_with_a_tokenizer_tokens_are_counted(distill: Distill, tiny_tokenizer_dir: str) -> None:
    table("rows.jsonl", rows_of(30, text=lambda row: "xxxxxxxxx " * 5, label=lambda row: row % 2))  # 9 tokens a word
    config, said = begun(distill, "rows.jsonl", "--tokenizer", tiny_tokenizer_dir)
    assert config["data"]["max_length"] == 48
    assert "at most 47 tokens" in said


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["none"], "no such file or folder"),
        (["."], "holds no file"),
        (["rows.xlsx"], "the ending must be one of"),
        (["rows.jsonl", "--task", "plain"], "no task on text"),
        (["rows.jsonl", "--output", "mine"], "must end in .yaml"),
        (["rows.jsonl", "--output", "none/my.yaml"], "lies in no folder"),
        (["rows.jsonl", "--output", "there.yaml"], "is there already"),
        (["rows.jsonl", "--model.student", "x"], "has no effect"),
        (["rows.jsonl", "--data.batch_size", "3"], "has no effect"),
        (["rows.jsonl", "--data.columns.label", "none"], "no such column"),
        (["rows.jsonl", "--data.columns", "text"], "must be a mapping"),
        (["rows.jsonl", "--data.validation_fraction", "{class_path: HintonKL}"], "must be a number"),
        (["rows.jsonl", "--data.max_length", "0.5"], "must be an integer"),
        (["rows.jsonl", "--data.labels", "yes"], "must be a list"),
        (["test.jsonl"], "no file is for training"),
        ([], "must be given"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_and_nothing_is_written(
    distill: Distill, argv: list[str], told: str
) -> None:
    if argv != ["."]:
        for name in ("rows.jsonl", "test.jsonl"):
            table(name, rows_of(30, text=text, label=lambda row: row % 2))
        for name in ("there.yaml", "rows.xlsx"):
            Path(name).write_text("mine")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    code, out, err = distill("init", *argv)
    assert code == 2
    assert told in err
    assert out == ""
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_labels_that_cannot_be_understood_are_refused_as_they_are_when_training(distill: Distill) -> None:
    table("rows.jsonl", rows_of(30, text=text, label=lambda row: "n/a" if row == 3 else row % 2 + 0.5))
    code, _, err = distill("init", "rows.jsonl")
    assert code == 2
    assert "data.columns.label" in err
    assert not Path("my.yaml").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("lines.csv", "text\n" + "a line of a play\n" * 40, True),
        ("long.jsonl", "".join(json.dumps({"text": "a page of a book " * 30}) + "\n" for _ in range(40)), False),
        ("play.txt", "a line\nand another\n" * 40 + "\n" + "a page\n" * 40, False),  # joined already
    ],
    ids=lambda value: str(value)[:10],
)
def test_short_texts_of_a_language_model_may_be_lines_of_one(
    distill: Distill, name: str, content: str, said: bool
) -> None:
    Path(name).write_text(content)
    _, out = begun(distill, name, "--task", "causal-lm")
    assert ('data.join: "\\n"' in out) is said
    assert ("each of the 36 rows is a text of its own, of 16 characters" in out) is said
