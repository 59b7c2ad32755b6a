"""Pairs made of articles: what belongs together stood together, and no article is in two splits."""

import json
import runpy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCRIPT = Path(__file__).parents[2] / "scripts/inverse_cloze.py"


def lines(name, paragraphs):
    """An article as the hub's wikitext has it."""
    made = ["", f" = {name} = \n", "", " = = A heading = = \n"]
    for number in range(paragraphs):
        made.append(
            " " + " . ".join(f"{name} {number} says thing {i} aloud" for i in ["A", "B", "C", "D", "E"]) + " . \n"
        )
        made[-1] = made[-1].replace(" . ", " . The ", 4)
    return [*made, " Too short . \n"]


def test_a_query_is_a_sentence_of_the_passage_that_is_right_and_of_no_other(tmp_path, monkeypatch, capsys):
    for split, names in (("test", ["Ann", "Bob", "Cid"]), ("validation", ["Dora", "Eve"])):
        text = [line for name in names for line in lines(name, 4)]
        pq.write_table(pa.table({"text": text}), tmp_path / f"{split}.parquet")
    monkeypatch.setattr("sys.argv", ["inverse_cloze.py", str(tmp_path), str(tmp_path / "pairs"), "--passages", "3"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "train: 36 pairs, 12 queries" in capsys.readouterr().out
    found = {}
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in (tmp_path / f"pairs/{split}.jsonl").read_text().splitlines()]
        found[split] = rows
        for at in range(0, len(rows), 3):
            group = rows[at : at + 3]
            assert len({row["query"] for row in group}) == 1
            assert sorted(row["label"] for row in group) == [0, 0, 1]
            article = next(word for word in group[0]["query"].split() if word in ["Ann", "Bob", "Cid", "Dora", "Eve"])
            for row in group:
                assert row["query"] not in row["passage"]
                assert (article in row["passage"]) == (row["label"] == 1)
                same = row["passage"].split(f"{article} ")[-1][:1]
                assert row["label"] == 0 or same in row["query"]
    assert not {row["passage"] for row in found["train"]} & {row["passage"] for row in found["validation"]}
