"""What the page on when distillation helps is measured by: which rows have labels, and that no run is repeated."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def helps(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import when_it_helps

    monkeypatch.setattr(when_it_helps, "ROWS", 32)
    monkeypatch.setattr(when_it_helps, "LAYERS", [2])
    return when_it_helps


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for use, count in (("train", 40), ("validation", 8)):
        found = [{"text": f"a film {'good' if i % 2 else 'bad'} {i}", "label": "ab"[i % 2]} for i in range(count)]
        (folder / f"{use}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


def test_a_share_of_the_rows_has_labels_and_the_others_are_there_or_not(helps: Any, rows: Path, tmp_path: Path) -> None:
    bench = helps.Bench(tmp_path, [rows], tmp_path)

    def read(share: float, fill: str, seed: int = 0) -> list[tuple[str, str | None]]:
        path = bench._rows(helps.Case("films", "more", "kl", share, seed), fill)
        return [(row["text"], row["label"]) for row in map(json.loads, path.read_text().splitlines())]

    taught, alone = read(0.25, "unlabelled"), read(0.25, "repeat")
    known = [row for row in taught if row[1] is not None]
    assert (len(taught), len(known), len(alone)) == (32, 8, 32)
    assert Counter(alone) == dict.fromkeys(known, 4)
    assert {text for text, _ in known} != {text for text, label in read(0.25, "unlabelled", seed=1) if label}
    assert len(read(1.0, "more")) == 40


def test_each_run_is_one_line_and_is_not_trained_again(
    helps: Any, rows: Path, tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    every = list(helps.cases(["one", "two"]))
    assert len(set(every)) == len(every) == 2 * 3 * (12 + 12 + 4)
    monkeypatch.setattr(
        helps, "cases", lambda sets: [helps.Case("films", "same", m, 1.0, 0) for m in ("labels", "relations")]
    )
    given = argparse.Namespace(encoder=Path(encoder), sets=[rows], out=tmp_path / "found.jsonl", work=tmp_path / "work")
    helps.measure(given)
    alone, taught = map(json.loads, given.out.read_text().splitlines())
    assert (alone["method"], taught["method"]) == ("labels", "relations")
    assert 0 <= taught["agreement"] <= 1
    before = given.out.read_text()
    helps.measure(given)
    assert given.out.read_text() == before
    assert capsys.readouterr().out.count("teacher films-1") == 1


def test_the_table_shows_mean_and_spread_of_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import when_it_helps_plot as plot

    results = [
        {"data": "a", "teacher": "more", "method": "kl", "share": share, "accuracy": accuracy}
        for share, accuracy in ((0.01, 0.7), (0.01, 0.72), (0.2, 0.7), (0.2, 0.8), (0.2, 0.9), (1.0, 0.8))
    ]
    assert plot.table(plot.by_case(results)).splitlines()[2:] == [
        "| a | ... KL | 71.0 ± 1.4 (2) | 80.0 ± 10.0 | 80.0 (1) |"
    ]


def test_sets_hold_each_text_once_and_one_package_of_each_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import label_sets

    index = [
        "Package: chess\nSection: games\nDescription: play chess\n text\n\n",
        "Package: chess-data\nSource: chess (1.2)\nSection: games\nDescription: files of chess\n\n",
        "Package: libfoo\nSection: libs\nDescription: a library\n\nPackage: no\nSection: net\n",
    ]
    assert list(label_sets.debian(index)) == [("play chess", "games")]
    nouns = ["  1 licence\n", '0001 05 n 01 cat 0 | feline mammal; "a cat sat"  \n', "0002 03 n 01 thing 0 | what is\n"]
    assert list(label_sets.wordnet(nouns)) == [("feline mammal", "animal")]
    monkeypatch.setattr(label_sets, "HELD_OUT", 1)
    found = label_sets.split([("a", "x"), ("a", "y"), ("b", "x"), ("", "x"), ("c" * 61, "x")])
    assert sorted(found["train"] + found["validation"]) == [("a", "y"), ("b", "x")]
