#!/usr/bin/env python
"""Pairs to rerank, made of articles: which paragraph a sentence was taken out of (inverse cloze).

    python scripts/inverse_cloze.py WIKITEXT2 pairs --passages 4

WIKITEXT2 has a parquet file of lines for each split, as the hub's wikitext has them; its test split becomes the
training data and its validation split the validation data, so that no article is in both. A query is a sentence of a
paragraph; its passages are the rest of that paragraph, whose label is 1, and paragraphs of other articles.

Lee, Chang, Toutanova: Latent Retrieval for Weakly Supervised Open Domain Question Answering, 2019.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]

SPLITS = {"train": "test", "validation": "validation"}
_TITLE, _HEADING = re.compile(r"= [^=].* ="), re.compile(r"=.*=")
_LEAST = 4
"""Sentences of a paragraph, and words of a query."""


def articles(lines: Sequence[str]) -> Iterator[list[list[str]]]:
    """The articles of a split, each a list of paragraphs, each a list of sentences."""
    found: list[list[str]] = []
    for line in map(str.strip, lines):
        if _TITLE.fullmatch(line) and not line.startswith("= ="):
            yield found
            found = []
        elif line and not _HEADING.fullmatch(line):
            sentences = re.split(r"(?<= [.!?]) (?=[A-Z\"])", line)
            if len(sentences) >= _LEAST:
                found.append(sentences)
    yield found


def pairs(
    article: list[list[str]], others: list[list[str]], passages: int, draw: random.Random
) -> Iterator[dict[str, str | int]]:
    """The pairs of an article beside paragraphs of others, the passages of a query in any order."""
    for sentences in article:
        long = [i for i, one in enumerate(sentences) if len(one.split()) >= _LEAST]
        if not long:
            continue
        taken = draw.choice(long)
        rest = " ".join(one for i, one in enumerate(sentences) if i != taken)
        found = [(rest, 1), *((" ".join(one), 0) for one in draw.sample(others, passages - 1))]
        draw.shuffle(found)
        for passage, label in found:
            yield {"query": sentences[taken], "passage": passage, "label": label}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="WIKITEXT2")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--passages", type=int, default=4, help="of a query (default: %(default)s)")
    parser.add_argument("--most", type=int, default=400, help="validation queries (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for split, source in SPLITS.items():
        lines = pq.read_table(options.data / f"{source}.parquet").column("text").to_pylist()
        draw = random.Random(options.seed)
        every = list(articles(lines))
        rows: list[dict[str, str | int]] = []
        for number, article in enumerate(every):
            others = [one for i, other in enumerate(every) if i != number for one in other]
            rows += pairs(article, others, options.passages, draw)
        if split == "validation":
            rows = rows[: options.most * options.passages]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (options.folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
        queries = len({row["query"] for row in rows})
        print(f"{split}: {len(rows):,} pairs, {queries:,} queries")


if __name__ == "__main__":
    main()
